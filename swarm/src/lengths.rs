//! The encoded lengths of a lineage's births, in pages so that sparse knowledge stays small.

use std::collections::BTreeMap;

use pageswarm_checkpoint::Birth;

use crate::births::BirthSet;
use crate::limits::{LENGTH_ASSUMED, LENGTHS_MAX};

const PAGE: u64 = 1024;

/// Encoded lengths by birth; 0 stands for unknown.
#[derive(Debug, Default)]
pub(crate) struct Lengths {
    pages: BTreeMap<u64, Page>,
}

/// The lengths of consecutive births.
#[derive(Debug)]
enum Page {
    /// All have this one: raw pages, and what is not known at all.
    Same(u32),
    Each(Vec<u32>),
}

impl Page {
    fn of(&self, slot: usize) -> u32 {
        match self {
            Self::Same(length) => *length,
            Self::Each(lengths) => lengths[slot],
        }
    }

    fn learn(&mut self, slot: usize, lengths: &[u32]) {
        let same = lengths.first().filter(|first| lengths.iter().all(|length| length == *first));
        if let (Self::Same(old), Some(length)) = (&mut *self, same)
            && (lengths.len() as u64 == PAGE || *old == *length)
        {
            *old = *length;
            return;
        }
        if let Self::Same(old) = *self {
            *self = Self::Each(vec![old; 1024]);
        }
        if let Self::Each(all) = self {
            all[slot..slot + lengths.len()].copy_from_slice(lengths);
        }
    }
}

impl Lengths {
    /// Remembers the lengths of consecutive births; beyond [`LENGTHS_MAX`] births, new pages are not kept.
    pub(crate) fn learn(&mut self, first: Birth, lengths: &[u32]) {
        let pages_max = usize::try_from(LENGTHS_MAX / PAGE).expect("a small constant");
        let (mut next, mut rest) = (first.0, lengths);
        while !rest.is_empty() {
            let (page, slot) = split(next);
            if self.pages.len() >= pages_max && !self.pages.contains_key(&page) {
                return;
            }
            let (part, after) = rest.split_at(rest.len().min(1024 - slot));
            self.pages.entry(page).or_insert(Page::Same(0)).learn(slot, part);
            let Some(end) = next.checked_add(part.len() as u64) else {
                return;
            };
            (next, rest) = (end, after);
        }
    }

    /// An estimate of the memory that it takes, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let page = |page: &Page| match page {
            Page::Same(_) => 0,
            Page::Each(lengths) => lengths.capacity() * size_of::<u32>(),
        };
        self.pages.values().map(|lengths| size_of::<(u64, Page)>() + page(lengths)).sum()
    }

    /// The encoded length of a birth, or a typical one if unknown.
    pub(crate) fn of(&self, birth: Birth) -> u64 {
        let (page, slot) = split(birth.0);
        let known = self.pages.get(&page).map_or(0, |page| page.of(slot));
        if known == 0 { LENGTH_ASSUMED } else { u64::from(known) }
    }

    /// The encoded bytes of a set.
    pub(crate) fn sum(&self, births: &BirthSet) -> u64 {
        births.iter().fold(0, |sum, birth| sum.saturating_add(self.of(birth)))
    }
}

fn split(birth: u64) -> (u64, usize) {
    (birth / PAGE, usize::try_from(birth % PAGE).expect("below the page length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_remembered_over_page_ends_whether_they_differ_or_not() {
        let mut lengths = Lengths::default();
        lengths.learn(Birth(1000), &[4096; 3000]);
        lengths.learn(Birth(2046), &[7, 8, 9]);
        assert_eq!(lengths.of(Birth(999)), LENGTH_ASSUMED);
        assert_eq!(
            [2045, 2046, 2047, 2048, 2049].map(|birth| lengths.of(Birth(birth))),
            [4096, 7, 8, 9, 4096]
        );
        assert_eq!(lengths.sum(&BirthSet::range(Birth(1000), Birth(3999))), 4096 * 2997 + 7 + 8 + 9);
        lengths.learn(Birth(u64::MAX), &[5, 6]);
        assert_eq!(lengths.of(Birth(u64::MAX)), 5);
    }
}
