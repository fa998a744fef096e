//! A thousand consecutive births of a set: a bitmap, or a mark that all are in it.

/// Births that one block covers.
pub(super) const BLOCK_BIRTHS: u64 = 1024;

const WORDS: usize = 16;

type Words = [u64; WORDS];

/// Memory charged for a bitmap beside its words: its allocation.
const BITMAP_BYTES: usize = 16;

static FULL: Words = [u64::MAX; WORDS];

/// The births of a set from `key * 1024` to `key * 1024 + 1023`; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) key: u64,
    /// `None`: all of them.
    bits: Option<Box<Words>>,
}

impl Block {
    /// The block with this birth alone.
    pub(super) fn one(birth: u64) -> Self {
        let mut words = [0; WORDS];
        words[word_of(birth)] = bit_of(birth);
        Self { key: birth / BLOCK_BIRTHS, bits: Some(Box::new(words)) }
    }

    /// The blocks of the births from `first` to `last`, both included.
    pub(super) fn range(first: u64, last: u64) -> impl Iterator<Item = Self> {
        (first / BLOCK_BIRTHS..=last / BLOCK_BIRTHS).filter_map(move |key| {
            let start = key * BLOCK_BIRTHS;
            let (from, to) = (first.max(start), last.min(start + (BLOCK_BIRTHS - 1)));
            let mut words = [0; WORDS];
            for (at, word) in words.iter_mut().enumerate() {
                let low = start + 64 * at as u64;
                let high = low + 63;
                if from <= high && to >= low {
                    let (skip, spare) = (from.max(low) - low, high - to.min(high));
                    *word = (u64::MAX << skip) & (u64::MAX >> spare);
                }
            }
            Self::of(key, words)
        })
    }

    /// The block of these words in its one form; `None` if it is empty.
    fn of(key: u64, words: Words) -> Option<Self> {
        if words == [0; WORDS] {
            return None;
        }
        let bits = if words == FULL { None } else { Some(Box::new(words)) };
        Some(Self { key, bits })
    }

    fn words(&self) -> &Words {
        self.bits.as_deref().unwrap_or(&FULL)
    }

    pub(super) fn contains(&self, birth: u64) -> bool {
        self.words()[word_of(birth)] & bit_of(birth) != 0
    }

    /// Adds one birth of this block; true if it was not there.
    pub(super) fn insert(&mut self, birth: u64) -> bool {
        let Some(words) = &mut self.bits else {
            return false;
        };
        let word = &mut words[word_of(birth)];
        let is_new = *word & bit_of(birth) == 0;
        *word |= bit_of(birth);
        if *word == u64::MAX && **words == FULL {
            self.bits = None;
        }
        is_new
    }

    pub(super) fn len(&self) -> u64 {
        match &self.bits {
            None => BLOCK_BIRTHS,
            Some(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
        }
    }

    pub(super) fn first(&self) -> u64 {
        let found = self.words().iter().zip(0_u64..).find(|(word, _)| **word != 0);
        let (word, at) = found.expect("a block is not empty");
        self.key * BLOCK_BIRTHS + 64 * at + u64::from(word.trailing_zeros())
    }

    pub(super) fn last(&self) -> u64 {
        let found = self.words().iter().zip(0_u64..).filter(|(word, _)| **word != 0).last();
        let (word, at) = found.expect("a block is not empty");
        self.key * BLOCK_BIRTHS + 64 * at + 63 - u64::from(word.leading_zeros())
    }

    /// The birth with `rank` smaller ones in this block.
    pub(super) fn nth(&self, mut rank: u64) -> Option<u64> {
        for (word, at) in self.words().iter().zip(0_u64..) {
            let ones = u64::from(word.count_ones());
            if rank < ones {
                let mut left = *word;
                for _ in 0..rank {
                    left &= left - 1;
                }
                return Some(self.key * BLOCK_BIRTHS + 64 * at + u64::from(left.trailing_zeros()));
            }
            rank -= ones;
        }
        None
    }

    /// Its births from `start` up.
    pub(super) fn births_from(&self, start: u64) -> impl Iterator<Item = u64> + '_ {
        let base = self.key * BLOCK_BIRTHS;
        let skip = start.saturating_sub(base).min(BLOCK_BIRTHS);
        let words = self.words();
        let mut at = usize::try_from(skip / 64).expect("at most the number of words");
        let mut word = words.get(at).map_or(0, |word| word & (u64::MAX << (skip % 64)));
        std::iter::from_fn(move || {
            while word == 0 {
                at += 1;
                word = *words.get(at)?;
            }
            let bit = u64::from(word.trailing_zeros());
            word &= word - 1;
            Some(base + 64 * at as u64 + bit)
        })
    }

    /// Its ranges of consecutive births, word by word: neighbours may touch.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let base = self.key * BLOCK_BIRTHS;
        let mut words = self.words().iter().zip(0_u64..);
        let whole = self.bits.is_none().then_some((base, base + (BLOCK_BIRTHS - 1)));
        let (mut word, mut low) = (0, 0);
        let parts = std::iter::from_fn(move || {
            while word == 0 {
                let (next, at) = words.next()?;
                (word, low) = (*next, base + 64 * at);
            }
            let first = word.trailing_zeros();
            let ones = (word >> first).trailing_ones();
            let part = (low + u64::from(first), low + u64::from(first + ones - 1));
            word &= u64::MAX.checked_shl(first + ones).unwrap_or(0);
            Some(part)
        });
        let is_full = whole.is_some();
        whole.into_iter().chain(parts.take_while(move |_| !is_full))
    }

    /// Adds all of another block with the same key.
    pub(super) fn add(&mut self, other: &Self) {
        let Some(words) = &mut self.bits else {
            return;
        };
        let Some(theirs) = &other.bits else {
            self.bits = None;
            return;
        };
        for (word, more) in words.iter_mut().zip(theirs.iter()) {
            *word |= more;
        }
        if **words == FULL {
            self.bits = None;
        }
    }

    /// Takes away another block with the same key; false if nothing is left.
    pub(super) fn subtract(&mut self, other: &Self) -> bool {
        let Some(theirs) = &other.bits else {
            return false;
        };
        let words = self.bits.get_or_insert_with(|| Box::new(FULL));
        for (word, less) in words.iter_mut().zip(theirs.iter()) {
            *word &= !less;
        }
        **words != [0; WORDS]
    }

    /// Keeps only what is in another block with the same key; false if nothing is left.
    pub(super) fn keep(&mut self, other: &Self) -> bool {
        let Some(theirs) = &other.bits else {
            return true;
        };
        let words = self.bits.get_or_insert_with(|| Box::new(FULL));
        for (word, kept) in words.iter_mut().zip(theirs.iter()) {
            *word &= kept;
        }
        **words != [0; WORDS]
    }

    /// What both have, of blocks with the same key.
    pub(super) fn and(&self, other: &Self) -> Option<Self> {
        let mut words = *self.words();
        for (word, kept) in words.iter_mut().zip(other.words()) {
            *word &= kept;
        }
        Self::of(self.key, words)
    }

    /// What this has and the other, of the same key, has not.
    pub(super) fn minus(&self, other: &Self) -> Option<Self> {
        let mut words = *self.words();
        for (word, less) in words.iter_mut().zip(other.words()) {
            *word &= !less;
        }
        Self::of(self.key, words)
    }

    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        self.words().iter().zip(other.words()).all(|(one, two)| one & two == 0)
    }

    pub(super) fn is_subset(&self, other: &Self) -> bool {
        self.words().iter().zip(other.words()).all(|(one, two)| one & !two == 0)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let bitmap = self.bits.as_ref().map_or(0, |_| BITMAP_BYTES + size_of::<Words>());
        size_of::<Self>() + bitmap
    }
}

fn word_of(birth: u64) -> usize {
    usize::try_from(birth % BLOCK_BIRTHS / 64).expect("below the number of words")
}

fn bit_of(birth: u64) -> u64 {
    1 << (birth % 64)
}
