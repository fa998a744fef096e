//! Seeded choices.

use pageswarm_machine::content::Random;

/// A stream of choices.
#[derive(Debug)]
pub(crate) struct Chance(Random);

/// Values at which carries, signs and widths change.
const EDGES: [u64; 12] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0x7fff_ffff,
    0x8000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
];

impl Chance {
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        Self(Random::new(seed, number))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0.draw()
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0.draw() % end
    }

    /// True once in `times`.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let index = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        from[index]
    }

    /// A value that is likely to matter: random, small, or near an edge.
    pub(crate) fn value(&mut self) -> u64 {
        let edge = self.pick(&EDGES);
        match self.below(4) {
            0 => self.bits(),
            1 => edge,
            2 => edge.wrapping_neg().wrapping_sub(self.below(2)),
            _ => self.bits() >> self.below(64),
        }
    }
}
