//! Chains of patches: which chunk is decoded with the help of which, and how deep that goes.

use pageswarm_checkpoint::{ChunkHash, ChunkMap};

use crate::bad::BadCause;
use crate::fault::IndexError;
use crate::index::{Index, Location};
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
    known: ChunkMap<Located>,
    /// The base of each chunk that is about to be stored.
    expected: ChunkMap<Option<ChunkHash>>,
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

    /// Adds a chunk that will be stored, on this base.
    pub(crate) fn expect(&mut self, hash: ChunkHash, base: Option<ChunkHash>) {
        self.expected.insert(hash, base);
    }

    /// How many bases lie below a chunk that is held or expected; `None` if it is neither, or its chain is broken.
    pub(crate) fn depth_of(&self, hash: ChunkHash) -> Option<usize> {
        let (mut at, mut depth) = (hash, 0);
        loop {
            let base = match self.expected.get(&at) {
                Some(base) => *base,
                None => self.location(at)?.base,
            };
            match base {
                None => return Some(depth),
                Some(_) if depth == CHAIN_WALK_MAX => return None,
                Some(base) => (at, depth) = (base, depth + 1),
            }
        }
    }

    /// Whether a resolved chunk has an entry, be it a damaged one.
    pub(crate) fn is_known(&self, hash: ChunkHash) -> bool {
        self.known.get(&hash).is_some_and(|located| *located != Located::NotHeld)
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
