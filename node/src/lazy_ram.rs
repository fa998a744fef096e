//! RAM of a checkpoint for a simulation that begins before all of it is here: a page is read when it is touched first,
//! from the store, else from the swarm before anything else.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::{CheckpointIndex, LineageId, PAGE_BYTES, PageMap, PageNumber, Slot};
use pageswarm_sim::{CompleteRam, Memory, PageUnavailable};
use pageswarm_vmm::{Awaited, SourceError};

use crate::limits::{EXPECTED_READ_PAGES, MISSED_PAGES_MAX, MISSED_PAGES_MIN, TOUCHED_SETS_MAX};
use crate::node::Node;
use crate::page_source::CheckpointPages;

/// Some of a guest's pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet(Vec<u64>);

impl PageSet {
    /// Adds a page; false if it was in.
    pub fn insert(&mut self, page: PageNumber) -> bool {
        let (word, bit) = (page.0 as usize / 64, 1 << (page.0 % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// Whether a page is in.
    #[must_use]
    pub fn contains(&self, page: PageNumber) -> bool {
        self.0.get(page.0 as usize / 64).is_some_and(|word| word & (1 << (page.0 % 64)) != 0)
    }

    /// Adds all pages of another set.
    pub fn add(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    /// Takes all pages of another set away.
    pub fn subtract(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, less)| *word &= !less);
    }

    /// All pages, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PageNumber> {
        let bits = |word: u64| (0..64).filter(move |bit| word & (1 << bit) != 0);
        (0..)
            .zip(&self.0)
            .flat_map(move |(place, word)| bits(*word).map(move |bit| PageNumber(place * 64 + bit)))
    }
}

impl Extend<PageNumber> for PageSet {
    fn extend<I: IntoIterator<Item = PageNumber>>(&mut self, pages: I) {
        pages.into_iter().for_each(|page| {
            self.insert(page);
        });
    }
}

type TouchedSet = ((LineageId, CheckpointIndex), Arc<PageSet>);

/// What the latest simulations on this node touched, by interval.
#[derive(Debug, Default)]
pub struct Touched {
    /// The oldest first.
    sets: Mutex<Vec<TouchedSet>>,
}

impl Touched {
    /// Notes what a simulation of an interval touched.
    pub fn note(&self, lineage: LineageId, interval: CheckpointIndex, pages: PageSet) {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|(of, _)| *of != (lineage, interval));
        if sets.len() >= TOUCHED_SETS_MAX {
            sets.remove(0);
        }
        sets.push(((lineage, interval), Arc::new(pages)));
    }

    /// What the nearest simulated interval touched, and which that is.
    fn nearest(
        &self,
        lineage: LineageId,
        interval: CheckpointIndex,
    ) -> Option<(CheckpointIndex, Arc<PageSet>)> {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let own = sets.iter().filter(|((of, _), _)| *of == lineage);
        let nearest = own.min_by_key(|((_, at), _)| at.0.abs_diff(interval.0));
        nearest.map(|((_, at), pages)| (*at, Arc::clone(pages)))
    }
}

/// What interval `interval` is expected to touch: what it touched when it was simulated here before, else what it changed,
/// which its delta says, with what the nearest interval that was simulated here touched and did not change.
#[must_use]
pub fn expected(node: &Node, lineage: LineageId, interval: CheckpointIndex) -> PageSet {
    let nearest = node.touched.nearest(lineage, interval);
    if let Some((at, pages)) = &nearest
        && *at == interval
    {
        return PageSet::clone(pages);
    }
    let mut expected = PageSet::default();
    expected.extend(node.lineages.written_after(&lineage, interval));
    if let Some((at, pages)) = nearest {
        let (mut only_read, mut changed) = (PageSet::clone(&pages), PageSet::default());
        changed.extend(node.lineages.written_after(&lineage, at));
        only_read.subtract(&changed);
        expected.add(&only_read);
    }
    expected
}

/// How a simulation used its memory. Pages that are zero are not counted: they cost nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Pages that it was expected to touch.
    pub expected_pages: u64,
    /// Pages that it touched.
    pub touched_pages: u64,
    /// Pages that it was expected to touch, and did.
    pub hit_pages: u64,
    /// Pages that were not in the store when they were touched, and for which it waited.
    pub awaited_pages: u64,
    /// How long it waited for them.
    pub waited: Duration,
}

/// Why a page cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody who is connected has it, or they do not answer.
    Late,
    /// The store cannot be read.
    Store,
    /// The store is full.
    NotStored,
    /// The simulation took as long as one may.
    Deadline,
}

/// How long pages are waited for.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// For one page.
    pub patience: Duration,
    /// For all of them.
    pub deadline: Instant,
    /// Filled with the reason for the first page that cannot be had.
    pub trouble: Arc<OnceLock<Trouble>>,
}

/// Pages asked for together with one that was not here: the more, the longer misses follow each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Streak {
    asked: Range<u32>,
}

impl Streak {
    /// The pages to ask for at a miss of `page`, of a RAM of `all` pages; nothing before it.
    fn at_miss(&mut self, page: PageNumber, all: u32) -> Range<u32> {
        let before = self.asked.end - self.asked.start;
        let pages = match page.0 {
            next if next == self.asked.end && before > 0 => (2 * before).min(MISSED_PAGES_MAX),
            // It was asked for and has not come yet.
            inside if self.asked.contains(&inside) => self.asked.end - inside,
            _ => MISSED_PAGES_MIN,
        };
        self.asked = page.0..page.0.saturating_add(pages).min(all);
        self.asked.clone()
    }
}

/// RAM that is filled where it is touched.
#[derive(Debug)]
pub struct LazyRam {
    ram: CompleteRam,
    pages: CheckpointPages,
    map: PageMap,
    present: PageSet,
    touched: PageSet,
    /// Pages that are read together when one of them is touched, by number.
    expected: Vec<PageNumber>,
    streak: Streak,
    waiting: Waiting,
    used: MemoryUse,
}

impl LazyRam {
    /// RAM of which nothing is read yet.
    #[must_use]
    pub fn new(pages: CheckpointPages, map: PageMap, expected: &PageSet, waiting: Waiting) -> Self {
        let is_stored = |page: &PageNumber| matches!(map.get(*page), Some(Slot::Chunk { .. }));
        let expected: Vec<PageNumber> = expected.iter().filter(is_stored).collect();
        let used = MemoryUse { expected_pages: expected.len() as u64, ..MemoryUse::default() };
        Self {
            ram: CompleteRam::new(vec![0; map.pages() as usize * PAGE_BYTES]),
            pages,
            map,
            present: PageSet::default(),
            touched: PageSet::default(),
            expected,
            streak: Streak::default(),
            waiting,
            used,
        }
    }

    /// How it was used so far, and which pages were touched.
    #[must_use]
    pub fn used(self) -> (MemoryUse, PageSet) {
        (self.used, self.touched)
    }

    /// Makes a page present that is not zero, and with it those in the store that are expected behind it, or were asked for
    /// with one before it.
    fn load(&mut self, page: PageNumber) -> Result<(), PageUnavailable> {
        let behind = self.expected.partition_point(|other| *other <= page);
        let asked = self.streak.asked.clone().map(PageNumber).filter(|other| *other > page);
        let others = asked.chain(self.expected[behind..].iter().copied());
        let others = others.filter(|other| !self.present.contains(*other)).take(EXPECTED_READ_PAGES - 1);
        let wanted: Vec<PageNumber> = std::iter::once(page).chain(others).collect();
        let present = &mut self.present;
        let read = self.pages.read_scattered(&wanted, self.ram.bytes_mut(), |page| {
            present.insert(page);
        });
        read.map_err(|error| self.failed(page, &error))?;
        if self.present.contains(page) { Ok(()) } else { self.fetch(page) }
    }

    /// Waits for a page from the swarm, and asks for those behind it.
    fn fetch(&mut self, page: PageNumber) -> Result<(), PageUnavailable> {
        let asked = Instant::now();
        let awaited = Awaited { page, until: self.waiting.deadline.min(asked + self.waiting.patience) };
        // What is present may have been written.
        let is_free = |other: &u32| !self.present.contains(PageNumber(*other));
        let window = self.streak.at_miss(page, self.map.pages());
        let pages = window.take_while(is_free).count().max(1);
        let start = page.0 as usize * PAGE_BYTES;
        let out = &mut self.ram.bytes_mut()[start..start + pages * PAGE_BYTES];
        let read = self.pages.read_or_fetch(page, out, Some(awaited));
        self.used.awaited_pages += 1;
        self.used.waited += asked.elapsed();
        let (filled, _) = read.map_err(|error| self.failed(page, &error))?;
        if !filled.contains(0) {
            return Err(self.failed(page, &SourceError::Unavailable));
        }
        let came = (0..pages).zip(page.0..).filter(|(place, _)| filled.contains(*place));
        self.present.extend(came.map(|(_, page)| PageNumber(page)));
        Ok(())
    }

    fn failed(&self, page: PageNumber, error: &SourceError) -> PageUnavailable {
        let trouble = match error {
            SourceError::Store => Trouble::Store,
            SourceError::NotStored => Trouble::NotStored,
            _ if Instant::now() >= self.waiting.deadline => Trouble::Deadline,
            _ => Trouble::Late,
        };
        self.waiting.trouble.get_or_init(|| trouble);
        PageUnavailable { page }
    }
}

impl Memory for LazyRam {
    fn pages(&self) -> u32 {
        self.ram.pages()
    }

    fn make_present(&mut self, page: PageNumber) -> Result<(), PageUnavailable> {
        if !self.touched.insert(page) && self.present.contains(page) {
            return Ok(());
        }
        match self.map.get(page) {
            None => return Err(PageUnavailable { page }),
            Some(Slot::Zero) => {
                self.present.insert(page);
                return Ok(());
            }
            Some(Slot::Chunk { .. }) => {}
        }
        // Whoever wants to say what is there asks once more.
        if self.waiting.trouble.get().is_some() {
            return Err(PageUnavailable { page });
        }
        self.used.touched_pages += 1;
        self.used.hit_pages += u64::from(self.expected.binary_search(&page).is_ok());
        if self.present.contains(page) { Ok(()) } else { self.load(page) }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        self.ram.read(address)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, address: u64, bytes: [u8; N]) {
        self.ram.write(address, bytes);
    }

    fn page(&self, page: PageNumber) -> &[u8; PAGE_BYTES] {
        self.ram.page(page)
    }

    #[inline(always)]
    fn in_one_piece(&mut self) -> Option<&mut [u8]> {
        self.ram.in_one_piece()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_pages_are_those_of_a_tree() {
        let (mut set, mut tree) = (PageSet::default(), std::collections::BTreeSet::new());
        for page in [0, 63, 64, 200, 63, 1 << 20] {
            assert_eq!(set.insert(PageNumber(page)), tree.insert(page));
        }
        assert_eq!(set.iter().map(|page| page.0).collect::<Vec<_>>(), tree.into_iter().collect::<Vec<_>>());
        let mut other = PageSet::default();
        other.extend([PageNumber(5), PageNumber(64)]);
        other.add(&set);
        assert_eq!(other.iter().count(), 6);
        assert!(other.contains(PageNumber(5)) && !set.contains(PageNumber(5)));
        assert!(!set.contains(PageNumber(u32::MAX)));
    }

    #[test]
    fn misses_that_follow_each_other_ask_for_more_and_more() {
        let mut streak = Streak::default();
        let mut at = |page: u32| streak.at_miss(PageNumber(page), 1000);
        assert_eq!([at(0), at(2), at(6), at(14)], [0..2, 2..6, 6..14, 14..30]);
        assert_eq!([at(20), at(30), at(70)], [20..30, 30..50, 70..72]);
        let last = (0..10).fold(72..72, |asked: Range<u32>, _| at(asked.end));
        assert_eq!(last.end - last.start, MISSED_PAGES_MAX);
        assert_eq!([at(998), at(999)], [998..1000, 999..1000]);
    }

    #[test]
    fn the_nearest_interval_counts_and_old_ones_are_forgotten() {
        let (touched, lineage) = (Touched::default(), LineageId([1; 32]));
        let of = |page: u32| {
            let mut set = PageSet::default();
            set.insert(PageNumber(page));
            set
        };
        for interval in 0..=TOUCHED_SETS_MAX as u64 {
            touched.note(lineage, CheckpointIndex(interval * 10), of(u32::try_from(interval).unwrap()));
        }
        let nearest = |interval| touched.nearest(lineage, CheckpointIndex(interval)).unwrap().0.0;
        assert_eq!((nearest(0), nearest(24), nearest(26)), (10, 20, 30));
        assert_eq!(touched.nearest(LineageId([2; 32]), CheckpointIndex(1)), None);
    }
}
