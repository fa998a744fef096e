//! One lineage as this node sees it: what is held, wanted, asked for, and how many others hold it.

use pageswarm_checkpoint::{Birth, NodeId};

use crate::births::BirthSet;
use crate::gains::Gains;
use crate::lengths::Lengths;
use crate::locality::Share;
use crate::time::Time;

/// The sets of one open lineage. Invariants: `wanted` and `held` are disjoint, `unasked` is `wanted` without
/// `in_flight`, `doubled` is in `in_flight`.
#[derive(Debug, Default)]
pub(crate) struct Lineage {
    pub(crate) writer: Option<NodeId>,
    pub(crate) lengths: Lengths,
    pub(crate) held: BirthSet,
    wanted: BirthSet,
    in_flight: BirthSet,
    doubled: BirthSet,
    unasked: BirthSet,
    pub(crate) copies: Copies,
    /// Where the next run from the writer begins: walking on from a random start keeps nodes apart.
    pub(crate) cursor: Option<Birth>,
    pub(crate) gains: Gains,
    pub(crate) share: Share,
    /// When all followers are told what they have not been told.
    pub(crate) tell_all_at: Option<Time>,
    /// When some are, if the uplink has room.
    pub(crate) tell_some_at: Option<Time>,
    /// When some were told last.
    pub(crate) told_some_at: Time,
    /// The last of them: others have their turn next.
    pub(crate) told_last: Option<NodeId>,
}

impl Lineage {
    /// What is wanted, not held and not asked for.
    pub(crate) fn unasked(&self) -> &BirthSet {
        &self.unasked
    }

    /// What is wanted and not held.
    pub(crate) fn wanted(&self) -> &BirthSet {
        &self.wanted
    }

    /// What is asked of exactly one peer, of `births`.
    pub(crate) fn asked_once(&self, births: &BirthSet) -> BirthSet {
        let mut once = births.and(&self.in_flight);
        once.subtract(&self.doubled);
        once
    }

    /// Whether two peers are asked for the birth.
    pub(crate) fn is_doubled(&self, birth: Birth) -> bool {
        self.doubled.contains(birth)
    }

    /// Whether two peers are asked for any of `births`.
    pub(crate) fn is_any_doubled(&self, births: &BirthSet) -> bool {
        !self.doubled.is_disjoint(births)
    }

    /// Whether any of `births` is asked for.
    pub(crate) fn is_in_flight(&self, births: &BirthSet) -> bool {
        !self.in_flight.is_disjoint(births)
    }

    /// Whether exactly these are asked for.
    pub(crate) fn is_exactly_in_flight(&self, births: &BirthSet) -> bool {
        self.in_flight == *births
    }

    /// Adds to what is wanted.
    pub(crate) fn want(&mut self, births: &BirthSet) {
        let missing = births.minus(&self.held);
        self.unasked.add(&missing.minus(&self.in_flight));
        self.wanted.add(&missing);
    }

    /// Replaces what is wanted by less.
    pub(crate) fn want_only(&mut self, births: &BirthSet) {
        self.wanted.keep(births);
        self.unasked.keep(births);
    }

    /// A request for these was issued.
    pub(crate) fn ask(&mut self, births: &BirthSet) {
        self.doubled.add(&births.and(&self.in_flight));
        self.in_flight.add(births);
        self.unasked.subtract(births);
    }

    /// A request for these ended without them.
    pub(crate) fn release(&mut self, births: &BirthSet) {
        let mut back = births.minus(&self.doubled);
        self.doubled.subtract(births);
        self.in_flight.subtract(&back);
        back.keep(&self.wanted);
        self.unasked.add(&back);
    }

    /// The store holds these now; returns those that are new.
    pub(crate) fn gain(&mut self, births: &BirthSet) -> BirthSet {
        let new = births.minus(&self.held);
        self.held.add(&new);
        self.wanted.subtract(births);
        self.unasked.subtract(births);
        self.in_flight.subtract(births);
        self.doubled.subtract(births);
        new
    }

    /// The store lost these; returns those that it had.
    pub(crate) fn lose(&mut self, births: &BirthSet) -> BirthSet {
        let lost = births.and(&self.held);
        self.held.subtract(&lost);
        self.gains.forget(&lost);
        lost
    }

    /// An estimate of the memory that its sets and lengths take, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let own = [&self.held, &self.wanted, &self.in_flight, &self.doubled, &self.unasked];
        let sets = own.into_iter().chain(&self.copies.levels).map(BirthSet::memory_bytes);
        let others = self.lengths.memory_bytes() + self.gains.memory_bytes() + self.share.memory_bytes();
        size_of::<Self>() + sets.sum::<usize>() + others
    }

    /// Checks the invariants; meant for tests and debug builds.
    pub(crate) fn assert_invariants(&self) {
        assert!(self.wanted.is_disjoint(&self.held), "what is held is not wanted");
        assert_eq!(self.unasked, self.wanted.minus(&self.in_flight), "unasked is derived");
        assert!(self.doubled.is_subset(&self.in_flight), "what is asked twice is asked");
        assert!(self.in_flight.is_disjoint(&self.held), "what is held is not asked for");
    }
}

/// How many healthy peers other than the writer hold a birth, counted up to three: level `n` has the births with
/// more than `n` such holders.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    levels: [BirthSet; 3],
}

impl Copies {
    /// Counts one more holder for births that it was not counted for.
    pub(crate) fn add(&mut self, births: &BirthSet) {
        let [one, two, three] = &mut self.levels;
        let again = one.add_again(births);
        if !again.is_empty() {
            let thrice = two.add_again(&again);
            three.add(&thrice);
        }
    }

    /// Births that at least one such peer holds.
    pub(crate) fn any(&self) -> &BirthSet {
        &self.levels[0]
    }

    /// How many such peers hold the rarest of `births`, up to three.
    pub(crate) fn fewest(&self, births: &BirthSet) -> u8 {
        let levels = self.levels.iter().zip(1_u8..);
        levels.take_while(|(level, _)| births.is_subset(level)).last().map_or(0, |(_, copies)| copies)
    }

    /// The rarest of `births`: held by one, else by two, else all.
    pub(crate) fn rarest(&self, births: BirthSet) -> BirthSet {
        for level in &self.levels[1..] {
            let rare = births.minus(level);
            if !rare.is_empty() {
                return rare;
            }
        }
        births
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_counted_up_to_three() {
        let mut copies = Copies::default();
        copies.add(&BirthSet::range(Birth(0), Birth(9)));
        copies.add(&BirthSet::range(Birth(3), Birth(9)));
        copies.add(&BirthSet::range(Birth(6), Birth(9)));
        let all = BirthSet::range(Birth(0), Birth(9));
        assert_eq!(copies.rarest(all), BirthSet::range(Birth(0), Birth(2)));
        let upper = BirthSet::range(Birth(4), Birth(9));
        assert_eq!(copies.rarest(upper), BirthSet::range(Birth(4), Birth(5)));
        let most = BirthSet::range(Birth(7), Birth(9));
        assert_eq!(copies.rarest(most.clone()), most);
    }

    #[test]
    fn a_birth_asked_twice_is_free_again_only_after_both_ended() {
        let mut lineage = Lineage::default();
        let births = BirthSet::range(Birth(1), Birth(4));
        lineage.want(&births);
        lineage.ask(&births);
        lineage.ask(&BirthSet::range(Birth(2), Birth(2)));
        lineage.release(&births);
        lineage.assert_invariants();
        assert!(!lineage.unasked().contains(Birth(2)));
        lineage.release(&BirthSet::range(Birth(2), Birth(2)));
        lineage.assert_invariants();
        assert_eq!(lineage.unasked(), &births);
    }
}
