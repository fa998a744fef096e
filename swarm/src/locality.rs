//! Where nodes are, and which chunks a node fetches for those around it.
//!
//! A rack's up-link is shared by all its nodes and is often the scarcest link: each chunk should come in through it about
//! once. So the nodes of a rack share the work. Of each block of births, the node with the highest hash of block and node
//! fetches from outside, and the others take it from there (rendezvous hashing; Thaler and Ravishankar, 1998). They agree
//! without a message as far as they know the same members; where they do not, a chunk comes in twice.
//!
//! The others trust that it will come: for as long as chunks come from around them, and for some time after the last
//! one. Then everyone fetches from anywhere, because whoever should have fetched may want something else, or lie.

use std::time::Duration;

use pageswarm_checkpoint::{Birth, NodeId};

use crate::births::BirthSet;
use crate::rng::Rng;
use crate::time::Time;

/// Births that one node fetches together, so that runs stay long.
const BLOCK_BIRTHS: u64 = 16;

/// The number of a place, as whoever drives the engine numbers them: equal numbers, equal places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(pub u64);

/// Where a node is, as far as it says. A rack is one of its zone, a host one of its rack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// Between zones, links are long.
    pub zone: Option<Label>,
    /// Out of a rack, links are shared.
    pub rack: Option<Label>,
    /// On a host, there is no link.
    pub host: Option<Label>,
}

/// How far apart two nodes are, nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Distance {
    SameHost,
    SameRack,
    SameZone,
    Far,
}

impl Labels {
    pub(crate) fn distance(&self, other: &Self) -> Distance {
        let is_same = |one: Option<Label>, two: Option<Label>| one.is_some() && one == two;
        let is_rack = self.zone == other.zone && is_same(self.rack, other.rack);
        if is_rack && is_same(self.host, other.host) {
            Distance::SameHost
        } else if is_rack {
            Distance::SameRack
        } else if is_same(self.zone, other.zone) {
            Distance::SameZone
        } else {
            Distance::Far
        }
    }

    /// Whether nothing scarce is between them: they are in one rack, or in one zone if racks are not known.
    pub(crate) fn is_around(&self, other: &Self) -> bool {
        match self.rack {
            Some(_) => self.distance(other) <= Distance::SameRack,
            None => self.distance(other) <= Distance::SameZone,
        }
    }
}

/// What a node fetches of one lineage from outside, for itself and those around it.
#[derive(Debug, Default)]
pub(crate) struct Share {
    /// Who is around and takes part, this node included; empty if nobody is.
    members: Vec<NodeId>,
    mine: BirthSet,
    /// What the others around hold.
    around: BirthSet,
    /// Until when the others are trusted to fetch the rest.
    trusts_until: Option<Time>,
}

impl Share {
    /// Who is around, this node included, and what the others hold; true if others are around than before.
    pub(crate) fn set_around(&mut self, members: Vec<NodeId>, around: BirthSet) -> bool {
        self.around = around;
        std::mem::replace(&mut self.members, members) != self.members
    }

    /// Divides what is wanted among the members, of whom `me` is one.
    pub(crate) fn divide(&mut self, me: NodeId, wanted: &BirthSet) {
        self.mine = BirthSet::new();
        if self.members.is_empty() {
            return;
        }
        for range in wanted.ranges() {
            for block in range.start() / BLOCK_BIRTHS..=range.end() / BLOCK_BIRTHS {
                let rank =
                    |member: &NodeId| (Rng::new(fold(member) ^ block.rotate_left(32)).next_u64(), *member);
                if self.members.iter().copied().max_by_key(rank) == Some(me) {
                    let first = block * BLOCK_BIRTHS;
                    self.mine.insert_range(Birth(first), Birth(first.saturating_add(BLOCK_BIRTHS - 1)));
                }
            }
        }
    }

    /// Someone around holds more.
    pub(crate) fn gained_around(&mut self, births: &BirthSet) {
        self.around.add(births);
    }

    /// The others do their part, or are to begin with it: they are trusted for a time; returns until when.
    pub(crate) fn trust(&mut self, now: Time, time: Duration) -> Time {
        let until = now.after(time);
        self.trusts_until = Some(until);
        until
    }

    /// True once when the others are not trusted any longer.
    pub(crate) fn end_trust(&mut self, now: Time) -> bool {
        self.trusts_until.take_if(|until| *until <= now).is_some()
    }

    pub(crate) fn trusts_until(&self) -> Option<Time> {
        self.trusts_until
    }

    /// Of what a node outside offers, what to ask it for.
    pub(crate) fn outside(&self, mut offer: BirthSet) -> BirthSet {
        if !self.members.is_empty() && self.trusts_until.is_some() {
            offer.subtract(&self.around);
            offer.keep(&self.mine);
        }
        offer
    }

    /// An estimate of the memory that it takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(self.members.as_slice()) + self.mine.memory_bytes() + self.around.memory_bytes()
    }
}

/// All bytes of an id in one word.
pub(crate) fn fold(id: &NodeId) -> u64 {
    let (words, _) = id.0.as_chunks::<8>();
    words.iter().fold(0, |folded, word| folded.rotate_left(21) ^ u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_compared_from_the_zone_down() {
        let at = |zone: u64, rack: u64, host: u64| {
            let label = |number: u64| (number > 0).then_some(Label(number));
            Labels { zone: label(zone), rack: label(rack), host: label(host) }
        };
        assert_eq!(at(1, 2, 3).distance(&at(1, 2, 3)), Distance::SameHost);
        assert_eq!(at(1, 2, 3).distance(&at(1, 2, 4)), Distance::SameRack);
        assert_eq!(at(1, 2, 3).distance(&at(1, 5, 3)), Distance::SameZone);
        assert_eq!(at(1, 2, 3).distance(&at(4, 2, 3)), Distance::Far);
        assert_eq!(at(0, 0, 0).distance(&at(0, 0, 0)), Distance::Far, "what is not known is not the same");
        assert!(at(1, 0, 0).is_around(&at(1, 7, 0)) && !at(1, 7, 0).is_around(&at(1, 0, 0)));
    }

    #[test]
    fn members_divide_everything_without_overlap() {
        let members: Vec<NodeId> = (1..=5).map(|number| NodeId([number; 32])).collect();
        let wanted = BirthSet::range(Birth(0), Birth(1599));
        let mut all = BirthSet::new();
        for me in &members {
            let mut share = Share::default();
            assert!(share.set_around(members.clone(), BirthSet::new()));
            assert!(!share.set_around(members.clone(), BirthSet::new()), "the same as before");
            share.divide(*me, &wanted);
            share.trust(Time::ZERO, Duration::from_secs(1));
            let part = share.outside(wanted.clone());
            assert!(part.is_disjoint(&all), "nothing comes in twice");
            assert!((160..=480).contains(&part.len()), "{}", part.len());
            all.add(&part);
            assert!(share.end_trust(Time::from_millis(1000)));
            assert_eq!(share.outside(wanted.clone()), wanted, "without trust, everything");
        }
        assert_eq!(all, wanted);
    }
}
