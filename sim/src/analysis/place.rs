//! Where in RAM an access is. Traces come from others, so nothing about an access is taken for granted.

use crate::observe::Access;
use pageswarm_machine::PAGE_BYTES;

/// The bytes of an access.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) page: usize,
    pub(crate) offset: usize,
    /// 1 to 16.
    pub(crate) size: usize,
}

impl Place {
    /// None if the access is outside of RAM of `pages` pages, crosses a page's end, or is of no possible size.
    #[inline]
    pub(crate) fn of(access: &Access, pages: usize) -> Option<Self> {
        let address = usize::try_from(access.physical_address).ok()?;
        let (page, offset) = (address / PAGE_BYTES, address % PAGE_BYTES);
        let size = usize::from(access.size);
        let is_possible = page < pages && (1..=16).contains(&size) && offset + size <= PAGE_BYTES;
        is_possible.then_some(Self { page, offset, size })
    }

    /// The 64-byte lines of the page that are touched, a bit for each.
    pub(crate) const fn lines(&self) -> u64 {
        let (first, last) = (self.offset / 64, (self.offset + self.size - 1) / 64);
        1 << first | 1 << last
    }
}
