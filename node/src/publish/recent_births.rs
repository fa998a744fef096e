//! What a page can turn out to be a duplicate of.

use pageswarm_checkpoint::{Birth, ChunkHash, ChunkMap};

/// Births kept to find duplicates: at most about 150 MB.
const RECENT_BIRTHS: usize = 2 << 20;

/// The births of chunks of this lineage, the latest of them: what a page can turn out to be a duplicate of. A
/// duplicate of something older is born again, which costs its delta entry; the chunk itself is stored once.
#[derive(Debug, Default)]
pub(super) struct RecentBirths {
    younger: ChunkMap<Birth>,
    older: ChunkMap<Birth>,
}

impl RecentBirths {
    pub(super) fn find(&self, hash: &ChunkHash) -> Option<Birth> {
        self.younger.get(hash).or_else(|| self.older.get(hash)).copied()
    }

    pub(super) fn add(&mut self, first: u64, hashes: &[ChunkHash]) {
        if self.younger.len() + hashes.len() > RECENT_BIRTHS / 2 {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.extend(hashes.iter().copied().zip((first..).map(Birth)));
    }
}
