//! Where a lazily restored guest's pages come from: the store, else the swarm at fault priority.

use std::sync::Arc;
use std::time::Instant;

use pageswarm_checkpoint::{CheckpointMap, ChunkHash, ChunkRef, PAGE_BYTES, PageNumber, Slot};
use pageswarm_store::{ChunkRead, ReadError};
use pageswarm_vmm::{PageSource, SourceError};

use crate::limits::FAULT_TIMEOUT;
use crate::lineages::{Lineage, lineage_of};
use crate::node::Node;

/// Pages read together when the guest's memory is filled in order: the store reads many at once far faster.
const AHEAD_PAGES: u32 = 512;
/// A call for so many pages fills memory in order; a shorter one answers a fault.
const IN_ORDER_PAGES: usize = 32;

/// Gives out pages of one checkpoint, each verified against its hash on every read from store or swarm.
#[derive(Debug)]
pub struct CheckpointPages {
    node: Arc<Node>,
    lineage: Lineage,
    map: CheckpointMap,
    ahead: Ahead,
}

/// Pages that were read and verified ahead of their turn, in this thread's own memory.
#[derive(Debug, Default)]
struct Ahead {
    first: u32,
    bytes: Vec<u8>,
}

struct Wanted {
    at: usize,
    source: ChunkRef,
    hash: ChunkHash,
}

impl CheckpointPages {
    /// Pages of the checkpoint that `map` describes.
    #[must_use]
    pub fn new(node: Arc<Node>, lineage: Lineage, map: CheckpointMap) -> Self {
        Self { node, lineage, map, ahead: Ahead::default() }
    }

    /// Reads ahead from `first`, if all of that is in the store.
    fn read_ahead(&mut self, first: PageNumber) -> Result<(), SourceError> {
        let pages = AHEAD_PAGES.min(self.map.ram.pages().saturating_sub(first.0));
        let mut bytes = std::mem::take(&mut self.ahead.bytes);
        bytes.resize(usize::try_from(pages).unwrap_or(0) * PAGE_BYTES, 0);
        let missing = self.read_slots(first, &mut bytes)?;
        if missing.is_empty() {
            self.ahead = Ahead { first: first.0, bytes };
        }
        Ok(())
    }

    /// Fills `out` with the pages from `first` on, as far as the store holds them.
    fn read_slots(&self, first: PageNumber, out: &mut [u8]) -> Result<Vec<Wanted>, SourceError> {
        let mut wanted = Vec::new();
        for (offset, at) in (0..).zip((0..out.len()).step_by(PAGE_BYTES)) {
            match self.map.ram.get(PageNumber(first.0 + offset)).ok_or(SourceError::Unavailable)? {
                Slot::Zero => out[at..at + PAGE_BYTES].fill(0),
                Slot::Chunk { source, hash } => wanted.push(Wanted { at, source, hash }),
            }
        }
        self.read_held(wanted, out).map_err(|error| self.store_failed(&error))
    }

    fn store_failed(&self, error: &ReadError) -> SourceError {
        self.node.note_store_trouble(error);
        SourceError::Store
    }

    /// Reads what the store holds into `out`; what it does not is returned.
    fn read_held(&self, wanted: Vec<Wanted>, out: &mut [u8]) -> Result<Vec<Wanted>, ReadError> {
        let names: Vec<ChunkHash> = wanted.iter().map(|page| page.hash).collect();
        let mut held = vec![false; wanted.len()];
        self.node.store.read_chunks(&names, |position, read| {
            if let ChunkRead::Held(bytes) = read
                && bytes.bytes().len() == PAGE_BYTES
            {
                let at = wanted[position].at;
                out[at..at + PAGE_BYTES].copy_from_slice(bytes.bytes());
                held[position] = true;
            }
        })?;
        Ok(wanted.into_iter().zip(held).filter(|(_, held)| !held).map(|(page, _)| page).collect())
    }
}

impl Ahead {
    fn get(&self, first: PageNumber, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(first.0.checked_sub(self.first)?).ok()?.checked_mul(PAGE_BYTES)?;
        self.bytes.get(start..start.checked_add(length)?)
    }
}

impl PageSource for CheckpointPages {
    fn read_pages(&mut self, first: PageNumber, out: &mut [u8]) -> Result<(), SourceError> {
        if let Some(bytes) = self.ahead.get(first, out.len()) {
            out.copy_from_slice(bytes);
            return Ok(());
        }
        if out.len() >= IN_ORDER_PAGES * PAGE_BYTES {
            self.read_ahead(first)?;
            if let Some(bytes) = self.ahead.get(first, out.len()) {
                out.copy_from_slice(bytes);
                return Ok(());
            }
        }
        let missing = self.read_slots(first, out)?;
        if missing.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + FAULT_TIMEOUT;
        let mut answers = Vec::with_capacity(missing.len());
        for page in &missing {
            let lineage = lineage_of(&self.lineage, page.source).ok_or(SourceError::Unavailable)?;
            answers.push(self.node.hub.fault(lineage, page.source.birth));
        }
        for answer in answers {
            let left = deadline.saturating_duration_since(Instant::now());
            if answer.recv_timeout(left) != Ok(true) {
                return Err(SourceError::Unavailable);
            }
        }
        let missing = self.read_held(missing, out).map_err(|error| self.store_failed(&error))?;
        if missing.is_empty() { Ok(()) } else { Err(SourceError::Unverified) }
    }
}
