//! When RAM equals the next checkpoint's: known from hashes alone, and asked only where the registers are equal.

use crate::memory::Memory;
use crate::observe::Observer;
use crate::simulator::Simulator;
use pageswarm_checkpoint::{ChunkHash, PageMap, chunk_hash, chunk_hashes};
use pageswarm_machine::PageNumber;
use std::collections::BTreeSet;

/// What RAM must become.
#[derive(Debug)]
pub(crate) struct Landmark {
    end: PageMap,
    /// Pages that were not as at the end when last looked at.
    wrong: BTreeSet<PageNumber>,
    /// One of them, looked at first: as long as it is wrong, the others do not matter.
    suspect: Option<PageNumber>,
    /// Full comparisons made.
    pub(crate) comparisons: u64,
}

impl Landmark {
    /// The way from the RAM of `start` to that of `end`, which have one size.
    pub(crate) fn new(start: &PageMap, end: &PageMap) -> Self {
        let differs = |page: PageNumber| hash_in(start, page) != hash_in(end, page);
        let changes = end.changes_from(start).into_iter().map(|(page, _)| page);
        let wrong: BTreeSet<PageNumber> = changes.filter(|&page| differs(page)).collect();
        let suspect = wrong.first().copied();
        Self { end: end.clone(), wrong, suspect, comparisons: 0 }
    }

    /// Pages that are still not as at the end, as far as looked at.
    pub(crate) fn wrong_pages(&self) -> u64 {
        self.wrong.len() as u64
    }

    /// Whether all of RAM is as at the end.
    pub(crate) fn is_reached<M: Memory, O: Observer>(&mut self, simulator: &mut Simulator<M, O>) -> bool {
        if let Some(suspect) = self.suspect {
            // A page that was never written is as at the start, and may not even be there.
            let written = simulator.has_written(suspect);
            if !written || Some(chunk_hash(simulator.memory().page(suspect))) != hash_in(&self.end, suspect) {
                return false;
            }
        }
        self.comparisons += 1;
        let recent = simulator.take_recently_written();
        let contents: Vec<&[u8]> =
            recent.iter().map(|&page| simulator.memory().page(page).as_slice()).collect();
        for (page, hash) in recent.iter().zip(chunk_hashes(&contents)) {
            if hash_in(&self.end, *page) == Some(hash) {
                self.wrong.remove(page);
            } else {
                self.wrong.insert(*page);
            }
        }
        self.suspect = self.wrong.first().copied();
        self.wrong.is_empty()
    }
}

fn hash_in(map: &PageMap, page: PageNumber) -> Option<ChunkHash> {
    map.get(page).map(|slot| slot.hash())
}
