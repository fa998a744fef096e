//! Where a lazily restored guest's pages come from: the store, else the swarm at fault priority.

use std::sync::Arc;
use std::time::Instant;

use pageswarm_checkpoint::{CheckpointMap, ChunkHash, ChunkRef, PAGE_BYTES, PageNumber, Slot};
use pageswarm_store::{ChunkRead, ReadError};
use pageswarm_vmm::{PageSource, SourceError};

use crate::lineages::{Lineage, lineage_of};
use crate::limits::FAULT_TIMEOUT;
use crate::node::Node;

/// Gives out pages of one checkpoint, each verified against its hash on every read.
#[derive(Debug)]
pub struct CheckpointPages {
    node: Arc<Node>,
    lineage: Lineage,
    map: CheckpointMap,
}

struct Wanted {
    at: usize,
    source: ChunkRef,
    hash: ChunkHash,
}

impl CheckpointPages {
    /// Pages of the checkpoint that `map` describes.
    #[must_use]
    pub const fn new(node: Arc<Node>, lineage: Lineage, map: CheckpointMap) -> Self {
        Self { node, lineage, map }
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

impl PageSource for CheckpointPages {
    fn read_pages(&mut self, first: PageNumber, out: &mut [u8]) -> Result<(), SourceError> {
        let mut wanted = Vec::new();
        for (offset, at) in (0..).zip((0..out.len()).step_by(PAGE_BYTES)) {
            match self.map.ram.get(PageNumber(first.0 + offset)).ok_or(SourceError::Unavailable)? {
                Slot::Zero => out[at..at + PAGE_BYTES].fill(0),
                Slot::Chunk { source, hash } => wanted.push(Wanted { at, source, hash }),
            }
        }
        let store = |error: ReadError| {
            self.node.note_store_trouble(&error);
            SourceError::Store
        };
        let missing = self.read_held(wanted, out).map_err(store)?;
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
        let missing = self.read_held(missing, out).map_err(store)?;
        if missing.is_empty() { Ok(()) } else { Err(SourceError::Unverified) }
    }
}
