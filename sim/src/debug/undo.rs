//! RAM that keeps what it overwrites, so that it can be made what it was.

use crate::memory::{Memory, PageBytes, PageUnavailable};
use pageswarm_machine::{PAGE_BYTES, PageNumber};
use std::collections::BTreeMap;

/// Pages as they were at some moment.
pub(super) type Pages = BTreeMap<PageNumber, Box<PageBytes>>;

/// RAM, and the pages that were written since the last mark as they were at the mark.
#[derive(Debug, Default)]
pub(super) struct UndoRam {
    bytes: Vec<u8>,
    kept: Vec<bool>,
    undo: Pages,
}

impl UndoRam {
    /// RAM with this content, whose size is a whole number of pages.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let kept = vec![false; bytes.len() / PAGE_BYTES];
        Self { bytes, kept, undo: Pages::new() }
    }

    /// Sets a mark here, and gives what leads back to the one before.
    pub(super) fn mark(&mut self) -> Pages {
        self.undo.keys().for_each(|page| self.kept[page.0 as usize] = false);
        std::mem::take(&mut self.undo)
    }

    /// Makes RAM what it was at the last mark.
    pub(super) fn go_back(&mut self) {
        let undo = self.mark();
        self.apply(&undo);
    }

    /// Puts pages back that [`Self::mark`] gave, with nothing written since it did.
    pub(super) fn apply(&mut self, pages: &Pages) {
        for (page, bytes) in pages {
            let start = page.0 as usize * PAGE_BYTES;
            self.bytes[start..start + PAGE_BYTES].copy_from_slice(bytes.as_slice());
        }
    }

    /// Pages written since the last mark.
    pub(super) fn written(&self) -> impl Iterator<Item = PageNumber> {
        self.undo.keys().copied()
    }

    #[cfg(test)]
    pub(super) fn page_bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    #[cold]
    fn keep(&mut self, page: usize) {
        self.kept[page] = true;
        let number = PageNumber(u32::try_from(page).unwrap_or(u32::MAX));
        let bytes = self.bytes.as_chunks::<PAGE_BYTES>().0[page];
        self.undo.insert(number, Box::new(bytes));
    }
}

/// A guest-physical address as an index; a host that simulates has 64-bit addresses.
#[inline(always)]
fn index(address: u64) -> usize {
    usize::try_from(address).unwrap_or(usize::MAX)
}

impl Memory for UndoRam {
    fn pages(&self) -> u32 {
        u32::try_from(self.kept.len()).unwrap_or(u32::MAX)
    }

    fn make_present(&mut self, page: PageNumber) -> Result<(), PageUnavailable> {
        if page.0 < self.pages() { Ok(()) } else { Err(PageUnavailable { page }) }
    }

    #[inline(always)]
    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        *self.bytes[index(address)..].first_chunk().expect("a present page")
    }

    #[inline(always)]
    fn write<const N: usize>(&mut self, address: u64, bytes: [u8; N]) {
        let start = index(address);
        if !self.kept[start / PAGE_BYTES] {
            self.keep(start / PAGE_BYTES);
        }
        *self.bytes[start..].first_chunk_mut().expect("a present page") = bytes;
    }

    fn page(&self, page: PageNumber) -> &PageBytes {
        &self.bytes.as_chunks().0[page.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_lead_back_one_after_the_other() {
        let mut ram = UndoRam::new(vec![1; 4 * PAGE_BYTES]);
        ram.write(0, [2]);
        ram.write(1, [2]);
        let first = ram.mark();
        ram.write(0, [3]);
        ram.write(3 * 4096, [3]);
        assert_eq!(ram.written().collect::<Vec<_>>(), [0, 3].map(PageNumber));
        assert_eq!(first.len(), 1);
        ram.go_back();
        assert_eq!(ram.read(0), [2, 2, 1]);
        assert_eq!(ram.read(3 * 4096), [1]);
        ram.apply(&first);
        assert_eq!(ram.bytes, vec![1; 4 * PAGE_BYTES]);
    }
}
