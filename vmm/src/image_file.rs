//! Files with images of RAM, written past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use pageswarm_machine::PAGE_BYTES;

/// A file that gets an image of RAM, in whole pages.
///
/// Where the file system can, pages go to the disk from where they lie: a copy of all RAM in the page cache would cost as
/// much memory again and push out what is of more use there, and where a host backs its guests' memory when it is first
/// touched, touching that much costs more than the copying.
#[derive(Debug)]
pub struct ImageFile {
    file: File,
}

impl ImageFile {
    /// Creates one, in place of what has that name.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn create(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let file = match options.clone().custom_flags(libc::O_DIRECT).open(path) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => options.open(path)?,
            opened => opened?,
        };
        Ok(Self { file })
    }

    /// Gives the image its size. Pages that are not written are zero.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn set_pages(&self, pages: usize) -> io::Result<()> {
        self.file.set_len((pages * PAGE_BYTES) as u64)
    }

    /// Puts pages into their places, the first of them at page number `first`.
    ///
    /// # Errors
    ///
    /// What the file system says.
    ///
    /// # Panics
    ///
    /// If `pages` is not whole pages.
    pub fn write_pages_at(&self, pages: &[u8], first: usize) -> io::Result<()> {
        assert!(pages.len().is_multiple_of(PAGE_BYTES), "images are written in whole pages");
        let offset = (first * PAGE_BYTES) as u64;
        match self.file.write_all_at(pages, offset) {
            // It wants another alignment than that of a page, or `pages` has none.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && self.use_page_cache()? => {
                self.file.write_all_at(pages, offset)
            }
            written => written,
        }
    }

    /// Waits until the image is on the disk.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Makes it an ordinary file, as it should be for pages that come one by one: each would be waited for by itself.
    /// False if it was one.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn use_page_cache(&self) -> io::Result<bool> {
        let descriptor = self.file.as_raw_fd();
        // SAFETY: takes a descriptor that is open and numbers.
        let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        if flags & libc::O_DIRECT == 0 {
            return Ok(false);
        }
        // SAFETY: as above.
        if unsafe { libc::fcntl(descriptor, libc::F_SETFL, flags & !libc::O_DIRECT) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::ImageFile;
    use pageswarm_machine::PAGE_BYTES;

    /// Goal: pages come to their places from where they can go to the disk directly, and from where they cannot. Method:
    /// one file, written from aligned memory, then from memory one byte beside it, and read back.
    #[test]
    fn pages_that_lie_anywhere_in_memory_come_to_their_places() -> std::io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("ram");
        let memory: Vec<u8> = (0..=250).cycle().take(4 * PAGE_BYTES).collect();
        let aligned = memory.as_ptr().align_offset(PAGE_BYTES);
        let (one, two) = (&memory[aligned..][..PAGE_BYTES], &memory[aligned + 1..][..2 * PAGE_BYTES]);
        let file = ImageFile::create(&path)?;
        file.set_pages(5)?;
        file.write_pages_at(one, 4)?;
        file.write_pages_at(two, 1)?;
        file.sync()?;
        let mut expected = vec![0; 5 * PAGE_BYTES];
        expected[4 * PAGE_BYTES..].copy_from_slice(one);
        expected[PAGE_BYTES..3 * PAGE_BYTES].copy_from_slice(two);
        assert!(std::fs::read(&path)? == expected, "pages are not in their places");
        Ok(())
    }
}
