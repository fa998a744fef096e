//! The encoded lengths of a lineage's births, in pages so that sparse knowledge stays small.

use std::collections::BTreeMap;

use pageswarm_checkpoint::Birth;

use crate::births::BirthSet;
use crate::limits::{LENGTH_ASSUMED, LENGTHS_MAX};

const PAGE: u64 = 1024;

/// Encoded lengths by birth; 0 stands for unknown.
#[derive(Debug, Default)]
pub(crate) struct Lengths {
    pages: BTreeMap<u64, Vec<u32>>,
}

impl Lengths {
    /// Remembers the lengths of consecutive births; beyond [`LENGTHS_MAX`] births, new pages are not kept.
    pub(crate) fn learn(&mut self, first: Birth, lengths: &[u32]) {
        let pages_max = usize::try_from(LENGTHS_MAX / PAGE).expect("a small constant");
        let mut next = Some(first.0);
        for length in lengths {
            let Some(birth) = next else { return };
            let (page, slot) = split(birth);
            if self.pages.len() >= pages_max && !self.pages.contains_key(&page) {
                return;
            }
            let page = self.pages.entry(page).or_insert_with(|| vec![0; 1024]);
            page[slot] = *length;
            next = birth.checked_add(1);
        }
    }

    /// The encoded length of a birth, or a typical one if unknown.
    pub(crate) fn of(&self, birth: Birth) -> u64 {
        let (page, slot) = split(birth.0);
        let known = self.pages.get(&page).map_or(0, |page| page[slot]);
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
