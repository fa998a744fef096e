//! Figures by key, for as many keys as there is room, chosen so that every order of merging keeps the same keys.
//!
//! Kept are the keys that come first in a scattered order, which is as good as a random sample (KMV; Bar-Yossef et al.
//! 2002): a key that is among the first of all is among the first of every part that has it, so its figures are
//! complete. All others are summed.

use std::collections::BTreeMap;

/// Figures that can be added up.
pub(crate) trait Figures: Default {
    /// Adds those of what came later.
    fn add(&mut self, later: Self);
}

/// What decides about a key's place in the order.
pub(crate) trait Key: Ord + Copy {
    fn bits(&self) -> u64;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept<K, F> {
    entries: BTreeMap<(u64, K), F>,
    room: usize,
    /// The figures of all keys that are not kept.
    pub(crate) others: F,
}

/// The finalizer of SplitMix64 (Steele, Lea & Flood 2014).
const fn scatter(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl<K: Key, F: Figures> Kept<K, F> {
    pub(crate) fn new(room: usize) -> Self {
        Self { entries: BTreeMap::new(), room, others: F::default() }
    }

    pub(crate) fn add(&mut self, key: K, figures: F) {
        let place = (scatter(key.bits()), key);
        if let Some(known) = self.entries.get_mut(&place) {
            known.add(figures);
        } else if self.entries.len() < self.room {
            self.entries.insert(place, figures);
        } else if self.entries.last_key_value().is_some_and(|(last, _)| place < *last) {
            if let Some((_, last)) = self.entries.pop_last() {
                self.others.add(last);
            }
            self.entries.insert(place, figures);
        } else {
            self.others.add(figures);
        }
    }

    /// Adds what came later.
    pub(crate) fn append(&mut self, later: Self) {
        for ((_, key), figures) in later.entries {
            self.add(key, figures);
        }
        self.others.add(later.others);
    }

    /// Changes each, and the others' sum.
    pub(crate) fn change(&mut self, change: impl Fn(&mut F)) {
        self.entries.values_mut().for_each(&change);
        change(&mut self.others);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &F)> {
        self.entries.iter().map(|((_, key), figures)| (*key, figures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Figures for u64 {
        fn add(&mut self, later: Self) {
            *self += later;
        }
    }

    impl Key for u64 {
        fn bits(&self) -> u64 {
            *self
        }
    }

    #[test]
    fn every_order_of_merging_keeps_the_same_and_loses_nothing() {
        let keys: Vec<u64> = (0..500).map(|number| scatter(number) % 90).collect();
        let of = |keys: &[u64]| {
            let mut kept = Kept::new(20);
            keys.iter().for_each(|key| kept.add(*key, 1_u64));
            kept
        };
        let whole = of(&keys);
        assert_eq!(whole.len(), 20);
        assert!(whole.others > 0);
        let sum: u64 = whole.iter().map(|(_, count)| *count).sum();
        assert_eq!(sum + whole.others, 500);
        for cut in [0, 3, 77, 250, 499, 500] {
            let mut merged = of(&keys[..cut]);
            merged.append(of(&keys[cut..]));
            assert_eq!(merged, whole, "{cut}");
        }
    }
}
