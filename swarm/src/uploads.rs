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

/// While others wait, urgent answers have this many times as many bytes as they: whoever claims that everything is
/// urgent must not bring the rest to a halt.
const URGENT_SHARE: u64 = 3;

/// Bytes of urgent answers beyond that share before the others have their turn: what a stopped guest needs at once.
const URGENT_BYTES_AHEAD: u64 = 1 << 20;

/// One answer, queued or being sent.
#[derive(Debug)]
pub(crate) struct Upload {
    pub(crate) request: RequestId,
    pub(crate) lineage: LineageId,
    pub(crate) births: BirthSet,
    /// Encoded bytes of `births`.
    pub(crate) bytes: u64,
    pub(crate) urgency: Urgency,
    /// How many others were known to hold the rarest of `births` when it was asked for, up to three.
    pub(crate) copies: u8,
    /// When it was asked for.
    pub(crate) since: Time,
}

/// Bulk that has waited this long goes before what is rarer.
const PATIENCE: Duration = Duration::from_millis(100);

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
    /// How many are queued: bulk, then urgent ones.
    queued: [usize; 2],
    /// How many are being sent: bulk, then urgent ones.
    started: [usize; 2],
    turn: u64,
    /// Bytes of urgent answers beyond their share, while others wait.
    urgent_ahead: u64,
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
        self.queued[kind(upload.urgency)] += 1;
        match upload.urgency {
            Urgency::Fault => queue.urgent.push_back(upload),
            Urgency::Deadline | Urgency::Normal => queue.normal.push_back(upload),
        }
        Ok(())
    }

    /// Whether an answer to a peer waits or is being sent.
    pub(crate) fn has_any_of(&self, peer: NodeId) -> bool {
        let mut at_peer = self.sending.range((peer, RequestId(0))..=(peer, RequestId(u64::MAX)));
        at_peer.next().is_some() || self.queues.get(&peer).is_some_and(|queue| queue.iter().next().is_some())
    }

    /// Takes the next answer to start sending.
    pub(crate) fn next(&mut self, now: Time, config: &Config) -> Option<(NodeId, &Upload)> {
        if config.upload_bytes_per_s.is_some() && now < self.free_at {
            return None;
        }
        let (peer, upload) = self.dequeue(now, config)?;
        if let Some(rate) = config.upload_bytes_per_s {
            let takes = upload.bytes.saturating_mul(1_000_000_000) / rate.max(1);
            let earliest = Time(now.0.saturating_sub(nanos(BURST)));
            self.free_at = self.free_at.max(earliest).after(Duration::from_nanos(takes));
        }
        let key = (peer, upload.request);
        self.started[kind(upload.urgency)] += 1;
        self.sending.insert(key, Sending { upload, since: now });
        Some((peer, &self.sending[&key].upload))
    }

    /// An urgent answer of the peer whose turn is earliest, else a normal one, the rarest first: what few hold is worth
    /// most where it can be passed on, and what many hold need not come from here. Each kind has its own slots, and
    /// one peer has at most half of them.
    fn dequeue(&mut self, now: Time, config: &Config) -> Option<(NodeId, Upload)> {
        for urgency in [Urgency::Fault, Urgency::Normal] {
            let kind_wanted = kind(urgency);
            if self.queued[kind_wanted] == 0 || self.started[kind_wanted] >= config.upload_slots {
                continue;
            }
            if urgency == Urgency::Fault && self.is_urgent_enough() {
                continue;
            }
            let sent_to =
                self.sending.iter().filter(|(_, sending)| kind(sending.upload.urgency) == kind_wanted);
            let sent_to: Vec<NodeId> = sent_to.map(|((peer, _), _)| *peer).collect();
            let used = |peer: NodeId| sent_to.iter().filter(|other| **other == peer).count();
            let backlogged = |queue: &Queue| match urgency {
                Urgency::Fault => !queue.urgent.is_empty(),
                Urgency::Deadline | Urgency::Normal => !queue.normal.is_empty(),
            };
            let half = config.upload_slots.div_ceil(2);
            let choice = self.queues.iter().filter(|(_, queue)| backlogged(queue));
            let choice = choice.filter(|(peer, _)| used(**peer) < half);
            let rank = |queue: &Queue| match (urgency, queue.normal.front()) {
                (Urgency::Normal, Some(first)) if first.since.after(PATIENCE) > now => {
                    (first.copies, queue.turn)
                }
                _ => (0, queue.turn),
            };
            let Some(peer) = choice.min_by_key(|(_, queue)| rank(queue)).map(|(peer, _)| *peer) else {
                continue;
            };
            let queue = self.queues.get_mut(&peer).expect("it was chosen from there");
            let upload = match urgency {
                Urgency::Fault => queue.urgent.pop_front(),
                Urgency::Deadline | Urgency::Normal => queue.normal.pop_front(),
            };
            let upload = upload.expect("it is backlogged");
            self.queued[kind_wanted] -= 1;
            self.turn = self.turn.max(queue.turn);
            queue.turn = queue.turn.saturating_add(upload.bytes);
            return Some((peer, upload));
        }
        None
    }

    /// Whether urgent answers have had more than their share of the uplink while others wait.
    fn is_urgent_enough(&self) -> bool {
        self.urgent_ahead > URGENT_BYTES_AHEAD && self.waiting() > 0
    }

    /// Keeps count of how far urgent answers are ahead of their share.
    fn charge(&mut self, upload: &Upload) {
        self.urgent_ahead = match upload.urgency {
            _ if self.waiting() == 0 => 0,
            Urgency::Fault => self.urgent_ahead.saturating_add(upload.bytes),
            Urgency::Deadline | Urgency::Normal => {
                self.urgent_ahead.saturating_sub(upload.bytes.saturating_mul(URGENT_SHARE))
            }
        };
    }

    /// An answer is sent, given up or abandoned; returns it if it was being sent.
    pub(crate) fn done(&mut self, peer: NodeId, request: RequestId) -> Option<Upload> {
        let done = self.sending.remove(&(peer, request)).map(|sending| sending.upload)?;
        self.charge(&done);
        self.started[kind(done.urgency)] -= 1;
        Some(done)
    }

    /// Takes an answer out of the queue if it has not started.
    pub(crate) fn withdraw(&mut self, peer: NodeId, request: RequestId) -> Option<Upload> {
        let queue = self.queues.get_mut(&peer)?;
        for part in [&mut queue.urgent, &mut queue.normal] {
            if let Some(at) = part.iter().position(|upload| upload.request == request) {
                let withdrawn = part.remove(at)?;
                self.queued[kind(withdrawn.urgency)] -= 1;
                return Some(withdrawn);
            }
        }
        None
    }

    /// The peer is gone with its answers.
    pub(crate) fn forget_peer(&mut self, peer: NodeId) {
        self.queues.remove(&peer);
        self.sending.retain(|(to, _), _| *to != peer);
        self.count();
    }

    fn count(&mut self) {
        let urgent = |sending: &&Sending| sending.upload.urgency == Urgency::Fault;
        self.queued[0] = self.queues.values().map(|queue| queue.normal.len()).sum();
        self.queued[1] = self.queues.values().map(|queue| queue.urgent.len()).sum();
        self.started[1] = self.sending.values().filter(urgent).count();
        self.started[0] = self.sending.len() - self.started[1];
    }

    /// Numbers of a peer's answers in a lineage: those queued are dropped, those being sent are returned.
    pub(crate) fn leave(&mut self, peer: NodeId, lineage: LineageId) -> Vec<RequestId> {
        if let Some(queue) = self.queues.get_mut(&peer) {
            queue.urgent.retain(|upload| upload.lineage != lineage);
            queue.normal.retain(|upload| upload.lineage != lineage);
            self.count();
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
        let waits = self.queued.iter().any(|queued| *queued > 0);
        (waits && self.free_at > now).then_some(self.free_at)
    }

    /// An estimate of the memory that they take, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let queued = self.queues.values().flat_map(Queue::iter);
        let all = queued.chain(self.sending.values().map(|sending| &sending.upload));
        all.map(|upload| size_of::<Sending>() + upload.births.memory_bytes()).sum()
    }

    /// Answers that are not urgent, queued or being sent.
    pub(crate) fn waiting(&self) -> usize {
        self.queued[0] + self.started[0]
    }

    /// Answers queued or being sent.
    pub(crate) fn len(&self) -> usize {
        self.queued.iter().sum::<usize>() + self.sending.len()
    }
}

/// The place of an answer in the counts.
fn kind(urgency: Urgency) -> usize {
    usize::from(urgency == Urgency::Fault)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageswarm_checkpoint::Birth;

    fn upload(request: u64, bytes: u64, urgency: Urgency) -> Upload {
        let births = BirthSet::range(Birth(request), Birth(request));
        let (request, lineage) = (RequestId(request), LineageId([0; 32]));
        Upload { request, lineage, births, bytes, urgency, copies: 0, since: Time::ZERO }
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
    fn what_few_hold_goes_first_unless_the_rest_has_waited_long() {
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let config = Config { upload_slots: 1, ..Config::default() };
        let common = Upload { copies: 3, ..upload(0, 100, Urgency::Normal) };
        let rare = |request, since| Upload { since, ..upload(request, 100, Urgency::Normal) };
        let mut uploads = Uploads::default();
        uploads.queue(a, common).unwrap();
        uploads.queue(b, rare(1, Time::ZERO)).unwrap();
        uploads.queue(b, rare(2, Time::from_millis(90))).unwrap();
        let first = uploads.next(Time::from_millis(50), &config).map(|(peer, sent)| (peer, sent.request.0));
        assert_eq!(first, Some((b, 1)));
        uploads.done(b, RequestId(1));
        let second = uploads.next(Time::from_millis(150), &config).map(|(peer, sent)| (peer, sent.request.0));
        assert_eq!(second, Some((a, 0)), "it has waited for 150 ms");
    }

    #[test]
    fn urgent_answers_have_a_share_while_others_wait() {
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let config = Config { upload_slots: 1, ..Config::default() };
        let mut uploads = Uploads::default();
        let (mut urgent, mut bulk) = (0, 0);
        for i in 0..400 {
            uploads.queue(a, upload(2 * i, 256 << 10, Urgency::Fault)).unwrap();
            if i < 60 {
                uploads.queue(b, upload(2 * i + 1, 256 << 10, Urgency::Normal)).unwrap();
            }
            while let Some((peer, sent)) = uploads.next(Time::ZERO, &config) {
                let request = sent.request;
                *(if peer == a { &mut urgent } else { &mut bulk }) += 1;
                // The urgent lane of the link is strict: bulk is sent when nothing urgent is.
                if peer == a {
                    uploads.done(peer, request);
                    break;
                }
                if uploads.queued[1] == 0 || uploads.is_urgent_enough() {
                    uploads.done(peer, request);
                }
            }
        }
        assert!(bulk >= 50, "{bulk} of 60, beside {urgent} urgent ones");
        assert!(urgent >= 150, "{urgent}");
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
