//! Files with images of RAM, written past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use pageswarm_machine::PAGE_BYTES;

/// A file that gets an image of RAM, in whole pages.
///
/// Where the file system can and [`ImageFile::create_cached`] did not say otherwise, pages go to the disk from where they
/// lie. A copy of all RAM in the page cache would cost as much memory again and push out what is of more use there; and
/// where a host backs its guests' memory when it is first touched, that costs more than the copying: 2.4 s of processor
/// time per GiB, and 0.3 s once it is backed (`dd`, on the machine of docs/measurements.md).
#[derive(Debug)]
pub struct ImageFile {
    file: File,
}

impl ImageFile {
    /// Creates one for many pages at a time, in place of what has that name.
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

    /// Creates an ordinary file, for pages that come one by one: each would be waited for by itself.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn create_cached(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create(path)? })
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
    pub fn write_pages_at(&self, pages: &[u8], first: usize) -> io::Result<()> {
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

    /// Makes it an ordinary file. False if it is one.
    fn use_page_cache(&self) -> io::Result<bool> {
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

    #[test]
    fn pages_that_lie_anywhere_in_memory_come_to_their_places() -> std::io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("ram");
        let memory: Vec<u8> = (0..=250).cycle().take(3 * PAGE_BYTES + 1).collect();
        let file = ImageFile::create(&path)?;
        file.set_pages(5)?;
        // At most one of them is aligned.
        file.write_pages_at(&memory[..PAGE_BYTES], 4)?;
        file.write_pages_at(&memory[1..=2 * PAGE_BYTES], 1)?;
        file.sync()?;
        let mut expected = vec![0; 5 * PAGE_BYTES];
        expected[4 * PAGE_BYTES..].copy_from_slice(&memory[..PAGE_BYTES]);
        expected[PAGE_BYTES..3 * PAGE_BYTES].copy_from_slice(&memory[1..=2 * PAGE_BYTES]);
        assert!(std::fs::read(&path)? == expected, "pages are not in their places");
        Ok(())
    }
}
