//! A checkpoint as the parent gets it: page batches, the state that is not RAM, and what taking it cost.

use crate::capture::CaptureKind;
use crate::limits::BLOB_BYTES_MAX;
use pageswarm_machine::bytes::{BytesError, Reader};
use pageswarm_machine::{CheckpointIndex, PageNumber};

/// A machine's state apart from RAM, as captured and as restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedState {
    /// [`pageswarm_machine::CpuState`], encoded.
    pub cpu: Vec<u8>,
    /// [`pageswarm_machine::Devices`], encoded.
    pub devices: Vec<u8>,
    /// What this host's KVM needs besides; empty when only the canonical state is known.
    pub attachment: Vec<u8>,
}

/// What one checkpoint cost, all times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureFigures {
    /// From the guest's last exit before the pause to its re-entry, without the witness.
    pub pause_ns: u64,
    /// From the wish to stop to the guest's last exit.
    pub kick_ns: u64,
    /// Saving vCPU state; part of the pause.
    pub state_ns: u64,
    /// Copying while the guest ran.
    pub precopy_ns: u64,
    /// From the boundary before (or the start) to this one.
    pub interval_ns: u64,
    /// How much of the interval was spent waiting for staging slots.
    pub lengthened_ns: u64,
    /// Writing the witness image while stopped; not part of the pause.
    pub witness_ns: u64,
    /// Rounds of copying while the guest ran.
    pub rounds: u64,
    /// Pauses given up because their residual did not fit.
    pub retries: u64,
    /// Pages copied while the guest stood still.
    pub residual_pages: u64,
    /// Pages captured, before pages that turned out zero were dropped.
    pub dirty_pages: u64,
    /// Pages that the guest was told to dirty in this interval.
    pub pages_told: u64,
    /// Pages per second that the pace asks for; 0 when it asks for no rate.
    pub pages_per_second_set: u64,
}

impl CaptureFigures {
    /// Pages per second that the guest was given time to dirty.
    #[must_use]
    pub fn pages_per_second_achieved(&self) -> u64 {
        let pages = u128::from(self.pages_told) * 1_000_000_000;
        u64::try_from(pages / u128::from(self.interval_ns.max(1))).unwrap_or(u64::MAX)
    }

    pub(crate) const fn fields(&mut self) -> [&mut u64; 13] {
        [
            &mut self.pause_ns,
            &mut self.kick_ns,
            &mut self.state_ns,
            &mut self.precopy_ns,
            &mut self.interval_ns,
            &mut self.lengthened_ns,
            &mut self.witness_ns,
            &mut self.rounds,
            &mut self.retries,
            &mut self.residual_pages,
            &mut self.dirty_pages,
            &mut self.pages_told,
            &mut self.pages_per_second_set,
        ]
    }
}

/// Captured pages and the staging slots that hold them until the batch is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageBatch {
    /// What to release when the slots were read.
    pub batch: u64,
    /// The checkpoint that the pages belong to.
    pub index: CheckpointIndex,
    /// Page numbers and slots. A page that an earlier batch of the same checkpoint has replaces it.
    pub pages: Vec<(PageNumber, u32)>,
}

/// A complete checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Its last (usually only) batch of pages.
    pub last: PageBatch,
    /// What the pages are measured against.
    pub kind: CaptureKind,
    /// Everything but RAM.
    pub state: SavedState,
    /// The event log of the interval that ends here, encoded.
    pub events: Vec<u8>,
    /// What it cost.
    pub figures: CaptureFigures,
}

pub(crate) fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).expect("blobs are far below 4 GiB").to_le_bytes());
    out.extend(bytes);
}

pub(crate) fn blob(reader: &mut Reader<'_>) -> Result<Vec<u8>, BytesError> {
    let length = reader.u32()? as usize;
    if length > BLOB_BYTES_MAX {
        return Err(reader.impossible());
    }
    Ok(reader.take(length)?.to_vec())
}

impl SavedState {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_blob(out, &self.cpu);
        put_blob(out, &self.devices);
        put_blob(out, &self.attachment);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, BytesError> {
        Ok(Self { cpu: blob(reader)?, devices: blob(reader)?, attachment: blob(reader)? })
    }
}

impl PageBatch {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(20 + 8 * self.pages.len());
        out.extend(self.batch.to_le_bytes());
        out.extend(self.index.0.to_le_bytes());
        out.extend(u32::try_from(self.pages.len()).expect("fewer than 2^32 pages").to_le_bytes());
        for (page, slot) in &self.pages {
            out.extend(page.0.to_le_bytes());
            out.extend(slot.to_le_bytes());
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, BytesError> {
        let (batch, index) = (reader.u64()?, CheckpointIndex(reader.u64()?));
        let count = reader.u32()? as usize;
        if count > reader.left() / 8 {
            return Err(reader.impossible());
        }
        let mut pages = Vec::with_capacity(count);
        for _ in 0..count {
            pages.push((PageNumber(reader.u32()?), reader.u32()?));
        }
        Ok(Self { batch, index, pages })
    }
}

impl Captured {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.last.encode(out);
        out.push(self.kind as u8);
        self.state.encode(out);
        put_blob(out, &self.events);
        let mut figures = self.figures;
        for field in figures.fields() {
            out.extend(field.to_le_bytes());
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, BytesError> {
        let mut captured = Self {
            last: PageBatch::decode(reader)?,
            kind: CaptureKind::from_number(reader.u8()?).ok_or(reader.impossible())?,
            state: SavedState::decode(reader)?,
            events: blob(reader)?,
            figures: CaptureFigures::default(),
        };
        for field in captured.figures.fields() {
            *field = reader.u64()?;
        }
        Ok(captured)
    }
}
