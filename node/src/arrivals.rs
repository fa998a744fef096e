//! Objects on their way here: whoever asks for one gets what has come of it, and the rest as it comes.
//!
//! All members need each delta, and one has some 35 bytes for each new page. A node that passed it on only when all of it
//! is there would make each level of the tree wait for the one above. What is passed on is not proven yet: each member
//! compares the whole with the hash in the head, and asks another where it differs. Only the first
//! answer is passed on as it comes; later ones are given to others once they are proven.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    came: watch::Receiver<Vec<u8>>,
}

/// Bytes given to a stream at a time.
const PART_BYTES: usize = 64 << 10;

/// A delta that is being received. Dropping it ends what is passed on of it, unless it is proven.
#[derive(Debug)]
pub struct Arrival<'a> {
    arrivals: &'a Arrivals,
    key: Key,
    length: usize,
    came: watch::Sender<Vec<u8>>,
    is_proven: bool,
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
    /// A delta of so many bytes is about to come, to be passed on to whoever asks for it.
    pub fn begin(&self, lineage: LineageId, index: CheckpointIndex, length: usize) -> Arrival<'_> {
        let arrival = self.begin_unseen(lineage, index, length);
        lock(&self.open).insert(arrival.key, arrival.seen());
        self.changed.notify_waiters();
        arrival
    }

    /// The same, not to be passed on.
    pub fn begin_unseen(&self, lineage: LineageId, index: CheckpointIndex, length: usize) -> Arrival<'_> {
        Arrival {
            arrivals: self,
            key: (lineage, index),
            length,
            came: watch::channel(Vec::new()).0,
            is_proven: false,
        }
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
        self.length - self.came.borrow().len()
    }

    /// These came next; false if they are more than were to come.
    #[must_use]
    pub fn add(&self, part: &[u8]) -> bool {
        if part.len() > self.left() {
            return false;
        }
        // A copy: the part may be a few bytes of a packet that would stay as a whole.
        self.came.send_modify(|came| came.extend_from_slice(part));
        true
    }

    /// What has come, as those see it who pass it on.
    #[must_use]
    pub fn seen(&self) -> Passage {
        Passage { length: self.length, came: self.came.subscribe() }
    }

    /// All has come and is what was asked for: whoever passes it on may do so to the end.
    pub const fn prove(&mut self) {
        self.is_proven = true;
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        if !self.is_proven {
            // Nobody is to have the rest of it, nor to keep it.
            self.came.send_replace(Vec::new());
        }
        let mut open = lock(&self.arrivals.open);
        // Another one may have begun since.
        if open.get(&self.key).is_some_and(|passage| passage.came.same_channel(&self.came.subscribe())) {
            open.remove(&self.key);
        }
    }
}

impl Passage {
    /// Its length.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length as u64
    }

    /// A copy of all that has come.
    #[must_use]
    pub fn whole(&self) -> Vec<u8> {
        self.came.borrow().clone()
    }

    /// Sends what has come and what comes, and tells `sent` how many bytes.
    ///
    /// # Errors
    ///
    /// [`PassOnError`].
    pub async fn pass_on(mut self, send: &mut SendStream, sent: impl Fn(usize)) -> Result<(), PassOnError> {
        frames::write(send, &ObjectAnswer::Found { length: self.length as u64 }.encode()).await?;
        let (mut done, mut has_ended) = (0, false);
        while done < self.length {
            let rest =
                |came: &[u8]| Some(came.get(done..)?.chunks(PART_BYTES).next().unwrap_or_default().to_vec());
            // What was there and is not any more came to no good end.
            let part = rest(&self.came.borrow_and_update()).ok_or(PassOnError::Ended)?;
            if part.is_empty() {
                if has_ended {
                    return Err(PassOnError::Ended);
                }
                // Its last part may have come with its end.
                has_ended = self.came.changed().await.is_err();
                continue;
            }
            send.write_all(&part).await.map_err(FrameError::from)?;
            done += part.len();
            sent(part.len());
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ed25519_dalek::SigningKey;
    use quinn::RecvStream;
    use tokio::time::timeout;

    use super::*;
    use crate::transport::endpoint::{self, DataEndpoint};
    use crate::transport::tls;

    const LINEAGE: LineageId = LineageId([7; 32]);
    const SOON: Duration = Duration::from_secs(20);

    fn request(index: u64) -> ObjectRequest {
        ObjectRequest::Delta(LINEAGE, CheckpointIndex(index))
    }

    #[test]
    fn what_comes_can_be_had_until_it_ends() {
        let arrivals = Arrivals::default();
        let mut arrival = arrivals.begin(LINEAGE, CheckpointIndex(3), 5);
        assert!(arrival.add(b"abc"));
        assert_eq!(arrival.left(), 2);
        assert!(!arrival.add(b"def"), "more than was to come");
        assert!(arrivals.get(&request(4)).is_none());
        let passage = arrivals.get(&request(3)).unwrap();
        assert!(arrival.add(b"de"));
        assert_eq!(passage.whole(), b"abcde");
        arrival.prove();
        drop(arrival);
        assert_eq!(passage.whole(), b"abcde");
        assert!(arrivals.get(&request(3)).is_none());
    }

    #[test]
    fn what_is_not_proven_is_kept_for_nobody() {
        let arrivals = Arrivals::default();
        let arrival = arrivals.begin(LINEAGE, CheckpointIndex(0), 3);
        assert!(arrival.add(b"bad"));
        let passage = arrival.seen();
        assert_eq!(passage.whole(), b"bad");
        drop(arrival);
        assert_eq!(passage.whole(), b"");
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
        let unseen = arrivals.begin_unseen(LINEAGE, CheckpointIndex(0), 5);
        assert!(arrivals.get(&request(0)).is_none());
        drop(unseen);
    }

    /// A stream between two endpoints of this process, and what keeps it open.
    async fn stream() -> (SendStream, RecvStream, [DataEndpoint; 2]) {
        let key = |number: u8| SigningKey::from_bytes(&[number; 32]);
        let open = |number| endpoint::open("127.0.0.1:0".parse().unwrap(), &key(number)).unwrap();
        let [server, client] = [open(1), open(2)];
        let address = server.endpoint.local_addr().unwrap();
        let connect = async {
            let connection = client.endpoint.connect(address, tls::SERVER_NAME).unwrap().await.unwrap();
            let (mut send, receive) = connection.open_bi().await.unwrap();
            send.write_all(b"?").await.unwrap();
            (send, receive)
        };
        let accept = async {
            let connection = server.endpoint.accept().await.unwrap().await.unwrap();
            connection.accept_bi().await.unwrap().0
        };
        let ((asking, receive), send) = tokio::join!(connect, accept);
        // What was asked stays open as long as the answer.
        tokio::spawn(async move { asking.stopped().await.map(|_| ()) });
        (send, receive, [server, client])
    }

    #[tokio::test]
    async fn the_first_half_is_there_before_the_second_came() {
        let arrivals = Arrivals::default();
        let contents: Vec<u8> = (0..300_000_u32).map(|at| at.to_le_bytes()[1]).collect();
        let (first, second) = contents.split_at(150_000);
        let mut arrival = arrivals.begin(LINEAGE, CheckpointIndex(0), contents.len());
        let passage = arrivals.get(&request(0)).unwrap();
        let (mut send, mut receive, _endpoints) = stream().await;
        let passing = tokio::spawn(async move {
            let passed = passage.pass_on(&mut send, |_| {}).await;
            send.finish().unwrap();
            send.stopped().await.unwrap();
            passed
        });
        assert!(arrival.add(first));
        let frame = frames::read(&mut receive).await.unwrap().unwrap();
        assert_eq!(ObjectAnswer::decode(&frame), Ok(ObjectAnswer::Found { length: contents.len() as u64 }));
        let mut half = vec![0; first.len()];
        timeout(SOON, receive.read_exact(&mut half)).await.unwrap().unwrap();
        assert_eq!(half, first);
        assert!(arrival.add(second));
        arrival.prove();
        drop(arrival);
        assert_eq!(receive.read_to_end(contents.len()).await.unwrap(), second);
        passing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_does_not_come_any_more_is_not_waited_for() {
        let arrivals = Arrivals::default();
        let arrival = arrivals.begin(LINEAGE, CheckpointIndex(0), 1000);
        let passage = arrivals.get(&request(0)).unwrap();
        let (mut send, mut receive, _endpoints) = stream().await;
        let passing = tokio::spawn(async move { passage.pass_on(&mut send, |_| {}).await });
        assert!(arrival.add(&[7; 600]));
        frames::read(&mut receive).await.unwrap().unwrap();
        timeout(SOON, receive.read_exact(&mut [0; 600])).await.unwrap().unwrap();
        drop(arrival);
        let passed = timeout(SOON, passing).await.unwrap().unwrap();
        assert!(matches!(passed, Err(PassOnError::Ended)));
    }
}
