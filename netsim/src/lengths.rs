//! The encoded lengths of the lineage's chunks, once for all nodes.

use pageswarm_checkpoint::Birth;
use pageswarm_swarm::BirthSet;

/// Encoded bytes by birth, from birth 0 on.
#[derive(Debug)]
pub(crate) struct Lengths {
    each: Vec<u32>,
    /// The length of all, if all have the same.
    same: Option<u32>,
}

impl Lengths {
    pub(crate) fn new(each: Vec<u32>) -> Self {
        let same = each.first().copied().filter(|first| each.iter().all(|length| length == first));
        Self { each, same }
    }

    pub(crate) fn of(&self, birth: Birth) -> u64 {
        let at = usize::try_from(birth.0).unwrap_or(usize::MAX);
        self.each.get(at).map_or(0, |length| u64::from(*length))
    }

    /// The bytes of a set.
    pub(crate) fn sum(&self, births: &BirthSet) -> u64 {
        match self.same {
            Some(length) => births.len() * u64::from(length),
            None => births.iter().map(|birth| self.of(birth)).sum(),
        }
    }

    /// As an engine is told them: those of the births from `first` to before `end`.
    pub(crate) fn of_range(&self, first: u64, end: u64) -> Vec<u32> {
        let at = |birth| usize::try_from(birth).unwrap_or(usize::MAX).min(self.each.len());
        self.each[at(first)..at(end).max(at(first))].to_vec()
    }
}
