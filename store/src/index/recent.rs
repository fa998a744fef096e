//! Locations of chunks that came lately, in memory: those that wait for their pack's sync, and as many of the settled
//! ones as fit.
//!
//! A chunk is asked for most soon after it came: as a duplicate, as a base, to be sent on, to be read back. Asking
//! RocksDB costs about two microseconds each time, asking here a twentieth of that. As long as nothing had to be dropped, what
//! is not here need not be asked for at all.

use pageswarm_checkpoint::{ChunkHash, ChunkMap};

use super::Location;
use crate::limits::RECENT_LOCATIONS_MAX;

/// Two generations: the older one is dropped whole when the younger is full and everything in both is settled.
#[derive(Debug, Default)]
pub(super) struct RecentLocations {
    younger: ChunkMap<Location>,
    older: ChunkMap<Location>,
    /// Those that RocksDB does not have yet; each is in a generation too.
    waiting: Vec<ChunkHash>,
    /// RocksDB has none that are not here.
    is_all: bool,
}

impl RecentLocations {
    /// No locations yet; `is_all` if RocksDB has none either.
    pub(super) fn new(is_all: bool) -> Self {
        Self { is_all, ..Self::default() }
    }

    /// Whether what is not here is nowhere: in a store that is new and not large yet.
    pub(super) const fn is_all(&self) -> bool {
        self.is_all
    }

    pub(super) fn get(&self, hash: &ChunkHash) -> Option<&Location> {
        self.younger.get(hash).or_else(|| self.older.get(hash))
    }

    /// Adds a location that waits for its pack's sync.
    pub(super) fn stage(&mut self, hash: ChunkHash, location: Location) {
        // What is replaced must not come back when the younger generation is dropped.
        self.older.remove(&hash);
        self.younger.insert(hash, location);
        self.waiting.push(hash);
    }

    /// Those that wait, by hash: RocksDB takes in what is sorted with fewer cache misses.
    pub(super) fn waiting_sorted(&self) -> Vec<(&ChunkHash, &Location)> {
        let mut waiting: Vec<_> =
            self.waiting.iter().filter_map(|hash| Some((hash, self.get(hash)?))).collect();
        waiting.sort_unstable_by_key(|(hash, _)| *hash);
        waiting
    }

    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// Everything that waited is in RocksDB now.
    pub(super) fn settle(&mut self) {
        self.waiting.clear();
        if self.younger.len() > RECENT_LOCATIONS_MAX / 2 {
            self.is_all &= self.older.is_empty();
            self.older = std::mem::take(&mut self.younger);
        }
    }

    pub(super) fn remove(&mut self, hash: &ChunkHash) {
        self.younger.remove(hash);
        self.older.remove(hash);
    }

    /// Drops what is settled, so that RocksDB is asked.
    #[cfg(test)]
    pub(super) fn forget_settled(&mut self) {
        self.is_all = false;
        let waiting = &self.waiting;
        self.older.retain(|hash, _| waiting.contains(hash));
        self.younger.retain(|hash, _| waiting.contains(hash));
    }
}
