//! Memory that a VM's process gets from the node's: guest RAM and the staging area, both memfds and shared, or an image
//! that VMs start from, of which each has a view of its own.

use pageswarm_machine::{PAGE_BYTES, PageNumber};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use vm_memory::{FileOffset, MmapRegion};

/// A page's bytes.
pub type PageBytes = [u8; PAGE_BYTES];

/// A memfd and this process's mapping of all of it.
///
/// Other processes may write the same memory at any time, so reads and writes copy; only the owner of a page by
/// protocol (a staging slot between capture and release) may be borrowed, see [`SharedMemory::page`].
#[derive(Debug)]
pub struct SharedMemory {
    file: File,
    region: MmapRegion<()>,
    pages: usize,
    view: View,
}

/// What becomes of what this process writes to its mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// All who map the memfd see it.
    Shared,
    /// It stays in this mapping: the kernel copies a page when it is first written.
    Own,
}

impl SharedMemory {
    /// Makes a new memfd of `pages` zero pages and maps it.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(pages: usize) -> io::Result<Self> {
        // SAFETY: the name is a terminated string and the call takes no other memory.
        let fd =
            unsafe { libc::memfd_create(c"pageswarm".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let file = File::from(fd);
        file.set_len((pages as u64).saturating_mul(PAGE_BYTES as u64))?;
        // Whoever reads pages that another process cut off would be killed.
        seal(&file, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW)?;
        Self::map(file, pages, View::Shared)
    }

    /// Maps all of a memfd that another process made.
    ///
    /// # Errors
    /// When it has not `pages` pages or cannot be mapped.
    pub fn from_fd(fd: OwnedFd, pages: usize) -> io::Result<Self> {
        Self::map_given(fd, pages, View::Shared)
    }

    /// Maps all of a memfd that another process made, and keeps what is written to this mapping.
    ///
    /// # Errors
    /// As [`Self::from_fd`].
    pub(crate) fn own_view_of_fd(fd: OwnedFd, pages: usize) -> io::Result<Self> {
        Self::map_given(fd, pages, View::Own)
    }

    fn map_given(fd: OwnedFd, pages: usize, view: View) -> io::Result<Self> {
        let file = File::from(fd);
        if file.metadata()?.len() != (pages as u64).saturating_mul(PAGE_BYTES as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Self::map(file, pages, view)
    }

    fn map(file: File, pages: usize, view: View) -> io::Result<Self> {
        let offset = FileOffset::new(file.try_clone()?, 0);
        let kind = match view {
            View::Shared => libc::MAP_SHARED,
            View::Own => libc::MAP_PRIVATE,
        };
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let region = MmapRegion::build(Some(offset), pages * PAGE_BYTES, rights, libc::MAP_NORESERVE | kind);
        Ok(Self { file, region: region.map_err(io::Error::other)?, pages, view })
    }

    /// Number of pages.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.pages
    }

    /// The memfd.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Where this process has page 0.
    pub(crate) fn base(&self) -> *mut u8 {
        self.region.as_ptr()
    }

    fn pointer(&self, index: usize) -> *mut u8 {
        assert!(index < self.pages, "page {index} of {}", self.pages);
        self.region.as_ptr().wrapping_add(index * PAGE_BYTES)
    }

    /// Copies a page out.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn read(&self, page: PageNumber, out: &mut PageBytes) {
        let from = self.pointer(page.0 as usize);
        // SAFETY: the page lies in the mapping, and a private buffer does not overlap it.
        unsafe { from.copy_to_nonoverlapping(out.as_mut_ptr(), PAGE_BYTES) };
    }

    /// Copies a page in.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn write(&self, page: PageNumber, bytes: &PageBytes) {
        let to = self.pointer(page.0 as usize);
        // SAFETY: the page lies in the mapping, which is writable, and a private buffer does not overlap it.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), PAGE_BYTES) };
    }

    /// Copies page `index` into page `slot` of `to`.
    pub(crate) fn copy_page(&self, index: usize, to: &Self, slot: usize) {
        let (from, to) = (self.pointer(index), to.pointer(slot));
        // SAFETY: both pages lie in their mappings, which are different memfds. The guest may write the source
        // meanwhile; the copy is then torn, and the dirty log names the page again before the checkpoint is complete.
        unsafe { from.copy_to_nonoverlapping(to, PAGE_BYTES) };
    }

    /// Borrows a page that nobody writes now: a staging slot that was announced and not yet released.
    ///
    /// # Panics
    /// When there is no such page.
    #[must_use]
    pub fn page(&self, slot: usize) -> &PageBytes {
        let pointer = self.pointer(slot).cast::<PageBytes>();
        // SAFETY: the page lies in the mapping, any bytes are a valid array, and by the capture protocol the child
        // does not touch an announced slot before it is released.
        unsafe { &*pointer }
    }

    /// All bytes, for filling RAM before any other process has the memfd.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let pointer = self.region.as_ptr();
        // SAFETY: the mapping has this length and lives as long as the borrow, which is exclusive in this process;
        // nobody else has the memfd yet, or what others have of it are private mappings of processes that have ended.
        unsafe { std::slice::from_raw_parts_mut(pointer, self.pages * PAGE_BYTES) }
    }

    /// Makes every page present and writable in this process, so that no later write faults.
    ///
    /// # Errors
    /// What the system says; an old kernel does not know the advice.
    pub(crate) fn populate(&self) -> io::Result<()> {
        let (base, bytes) = (self.region.as_ptr().cast(), self.pages * PAGE_BYTES);
        // SAFETY: the range is exactly the mapping; the advice changes no content.
        match unsafe { libc::madvise(base, bytes, libc::MADV_POPULATE_WRITE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Calls `each` with the first page and the page after the last of every stretch that may hold other than zeros.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn for_each_extent(&self, mut each: impl FnMut(usize, usize)) -> io::Result<()> {
        if self.view == View::Own {
            // The memfd does not know what was written to this mapping.
            each(0, self.pages);
            return Ok(());
        }
        let mut place = 0;
        while let Some(start) = self.seek(place, libc::SEEK_DATA)? {
            let end = self.seek(start, libc::SEEK_HOLE)?.unwrap_or(self.pages);
            each(start, end);
            place = end;
        }
        Ok(())
    }

    fn seek(&self, page: usize, whence: i32) -> io::Result<Option<usize>> {
        let offset = i64::try_from(page * PAGE_BYTES).map_err(io::Error::other)?;
        // SAFETY: the call takes no memory; nobody else uses this descriptor's position.
        let found = unsafe { libc::lseek(self.file.as_raw_fd(), offset, whence) };
        match usize::try_from(found) {
            Ok(found) => Ok(Some(found / PAGE_BYTES)),
            Err(_) => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                error => Err(error),
            },
        }
    }
}

/// Guest RAM for the thread that interprets the guest, which alone in this process touches it.
#[derive(Debug)]
pub struct GuestRam(Arc<SharedMemory>);

impl GuestRam {
    pub(crate) const fn new(memory: Arc<SharedMemory>) -> Self {
        Self(memory)
    }

    /// Number of pages.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.0.pages()
    }

    /// All bytes. Reading those of a page that is filled lazily waits for it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let pointer = self.0.region.as_ptr().cast_const();
        // SAFETY: the mapping has this length and lives as long as the borrow. In this process only the holder of this
        // value writes it, by `bytes_mut`; the copier reads it on the same thread, while the guest stands still.
        unsafe { std::slice::from_raw_parts(pointer, self.0.pages * PAGE_BYTES) }
    }

    /// All bytes, to be written.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let pointer = self.0.region.as_ptr();
        // SAFETY: as in `bytes`, and the borrow is exclusive: there is one such value for the process's one guest.
        unsafe { std::slice::from_raw_parts_mut(pointer, self.0.pages * PAGE_BYTES) }
    }
}

/// All of a checkpoint's RAM, for VMs that start from it without copying it: each sees it as its own memory, and the kernel
/// copies a page for it when it first writes there. However many they are, what none of them writes is there once.
///
/// Nobody else can write it through its memfd, which is sealed against every other way to write or resize it. A page that
/// no VM's image had, because it was zero, costs two when a VM writes it: the kernel fills the image's, then copies it.
#[derive(Debug)]
pub struct ImageMemory(SharedMemory);

impl ImageMemory {
    /// An image of `pages` zero pages.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(pages: usize) -> io::Result<Self> {
        let memory = SharedMemory::create(pages)?;
        seal(&memory.file, libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SEAL)?;
        let (base, bytes) = (memory.base().cast(), pages * PAGE_BYTES);
        // SAFETY: the range is exactly the mapping; the advice changes no content. Without huge pages it costs more faults.
        let _unheeded = unsafe { libc::madvise(base, bytes, libc::MADV_HUGEPAGE) };
        Ok(Self(memory))
    }

    /// Number of pages.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.0.pages()
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let pointer = self.0.region.as_ptr().cast_const();
        // SAFETY: the mapping has this length and lives as long as the borrow; only `bytes_mut` writes it.
        unsafe { std::slice::from_raw_parts(pointer, self.0.pages * PAGE_BYTES) }
    }

    /// The bytes of `length` bytes of pages from `first` on; none if RAM ends before.
    #[must_use]
    pub fn pages_from(&self, first: PageNumber, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(first.0).ok()?.checked_mul(PAGE_BYTES)?;
        self.bytes().get(start..start.checked_add(length)?)
    }

    /// All bytes, for whoever has the image alone: no VM starts from it yet, or still runs on it.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }

    /// The memfd.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

fn seal(file: &File, seals: i32) -> io::Result<()> {
    // SAFETY: the call takes no memory.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn views_of_an_image_keep_what_they_write_and_cannot_change_it() {
        let mut image = ImageMemory::create(8).unwrap();
        image.bytes_mut()[3 * PAGE_BYTES..4 * PAGE_BYTES].fill(7);
        let fd = || image.fd().try_clone_to_owned().unwrap();
        let (first, second) =
            (SharedMemory::own_view_of_fd(fd(), 8).unwrap(), SharedMemory::own_view_of_fd(fd(), 8).unwrap());
        assert_eq!(first.page(3), &[7; PAGE_BYTES]);
        first.write(PageNumber(3), &[9; PAGE_BYTES]);
        first.write(PageNumber(5), &[1; PAGE_BYTES]);
        assert_eq!((first.page(3), second.page(3)), (&[9; PAGE_BYTES], &[7; PAGE_BYTES]));
        assert!(image.bytes()[3 * PAGE_BYTES..4 * PAGE_BYTES].iter().all(|&byte| byte == 7));
        assert!(image.bytes()[5 * PAGE_BYTES..6 * PAGE_BYTES].iter().all(|&byte| byte == 0));
        let mut pages = Vec::new();
        first.for_each_extent(|start, end| pages.extend(start..end)).unwrap();
        assert_eq!(pages, (0..8).collect::<Vec<_>>());
        assert!(SharedMemory::from_fd(fd(), 8).is_err(), "a shared mapping could write");
        let file = File::from(fd());
        assert!(file.write_at(&[1], 0).is_err() && file.set_len(0).is_err());
        drop((first, second));
        image.bytes_mut()[0] = 1;
        assert_eq!(image.bytes()[0], 1, "its owner still can");
    }

    #[test]
    fn two_mappings_of_one_memfd_share_pages_and_extents_skip_holes() {
        let first = SharedMemory::create(64).unwrap();
        let second = SharedMemory::from_fd(first.fd().try_clone_to_owned().unwrap(), 64).unwrap();
        first.write(PageNumber(5), &[7; PAGE_BYTES]);
        second.write(PageNumber(40), &[9; PAGE_BYTES]);
        assert_eq!(second.page(5), &[7; PAGE_BYTES]);
        let mut found = [0; PAGE_BYTES];
        first.read(PageNumber(40), &mut found);
        assert_eq!(found, [9; PAGE_BYTES]);
        let mut pages = Vec::new();
        first.for_each_extent(|start, end| pages.extend(start..end)).unwrap();
        assert_eq!(pages, [5, 40]);
    }

    #[test]
    fn memory_cannot_be_cut_off() {
        let memory = SharedMemory::create(2).unwrap();
        let file = File::from(memory.fd().try_clone_to_owned().unwrap());
        assert!(file.set_len(0).is_err() && file.set_len(3 << 12).is_err());
    }

    #[test]
    fn a_memfd_of_another_size_is_refused() {
        let memory = SharedMemory::create(2).unwrap();
        assert!(SharedMemory::from_fd(memory.fd().try_clone_to_owned().unwrap(), 3).is_err());
    }
}
