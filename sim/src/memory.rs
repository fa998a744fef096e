//! Guest RAM as the interpreter sees it: a trait, so that RAM may be filled while it is used, and RAM that is complete.

use pageswarm_machine::{PAGE_BYTES, PageNumber};

/// A page's bytes.
pub type PageBytes = [u8; PAGE_BYTES];

/// A page of RAM cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("page {} of guest RAM cannot be had", page.0)]
pub struct PageUnavailable {
    /// Which.
    pub page: PageNumber,
}

/// Guest RAM: pages numbered from 0.
///
/// The interpreter calls [`Memory::make_present`] before it touches a page for the first time and after it forgot
/// that it did; every other method is called for present pages only. Addresses are guest-physical, and an access
/// never crosses a page's end.
pub trait Memory {
    /// Number of pages.
    fn pages(&self) -> u32;

    /// Makes a page present, which may take long.
    ///
    /// # Errors
    /// When the page's content cannot be had.
    fn make_present(&mut self, page: PageNumber) -> Result<(), PageUnavailable>;

    /// Reads `N` bytes.
    fn read<const N: usize>(&self, address: u64) -> [u8; N];

    /// Writes `N` bytes.
    fn write<const N: usize>(&mut self, address: u64, bytes: [u8; N]);

    /// A whole page.
    fn page(&self, page: PageNumber) -> &PageBytes;

    /// All of RAM, where it is one piece: then translated code reads and writes present pages in it without asking.
    /// Always or never `Some`.
    #[inline(always)]
    fn in_one_piece(&mut self) -> Option<&mut [u8]> {
        None
    }
}

/// RAM that is there as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompleteRam {
    bytes: Vec<u8>,
}

impl CompleteRam {
    /// RAM with this content.
    ///
    /// # Panics
    /// When the content is no whole number of pages, or more pages than numbers have 32 bits.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        assert!(bytes.len().is_multiple_of(PAGE_BYTES), "RAM is a whole number of pages");
        assert!(u32::try_from(bytes.len() / PAGE_BYTES).is_ok(), "page numbers have 32 bits");
        Self { bytes }
    }

    /// The content.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The content, to be changed while nothing is simulated.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// A guest-physical address as an index; a host that simulates has 64-bit addresses.
#[inline(always)]
fn index(address: u64) -> usize {
    usize::try_from(address).unwrap_or(usize::MAX)
}

impl Memory for CompleteRam {
    fn pages(&self) -> u32 {
        u32::try_from(self.bytes.len() / PAGE_BYTES).expect("checked when it was made")
    }

    fn make_present(&mut self, page: PageNumber) -> Result<(), PageUnavailable> {
        if page.0 < self.pages() { Ok(()) } else { Err(PageUnavailable { page }) }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let start = index(address);
        *self.bytes[start..].first_chunk().expect("a present page")
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, address: u64, bytes: [u8; N]) {
        let start = index(address);
        *self.bytes[start..].first_chunk_mut().expect("a present page") = bytes;
    }

    fn page(&self, page: PageNumber) -> &PageBytes {
        &self.bytes.as_chunks().0[page.0 as usize]
    }

    #[inline(always)]
    fn in_one_piece(&mut self) -> Option<&mut [u8]> {
        Some(&mut self.bytes)
    }
}

impl<M: Memory> Memory for &mut M {
    fn pages(&self) -> u32 {
        (**self).pages()
    }

    fn make_present(&mut self, page: PageNumber) -> Result<(), PageUnavailable> {
        (**self).make_present(page)
    }

    #[inline(always)]
    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        (**self).read(address)
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, address: u64, bytes: [u8; N]) {
        (**self).write(address, bytes);
    }

    fn page(&self, page: PageNumber) -> &PageBytes {
        (**self).page(page)
    }

    #[inline(always)]
    fn in_one_piece(&mut self) -> Option<&mut [u8]> {
        (**self).in_one_piece()
    }
}
