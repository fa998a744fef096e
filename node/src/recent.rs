//! Chunks that passed through this node lately, decoded: bases of patches, and what others ask for next.
//!
//! Nothing here enters a guest, a simulator or a store without being hashed again there; what is sent to others is
//! hashed by them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pageswarm_checkpoint::{ChunkHash, ChunkMap};
use pageswarm_store::{ChunkRead, ReadError, SharedBytes, Store};

/// Decoded bytes kept at most: a sixteenth of the machine's memory, but no more than two checkpoints of a small VM.
#[must_use]
pub fn bytes_default() -> usize {
    let total_kib = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.split_whitespace().next()?.parse::<usize>().ok()
    });
    total_kib.map_or(BYTES_MIN, |kib| (kib << 10) / 16).clamp(BYTES_MIN, BYTES_MAX)
}

const BYTES_MIN: usize = 128 << 20;
const BYTES_MAX: usize = 512 << 20;

/// A cache in two generations: the older one is dropped whole when the younger is full.
#[derive(Debug)]
pub struct RecentChunks {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    younger: ChunkMap<SharedBytes>,
    older: ChunkMap<SharedBytes>,
    younger_bytes: usize,
}

impl RecentChunks {
    /// An empty cache of at most `bytes_max` decoded bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default() }
    }

    /// Adds chunks.
    pub fn add(&self, chunks: impl Iterator<Item = SharedBytes>) {
        // Collected first: whoever makes the chunks does that outside of the lock.
        let chunks: Vec<SharedBytes> = chunks.collect();
        let mut state = self.lock();
        for chunk in chunks {
            let bytes = chunk.verified().bytes().len();
            if state.younger_bytes + bytes > self.bytes_max / 2 {
                state.older = std::mem::take(&mut state.younger);
                state.younger_bytes = 0;
            }
            if state.younger.insert(chunk.hash(), chunk).is_none() {
                state.younger_bytes += bytes;
            }
        }
    }

    /// The chunks among `hashes` that are here or in the store, by hash. What comes from the store is hashed.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the store fails.
    pub fn read(
        &self,
        store: &Store,
        mut hashes: Vec<ChunkHash>,
    ) -> Result<ChunkMap<SharedBytes>, ReadError> {
        hashes.sort_unstable();
        hashes.dedup();
        let mut found = ChunkMap::with_capacity_and_hasher(hashes.len(), Default::default());
        {
            let state = self.lock();
            hashes.retain(|hash| match state.younger.get(hash).or_else(|| state.older.get(hash)) {
                Some(chunk) => {
                    found.insert(*hash, chunk.clone());
                    false
                }
                None => true,
            });
        }
        if !hashes.is_empty() {
            store.read_chunks(&hashes, |at, read| {
                if let ChunkRead::Held(chunk) = read {
                    found.insert(hashes[at], chunk.to_shared());
                }
            })?;
        }
        Ok(found)
    }

    /// Whether all of `hashes` are here.
    #[must_use]
    pub fn has_all(&self, hashes: &[ChunkHash]) -> bool {
        let state = self.lock();
        hashes.iter().all(|hash| state.younger.contains_key(hash) || state.older.contains_key(hash))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
