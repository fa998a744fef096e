//! RAM of checkpoints that was read back whole and proven lately, for VMs that start from them.
//!
//! A restored guest's pages are looked up, decoded and hashed one by one. Where the whole checkpoint went through that a
//! moment ago, and for every further clone, a copy is enough: an image is not changed once it is proven.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pageswarm_checkpoint::{CheckpointIndex, LineageId, PAGE_BYTES, PageNumber};

use crate::limits::IMAGE_IDLE;

/// The images of one node, the one used last in front.
///
/// Together with those that are being made they have at most the bytes that [`Images::new`] was given. Beyond it count
/// only those that a VM still fills its memory from, which are not larger than that VM.
#[derive(Debug)]
pub struct Images {
    bytes_max: u64,
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Debug, Default)]
struct Shelf {
    kept: VecDeque<Kept>,
    /// Bytes of drafts.
    drafting: u64,
    /// Memory of an image that made way: memory that the kernel has to clear anew costs more than the pages put there.
    spare: Vec<u8>,
}

#[derive(Debug)]
struct Kept {
    of: (LineageId, CheckpointIndex),
    image: Arc<Image>,
    used: Instant,
}

/// All RAM of one checkpoint, proven.
#[derive(Debug)]
pub struct Image(Vec<u8>);

/// An image in the making. Its bytes count as used until it is kept or dropped.
#[derive(Debug)]
pub struct Draft {
    bytes: Vec<u8>,
    /// Which pages were put: bit n % 64 of word n / 64 is page n.
    put: Vec<u64>,
    shelf: Arc<Mutex<Shelf>>,
}

impl Images {
    /// No images yet; they will have at most `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, shelf: Arc::default() }
    }

    /// Room for an image of so much RAM; those used longest ago make way. None if there is not so much room.
    #[must_use]
    pub fn draft(&self, ram_bytes: u64) -> Option<Draft> {
        let length = usize::try_from(ram_bytes).ok()?;
        let mut bytes = {
            let mut shelf = lock(&self.shelf);
            if shelf.drafting.checked_add(ram_bytes).is_none_or(|bytes| bytes > self.bytes_max) {
                return None;
            }
            while shelf.bytes() + ram_bytes > self.bytes_max {
                shelf.make_way();
            }
            shelf.drafting += ram_bytes;
            std::mem::take(&mut shelf.spare)
        };
        if bytes.len() != length {
            bytes = vec![0; length];
        }
        let put = vec![0; (length / PAGE_BYTES).div_ceil(64)];
        Some(Draft { bytes, put, shelf: Arc::clone(&self.shelf) })
    }

    /// Keeps what was proven to be the RAM of a checkpoint.
    pub fn keep(&self, lineage: LineageId, index: CheckpointIndex, mut draft: Draft) {
        draft.clear_others();
        let image = Arc::new(Image(std::mem::take(&mut draft.bytes)));
        let of = (lineage, index);
        let mut shelf = lock(&self.shelf);
        shelf.drafting -= image.bytes();
        shelf.kept.retain(|kept| kept.of != of);
        shelf.kept.push_front(Kept { of, image, used: Instant::now() });
    }

    /// The RAM of a checkpoint, if it is here.
    #[must_use]
    pub fn get(&self, lineage: LineageId, index: CheckpointIndex) -> Option<Arc<Image>> {
        let mut shelf = lock(&self.shelf);
        let place = shelf.kept.iter().position(|kept| kept.of == (lineage, index))?;
        let mut kept = shelf.kept.remove(place)?;
        kept.used = Instant::now();
        let image = Arc::clone(&kept.image);
        shelf.kept.push_front(kept);
        Some(image)
    }

    /// Drops images that nobody asked for in a while.
    pub fn drop_idle(&self, now: Instant) {
        let mut shelf = lock(&self.shelf);
        shelf.kept.retain(|kept| now.saturating_duration_since(kept.used) < IMAGE_IDLE);
        if shelf.kept.is_empty() {
            shelf.spare = Vec::new();
        }
    }

    /// Bytes of all images and drafts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        lock(&self.shelf).bytes()
    }
}

impl Shelf {
    /// The image used longest ago goes; its memory is kept, unless a VM still reads it.
    fn make_way(&mut self) {
        let image = self.kept.pop_back().and_then(|kept| Arc::into_inner(kept.image));
        self.spare = image.map_or_else(Vec::new, |image| image.0);
    }

    fn bytes(&self) -> u64 {
        self.drafting + self.kept.iter().map(|kept| kept.image.bytes()).sum::<u64>()
    }
}

impl Image {
    /// The bytes of `length` bytes of pages from `first` on; none if RAM ends before.
    #[must_use]
    pub fn pages(&self, first: PageNumber, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(first.0).ok()?.checked_mul(PAGE_BYTES)?;
        self.0.get(start..start.checked_add(length)?)
    }

    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }
}

impl Draft {
    /// Puts a page in its place. One beyond the end is not of this RAM and is left out.
    pub fn put(&mut self, page: PageNumber, bytes: &[u8; PAGE_BYTES]) {
        let (pages, _) = self.bytes.as_chunks_mut();
        if let Some(place) = pages.get_mut(page.0 as usize) {
            *place = *bytes;
            self.put[page.0 as usize / 64] |= 1 << (page.0 % 64);
        }
    }

    /// Pages that were not put are zero.
    fn clear_others(&mut self) {
        for (at, page) in self.bytes.as_chunks_mut::<PAGE_BYTES>().0.iter_mut().enumerate() {
            if self.put[at / 64] >> (at % 64) & 1 == 0 {
                page.fill(0);
            }
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Nothing is left of one that was kept.
        if !self.bytes.is_empty() {
            lock(&self.shelf).drafting -= self.bytes.len() as u64;
        }
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    //! Goal: an image has the bytes that were put there, and all together never more than was granted.

    use super::*;

    const RAM: u64 = 4 * PAGE_BYTES as u64;

    fn of(index: u64) -> (LineageId, CheckpointIndex) {
        (LineageId([7; 32]), CheckpointIndex(index))
    }

    fn add(images: &Images, index: u64) {
        let mut draft = images.draft(RAM).expect("there is room");
        draft.put(PageNumber(1), &[u8::try_from(index).expect("small"); PAGE_BYTES]);
        draft.put(PageNumber(4), &[0xff; PAGE_BYTES]);
        let (lineage, index) = of(index);
        images.keep(lineage, index, draft);
    }

    fn is_here(images: &Images, index: u64) -> bool {
        let (lineage, index) = of(index);
        images.get(lineage, index).is_some()
    }

    #[test]
    fn pages_read_back_and_others_are_zero() {
        let images = Images::new(RAM);
        add(&images, 5);
        let (lineage, index) = of(5);
        let image = images.get(lineage, index).expect("it was kept");
        assert_eq!(image.pages(PageNumber(1), PAGE_BYTES), Some(&[5; PAGE_BYTES][..]));
        assert_eq!(image.pages(PageNumber(2), 2 * PAGE_BYTES), Some(&[0; 2 * PAGE_BYTES][..]));
        assert_eq!(image.pages(PageNumber(3), 2 * PAGE_BYTES), None);
        assert_eq!(image.pages(PageNumber(u32::MAX), usize::MAX), None);
    }

    #[test]
    fn the_one_used_longest_ago_makes_way() {
        let images = Images::new(2 * RAM);
        add(&images, 0);
        add(&images, 1);
        assert!(is_here(&images, 0), "and is now the one used last");
        add(&images, 2);
        assert_eq!([0, 1, 2].map(|index| is_here(&images, index)), [true, false, true]);
        assert_eq!(images.bytes(), 2 * RAM);
    }

    #[test]
    fn memory_of_an_image_that_made_way_shows_nothing_of_it() {
        let images = Images::new(RAM);
        add(&images, 3);
        let (lineage, index) = of(4);
        let mut draft = images.draft(RAM).expect("the other makes way");
        draft.put(PageNumber(2), &[4; PAGE_BYTES]);
        images.keep(lineage, index, draft);
        let image = images.get(lineage, index).expect("it was kept");
        assert_eq!(image.pages(PageNumber(0), 2 * PAGE_BYTES), Some(&[0; 2 * PAGE_BYTES][..]));
        assert_eq!(image.pages(PageNumber(2), PAGE_BYTES), Some(&[4; PAGE_BYTES][..]));
    }

    #[test]
    fn drafts_count_until_they_are_dropped() {
        let images = Images::new(2 * RAM);
        add(&images, 0);
        let drafts = [images.draft(RAM), images.draft(RAM)];
        assert!(drafts.iter().all(Option::is_some), "the image made way");
        assert!(!is_here(&images, 0));
        assert!(images.draft(RAM).is_none(), "drafts do not");
        drop(drafts);
        assert_eq!(images.bytes(), 0);
        assert!(images.draft(3 * RAM).is_none(), "more than there is at all");
        assert!(images.draft(u64::MAX).is_none());
    }

    #[test]
    fn an_image_nobody_asks_for_goes() {
        let images = Images::new(RAM);
        add(&images, 0);
        images.drop_idle(Instant::now());
        assert!(is_here(&images, 0));
        images.drop_idle(Instant::now() + IMAGE_IDLE);
        assert!(!is_here(&images, 0));
    }
}
