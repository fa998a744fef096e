//! A running hash over everything that happens: two runs are the same if their hashes are.

/// FNV-1a (Fowler, Noll and Vo) over 64-bit words instead of bytes, with a rotation so that high bits come down.
#[derive(Debug)]
pub(crate) struct Trace(u64);

impl Trace {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn note(&mut self, words: &[u64]) {
        for word in words {
            self.0 = (self.0 ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.0
    }
}
