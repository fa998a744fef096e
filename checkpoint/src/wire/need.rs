//! What a node tells others of what it lacks of a lineage and of its links, so that any of them can say how far the
//! spread is from what the links allow. At most about one a second is sent. It is believed as it is said:
//! the bound that is shown rests on it, and with `--when-behind` whether a VM is slowed down.

use std::num::NonZeroU64;

use super::{BirthRange, put_ranges, take_ranges};
use crate::codec::{FormatError, Put, Take, length_u64};
use crate::ids::LineageId;

/// The most ranges in which a node says what it lacks; more are told as fewer, longer ones.
pub const NEED_RANGES_MAX: usize = 512;
/// The most spans of time in which a node says when it lacked something; more are told as fewer, longer ones.
pub const NEED_TIMES_MAX: usize = 16;

/// What the sender lacks or lacked lately, and what its links can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Of which lineage.
    pub lineage: LineageId,
    /// What it can send.
    pub up: LinkRate,
    /// What it can receive.
    pub down: LinkRate,
    /// Encoded bytes of all that it lacked in this need: as they came, or as they were born if they have not come.
    pub lacked_bytes: u64,
    /// The same chunks' bytes as they were born.
    pub born_bytes: u64,
    /// Of the first, bytes of what it still lacks.
    pub missing_bytes: u64,
    /// When it lacked something, earliest first.
    pub times: Vec<NeedTime>,
    /// All that it lacked in this need; `None` if that is as last told.
    pub births: Option<Vec<BirthRange>>,
}

/// A span of time, told by how long ago it was: clocks of two nodes need not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedTime {
    /// Milliseconds since its start.
    pub started_ms_ago: u64,
    /// Milliseconds since its end; 0 if it goes on.
    pub ended_ms_ago: u64,
}

/// Bytes of chunks that a link carries in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkRate {
    /// Nothing has passed it yet.
    #[default]
    Unknown,
    /// The most that was seen on it lately.
    Measured(NonZeroU64),
    /// What it is limited to.
    Configured(NonZeroU64),
}

impl LinkRate {
    /// What was seen, if anything was.
    #[must_use]
    pub fn measured(rate: Option<NonZeroU64>) -> Self {
        rate.map_or(Self::Unknown, Self::Measured)
    }

    /// The rate, if one is known.
    #[must_use]
    pub const fn bytes_per_s(self) -> Option<NonZeroU64> {
        match self {
            Self::Unknown => None,
            Self::Measured(rate) | Self::Configured(rate) => Some(rate),
        }
    }

    fn put(self, out: &mut Vec<u8>) {
        let kind = match self {
            Self::Unknown => 0,
            Self::Measured(_) => 1,
            Self::Configured(_) => 2,
        };
        out.push(kind);
        if let Some(rate) = self.bytes_per_s() {
            out.put_varint(rate.get());
        }
    }

    fn take(take: &mut Take<'_>) -> Result<Self, FormatError> {
        let kind = take.byte()?;
        if kind == 0 {
            return Ok(Self::Unknown);
        }
        let at = take.position();
        let rate = NonZeroU64::new(take.varint()?).ok_or(FormatError::Number { at })?;
        match kind {
            1 => Ok(Self::Measured(rate)),
            2 => Ok(Self::Configured(rate)),
            _ => Err(FormatError::Unexpected { at: at - 1, what: "kind of rate" }),
        }
    }
}

impl Need {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.lineage.as_bytes());
        self.up.put(out);
        self.down.put(out);
        out.put_varint(self.lacked_bytes);
        out.put_varint(self.born_bytes);
        out.put_varint(self.missing_bytes);
        out.put_varint(length_u64(self.times.len()));
        for time in &self.times {
            out.put_varint(time.started_ms_ago);
            out.put_varint(time.ended_ms_ago);
        }
        match &self.births {
            None => out.push(0),
            Some(births) => {
                out.push(1);
                put_ranges(out, births);
            }
        }
    }

    pub(super) fn take(take: &mut Take<'_>) -> Result<Self, FormatError> {
        let lineage = LineageId(take.array()?);
        let (up, down) = (LinkRate::take(take)?, LinkRate::take(take)?);
        let (lacked_bytes, born_bytes, missing_bytes) = (take.varint()?, take.varint()?, take.varint()?);
        let count = take.count(NEED_TIMES_MAX)?;
        let mut times = Vec::with_capacity(count);
        let mut before = u64::MAX;
        for _ in 0..count {
            let time = NeedTime { started_ms_ago: take.varint()?, ended_ms_ago: take.varint()? };
            let in_order = time.started_ms_ago <= before && time.ended_ms_ago <= time.started_ms_ago;
            take.require(in_order, "spans of time out of order")?;
            before = time.ended_ms_ago;
            times.push(time);
        }
        let births = match take.byte()? {
            0 => None,
            1 => Some(take_ranges(take, NEED_RANGES_MAX)?),
            _ => return Err(FormatError::Unexpected { at: take.position() - 1, what: "births or none" }),
        };
        Ok(Self { lineage, up, down, lacked_bytes, born_bytes, missing_bytes, times, births })
    }
}
