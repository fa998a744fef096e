//! A compressed set of births, the currency of everything in this crate.

mod block;

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use pageswarm_checkpoint::Birth;

use block::{BLOCK_BIRTHS, Block};

/// A sorted, compressed set of births.
///
/// One block covers 1,024 consecutive births; a full one takes 16 bytes, any other at most 160. A holder of
/// 260,000 births costs at most 40 KiB whatever their pattern; see [`BirthSet::memory_bytes`].
///
/// Roaring bitmaps are the usual choice, and what the tests compare with. The sets here are a few thousand births
/// close together, changed a few at a time; `swarm/examples/birth_sets.rs` measures both on such sets
/// (docs/decisions/2026-11-26-sets-of-births.md).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BirthSet {
    /// Ascending by key; none is empty.
    blocks: Vec<Block>,
}

impl BirthSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The births `first` to `last`, both included; empty if `last` is before `first`.
    #[must_use]
    pub fn range(first: Birth, last: Birth) -> Self {
        let mut set = Self::new();
        set.insert_range(first, last);
        set
    }

    /// Adds the births `first` to `last`, both included, as far as the set has room for 2^20 blocks: ranges come
    /// from the network, and a few bytes there must not take gigabytes here.
    pub fn insert_range(&mut self, first: Birth, last: Birth) {
        if first > last {
            return;
        }
        let room = BLOCKS_MAX.saturating_sub(self.blocks.len());
        let part = Self { blocks: Block::range(first.0, last.0).take(room).collect() };
        self.add(&part);
    }

    /// Adds one birth; true if it was not there.
    pub fn insert(&mut self, birth: Birth) -> bool {
        match self.place(birth.0 / BLOCK_BIRTHS) {
            Ok(at) => self.blocks[at].insert(birth.0),
            Err(at) => {
                self.blocks.insert(at, Block::one(birth.0));
                true
            }
        }
    }

    /// Removes one birth; true if it was there.
    pub fn remove(&mut self, birth: Birth) -> bool {
        let Ok(at) = self.place(birth.0 / BLOCK_BIRTHS) else {
            return false;
        };
        let was_there = self.blocks[at].contains(birth.0);
        if was_there && !self.blocks[at].subtract(&Block::one(birth.0)) {
            self.blocks.remove(at);
        }
        was_there
    }

    /// Whether the birth is in the set.
    #[must_use]
    pub fn contains(&self, birth: Birth) -> bool {
        self.place(birth.0 / BLOCK_BIRTHS).is_ok_and(|at| self.blocks[at].contains(birth.0))
    }

    /// How many births it has; counted, not remembered.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.blocks.iter().map(Block::len).sum()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The smallest birth.
    #[must_use]
    pub fn first(&self) -> Option<Birth> {
        self.blocks.first().map(|block| Birth(block.first()))
    }

    /// The largest birth.
    #[must_use]
    pub fn last(&self) -> Option<Birth> {
        self.blocks.last().map(|block| Birth(block.last()))
    }

    /// The birth with `rank` smaller ones.
    #[must_use]
    pub fn nth(&self, mut rank: u64) -> Option<Birth> {
        for block in &self.blocks {
            let len = block.len();
            if rank < len {
                return block.nth(rank).map(Birth);
            }
            rank -= len;
        }
        None
    }

    /// The births in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Birth> + '_ {
        self.blocks.iter().flat_map(|block| block.births_from(0)).map(Birth)
    }

    /// The births from `start` up, then those below it: every birth once.
    pub fn iter_from(&self, start: Birth) -> impl Iterator<Item = Birth> + '_ {
        let at = self.blocks.partition_point(|block| block.key < start.0 / BLOCK_BIRTHS);
        let upper = self.blocks[at..].iter().flat_map(move |block| block.births_from(start.0));
        let lower = self.iter().take_while(move |birth| *birth < start);
        upper.map(Birth).chain(lower)
    }

    /// The maximal ranges of consecutive births, ascending; the work is by range, not by birth.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let mut parts = self.blocks.iter().flat_map(Block::ranges).peekable();
        std::iter::from_fn(move || {
            let (first, mut last) = parts.next()?;
            while let Some((_, end)) = parts.next_if(|part| last.checked_add(1) == Some(part.0)) {
                last = end;
            }
            Some(first..=last)
        })
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        if self.append(other) {
            return;
        }
        if other.blocks.len() > FEW_BLOCKS {
            self.merge(other);
            return;
        }
        for block in &other.blocks {
            match self.place(block.key) {
                Ok(at) => self.blocks[at].add(block),
                Err(at) => self.blocks.insert(at, block.clone()),
            }
        }
    }

    /// Adds what lies after everything that is here, without a look at the rest; false if it lies elsewhere. Ranges
    /// that come in order, as those of a message do, cost no more than their own blocks.
    fn append(&mut self, other: &Self) -> bool {
        let (Some(last), Some(first)) = (self.blocks.last_mut(), other.blocks.first()) else {
            self.blocks.extend_from_slice(&other.blocks);
            return true;
        };
        let known = match last.key.cmp(&first.key) {
            Ordering::Less => 0,
            Ordering::Equal => {
                last.add(first);
                1
            }
            Ordering::Greater => return false,
        };
        self.blocks.extend_from_slice(&other.blocks[known..]);
        true
    }

    /// Adds all of `other`; returns what of it was there already.
    pub(crate) fn add_again(&mut self, other: &Self) -> Self {
        let mut again = Self::new();
        for block in &other.blocks {
            match self.place(block.key) {
                Ok(at) => {
                    again.blocks.extend(self.blocks[at].and(block));
                    self.blocks[at].add(block);
                }
                Err(at) => self.blocks.insert(at, block.clone()),
            }
        }
        again
    }

    /// As [`add`](Self::add), in time that does not depend on where the blocks of `other` fall.
    fn merge(&mut self, other: &Self) {
        let mut mine = std::mem::take(&mut self.blocks).into_iter().peekable();
        self.blocks.reserve(mine.len().max(other.blocks.len()));
        for block in &other.blocks {
            while let Some(before) = mine.next_if(|own| own.key < block.key) {
                self.blocks.push(before);
            }
            match mine.next_if(|own| own.key == block.key) {
                Some(mut own) => {
                    own.add(block);
                    self.blocks.push(own);
                }
                None => self.blocks.push(block.clone()),
            }
        }
        self.blocks.extend(mine);
    }

    /// Takes away all of `other`.
    pub fn subtract(&mut self, other: &Self) {
        if other.blocks.len() > FEW_BLOCKS {
            let mut theirs = other.blocks.iter().peekable();
            self.blocks.retain_mut(|own| {
                while theirs.next_if(|block| block.key < own.key).is_some() {}
                theirs.peek().is_none_or(|block| block.key != own.key || own.subtract(block))
            });
            return;
        }
        for block in &other.blocks {
            if let Ok(at) = self.place(block.key)
                && !self.blocks[at].subtract(block)
            {
                self.blocks.remove(at);
            }
        }
    }

    /// Keeps only what is in `other` too.
    pub fn keep(&mut self, other: &Self) {
        let mut theirs = other.blocks.iter().peekable();
        self.blocks.retain_mut(|own| {
            while theirs.next_if(|block| block.key < own.key).is_some() {}
            theirs.peek().is_some_and(|block| block.key == own.key && own.keep(block))
        });
    }

    /// What both have.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self { blocks: self.pairs(other).filter_map(|(one, two)| one.and(two)).collect() }
    }

    /// What this has and `other` has not.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut theirs = other.blocks.iter().peekable();
        let left = self.blocks.iter().filter_map(|own| {
            while theirs.next_if(|block| block.key < own.key).is_some() {}
            match theirs.peek() {
                Some(block) if block.key == own.key => own.minus(block),
                _ => Some(own.clone()),
            }
        });
        Self { blocks: left.collect() }
    }

    /// Whether they have nothing in common.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.pairs(other).all(|(one, two)| one.is_disjoint(two))
    }

    /// Whether all of this is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.blocks.iter().all(|own| other.place(own.key).is_ok_and(|at| own.is_subset(&other.blocks[at])))
    }

    /// An upper estimate of the memory it takes, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.blocks.iter().map(Block::memory_bytes).sum()
    }

    /// Where a block is, or where it would be.
    fn place(&self, key: u64) -> Result<usize, usize> {
        self.blocks.binary_search_by_key(&key, |block| block.key)
    }

    /// The blocks that both have, in pairs.
    fn pairs<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a Block, &'a Block)> {
        let (mut mine, mut theirs) = (self.blocks.as_slice(), other.blocks.as_slice());
        std::iter::from_fn(move || {
            loop {
                let (one, two) = (mine.first()?, theirs.first()?);
                match one.key.cmp(&two.key) {
                    Ordering::Less => mine = &mine[1..],
                    Ordering::Greater => theirs = &theirs[1..],
                    Ordering::Equal => {
                        (mine, theirs) = (&mine[1..], &theirs[1..]);
                        return Some((one, two));
                    }
                }
            }
        })
    }
}

/// Blocks of one set that ranges fill: a thousand million births, 4 TiB of pages.
const BLOCKS_MAX: usize = 1 << 20;

/// Up to this many blocks are looked up one by one; more are merged in one pass.
const FEW_BLOCKS: usize = 4;

impl FromIterator<Birth> for BirthSet {
    fn from_iter<I: IntoIterator<Item = Birth>>(births: I) -> Self {
        let mut set = Self::new();
        set.extend(births);
        set
    }
}

impl Extend<Birth> for BirthSet {
    fn extend<I: IntoIterator<Item = Birth>>(&mut self, births: I) {
        for birth in births {
            self.insert(birth);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use roaring::RoaringTreemap;

    #[test]
    fn iteration_from_a_birth_visits_every_birth_once() {
        let set: BirthSet = [3, 5, 70_000, 1 << 40].map(Birth).into_iter().collect();
        let seen: Vec<u64> = set.iter_from(Birth(6)).map(|birth| birth.0).collect();
        assert_eq!(seen, [70_000, 1 << 40, 3, 5]);
        assert_eq!(set.iter_from(Birth(u64::MAX)).count(), 4);
    }

    #[test]
    fn ranges_are_maximal_and_reach_the_last_birth() {
        let mut set = BirthSet::range(Birth(4), Birth(9));
        set.insert(Birth(u64::MAX));
        assert_eq!(set.ranges().collect::<Vec<_>>(), [4..=9, u64::MAX..=u64::MAX]);
        let long = BirthSet::range(Birth(1000), Birth(9000));
        assert_eq!(long.ranges().collect::<Vec<_>>(), [1000..=9000]);
    }

    #[test]
    fn a_holder_of_260_000_births_costs_less_than_stated() {
        let every_second: BirthSet = (0..260_000).step_by(2).map(Birth).collect();
        assert!(every_second.memory_bytes() <= 40 << 10, "{}", every_second.memory_bytes());
        let all = BirthSet::range(Birth(0), Birth(259_999));
        assert!(all.memory_bytes() <= 5 << 10, "{}", all.memory_bytes());
        let scattered: BirthSet = (0..1000).map(|i| Birth(i << 32)).collect();
        assert!(scattered.memory_bytes() >= 1000 * 144);
    }

    #[test]
    fn a_hostile_range_takes_bounded_memory() {
        let set = BirthSet::range(Birth(5), Birth(u64::MAX));
        assert!(set.memory_bytes() <= 17 << 20, "{}", set.memory_bytes());
    }

    /// A set of a few ranges and single births near block boundaries.
    fn some(rng: &mut Rng) -> (BirthSet, RoaringTreemap) {
        let (mut set, mut model) = (BirthSet::new(), RoaringTreemap::new());
        for _ in 0..rng.below(12) {
            let first = rng.below(9) * 1024 + rng.below(70) * rng.below(20);
            let last = first + rng.below(2) * rng.below(3000);
            set.insert_range(Birth(first), Birth(last));
            model.insert_range(first..=last);
        }
        (set, model)
    }

    fn same(set: &BirthSet, model: &RoaringTreemap) {
        assert!(set.iter().map(|birth| birth.0).eq(model.iter()));
        assert_eq!(set.len(), model.len());
        assert_eq!(set.is_empty(), model.is_empty());
        assert_eq!(set.first().map(|birth| birth.0), model.min());
        assert_eq!(set.last().map(|birth| birth.0), model.max());
        let again: BirthSet = model.iter().map(Birth).collect();
        assert_eq!(&again, set, "one set has one form");
        let from_ranges = set.ranges().flatten();
        assert!(from_ranges.eq(model.iter()));
    }

    #[test]
    fn every_operation_agrees_with_roaring_bitmaps() {
        let mut rng = Rng::new(3);
        for _ in 0..600 {
            let ((mut a, mut x), (b, y)) = (some(&mut rng), some(&mut rng));
            same(&a.and(&b), &(&x & &y));
            same(&a.minus(&b), &(&x - &y));
            assert_eq!(a.is_disjoint(&b), x.is_disjoint(&y));
            assert_eq!(a.is_subset(&b), x.is_subset(&y));
            assert!(a.and(&b).is_subset(&b));
            let rank = rng.below(x.len() + 2);
            assert_eq!(a.nth(rank).map(|birth| birth.0), x.select(rank));
            let birth = rng.below(10_000);
            assert_eq!(a.contains(Birth(birth)), x.contains(birth));
            let (mut kept, mut left) = (a.clone(), a.clone());
            kept.keep(&b);
            same(&kept, &(&x & &y));
            left.subtract(&b);
            same(&left, &(&x - &y));
            let mut again = a.clone();
            same(&again.add_again(&b), &(&x & &y));
            a.add(&b);
            assert_eq!(again, a);
            x |= &y;
            same(&a, &x);
            assert_eq!(a.insert(Birth(birth)), x.insert(birth));
            same(&a, &x);
            let gone = rng.below(10_000);
            assert_eq!(a.remove(Birth(gone)), x.remove(gone));
            same(&a, &x);
            let (upper, lower) = (x.iter().filter(|b| *b >= birth), x.iter().filter(|b| *b < birth));
            assert!(a.iter_from(Birth(birth)).map(|birth| birth.0).eq(upper.chain(lower)));
        }
    }
}
