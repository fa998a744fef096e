//! A compressed set of births, the currency of everything in this crate.

use std::ops::RangeInclusive;

use pageswarm_checkpoint::Birth;
use roaring::RoaringTreemap;

/// A sorted, compressed set of births.
///
/// One container covers 65,536 consecutive births and takes at most 8 KiB, so a holder of 260,000
/// births costs at most 40 KiB whatever their pattern; see [`BirthSet::memory_bytes`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BirthSet(RoaringTreemap);

/// Memory charged per container beside its content: key, tag, vector header, allocation.
const CONTAINER_BYTES: usize = 64;
/// Memory charged per 2^32 births touched: a tree node slot and a vector header.
const BITMAP_BYTES: usize = 128;

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

    /// Adds the births `first` to `last`, both included.
    pub fn insert_range(&mut self, first: Birth, last: Birth) {
        if first <= last {
            self.0.insert_range(first.0..=last.0);
        }
    }

    /// Adds one birth; true if it was not there.
    pub fn insert(&mut self, birth: Birth) -> bool {
        self.0.insert(birth.0)
    }

    /// Removes one birth; true if it was there.
    pub fn remove(&mut self, birth: Birth) -> bool {
        self.0.remove(birth.0)
    }

    /// Whether the birth is in the set.
    #[must_use]
    pub fn contains(&self, birth: Birth) -> bool {
        self.0.contains(birth.0)
    }

    /// How many births it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The smallest birth.
    #[must_use]
    pub fn first(&self) -> Option<Birth> {
        self.0.min().map(Birth)
    }

    /// The largest birth.
    #[must_use]
    pub fn last(&self) -> Option<Birth> {
        self.0.max().map(Birth)
    }

    /// The birth with `rank` smaller ones.
    #[must_use]
    pub fn nth(&self, rank: u64) -> Option<Birth> {
        self.0.select(rank).map(Birth)
    }

    /// The births in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Birth> + '_ {
        self.0.iter().map(Birth)
    }

    /// The births from `start` up, then those below it: every birth once.
    pub fn iter_from(&self, start: Birth) -> impl Iterator<Item = Birth> + '_ {
        let mut upper = self.0.iter();
        upper.advance_to(start.0);
        let lower = self.0.iter().take_while(move |birth| *birth < start.0);
        upper.chain(lower).map(Birth)
    }

    /// The maximal ranges of consecutive births, ascending; the work is by range, not by birth.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + '_ {
        let parts = self.0.bitmaps().flat_map(|(high, bitmap)| {
            let base = u64::from(high) << 32;
            let mut births = bitmap.iter();
            std::iter::from_fn(move || births.next_range())
                .map(move |part| (base | u64::from(*part.start()), base | u64::from(*part.end())))
        });
        let mut parts = parts.peekable();
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
        self.0 |= &other.0;
    }

    /// Takes away all of `other`.
    pub fn subtract(&mut self, other: &Self) {
        self.0 -= &other.0;
    }

    /// Keeps only what is in `other` too.
    pub fn keep(&mut self, other: &Self) {
        self.0 &= &other.0;
    }

    /// What both have.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(&self.0 & &other.0)
    }

    /// What this has and `other` has not.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self(&self.0 - &other.0)
    }

    /// Whether they have nothing in common.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.is_disjoint(&other.0)
    }

    /// Whether all of this is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// An upper estimate of the memory it takes, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.0
            .bitmaps()
            .map(|(_, bitmap)| {
                let stats = bitmap.statistics();
                let containers = usize::try_from(stats.n_containers).unwrap_or(usize::MAX);
                BITMAP_BYTES + containers * CONTAINER_BYTES + bitmap.serialized_size()
            })
            .sum()
    }
}

impl FromIterator<Birth> for BirthSet {
    fn from_iter<I: IntoIterator<Item = Birth>>(births: I) -> Self {
        Self(births.into_iter().map(|birth| birth.0).collect())
    }
}

impl Extend<Birth> for BirthSet {
    fn extend<I: IntoIterator<Item = Birth>>(&mut self, births: I) {
        self.0.extend(births.into_iter().map(|birth| birth.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }

    #[test]
    fn a_full_holder_of_260_000_births_costs_less_than_stated() {
        let every_second: BirthSet = (0..260_000).step_by(2).map(Birth).collect();
        assert!(every_second.memory_bytes() <= 40 << 10, "{}", every_second.memory_bytes());
        let scattered: BirthSet = (0..1000).map(|i| Birth(i << 32)).collect();
        assert!(scattered.memory_bytes() >= 1000 * BITMAP_BYTES);
    }
}
