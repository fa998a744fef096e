//! The staging area's slots as the child sees them: free, in a batch that the parent holds, or in the copier's hands.

use crate::memory::SharedMemory;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A shared staging area and who has which of its slots.
#[derive(Debug)]
pub(crate) struct Staging {
    pub(crate) memory: SharedMemory,
    slots: Mutex<Slots>,
    freed: Condvar,
}

#[derive(Debug)]
struct Slots {
    free: Vec<u32>,
    batches: BTreeMap<u64, Vec<u32>>,
    next_batch: u64,
}

impl Staging {
    /// All slots free.
    pub(crate) fn new(memory: SharedMemory) -> Self {
        let free = (0..u32::try_from(memory.pages()).unwrap_or(u32::MAX)).rev().collect();
        let slots = Slots { free, batches: BTreeMap::new(), next_batch: 0 };
        Self { memory, slots: Mutex::new(slots), freed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves every free slot into `reserve`, first waiting until it then has at least `wanted`.
    pub(crate) fn take(&self, reserve: &mut Vec<u32>, wanted: usize) {
        let mut slots = self.lock();
        loop {
            reserve.append(&mut slots.free);
            if reserve.len() >= wanted {
                return;
            }
            slots = self.freed.wait(slots).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives slots to the parent under a new batch number.
    pub(crate) fn hand_over(&self, given: Vec<u32>) -> u64 {
        let mut slots = self.lock();
        let batch = slots.next_batch;
        slots.next_batch += 1;
        slots.batches.insert(batch, given);
        batch
    }

    /// Takes a batch's slots back; an unknown batch is ignored.
    pub(crate) fn release(&self, batch: u64) {
        let mut slots = self.lock();
        if let Some(mut given) = slots.batches.remove(&batch) {
            slots.free.append(&mut given);
            self.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_batches_come_back_and_unknown_ones_do_not() {
        let staging = Staging::new(SharedMemory::create(8).unwrap());
        let mut reserve = Vec::new();
        staging.take(&mut reserve, 8);
        let batch = staging.hand_over(reserve.split_off(3));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut more = Vec::new();
                staging.take(&mut more, 5);
                more.len()
            });
            staging.release(batch + 1);
            staging.release(batch);
            assert_eq!(waiting.join().unwrap(), 5);
        });
        staging.release(batch);
        staging.take(&mut reserve, 0);
        assert_eq!(reserve.len(), 3);
    }
}
