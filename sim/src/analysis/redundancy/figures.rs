//! The kinds of redundancy and the figures of each.

use crate::analysis::kept::{Figures, Key};
use serde::Serialize;

/// What a page's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// All bytes are 0.
    Zero,
    /// Another page has it now.
    #[serde(rename = "self")]
    SameNow,
    /// The page had it in the baseline.
    Unchanged,
    /// Another page had it in the baseline.
    Temporal,
    /// Another machine has it.
    Cross,
    /// None of these.
    Unique,
}

impl Kind {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 6] =
        [Self::Zero, Self::SameNow, Self::Unchanged, Self::Temporal, Self::Cross, Self::Unique];

    /// As in tables and pictures.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::SameNow => "self",
            Self::Unchanged => "unchanged",
            Self::Temporal => "temporal",
            Self::Cross => "cross",
            Self::Unique => "unique",
        }
    }
}

/// The write that made a page what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// Instructions from the stretch's start to the one that wrote.
    pub instruction: u64,
    /// Its address.
    pub rip: u64,
    /// The page that it wrote: for pages that are equal to another, perhaps the other.
    pub page: u32,
}

/// Equalities whose lifetime is below a power of two, and not below half of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lifetime {
    /// The power of two, in instructions.
    pub below: u64,
    /// How many.
    pub equalities: u64,
}

/// One kind's figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KindFigures {
    /// The kind.
    pub kind: Kind,
    /// Pages at the stretch's start.
    pub pages_at_start: u64,
    /// Pages at its end.
    pub pages_at_end: u64,
    /// Mean over all instructions, in thousandths of a page.
    pub pages_mean_permille: u64,
    /// Times that a page became of this kind.
    pub begun: u64,
    /// Of these, those that ended within the stretch.
    pub ended: u64,
    /// Those that were there at the start and ended: their lifetimes are not known.
    pub ended_from_before: u64,
    /// Mean lifetime of those that began and ended, in instructions.
    pub lifetime_mean: u64,
    /// Lifetimes of those that began and ended.
    pub lifetimes: Vec<Lifetime>,
}

/// What one instruction made redundant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OriginFigures {
    /// The instruction's address.
    pub rip: u64,
    /// The kind that it made pages be.
    pub kind: Kind,
    /// How often.
    pub begun: u64,
    /// Of these, those that ended within the stretch.
    pub ended: u64,
    /// Their mean lifetime, in instructions.
    pub lifetime_mean: u64,
}

/// The redundancy of a stretch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RedundancyOutcome {
    /// Pages of RAM.
    pub pages: u64,
    /// Accesses that wrote.
    pub writes: u64,
    /// Of these, those that wrote what was there already.
    pub silent_writes: u64,
    /// Contents whose equalities were missed, because their prints are those of other contents.
    pub collisions: u64,
    /// Every kind's figures.
    pub kinds: Vec<KindFigures>,
    /// Instructions that made most pages redundant, at most 24.
    pub origins: Vec<OriginFigures>,
    /// How many instructions and kinds there are figures of.
    pub origins_known: u64,
    /// Times that pages became redundant by others, for which there was no room.
    pub origins_others: u64,
    /// Pages that are redundant at the end and became so within the stretch, latest first; at most 24.
    pub latest: Vec<Redundant>,
}

/// A redundant page and why it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Redundant {
    /// The page.
    pub page: u32,
    /// How.
    pub kind: Kind,
    /// The write that made it so.
    pub origin: Origin,
}

/// Equalities that began, and the lifetimes of those that also ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Equalities {
    pub(super) begun: u64,
    pub(super) ended: u64,
    pub(super) lifetimes: u128,
}

impl Figures for Equalities {
    fn add(&mut self, later: Self) {
        self.begun += later.begun;
        self.ended += later.ended;
        self.lifetimes += later.lifetimes;
    }
}

impl Equalities {
    pub(super) fn mean(&self) -> u64 {
        u64::try_from(self.lifetimes / u128::from(self.ended.max(1))).unwrap_or(u64::MAX)
    }
}

impl Key for (u64, Kind) {
    fn bits(&self) -> u64 {
        self.0 ^ (self.1 as u64) << 56
    }
}

/// Counts of lifetimes by their number of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Histogram([u64; 65]);

impl Histogram {
    pub(super) const EMPTY: Self = Self([0; 65]);

    pub(super) fn count(&mut self, lifetime: u64) {
        self.0[(u64::BITS - lifetime.leading_zeros()) as usize] += 1;
    }

    pub(super) fn add(&mut self, later: &Self) {
        self.0.iter_mut().zip(later.0).for_each(|(count, more)| *count += more);
    }

    /// Without those that are empty.
    pub(super) fn lifetimes(&self) -> Vec<Lifetime> {
        let below = |bits: u32| 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
        let counts = (0..).zip(self.0).filter(|(_, equalities)| *equalities != 0);
        counts.map(|(bits, equalities)| Lifetime { below: below(bits), equalities }).collect()
    }
}
