//! A number for a page's content that costs a multiplication to keep true after a write.
//!
//! It is the multilinear sum of the page's 512 words, each times a fixed 128-bit key of its place, modulo 2^128 (Lemire &
//! Kaser, "Strongly universal string hashing is fast", 2014). Equal contents have equal prints; different contents that
//! were not made to collide have equal ones with a chance below 2^-64. The keys are no secret, so whoever finds two
//! equal prints compares the bytes.

use pageswarm_machine::PAGE_BYTES;
use pageswarm_machine::content::Random;
use std::hash::{BuildHasher, Hasher};

const WORDS: usize = PAGE_BYTES / 8;

/// A content's print; the zero page's is 0.
pub(crate) type Print = u128;

#[derive(Clone, Debug)]
pub(crate) struct Keys {
    words: Box<[u128; WORDS]>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        let mut random = Random::new(0x7072_696e_7473, 0);
        let mut words = Box::new([0; WORDS]);
        for word in words.iter_mut() {
            *word = u128::from(random.draw()) << 64 | u128::from(random.draw()) | 1;
        }
        Self { words }
    }

    pub(crate) fn print(&self, page: &[u8]) -> Print {
        let words = page.as_chunks().0.iter().zip(self.words.iter());
        words.fold(0, |sum: u128, (word, key)| {
            sum.wrapping_add(u128::from(u64::from_le_bytes(*word)).wrapping_mul(*key))
        })
    }

    /// What the print grows by when a word changes.
    #[inline]
    pub(crate) fn growth(&self, word: usize, before: u64, after: u64) -> Print {
        u128::from(after).wrapping_sub(u128::from(before)).wrapping_mul(self.words[word % WORDS])
    }

    /// A print of all pages' prints, in their order.
    pub(crate) fn of_all(prints: &[Print]) -> Print {
        const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
        prints.iter().fold(prints.len() as u128, |sum, print| {
            sum.wrapping_mul(FACTOR).wrapping_add(*print).rotate_left(29)
        })
    }
}

/// Prints are their own hashes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ByPrint;

#[derive(Debug)]
pub(crate) struct PrintHasher(u64);

impl BuildHasher for ByPrint {
    type Hasher = PrintHasher;

    fn build_hasher(&self) -> PrintHasher {
        PrintHasher(0)
    }
}

impl Hasher for PrintHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = self.0.rotate_left(32) ^ u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, print: u128) {
        // The upper half depends on all bits of all words; the multiplication spreads it over the hash's upper bits.
        let upper = u64::try_from(print >> 64).unwrap_or(0);
        self.0 = (upper ^ upper >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_print_follows_writes_and_comes_back() {
        let keys = Keys::new();
        let mut page = vec![0_u8; PAGE_BYTES];
        assert_eq!(keys.print(&page), 0);
        let mut random = Random::new(1, 1);
        let (mut print, mut before) = (0_u128, Vec::new());
        for _ in 0..200 {
            let (word, after) = (usize::try_from(random.draw() % 512).unwrap(), random.draw());
            let bytes = &mut page[8 * word..8 * word + 8];
            let old = u64::from_le_bytes(bytes.try_into().unwrap());
            bytes.copy_from_slice(&after.to_le_bytes());
            print = print.wrapping_add(keys.growth(word, old, after));
            before.push((word, old, after));
        }
        assert_eq!(print, keys.print(&page));
        for (word, old, after) in before.into_iter().rev() {
            print = print.wrapping_add(keys.growth(word, after, old));
        }
        assert_eq!(print, 0);
    }
}
