//! What pages contain and how they change: the stated content model; compiled into host and guest alike.

use crate::abi::WORDS;

/// One page as 64-bit words.
pub type Words = [u64; WORDS];

/// Share of base pages that are zero, in percent.
pub const BASE_ZERO_PERCENT: u64 = 20;
/// Share of base pages that equal one of [`DUPLICATE_POOL_PAGES`] pages, in percent.
pub const BASE_DUPLICATE_PERCENT: u64 = 10;
/// Distinct pages that the duplicates are drawn from.
pub const DUPLICATE_POOL_PAGES: u64 = 64;
/// Share of base pages with incompressible bytes, in percent. The rest are heap-like.
pub const BASE_INCOMPRESSIBLE_PERCENT: u64 = 20;

/// Of 100 dirtied pages, how many change how many of their 512 words; the rest are rewritten whole
/// with incompressible bytes.
pub const CHANGES: [(u64, usize); 3] = [(40, 9), (30, 34), (20, 238)];

/// Random bits in one new pointer-like word of a changed page.
pub const NEW_WORD_RANDOM_BITS: u32 = 16;

const NEW_WORD_BASE: u64 = 0x0000_7f3a_0000_0000;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A seeded stream of 64-bit values (SplitMix64, Steele, Lea & Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream named by a seed and a number.
    #[must_use]
    pub const fn new(seed: u64, number: u64) -> Self {
        Self(scramble(seed ^ scramble(number)))
    }

    /// The next value.
    pub const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(FACTOR);
        scramble(self.0)
    }
}

const fn scramble(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What a page of the base image holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseKind {
    /// All zero.
    Zero,
    /// Equal to every other page with this pool number.
    Duplicate(u64),
    /// Random bytes.
    Incompressible,
    /// Pointers, small numbers, text and zeros, as in a heap; zstd shrinks them about 3-4 times.
    Heap,
}

/// What data page `page` of the base image holds.
#[must_use]
pub const fn base_kind(seed: u64, page: u64) -> BaseKind {
    let mut random = Random::new(seed ^ 1, page);
    let percent = random.draw() % 100;
    if percent < BASE_ZERO_PERCENT {
        BaseKind::Zero
    } else if percent < BASE_ZERO_PERCENT + BASE_DUPLICATE_PERCENT {
        BaseKind::Duplicate(random.draw() % DUPLICATE_POOL_PAGES)
    } else if percent < BASE_ZERO_PERCENT + BASE_DUPLICATE_PERCENT + BASE_INCOMPRESSIBLE_PERCENT {
        BaseKind::Incompressible
    } else {
        BaseKind::Heap
    }
}

/// Writes data page `page` of the base image into `words`, which must be zero before.
pub fn fill_base(seed: u64, page: u64, words: &mut Words) {
    match base_kind(seed, page) {
        BaseKind::Zero => {}
        BaseKind::Duplicate(number) => fill_heap(&mut Random::new(seed ^ 2, number), words),
        BaseKind::Incompressible => {
            let mut random = Random::new(seed ^ 3, page);
            for word in words {
                *word = random.draw();
            }
        }
        BaseKind::Heap => fill_heap(&mut Random::new(seed ^ 4, page), words),
    }
}

fn fill_heap(random: &mut Random, words: &mut Words) {
    let region = 0x0000_5581_0000_0000 | (random.draw() & 0xffff_0000);
    for word in words {
        let draw = random.draw();
        *word = match draw % 16 {
            0..=6 => region | (draw >> 16) & 0xfff0,
            7..=9 => (draw >> 16) & 0xff,
            10 => 0x0a65_6d61_6e00_0000 | (draw >> 16) & 0xff_ffff,
            _ => 0,
        };
    }
}

/// The factor of word `index` in a page's checksum. It is odd, so that one wrong word always changes the sum.
#[must_use]
pub const fn word_factor(index: usize) -> u64 {
    (2 * index as u64 + 1).wrapping_mul(FACTOR)
}

/// The factor of data page `page` in the global sum. It is odd.
#[must_use]
pub const fn page_factor(page: u64) -> u64 {
    scramble(page) | 1
}

/// The checksum of a page: each word times its odd factor, added modulo 2^64. A zero page has 0.
#[must_use]
pub fn checksum(words: &Words) -> u64 {
    let mut sum = 0_u64;
    let mut factor = FACTOR;
    for word in words {
        sum = sum.wrapping_add(word.wrapping_mul(factor));
        factor = factor.wrapping_add(FACTOR.wrapping_mul(2));
    }
    sum
}

/// Changes a page as one write burst of the workload does and returns what its checksum grows by
/// (modulo 2^64), computed from the words as they were: a word that was wrong before stays noticed.
pub fn change(random: &mut Random, words: &mut Words) -> u64 {
    let mut percent = random.draw() % 100;
    for (share, count) in CHANGES {
        if percent < share {
            return change_words(random, words, count);
        }
        percent -= share;
    }
    let mut grown = 0_u64;
    for (index, word) in words.iter_mut().enumerate() {
        grown = grown.wrapping_add(replace(word, random.draw(), index));
    }
    grown
}

fn change_words(random: &mut Random, words: &mut Words, count: usize) -> u64 {
    let draw = random.draw();
    // An odd stride visits all 512 places before it repeats one.
    let (mut place, stride) = ((draw & 0x1ff) as usize, (draw >> 32 & 0x1ff) as usize | 1);
    let mut grown = 0_u64;
    for _ in 0..count {
        let fresh = random.draw() & ((1 << NEW_WORD_RANDOM_BITS) - 1);
        let fresh = NEW_WORD_BASE | (fresh << 4);
        let fresh = if words[place] == fresh { fresh ^ 16 } else { fresh };
        grown = grown.wrapping_add(replace(&mut words[place], fresh, place));
        place = (place + stride) % WORDS;
    }
    grown
}

fn replace(word: &mut u64, fresh: u64, index: usize) -> u64 {
    let difference = fresh.wrapping_sub(*word);
    *word = fresh;
    difference.wrapping_mul(word_factor(index))
}

/// The order in which runs of pages are dirtied: every run once before any run twice.
#[derive(Clone, Debug)]
pub struct Order {
    seed: u64,
    runs: u64,
    cycle: u64,
    step: u64,
    place: u64,
    left: u64,
}

impl Order {
    /// An order over `runs` runs (at least one).
    #[must_use]
    pub const fn new(seed: u64, runs: u64) -> Self {
        Self { seed, runs, cycle: 0, step: 1, place: 0, left: 0 }
    }

    /// The next run's number.
    pub const fn draw(&mut self) -> u64 {
        if self.left == 0 {
            let mut random = Random::new(self.seed ^ 5, self.cycle);
            self.cycle += 1;
            self.left = self.runs;
            self.place = random.draw() % self.runs;
            self.step = random.draw() % self.runs + 1;
            while greatest_common_divisor(self.step, self.runs) != 1 {
                self.step = self.step % self.runs + 1;
            }
        }
        self.left -= 1;
        self.place = (self.place + self.step) % self.runs;
        self.place
    }
}

const fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
