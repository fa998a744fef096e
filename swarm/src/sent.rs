//! The writer's memory of whom it sent each chunk, so that it sends every chunk once before any twice.

use std::collections::BTreeMap;
use std::time::Duration;

use pageswarm_checkpoint::{LineageId, NodeId};

use crate::births::BirthSet;
use crate::time::Time;

/// Two generations of sets per lineage and peer; a chunk is remembered for one to two generations.
///
/// Bounded by what is held here: each set is a part of the held births, and only connected peers have one.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    recent: BTreeMap<(LineageId, NodeId), [BirthSet; 2]>,
    ages_at: Option<Time>,
}

impl Sent {
    /// These are being sent to the peer, or wait for it.
    pub(crate) fn note(
        &mut self,
        lineage: LineageId,
        peer: NodeId,
        births: &BirthSet,
        (now, memory): (Time, Duration),
    ) {
        self.recent.entry((lineage, peer)).or_default()[0].add(births);
        self.ages_at.get_or_insert(now.after(memory));
    }

    /// These were not sent to the peer after all, or it has announced them.
    pub(crate) fn forget(&mut self, lineage: LineageId, peer: NodeId, births: &BirthSet) {
        if let Some(generations) = self.recent.get_mut(&(lineage, peer)) {
            generations.iter_mut().for_each(|generation| generation.subtract(births));
        }
    }

    /// The peer is gone; returns what it was sent lately and has not announced.
    pub(crate) fn forget_peer(&mut self, peer: NodeId) -> Vec<(LineageId, BirthSet)> {
        let mut sent = Vec::new();
        self.recent.retain(|(lineage, other), [young, old]| {
            if *other == peer {
                young.add(old);
                sent.push((*lineage, std::mem::take(young)));
            }
            *other != peer
        });
        sent
    }

    /// The lineage is closed.
    pub(crate) fn forget_lineage(&mut self, lineage: LineageId) {
        self.recent.retain(|(other, _), _| *other != lineage);
    }

    /// Which of `births` each other peer was sent lately.
    pub(crate) fn holders(
        &self,
        lineage: LineageId,
        asker: NodeId,
        births: &BirthSet,
    ) -> Vec<(NodeId, BirthSet)> {
        self.recent
            .iter()
            .filter(|((of, peer), _)| *of == lineage && *peer != asker)
            .map(|((_, peer), [young, old])| {
                let mut sent = births.and(young);
                sent.add(&births.and(old));
                (*peer, sent)
            })
            .filter(|(_, sent)| !sent.is_empty())
            .collect()
    }

    /// Lets a generation pass if it is time.
    pub(crate) fn age(&mut self, now: Time, memory: Duration) {
        if self.ages_at.is_none_or(|at| now < at) {
            return;
        }
        for generations in self.recent.values_mut() {
            generations[1] = std::mem::take(&mut generations[0]);
        }
        self.recent.retain(|_, generations| !generations[1].is_empty());
        self.ages_at = (!self.recent.is_empty()).then(|| now.after(memory));
    }

    /// When the next generation passes.
    pub(crate) fn ages_at(&self) -> Option<Time> {
        self.ages_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageswarm_checkpoint::Birth;

    #[test]
    fn a_sent_chunk_is_remembered_for_one_to_two_generations() {
        let (lineage, a, b) = (LineageId([0; 32]), NodeId([1; 32]), NodeId([2; 32]));
        let memory = Duration::from_secs(2);
        let births = BirthSet::range(Birth(0), Birth(3));
        let mut sent = Sent::default();
        sent.note(lineage, a, &births, (Time::ZERO, memory));
        assert_eq!(sent.holders(lineage, b, &births), [(a, births.clone())]);
        assert!(sent.holders(lineage, a, &births).is_empty(), "the asker itself is no holder");
        sent.age(Time::from_millis(2000), memory);
        assert_eq!(sent.holders(lineage, b, &births).len(), 1);
        sent.age(Time::from_millis(4000), memory);
        assert!(sent.holders(lineage, b, &births).is_empty());
        assert_eq!(sent.ages_at(), None);
    }
}
