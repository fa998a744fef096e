//! Answers to peers: a fair queue over peers, urgent ones first, with limited length, concurrency and rate.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pageswarm_checkpoint::{LineageId, NodeId};

use crate::births::BirthSet;
use crate::config::Config;
use crate::input::{RequestId, Urgency};
use crate::limits::UPLOAD_QUEUE_MAX;
use crate::output::Refusal;
use crate::time::{Time, nanos};

/// Of an upload rate limit, what may be sent at once after idleness.
const BURST: Duration = Duration::from_millis(50);

/// One answer, queued or being sent.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) request: RequestId,
    pub(crate) lineage: LineageId,
    pub(crate) births: BirthSet,
    /// Encoded bytes of `births`.
    pub(crate) bytes: u64,
    pub(crate) urgency: Urgency,
}

/// One peer's queue. `turn` is its virtual time of start-time fair queueing (Goyal, Vin and Cheng, 1996).
#[derive(Debug, Default)]
struct Queue {
    urgent: VecDeque<Upload>,
    normal: VecDeque<Upload>,
    turn: u64,
}

impl Queue {
    fn iter(&self) -> impl Iterator<Item = &Upload> {
        self.urgent.iter().chain(&self.normal)
    }
}

#[derive(Debug)]
struct Sending {
    upload: Upload,
    since: Time,
}

/// All answers of the node.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    queues: BTreeMap<NodeId, Queue>,
    sending: BTreeMap<(NodeId, RequestId), Sending>,
    turn: u64,
    /// With a rate limit: when the next answer may start.
    free_at: Time,
}

impl Uploads {
    /// Queues an answer.
    pub(crate) fn queue(&mut self, peer: NodeId, upload: Upload) -> Result<(), Refusal> {
        let at_peer = self.sending.range((peer, RequestId(0))..=(peer, RequestId(u64::MAX)));
        let sending = at_peer.count();
        let turn = self.turn;
        let queue = self.queues.entry(peer).or_insert_with(|| Queue { turn, ..Queue::default() });
        let known = queue.iter().any(|queued| queued.request == upload.request);
        if known || self.sending.contains_key(&(peer, upload.request)) {
            return Err(Refusal::Unreasonable);
        }
        if sending + queue.urgent.len() + queue.normal.len() >= UPLOAD_QUEUE_MAX {
            return Err(Refusal::Busy);
        }
        if queue.iter().next().is_none() {
            queue.turn = queue.turn.max(turn);
        }
        match upload.urgency {
            Urgency::Fault => queue.urgent.push_back(upload),
            Urgency::Deadline | Urgency::Normal => queue.normal.push_back(upload),
        }
        Ok(())
    }

    /// Takes the next answer to start sending.
    pub(crate) fn next(&mut self, now: Time, config: &Config) -> Option<(NodeId, &Upload)> {
        if config.upload_bytes_per_s.is_some() && now < self.free_at {
            return None;
        }
        let (peer, upload) = self.dequeue(config)?;
        if let Some(rate) = config.upload_bytes_per_s {
            let takes = upload.bytes.saturating_mul(1_000_000_000) / rate.max(1);
            let earliest = Time(now.0.saturating_sub(nanos(BURST)));
            self.free_at = self.free_at.max(earliest).after(Duration::from_nanos(takes));
        }
        let key = (peer, upload.request);
        self.sending.insert(key, Sending { upload, since: now });
        Some((peer, &self.sending[&key].upload))
    }

    /// An urgent answer of the peer whose turn is earliest, else a normal one; each kind has its own slots, and
    /// one peer has at most half of them while others wait.
    fn dequeue(&mut self, config: &Config) -> Option<(NodeId, Upload)> {
        for urgency in [Urgency::Fault, Urgency::Normal] {
            let used = |peer: Option<NodeId>| {
                let of_kind = |(key, sending): &(&(NodeId, RequestId), &Sending)| {
                    (sending.upload.urgency == Urgency::Fault) == (urgency == Urgency::Fault)
                        && peer.is_none_or(|peer| key.0 == peer)
                };
                self.sending.iter().filter(of_kind).count()
            };
            if used(None) >= config.upload_slots {
                continue;
            }
            let backlogged = |queue: &Queue| match urgency {
                Urgency::Fault => !queue.urgent.is_empty(),
                Urgency::Deadline | Urgency::Normal => !queue.normal.is_empty(),
            };
            let half = config.upload_slots.div_ceil(2);
            let choice = self.queues.iter().filter(|(_, queue)| backlogged(queue));
            let choice = choice.filter(|(peer, _)| used(Some(**peer)) < half);
            let Some(peer) = choice.min_by_key(|(_, queue)| queue.turn).map(|(peer, _)| *peer) else {
                continue;
            };
            let queue = self.queues.get_mut(&peer).expect("it was chosen from there");
            let upload = match urgency {
                Urgency::Fault => queue.urgent.pop_front(),
                Urgency::Deadline | Urgency::Normal => queue.normal.pop_front(),
            };
            let upload = upload.expect("it is backlogged");
            self.turn = self.turn.max(queue.turn);
            queue.turn = queue.turn.saturating_add(upload.bytes);
            return Some((peer, upload));
        }
        None
    }

    /// An answer is sent, given up or abandoned; returns it if it was being sent.
    pub(crate) fn done(&mut self, peer: NodeId, request: RequestId) -> Option<Upload> {
        self.sending.remove(&(peer, request)).map(|sending| sending.upload)
    }

    /// Takes an answer out of the queue if it has not started.
    pub(crate) fn withdraw(&mut self, peer: NodeId, request: RequestId) -> Option<Upload> {
        let queue = self.queues.get_mut(&peer)?;
        for part in [&mut queue.urgent, &mut queue.normal] {
            if let Some(at) = part.iter().position(|upload| upload.request == request) {
                return part.remove(at);
            }
        }
        None
    }

    /// The peer is gone with its answers.
    pub(crate) fn forget_peer(&mut self, peer: NodeId) {
        self.queues.remove(&peer);
        self.sending.retain(|(to, _), _| *to != peer);
    }

    /// Numbers of a peer's answers in a lineage: those queued are dropped, those being sent are returned.
    pub(crate) fn leave(&mut self, peer: NodeId, lineage: LineageId) -> Vec<RequestId> {
        if let Some(queue) = self.queues.get_mut(&peer) {
            queue.urgent.retain(|upload| upload.lineage != lineage);
            queue.normal.retain(|upload| upload.lineage != lineage);
        }
        let at_peer = self.sending.range((peer, RequestId(0))..=(peer, RequestId(u64::MAX)));
        let leaving = at_peer.filter(|(_, sending)| sending.upload.lineage == lineage);
        leaving.map(|((_, request), _)| *request).collect()
    }

    /// Answers that have been sent for longer than allowed.
    pub(crate) fn overdue(&self, now: Time, config: &Config) -> Vec<(NodeId, RequestId)> {
        let late = |sending: &Sending| sending.since.after(config.serve_timeout) <= now;
        self.sending.iter().filter(|(_, sending)| late(sending)).map(|(key, _)| *key).collect()
    }

    /// When the first answer becomes overdue.
    pub(crate) fn next_overdue(&self, config: &Config) -> Option<Time> {
        let first = self.sending.values().map(|sending| sending.since).min()?;
        Some(first.after(config.serve_timeout))
    }

    /// When the rate limit lets a waiting answer start.
    pub(crate) fn next_start(&self, now: Time, config: &Config) -> Option<Time> {
        config.upload_bytes_per_s?;
        let waits = self.queues.values().any(|queue| queue.iter().next().is_some());
        (waits && self.free_at > now).then_some(self.free_at)
    }

    /// Answers queued or being sent.
    pub(crate) fn len(&self) -> usize {
        let queued: usize = self.queues.values().map(|queue| queue.iter().count()).sum();
        queued + self.sending.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageswarm_checkpoint::Birth;

    fn upload(request: u64, bytes: u64, urgency: Urgency) -> Upload {
        let births = BirthSet::range(Birth(request), Birth(request));
        Upload { request: RequestId(request), lineage: LineageId([0; 32]), births, bytes, urgency }
    }

    #[test]
    fn peers_share_by_bytes_and_urgent_answers_go_first() {
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let config = Config { upload_slots: 1, ..Config::default() };
        let mut uploads = Uploads::default();
        for i in 0..8 {
            uploads.queue(a, upload(i, 300, Urgency::Normal)).unwrap();
            uploads.queue(b, upload(i, 100, Urgency::Normal)).unwrap();
        }
        uploads.queue(b, upload(99, 10, Urgency::Fault)).unwrap();
        let mut order = Vec::new();
        while let Some((peer, sent)) = uploads.next(Time::ZERO, &config) {
            let request = sent.request;
            order.push((peer, request.0));
            assert!(uploads.done(peer, request).is_some());
        }
        assert_eq!(order[0], (b, 99));
        let first_eight = &order[1..9];
        assert_eq!(first_eight.iter().filter(|(peer, _)| *peer == b).count(), 6, "{order:?}");
        assert_eq!(order.len(), 17);
    }

    #[test]
    fn queues_are_capped_and_numbers_are_not_reused() {
        let a = NodeId([1; 32]);
        let mut uploads = Uploads::default();
        for i in 0..64 {
            uploads.queue(a, upload(i, 1, Urgency::Normal)).unwrap();
        }
        assert_eq!(uploads.queue(a, upload(3, 1, Urgency::Normal)), Err(Refusal::Unreasonable));
        assert_eq!(uploads.queue(a, upload(64, 1, Urgency::Fault)), Err(Refusal::Busy));
    }

    #[test]
    fn the_rate_limit_spaces_answers() {
        let a = NodeId([1; 32]);
        let config = Config { upload_bytes_per_s: Some(1000), ..Config::default() };
        let mut uploads = Uploads::default();
        uploads.queue(a, upload(0, 1000, Urgency::Normal)).unwrap();
        uploads.queue(a, upload(1, 1000, Urgency::Normal)).unwrap();
        let start = Time::from_millis(10_000);
        assert!(uploads.next(start, &config).is_some());
        assert!(uploads.next(start, &config).is_none());
        assert_eq!(uploads.next_start(start, &config), Some(Time::from_millis(10_950)));
        assert!(uploads.next(Time::from_millis(10_950), &config).is_some());
    }
}
