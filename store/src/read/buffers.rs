//! Memory that packs are read into, kept from one read to the next: fresh memory is cleared twice, by the kernel and
//! here, and costs a fault a page.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::RUN_BYTES_MAX;

/// Buffers kept: as many threads as read at a time without getting in each other's way.
const SPARE_MAX: usize = 4;

/// Buffers that nobody reads into at the moment.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffers {
    spare: Mutex<Vec<ReadBuffer>>,
}

/// A buffer with room for what it was last filled with.
#[derive(Debug, Default)]
pub(super) struct ReadBuffer(Vec<u8>);

impl ReadBuffers {
    pub(super) fn take(&self) -> ReadBuffer {
        self.lock().pop().unwrap_or_default()
    }

    /// Keeps it for the next read, unless there are enough or it has grown for a record of unusual length.
    pub(super) fn give_back(&self, buffer: ReadBuffer) {
        let mut spare = self.lock();
        if spare.len() < SPARE_MAX && buffer.0.len() <= RUN_BYTES_MAX {
            spare.push(buffer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<ReadBuffer>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadBuffer {
    /// Room for `length` bytes, of which nothing is said but that they are there.
    pub(super) fn room(&mut self, length: usize) -> &mut [u8] {
        if self.0.len() < length {
            self.0.resize(length, 0);
        }
        &mut self.0[..length]
    }
}
