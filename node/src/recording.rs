//! A recorded interval as bytes: what another process on this machine needs, besides RAM, to simulate it.
//!
//! A node writes them for its own command line, which reads them at once; the format is that of one build and no other.

use pageswarm_checkpoint::{
    Birth, CheckpointIndex, ChunkHash, ChunkRef, PageMap, PageNumber, Slot, StateRoot,
};
use pageswarm_machine::bytes::{BytesError, Reader};
use pageswarm_machine::{CpuState, Devices, EventLog};
use pageswarm_sim::{Boundary, Interval};

/// Instructions, iterations and exceptions after which an interval's end is given up: what a fast processor does in ten
/// seconds, and the interpreter in some minutes.
pub const WORK_MAX: u64 = 50_000_000_000;

/// One interval, without the RAM that it starts from.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Its number.
    pub interval: CheckpointIndex,
    /// State root of the checkpoint that it begins with.
    pub start_root: StateRoot,
    /// State root of the checkpoint that it ends with.
    pub end_root: StateRoot,
    /// The checkpoint that it begins with.
    pub start: Boundary,
    /// Its inputs.
    pub events: EventLog,
    /// The checkpoint that it ends with.
    pub end: Boundary,
}

impl Recording {
    /// As the simulator has it.
    #[must_use]
    pub const fn wanted(&self) -> Interval<'_> {
        Interval {
            index: self.interval,
            start: &self.start,
            events: &self.events,
            end: &self.end,
            work_max: WORK_MAX,
        }
    }

    /// Its bytes: numbers and roots, page hashes of the start and those that differ at the end, states, inputs.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.interval.0.to_le_bytes().to_vec();
        out.extend_from_slice(&self.start_root.0);
        out.extend_from_slice(&self.end_root.0);
        out.extend_from_slice(&self.start.map.pages().to_le_bytes());
        let zero = PageMap::zero(self.start.map.pages());
        put_pages(&mut out, &self.start.map.changes_from(&zero));
        put_pages(&mut out, &self.end.map.changes_from(&self.start.map));
        for boundary in [&self.start, &self.end] {
            put_field(&mut out, &boundary.cpu.encode());
            put_field(&mut out, &boundary.devices.encode());
        }
        put_field(&mut out, &self.events.encode());
        out
    }

    /// Reads them back.
    ///
    /// # Errors
    ///
    /// When they are not those of [`Self::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BytesError> {
        let mut reader = Reader::new(bytes);
        let interval = CheckpointIndex(u64::from_le_bytes(reader.array()?));
        let (start_root, end_root) = (StateRoot(reader.array()?), StateRoot(reader.array()?));
        let pages = u32::from_le_bytes(reader.array()?);
        let start_map = PageMap::zero(pages).with(&take_pages(&mut reader, pages)?);
        let end_map = start_map.with(&take_pages(&mut reader, pages)?);
        let mut boundary = |map| {
            let (cpu, devices) =
                (CpuState::decode(take_field(&mut reader)?)?, Devices::decode(take_field(&mut reader)?)?);
            Ok(Boundary { cpu, devices, map })
        };
        let (start, end) = (boundary(start_map)?, boundary(end_map)?);
        let events = EventLog::decode(take_field(&mut reader)?)?;
        reader.finish()?;
        Ok(Self { interval, start_root, end_root, start, events, end })
    }
}

fn put_field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take_field<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], BytesError> {
    let length = u64::from_le_bytes(reader.array()?);
    reader.take(usize::try_from(length).unwrap_or(usize::MAX))
}

/// A page's number, whether it is zero, and its hash.
fn put_pages(out: &mut Vec<u8>, pages: &[(PageNumber, Slot)]) {
    out.extend_from_slice(&(pages.len() as u64).to_le_bytes());
    for (page, slot) in pages {
        out.extend_from_slice(&page.0.to_le_bytes());
        out.push(u8::from(*slot == Slot::Zero));
        out.extend_from_slice(&slot.hash().0);
    }
}

fn take_pages(reader: &mut Reader<'_>, pages: u32) -> Result<Vec<(PageNumber, Slot)>, BytesError> {
    let count = u64::from_le_bytes(reader.array()?);
    let mut taken = Vec::new();
    for _ in 0..count {
        let page = PageNumber(u32::from_le_bytes(reader.array()?));
        let (is_zero, hash) = (reader.u8()?, ChunkHash(reader.array()?));
        let is_sorted = taken.last().is_none_or(|(last, _)| *last < page);
        if page.0 >= pages || is_zero > 1 || !is_sorted {
            return Err(reader.impossible());
        }
        // Where a chunk was born means nothing to a simulation.
        let source = ChunkRef::own(Birth(0));
        taken.push((page, if is_zero == 1 { Slot::Zero } else { Slot::Chunk { source, hash } }));
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    //! Goal: what is written reads back, and no cut or changed byte makes reading panic.

    use pageswarm_checkpoint::chunk_hash;

    use super::*;

    fn recording() -> Recording {
        let chunk = |text: &[u8]| Slot::Chunk { source: ChunkRef::own(Birth(0)), hash: chunk_hash(text) };
        let start = PageMap::zero(64).with(&[(PageNumber(3), chunk(b"a")), (PageNumber(9), chunk(b"b"))]);
        let end = start.with(&[(PageNumber(3), Slot::Zero), (PageNumber(63), chunk(b"c"))]);
        let boundary = |map| Boundary { cpu: CpuState::start(0x10_0000), devices: Devices::default(), map };
        Recording {
            interval: CheckpointIndex(7),
            start_root: StateRoot([1; 32]),
            end_root: StateRoot([2; 32]),
            start: boundary(start),
            events: EventLog::default(),
            end: boundary(end),
        }
    }

    #[test]
    fn it_reads_back() {
        let recording = recording();
        let back = Recording::decode(&recording.encode()).expect("what was written");
        assert_eq!(back.encode(), recording.encode());
        assert_eq!(back.start.map.root(), recording.start.map.root());
        assert_eq!(back.end.map.root(), recording.end.map.root());
        assert_eq!(back.interval, CheckpointIndex(7));
    }

    #[test]
    fn no_cut_is_taken_and_no_bit_makes_it_panic() {
        let bytes = recording().encode();
        for length in 0..bytes.len() {
            assert!(Recording::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x41;
            let _any = Recording::decode(&changed);
        }
    }
}
