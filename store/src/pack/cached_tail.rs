//! Keeps of the packs in the kernel's page cache what was written last.
//!
//! What a store takes in is asked for most soon afterwards. Left alone, the cache grows until the kernel needs room: pages
//! that nobody reads any more, each of them memory that the machine has to find. In a VM whose host takes free memory
//! back that costs more than the write itself, so pages that left are used again for what comes.

use std::collections::VecDeque;
use std::fs::File;
use std::num::NonZeroU64;
use std::sync::Arc;

use rustix::fs::{Advice, fadvise};

/// Taken out of the cache at a time.
const STEP_BYTES: u64 = 16 << 20;

/// What of the packs was written and is taken to be in the page cache still.
#[derive(Debug)]
pub(super) struct CachedTail {
    bytes_max: u64,
    /// In the order in which they were written; only the last one grows.
    stretches: VecDeque<Stretch>,
    bytes: u64,
}

#[derive(Debug)]
struct Stretch {
    file: Arc<File>,
    start: u64,
    end: u64,
}

impl CachedTail {
    /// Nothing yet. More than `bytes_max` stay only until the next step is full.
    pub(super) const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, stretches: VecDeque::new(), bytes: 0 }
    }

    /// Notes that `file` was written to from `start` to `end`, and takes out what is beyond the bound. What is not on the
    /// disk yet stays, whatever the bound says.
    pub(super) fn note_written(&mut self, file: &Arc<File>, start: u64, end: u64) {
        match self.stretches.back_mut().filter(|last| Arc::ptr_eq(&last.file, file) && last.end == start) {
            Some(last) => last.end = end,
            None => self.stretches.push_back(Stretch { file: Arc::clone(file), start, end }),
        }
        self.bytes += end.saturating_sub(start);
        while self.bytes >= self.bytes_max.saturating_add(STEP_BYTES) {
            self.take_out_oldest();
        }
    }

    fn take_out_oldest(&mut self) {
        let Some(oldest) = self.stretches.front_mut() else { return };
        let length = STEP_BYTES.min(oldest.end - oldest.start);
        if let Some(length) = NonZeroU64::new(length) {
            // An advice: a page that the kernel does not take out now goes when it needs the room.
            let _taken = fadvise(&*oldest.file, oldest.start, Some(length), Advice::DontNeed);
        }
        oldest.start += length;
        self.bytes -= length;
        if oldest.start == oldest.end {
            self.stretches.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSliceMut;
    use std::os::unix::fs::FileExt;

    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    use super::*;

    fn is_cached(file: &File, offset: u64) -> bool {
        let mut byte = [0];
        match preadv2(file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => read == 1,
            Err(Errno::AGAIN) => false,
            Err(error) => panic!("cannot tell what is in the page cache: {error}"),
        }
    }

    /// Whether the file system under the working directory tells what is cached; if not, says so.
    fn tells_what_is_cached() -> bool {
        let file = tempfile::tempfile_in(".").unwrap();
        let told = preadv2(&file, &mut [IoSliceMut::new(&mut [0])], 0, ReadWriteFlags::NOWAIT);
        if told == Err(Errno::OPNOTSUPP) {
            println!("SKIP: this file system does not tell what is in the page cache");
        }
        told != Err(Errno::OPNOTSUPP)
    }

    /// Goal: what was written last stays in the page cache, what was written before leaves it, across packs. Method: two
    /// files of 40 MiB on a bound of 32 MiB; reads that may not wait for the disk tell what is cached. Result: of the 80
    /// MiB the first 32 are not there, the last 32 are, and what is between may be either.
    #[test]
    fn what_was_written_first_leaves_the_page_cache() {
        const MIB: u64 = 1 << 20;
        if !tells_what_is_cached() {
            return;
        }
        let mut cached = CachedTail::new(32 * MIB);
        let written = vec![7; 1 << 20];
        let files: [Arc<File>; 2] = std::array::from_fn(|_| Arc::new(tempfile::tempfile_in(".").unwrap()));
        for file in &files {
            for start in (0..40).map(|at| at * MIB) {
                file.write_all_at(&written, start).unwrap();
                file.sync_data().unwrap();
                cached.note_written(file, start, start + MIB);
            }
        }
        let places = files.iter().flat_map(|file| (0..40).map(move |at| (file, at * MIB)));
        let there: Vec<bool> = places.map(|(file, offset)| is_cached(file, offset)).collect();
        assert!(there[..32].iter().all(|cached| !cached), "{there:?}");
        assert!(there[48..].iter().all(|cached| *cached), "{there:?}");
        assert!((32 * MIB..48 * MIB).contains(&cached.bytes));
    }

    /// Goal: a batch that is taken back, and one written over it, are counted without harm. Method: the same stretch is
    /// noted twice. Result: both leave, one after the other, and nothing is left that is less than nothing.
    #[test]
    fn a_stretch_written_again_is_counted_again() {
        let mut cached = CachedTail::new(0);
        let file = Arc::new(tempfile::tempfile_in(".").unwrap());
        for _ in 0..3 {
            cached.note_written(&file, 4096, STEP_BYTES);
        }
        assert!(cached.bytes < STEP_BYTES, "{cached:?}");
    }
}
