//! The soft TLB: translations that were found, for reads and for writes, directly mapped.

use crate::limits::TLB_ENTRIES;

/// A virtual page number that no address has.
const NO_PAGE: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
struct Entry {
    page: u64,
    frame: u64,
}

const EMPTY: Entry = Entry { page: NO_PAGE, frame: 0 };

/// Translations of virtual pages to the addresses of frames.
#[derive(Debug)]
pub(crate) struct Tlb {
    reads: Box<[Entry; TLB_ENTRIES]>,
    writes: Box<[Entry; TLB_ENTRIES]>,
}

#[inline(always)]
fn place(page: u64) -> usize {
    // Truncation is what a place is.
    page.to_le_bytes().first_chunk::<4>().map_or(0, |low| u32::from_le_bytes(*low) as usize) % TLB_ENTRIES
}

#[inline(always)]
fn find(entries: &[Entry; TLB_ENTRIES], address: u64) -> Option<u64> {
    let page = address >> 12;
    let entry = entries[place(page)];
    (entry.page == page).then_some(entry.frame | address & 0xfff)
}

impl Tlb {
    pub(crate) fn new() -> Self {
        Self { reads: Box::new([EMPTY; TLB_ENTRIES]), writes: Box::new([EMPTY; TLB_ENTRIES]) }
    }

    /// The guest-physical address that `address` is read at.
    #[inline(always)]
    pub(crate) fn read(&self, address: u64) -> Option<u64> {
        find(&self.reads, address)
    }

    /// The guest-physical address that `address` is written at.
    #[inline(always)]
    pub(crate) fn write(&self, address: u64) -> Option<u64> {
        find(&self.writes, address)
    }

    pub(crate) fn learn_read(&mut self, address: u64, physical: u64) {
        self.reads[place(address >> 12)] = Entry { page: address >> 12, frame: physical & !0xfff };
    }

    pub(crate) fn learn_write(&mut self, address: u64, physical: u64) {
        self.writes[place(address >> 12)] = Entry { page: address >> 12, frame: physical & !0xfff };
    }

    pub(crate) fn clear(&mut self) {
        self.reads.fill(EMPTY);
        self.clear_writes();
    }

    /// Makes the next write to each page be noticed.
    pub(crate) fn clear_writes(&mut self) {
        self.writes.fill(EMPTY);
    }
}
