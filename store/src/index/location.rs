//! The value of a chunk's or an object's entry: where its record is, and everything its header must say.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | pack |
//! | 4..8 | offset |
//! | 8..12 | stored length |
//! | 12..16 | decoded length |
//! | 16 | form |
//! | 17..49 | the base's hash, if the form has a base |
//!
//! Integers are little-endian. Whatever byte of it is wrong, the record's header disagrees.

use pageswarm_checkpoint::{ChunkHash, Encoding};

use crate::bad::Place;
use crate::pack::{HEADER_BYTES, PackNumber, RecordHeader, RecordKind};

const FIXED: usize = 17;
const BASE: usize = 32;

/// A chunk's form in headers and locations. The numbers are on disk.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Raw = 0,
    Zstd = 1,
    Patch = 2,
    Diff = 3,
}

/// Where a record is and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) place: Place,
    pub(crate) stored_len: u32,
    pub(crate) decoded_len: u32,
    pub(crate) form: u8,
    /// For chunks alone; objects have none.
    pub(crate) base: Option<ChunkHash>,
}

impl Form {
    pub(crate) const fn of<Base>(encoding: &Encoding<Base>) -> Self {
        match encoding {
            Encoding::Raw => Self::Raw,
            Encoding::Zstd => Self::Zstd,
            Encoding::Patch { .. } => Self::Patch,
            Encoding::Diff { .. } => Self::Diff,
        }
    }

    /// Whether a chunk of this form, as in headers and locations, is decoded with the help of another.
    pub(crate) const fn has_base(form: u8) -> bool {
        form == Self::Patch as u8 || form == Self::Diff as u8
    }
}

impl Location {
    /// The entry of a record that a scan or a write has just seen.
    pub(crate) fn of_record(place: Place, header: &RecordHeader, payload: &[u8]) -> Option<Self> {
        let has_base = header.kind == RecordKind::Chunk && Form::has_base(header.form);
        let base = if has_base { Some(ChunkHash(*payload.first_chunk()?)) } else { None };
        let (stored_len, decoded_len) = (header.stored_len, header.decoded_len);
        Some(Self { place, stored_len, decoded_len, form: header.form, base })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let offset = u32::try_from(self.place.offset).expect("packs are shorter than 4 GiB, see limits");
        let mut value = Vec::with_capacity(FIXED + BASE);
        for number in [self.place.pack.0, offset, self.stored_len, self.decoded_len] {
            value.extend_from_slice(&number.to_le_bytes());
        }
        value.push(self.form);
        value.extend(self.base.iter().flat_map(|base| base.0));
        value
    }

    /// `None` for bytes of another shape.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (fixed, rest) = value.split_first_chunk::<FIXED>()?;
        let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| fixed[at + i]));
        let base = match rest.len() {
            0 => None,
            BASE => Some(ChunkHash(*rest.first_chunk()?)),
            _ => return None,
        };
        let place = Place { pack: PackNumber(number(0)), offset: u64::from(number(4)) };
        Some(Self { place, stored_len: number(8), decoded_len: number(12), form: fixed[16], base })
    }

    /// Bytes of the whole record.
    pub(crate) fn record_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.stored_len)
    }

    /// Whether a header is that of this location's record.
    pub(crate) fn is_of(&self, header: &RecordHeader, kind: RecordKind, name: &[u8; 32]) -> bool {
        header.kind == kind
            && header.name == *name
            && header.form == self.form
            && header.stored_len == self.stored_len
            && header.decoded_len == self.decoded_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_read_back_and_nothing_else_does() {
        let place = Place { pack: PackNumber(7), offset: 1 << 28 };
        let plain = Location { place, stored_len: 9, decoded_len: 4096, form: Form::Zstd as u8, base: None };
        let patch = Location { form: Form::Patch as u8, base: Some(ChunkHash([8; 32])), ..plain };
        for location in [plain, patch] {
            let value = location.encode();
            assert_eq!(Location::decode(&value), Some(location));
            assert_eq!(Location::decode(&value[1..]), None);
        }
    }
}
