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

/// Taken out of the cache at a time, up to a multiple of it in the file: what the kernel keeps together in one piece of up to a few
/// MiB stays as long as the advice is for a part of it.
const STEP_BYTES: u64 = 16 << 20;
/// Stretches begin anywhere in a page, and the advice is for whole ones.
const PAGE_BYTES: u64 = 4096;

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
    /// disk yet stays, whatever the bound says. A batch that was taken back is written over, and counts once.
    pub(super) fn note_written(&mut self, file: &Arc<File>, start: u64, end: u64) {
        match self.stretches.back_mut().filter(|last| Arc::ptr_eq(&last.file, file)) {
            Some(last) => {
                self.bytes -= last.end - last.start;
                last.start = last.start.min(start);
                last.end = end;
                self.bytes += last.end - last.start;
            }
            None => {
                self.stretches.push_back(Stretch { file: Arc::clone(file), start, end });
                self.bytes += end - start;
            }
        }
        while self.bytes >= self.bytes_max.saturating_add(STEP_BYTES) {
            self.take_out_oldest();
        }
    }

    fn take_out_oldest(&mut self) {
        let Some(oldest) = self.stretches.front_mut() else { return };
        let length = (STEP_BYTES - oldest.start % STEP_BYTES).min(oldest.end - oldest.start);
        let from = oldest.start - oldest.start % PAGE_BYTES;
        if let Some(length) = NonZeroU64::new(oldest.start + length - from) {
            // An advice: a page that the kernel does not take out now goes when it needs the room.
            let _taken = fadvise(&*oldest.file, from, Some(length), Advice::DontNeed);
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
    /// files of 64 bytes and 40 MiB, written 5 MiB at a time, on a bound of 32 MiB; reads that may not wait for the disk tell what
    /// is cached. Result: of the 80 MiB hardly any of the first 28 are there and hardly any of the last 32 are not. Hardly: to
    /// ask may bring a page back, and the kernel may need room for others.
    #[test]
    fn what_was_written_first_leaves_the_page_cache() {
        const MIB: u64 = 1 << 20;
        const FIRST: u64 = 64;
        if !tells_what_is_cached() {
            return;
        }
        let mut cached = CachedTail::new(32 * MIB);
        let written = vec![7; 5 << 20];
        let files: [Arc<File>; 2] = std::array::from_fn(|_| Arc::new(tempfile::tempfile_in(".").unwrap()));
        for file in &files {
            for start in (0..8).map(|at| FIRST + at * 5 * MIB) {
                file.write_all_at(&written, start).unwrap();
                file.sync_data().unwrap();
                cached.note_written(file, start, start + 5 * MIB);
            }
        }
        for file in &files {
            // To ask for a page must not bring those behind it.
            fadvise(file, 0, None, Advice::Random).unwrap();
        }
        // Four places in each MiB.
        let places = files.iter().flat_map(|file| (0..160).map(move |at| (file, FIRST + at * MIB / 4)));
        let there: Vec<bool> = places.map(|(file, offset)| is_cached(file, offset)).collect();
        let count = |part: &[bool], cached: bool| part.iter().filter(|there| **there == cached).count();
        assert!(count(&there[..4 * 28], true) <= 4, "{there:?}");
        assert!(count(&there[4 * 48..], false) <= 4, "{there:?}");
        assert!((32 * MIB..48 * MIB).contains(&cached.bytes));
    }

    /// Goal: a batch that was taken back counts as long as nothing is written in its place, and then no more. Method: a batch is
    /// written three times at the same place, and a shorter one over it. Result: what counts is what is there.
    #[test]
    fn what_is_written_in_the_place_of_what_was_taken_back_counts_once() {
        let mut cached = CachedTail::new(STEP_BYTES);
        let file = Arc::new(tempfile::tempfile_in(".").unwrap());
        cached.note_written(&file, 64, 1000);
        for _ in 0..3 {
            cached.note_written(&file, 1000, STEP_BYTES);
            assert_eq!(cached.bytes, STEP_BYTES - 64);
        }
        cached.note_written(&file, 1000, 2000);
        assert_eq!((cached.bytes, cached.stretches.len()), (2000 - 64, 1));
    }

    /// Goal: a bound of nothing is one, too. Method: two files, the first one's batch taken back after it left. Result: nothing
    /// is counted that is not there.
    #[test]
    fn what_left_and_is_written_again_is_counted_again() {
        let mut cached = CachedTail::new(0);
        let files: [Arc<File>; 2] = std::array::from_fn(|_| Arc::new(tempfile::tempfile_in(".").unwrap()));
        cached.note_written(&files[0], 64, 2 * STEP_BYTES);
        assert_eq!((cached.bytes, cached.stretches.len()), (0, 0));
        cached.note_written(&files[0], 1000, 3000);
        cached.note_written(&files[1], 64, STEP_BYTES);
        assert_eq!((cached.bytes, cached.stretches.len()), (STEP_BYTES - 64, 1));
    }
}
