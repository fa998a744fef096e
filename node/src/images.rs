//! RAM of checkpoints that was read back whole and proven lately, for VMs that start from them.
//!
//! A restored guest's pages are looked up, decoded and hashed one by one. Where the whole checkpoint went through that a
//! moment ago, and for every further clone, the guest gets a view of what was proven: an image is not changed once it is.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use pageswarm_checkpoint::{CheckpointIndex, LineageId, PAGE_BYTES, PageNumber};
use pageswarm_vmm::{ImageFile, ImageMemory};

use crate::limits::{HOLE_PAGES, IMAGE_IDLE};

/// The images of one node, the one used last in front.
///
/// Together with those that are being made they have at most the bytes that [`Images::new`] was given. Beyond it count
/// only those that a VM started from and still has, which are not larger than that VM.
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
    /// Images that left the shelf while a VM had them.
    away: Vec<((LineageId, CheckpointIndex), Weak<ImageMemory>)>,
    /// Memory of an image that made way: memory that the kernel has to clear anew costs more than the pages put there.
    spare: Option<ImageMemory>,
}

#[derive(Debug)]
struct Kept {
    of: (LineageId, CheckpointIndex),
    image: Arc<ImageMemory>,
    used: Instant,
}

/// An image in the making. Its bytes count as used until it is kept or dropped.
#[derive(Debug)]
pub struct Draft {
    /// Until it is kept.
    memory: Option<ImageMemory>,
    /// All of it that was not put is zero.
    is_fresh: bool,
    /// Which pages were put: bit n % 64 of word n / 64 is page n.
    put: Vec<u64>,
    ram_bytes: u64,
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
        let pages = usize::try_from(ram_bytes).ok()? / PAGE_BYTES;
        let spare = {
            let mut shelf = lock(&self.shelf);
            if shelf.drafting.checked_add(ram_bytes).is_none_or(|bytes| bytes > self.bytes_max) {
                return None;
            }
            while shelf.bytes() + ram_bytes > self.bytes_max {
                shelf.make_way();
            }
            shelf.drafting += ram_bytes;
            shelf.spare.take()
        };
        let spare = spare.filter(|spare| spare.pages() == pages);
        let is_fresh = spare.is_none();
        match spare.map_or_else(|| ImageMemory::create(pages), Ok) {
            Ok(memory) => {
                let (put, shelf) = (vec![0; pages.div_ceil(64)], Arc::clone(&self.shelf));
                Some(Draft { memory: Some(memory), is_fresh, put, ram_bytes, shelf })
            }
            Err(error) => {
                tracing::warn!(%error, "no memory for the image of a checkpoint");
                lock(&self.shelf).drafting -= ram_bytes;
                None
            }
        }
    }

    /// Keeps what was proven to be the RAM of a checkpoint.
    pub fn keep(&self, lineage: LineageId, index: CheckpointIndex, mut draft: Draft) {
        draft.clear_others();
        let Some(memory) = draft.memory.take() else { return };
        let (of, image) = ((lineage, index), Arc::new(memory));
        let mut shelf = lock(&self.shelf);
        shelf.drafting -= draft.ram_bytes;
        shelf.kept.retain(|kept| kept.of != of);
        shelf.kept.push_front(Kept { of, image, used: Instant::now() });
    }

    /// The RAM of a checkpoint, if it is here.
    #[must_use]
    pub fn get(&self, lineage: LineageId, index: CheckpointIndex) -> Option<Arc<ImageMemory>> {
        let (of, mut shelf) = ((lineage, index), lock(&self.shelf));
        let Some(place) = shelf.kept.iter().position(|kept| kept.of == of) else {
            return shelf.away.iter().find(|(away, _)| *away == of)?.1.upgrade();
        };
        let mut kept = shelf.kept.remove(place)?;
        kept.used = Instant::now();
        let image = Arc::clone(&kept.image);
        shelf.kept.push_front(kept);
        Some(image)
    }

    /// Drops images that nobody asked for in a while.
    pub fn drop_idle(&self, now: Instant) {
        let mut shelf = lock(&self.shelf);
        let is_used = |kept: &Kept| now.saturating_duration_since(kept.used) < IMAGE_IDLE;
        let (used, idle): (VecDeque<Kept>, VecDeque<Kept>) =
            std::mem::take(&mut shelf.kept).into_iter().partition(is_used);
        shelf.kept = used;
        for kept in idle {
            shelf.let_go(kept);
        }
        if shelf.kept.is_empty() {
            shelf.spare = None;
        }
    }

    /// Bytes of all images and drafts, those that only VMs still have among them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let shelf = lock(&self.shelf);
        let away = shelf.away.iter().filter_map(|(_, image)| Some(image.upgrade()?.bytes().len() as u64));
        shelf.bytes() + away.sum::<u64>()
    }
}

impl Shelf {
    /// The image used longest ago that no VM has goes, else the one used longest ago; its memory is kept, unless a VM has it.
    fn make_way(&mut self) {
        let is_free = |kept: &Kept| Arc::strong_count(&kept.image) == 1;
        let place = self.kept.iter().rposition(is_free).or_else(|| self.kept.len().checked_sub(1));
        let gone = place.and_then(|place| self.kept.remove(place));
        self.spare = gone.and_then(|kept| self.let_go(kept));
    }

    /// Takes an image off; its memory, if no VM has it.
    fn let_go(&mut self, kept: Kept) -> Option<ImageMemory> {
        self.away.retain(|(_, image)| image.strong_count() > 0);
        let in_use = Arc::downgrade(&kept.image);
        let memory = Arc::into_inner(kept.image);
        if memory.is_none() {
            self.away.push((kept.of, in_use));
        }
        memory
    }

    fn bytes(&self) -> u64 {
        self.drafting + self.kept.iter().map(|kept| kept.image.bytes().len() as u64).sum::<u64>()
    }
}

impl Draft {
    /// Puts a page in its place. One beyond the end is not of this RAM and is left out.
    pub fn put(&mut self, page: PageNumber, bytes: &[u8; PAGE_BYTES]) {
        let Some(memory) = &mut self.memory else { return };
        let (pages, _) = memory.bytes_mut().as_chunks_mut();
        if let Some(place) = pages.get_mut(page.0 as usize) {
            *place = *bytes;
            self.put[page.0 as usize / 64] |= 1 << (page.0 % 64);
        }
    }

    /// Writes all pages to their places in a file whose pages are zero. Long stretches of zero pages stay holes.
    ///
    /// # Errors
    ///
    /// What the file says.
    pub fn write_to(&mut self, file: &ImageFile) -> io::Result<()> {
        self.clear_others();
        let Some(memory) = &self.memory else { return Ok(()) };
        let stretch = |start: usize| start..memory.pages().min(start + HOLE_PAGES);
        let is_hole = |start: usize| !stretch(start).any(|page| self.has(page));
        let starts: Vec<usize> = (0..memory.pages()).step_by(HOLE_PAGES).collect();
        for run in starts.chunk_by(|one, next| is_hole(*one) == is_hole(*next)) {
            if let (Some(&first), Some(&last)) = (run.first(), run.last())
                && !is_hole(first)
            {
                let end = stretch(last).end;
                file.write_pages_at(&memory.bytes()[first * PAGE_BYTES..end * PAGE_BYTES], first)?;
            }
        }
        Ok(())
    }

    fn has(&self, page: usize) -> bool {
        self.put[page / 64] >> (page % 64) & 1 == 1
    }

    /// Pages that were not put are zero.
    fn clear_others(&mut self) {
        let Some(memory) = self.memory.as_mut().filter(|_| !self.is_fresh) else { return };
        for (at, page) in memory.bytes_mut().as_chunks_mut::<PAGE_BYTES>().0.iter_mut().enumerate() {
            if self.put[at / 64] >> (at % 64) & 1 == 0 {
                page.fill(0);
            }
        }
        self.is_fresh = true;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // One that was kept counts as that.
        if self.memory.is_some() {
            lock(&self.shelf).drafting -= self.ram_bytes;
        }
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    //! Goal: an image has the bytes that were put there, and all together never more than was granted.

    use std::os::unix::fs::MetadataExt as _;

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
        assert_eq!(image.pages_from(PageNumber(1), PAGE_BYTES), Some(&[5; PAGE_BYTES][..]));
        assert_eq!(image.pages_from(PageNumber(2), 2 * PAGE_BYTES), Some(&[0; 2 * PAGE_BYTES][..]));
        assert_eq!(image.pages_from(PageNumber(3), 2 * PAGE_BYTES), None);
        assert_eq!(image.pages_from(PageNumber(u32::MAX), usize::MAX), None);
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
        assert_eq!(image.pages_from(PageNumber(0), 2 * PAGE_BYTES), Some(&[0; 2 * PAGE_BYTES][..]));
        assert_eq!(image.pages_from(PageNumber(2), PAGE_BYTES), Some(&[4; PAGE_BYTES][..]));
    }

    /// In memory that had another image, whose bytes must not get into the file; with a stretch in the middle that is zero.
    #[test]
    fn a_file_of_an_image_has_its_pages_zeros_and_holes() -> io::Result<()> {
        let pages = 3 * HOLE_PAGES;
        let bytes = pages * PAGE_BYTES;
        let images = Images::new(bytes as u64);
        let mut other = images.draft(bytes as u64).expect("there is room");
        (0..).map(PageNumber).take(pages).for_each(|page| other.put(page, &[0xff; PAGE_BYTES]));
        let (lineage, index) = of(0);
        images.keep(lineage, index, other);
        let mut draft = images.draft(bytes as u64).expect("the other makes way");
        let mut expected = vec![0; bytes];
        for page in [5, 2 * HOLE_PAGES + 1] {
            draft.put(PageNumber(u32::try_from(page).expect("small")), &[7; PAGE_BYTES]);
            expected[page * PAGE_BYTES..][..PAGE_BYTES].fill(7);
        }
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("image");
        let file = ImageFile::create(&path)?;
        file.set_pages(pages)?;
        draft.write_to(&file)?;
        file.sync()?;
        assert!(std::fs::read(&path)? == expected, "the file has other bytes");
        assert!(std::fs::metadata(&path)?.blocks() * 512 < bytes as u64, "the zeros take room");
        Ok(())
    }

    #[test]
    fn what_a_vm_has_goes_last_is_found_again_and_counts() {
        let images = Images::new(2 * RAM);
        add(&images, 0);
        let (lineage, index) = of(0);
        let of_a_vm = images.get(lineage, index).expect("it was kept");
        add(&images, 1);
        add(&images, 2);
        assert!(is_here(&images, 0) && !is_here(&images, 1), "the free one made way");
        images.drop_idle(Instant::now() + IMAGE_IDLE);
        assert_eq!(images.bytes(), RAM, "the VM's");
        let again = images.get(lineage, index).expect("the VM has it");
        assert!(Arc::ptr_eq(&again, &of_a_vm));
        drop((again, of_a_vm));
        assert!(!is_here(&images, 0));
        assert_eq!(images.bytes(), 0);
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
