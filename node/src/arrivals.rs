//! Objects on their way here: whoever asks for one gets what has come of it, and the rest as it comes.
//!
//! All members need each delta, and a delta may be as long as a thousandth of the RAM it describes. A node that passed
//! one on only when all of it is there would make each level of the tree wait for the one above. What is passed on is
//! not proven yet: each member compares the whole with the hash in the head, and asks another where it differs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use pageswarm_checkpoint::wire::{ObjectAnswer, ObjectRequest};
use pageswarm_checkpoint::{CheckpointIndex, LineageId};
use quinn::SendStream;
use tokio::sync::{Notify, watch};

use crate::transport::frames::{self, FrameError};

/// Which delta.
type Key = (LineageId, CheckpointIndex);

/// The deltas on their way here.
#[derive(Debug, Default)]
pub struct Arrivals {
    open: Mutex<BTreeMap<Key, Passage>>,
    changed: Arc<Notify>,
}

/// Of a delta, what has come; given to those who pass it on.
#[derive(Clone, Debug)]
pub struct Passage {
    length: usize,
    came: watch::Receiver<Came>,
}

#[derive(Debug, Default)]
struct Came {
    parts: Vec<Bytes>,
    bytes: usize,
}

/// A delta that is being received. Dropping it ends what is passed on of it, unless all has come.
#[derive(Debug)]
pub struct Arrival<'a> {
    arrivals: &'a Arrivals,
    key: Key,
    length: usize,
    came: watch::Sender<Came>,
}

/// Why an object was not passed on to its end.
#[derive(Debug, thiserror::Error)]
pub enum PassOnError {
    /// It does not come any more.
    #[error("what was passed on ended early")]
    Ended,
    /// The stream cannot be written.
    #[error("stream cannot be written")]
    Frame(#[from] FrameError),
}

impl Arrivals {
    /// A delta of so many bytes is about to come.
    pub fn begin(&self, lineage: LineageId, index: CheckpointIndex, length: usize) -> Arrival<'_> {
        let (came, seen) = watch::channel(Came::default());
        let key = (lineage, index);
        lock(&self.open).insert(key, Passage { length, came: seen });
        self.changed.notify_waiters();
        Arrival { arrivals: self, key, length, came }
    }

    /// What is asked for, if it is on its way.
    #[must_use]
    pub fn get(&self, request: &ObjectRequest) -> Option<Passage> {
        match request {
            ObjectRequest::Delta(lineage, index) => lock(&self.open).get(&(*lineage, *index)).cloned(),
            _ => None,
        }
    }

    /// Completes when another delta begins to come. Take it before looking, so that none is missed.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut waiting = Box::pin(Arc::clone(&self.changed).notified_owned());
        waiting.as_mut().enable();
        waiting
    }
}

impl Arrival<'_> {
    /// Bytes that have not come yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.length - self.came.borrow().bytes
    }

    /// These came next; false if they are more than were to come.
    #[must_use]
    pub fn add(&self, part: Bytes) -> bool {
        if part.len() > self.left() {
            return false;
        }
        self.came.send_modify(|came| {
            came.bytes += part.len();
            came.parts.push(part);
        });
        true
    }

    /// All that came.
    #[must_use]
    pub fn whole(&self) -> Vec<u8> {
        self.came.borrow().parts.concat()
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let mut open = lock(&self.arrivals.open);
        // Another one may have begun since.
        if open.get(&self.key).is_some_and(|passage| passage.came.same_channel(&self.came.subscribe())) {
            open.remove(&self.key);
        }
    }
}

impl Passage {
    /// Sends what has come and what comes; returns the bytes sent.
    ///
    /// # Errors
    ///
    /// [`PassOnError`].
    pub async fn pass_on(mut self, send: &mut SendStream) -> Result<usize, PassOnError> {
        frames::write(send, &ObjectAnswer::Found { length: self.length as u64 }.encode()).await?;
        let (mut next, mut bytes, mut has_ended) = (0, 0, false);
        loop {
            let parts: Vec<Bytes> = self.came.borrow_and_update().parts[next..].to_vec();
            next += parts.len();
            for part in parts {
                bytes += part.len();
                send.write_chunk(part).await.map_err(FrameError::from)?;
            }
            if bytes == self.length {
                return Ok(bytes);
            }
            if has_ended {
                return Err(PassOnError::Ended);
            }
            // Its last part may have come with its end.
            has_ended = self.came.changed().await.is_err();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINEAGE: LineageId = LineageId([7; 32]);

    fn request(index: u64) -> ObjectRequest {
        ObjectRequest::Delta(LINEAGE, CheckpointIndex(index))
    }

    #[test]
    fn what_comes_can_be_had_until_it_ends() {
        let arrivals = Arrivals::default();
        let arrival = arrivals.begin(LINEAGE, CheckpointIndex(3), 5);
        assert!(arrival.add(Bytes::from_static(b"abc")));
        assert_eq!(arrival.left(), 2);
        assert!(!arrival.add(Bytes::from_static(b"def")), "more than was to come");
        assert!(arrivals.get(&request(4)).is_none());
        let passage = arrivals.get(&request(3)).unwrap();
        assert!(arrival.add(Bytes::from_static(b"de")));
        assert_eq!(passage.came.borrow().parts.concat(), b"abcde");
        assert_eq!(arrival.whole(), b"abcde");
        drop(arrival);
        assert!(arrivals.get(&request(3)).is_none());
    }

    #[test]
    fn one_that_ends_takes_no_other_with_it() {
        let arrivals = Arrivals::default();
        let first = arrivals.begin(LINEAGE, CheckpointIndex(0), 5);
        let second = arrivals.begin(LINEAGE, CheckpointIndex(0), 5);
        drop(first);
        assert!(arrivals.get(&request(0)).is_some());
        drop(second);
        assert!(arrivals.get(&request(0)).is_none());
    }
}
