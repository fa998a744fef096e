//! Chains of patches: which chunk is decoded with the help of which, and how deep that goes.

use std::collections::HashMap;

use pageswarm_checkpoint::ChunkHash;

use crate::bad::BadCause;
use crate::fault::IndexError;
use crate::index::{Index, Key, Location};
use crate::limits::CHAIN_WALK_MAX;

/// A chunk's index entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Located {
    NotHeld,
    /// There is an entry, and it has a shape that no entry has.
    Damaged,
    At(Location),
}

/// The locations of some chunks and of all that they are based on.
#[derive(Debug, Default)]
pub(crate) struct Chains {
    known: HashMap<ChunkHash, Located>,
}

impl Chains {
    /// Looks up `wanted`, their bases, and so on until every chain ends or is too long.
    pub(crate) fn resolve(&mut self, index: &Index, wanted: Vec<ChunkHash>) -> Result<(), IndexError> {
        let mut wanted = wanted;
        for _ in 0..=CHAIN_WALK_MAX {
            wanted.retain(|hash| !self.known.contains_key(hash));
            wanted.sort_unstable();
            wanted.dedup();
            if wanted.is_empty() {
                break;
            }
            let found = index.locate(&wanted)?;
            let bases = found.iter().filter_map(|located| located.location()?.base).collect();
            self.known.extend(wanted.into_iter().zip(found));
            wanted = bases;
        }
        Ok(())
    }

    /// Adds a chunk whose location is known otherwise.
    pub(crate) fn insert(&mut self, hash: ChunkHash, location: Location) {
        self.known.insert(hash, Located::At(location));
    }

    /// Where a resolved chunk is.
    pub(crate) fn location(&self, hash: ChunkHash) -> Option<&Location> {
        self.known.get(&hash)?.location()
    }

    /// How many patches lie between a chunk at `location` and one without a base.
    pub(crate) fn depth(&self, location: &Location) -> Result<usize, BadCause> {
        let (mut at, mut depth) = (location, 0);
        while let Some(base) = at.base {
            if depth == CHAIN_WALK_MAX {
                return Err(BadCause::EndlessChain);
            }
            // The cause names the chunk's own base, not the one further down that is missing.
            let first_base = location.base.unwrap_or(base);
            at = self.location(base).ok_or(BadCause::BaseLost { base: first_base })?;
            depth += 1;
        }
        Ok(depth)
    }
}

impl Located {
    pub(crate) fn location(&self) -> Option<&Location> {
        match self {
            Self::At(location) => Some(location),
            Self::NotHeld | Self::Damaged => None,
        }
    }
}

impl Index {
    /// The entries of chunks, in order.
    pub(crate) fn locate(&self, hashes: &[ChunkHash]) -> Result<Vec<Located>, IndexError> {
        let keys: Vec<Vec<u8>> = hashes.iter().map(|hash| Key::Chunk(*hash).encode()).collect();
        let found =
            self.look_up(&keys, |value| Location::decode(value).map_or(Located::Damaged, Located::At))?;
        Ok(found.into_iter().map(|located| located.unwrap_or(Located::NotHeld)).collect())
    }
}
