//! A node's disk, reduced to which chunks it holds and whether their bytes are right.

use std::collections::BTreeSet;

use pageswarm_checkpoint::Birth;
use pageswarm_swarm::BirthSet;

/// What survives a crash.
#[derive(Debug, Default)]
pub(crate) struct Store {
    held: BirthSet,
    /// Held with wrong bytes: always empty unless verification is broken.
    wrong: BTreeSet<Birth>,
    /// Chunks removed on purpose since the beginning.
    evicted: u64,
}

impl Store {
    pub(crate) fn of(held: BirthSet) -> Self {
        Self { held, ..Self::default() }
    }

    /// Verifies chunks and keeps the right ones; returns them.
    pub(crate) fn accept(&mut self, births: &BirthSet, wrong: &[Birth]) -> BirthSet {
        let mut right = births.clone();
        for birth in wrong {
            right.remove(*birth);
        }
        self.held.add(&right);
        self.wrong.extend(wrong.iter().filter(|birth| right.contains(**birth)));
        right
    }

    pub(crate) fn evict(&mut self, births: &BirthSet) {
        self.evicted += births.and(&self.held).len();
        self.held.subtract(births);
    }

    pub(crate) fn held(&self) -> &BirthSet {
        &self.held
    }

    pub(crate) fn wrong(&self) -> impl Iterator<Item = Birth> + '_ {
        self.wrong.iter().copied()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }
}
