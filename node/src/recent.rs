//! Chunks that passed through this node lately, decoded: bases of patches, and what others ask for next.
//!
//! Nothing here enters a guest, a simulator or a store without being hashed again there; what is sent to others is
//! hashed by them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pageswarm_checkpoint::ChunkHash;
use pageswarm_store::{ChunkRead, ReadError, SharedBytes, Store};

/// Decoded bytes kept at most, by default.
pub const BYTES_DEFAULT: usize = 384 << 20;

/// A cache in two generations: the older one is dropped whole when the younger is full.
#[derive(Debug)]
pub struct RecentChunks {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    younger: HashMap<ChunkHash, SharedBytes>,
    older: HashMap<ChunkHash, SharedBytes>,
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
    ) -> Result<HashMap<ChunkHash, SharedBytes>, ReadError> {
        hashes.sort_unstable();
        hashes.dedup();
        let mut found = HashMap::with_capacity(hashes.len());
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

    /// Which of `hashes` are here.
    #[must_use]
    pub fn has(&self, hashes: &[ChunkHash]) -> Vec<bool> {
        let state = self.lock();
        hashes.iter().map(|hash| state.younger.contains_key(hash) || state.older.contains_key(hash)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
