//! Which pages were written: since the start, and since somebody last asked.

use pageswarm_machine::PageNumber;

/// A set of pages of one RAM.
#[derive(Clone, Debug)]
pub(crate) struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    pub(crate) fn new(pages: u32) -> Self {
        Self { words: vec![0; (pages as usize).div_ceil(64)] }
    }

    #[inline(always)]
    pub(crate) fn contains(&self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok().and_then(|word| self.words.get(word));
        word.is_some_and(|word| word >> (page % 64) & 1 != 0)
    }

    pub(crate) fn insert(&mut self, page: u64) {
        let word = usize::try_from(page / 64).ok().and_then(|word| self.words.get_mut(word));
        if let Some(word) = word {
            *word |= 1 << (page % 64);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
    }

    /// All pages of the set, ascending.
    pub(crate) fn pages(&self) -> Vec<PageNumber> {
        let mut pages = Vec::new();
        for (word, mut bits) in (0..).zip(self.words.iter().copied()) {
            while bits != 0 {
                pages.push(PageNumber(word * 64 + bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
        pages
    }
}

/// The pages written.
#[derive(Debug)]
pub(crate) struct WrittenPages {
    ever: PageSet,
    since: PageSet,
}

impl WrittenPages {
    pub(crate) fn new(pages: u32) -> Self {
        Self { ever: PageSet::new(pages), since: PageSet::new(pages) }
    }

    pub(crate) fn insert(&mut self, page: u64) {
        self.ever.insert(page);
        self.since.insert(page);
    }

    /// Whether a page was written since the start.
    pub(crate) fn has(&self, page: PageNumber) -> bool {
        self.ever.contains(u64::from(page.0))
    }

    /// Pages written since the start.
    pub(crate) fn ever(&self) -> Vec<PageNumber> {
        self.ever.pages()
    }

    /// Pages written since the last call.
    pub(crate) fn take_recent(&mut self) -> Vec<PageNumber> {
        let pages = self.since.pages();
        self.since.clear();
        pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_pages_are_told_once_and_all_pages_always() {
        let mut written = WrittenPages::new(200);
        for page in [3, 199, 64, 3] {
            written.insert(page);
        }
        let all = [3, 64, 199].map(PageNumber);
        assert_eq!(written.take_recent(), all);
        assert_eq!(written.take_recent(), []);
        written.insert(64);
        assert_eq!(written.take_recent(), [PageNumber(64)]);
        assert_eq!(written.ever(), all);
    }

    #[test]
    fn pages_beyond_ram_are_in_no_set() {
        let mut set = PageSet::new(64);
        set.insert(64);
        set.insert(u64::MAX);
        assert!(!set.contains(64) && !set.contains(u64::MAX) && set.pages().is_empty());
    }
}
