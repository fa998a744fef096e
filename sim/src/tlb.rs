//! The soft TLB: translations that were found, for reads and for writes, directly mapped.

use crate::limits::TLB_ENTRIES;

/// One translation, in a form that translated code reads, too.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Entry {
    /// The virtual page's first address.
    page: u64,
    /// The frame's first address.
    frame: u64,
}

/// No page begins there, and RAM does not reach so far.
const EMPTY: Entry = Entry { page: u64::MAX, frame: 1 << 63 };

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
    let entry = entries[place(address >> 12)];
    (entry.page == address & !0xfff).then_some(entry.frame | address & 0xfff)
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
        self.reads[place(address >> 12)] = Entry { page: address & !0xfff, frame: physical & !0xfff };
    }

    pub(crate) fn learn_write(&mut self, address: u64, physical: u64) {
        self.writes[place(address >> 12)] = Entry { page: address & !0xfff, frame: physical & !0xfff };
    }

    /// All translations for reads.
    #[inline(always)]
    pub(crate) fn reads(&self) -> &[Entry; TLB_ENTRIES] {
        &self.reads
    }

    /// All translations for writes.
    #[inline(always)]
    pub(crate) fn writes(&self) -> &[Entry; TLB_ENTRIES] {
        &self.writes
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
