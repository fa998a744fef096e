//! Which intervals a part is about, and when two parts are neighbours.

use pageswarm_machine::{CheckpointIndex, PAGE_BYTES};

/// The start of an interval.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The checkpoint that it begins with.
    pub index: CheckpointIndex,
    /// All of RAM as it is then: a whole number of pages. An analysis that compares contents copies it.
    pub ram: &'a [u8],
}

impl Start<'_> {
    /// Pages of RAM.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.ram.len() / PAGE_BYTES
    }
}

/// Consecutive intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The checkpoint that they begin with.
    pub from: CheckpointIndex,
    /// The checkpoint that they end with.
    pub to: CheckpointIndex,
    /// Instructions from the one to the other.
    pub instructions: u64,
}

/// Two parts cannot be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// One does not begin where the other ends.
    #[error("intervals up to checkpoint {} are not followed by those from checkpoint {}", earlier.0, later.0)]
    NotNeighbours {
        /// Where the earlier ends.
        earlier: CheckpointIndex,
        /// Where the later begins.
        later: CheckpointIndex,
    },
    /// The earlier ends with other RAM than the later begins with: they are of different runs or were compared with
    /// different references, or RAM was changed by what an observer does not see.
    #[error("RAM at checkpoint {} is not the same in the intervals before and after it", at.0)]
    OtherRam {
        /// Where they meet.
        at: CheckpointIndex,
    },
}

impl Stretch {
    /// One interval.
    #[must_use]
    pub const fn one(from: CheckpointIndex, instructions: u64) -> Self {
        Self { from, to: CheckpointIndex(from.0.saturating_add(1)), instructions }
    }

    /// This and what follows it.
    ///
    /// # Errors
    /// When something is between them, or they overlap.
    pub fn followed_by(self, later: Self) -> Result<Self, MergeError> {
        if self.to != later.from {
            return Err(MergeError::NotNeighbours { earlier: self.to, later: later.from });
        }
        let instructions = self.instructions.saturating_add(later.instructions);
        Ok(Self { from: self.from, to: later.to, instructions })
    }
}
