//! Answers to our requests: chunks, deferrals, refusals and failures.

use pageswarm_checkpoint::{Birth, LineageId, NodeId};

use super::Engine;
use crate::births::BirthSet;
use crate::input::{Ended, RequestId};
use crate::output::{Event, Wake};
use crate::peers::Peer;
use crate::picker::Source;
use crate::time::Time;

impl Engine {
    pub(super) fn chunks_arrived(
        &mut self,
        peer_id: NodeId,
        request: RequestId,
        id: LineageId,
        births: &BirthSet,
        bytes: u64,
    ) {
        let Some(lineage) = self.lineages.get(&id) else {
            return;
        };
        let from_writer = Source::of(lineage, peer_id) == Source::Writer;
        // Before the books: ending the last request would end the measurement too.
        self.lives(peer_id, |peer, now| {
            peer.used_at = now;
            peer.delivered(now, bytes);
        });
        let settled = match self.requests.of_peer(request, peer_id, id) {
            Some(_) => self.settle_part(request, births),
            None => BirthSet::new(),
        };
        // What was asked of this peer alone is in no other request.
        if settled != *births || self.lineages.get(&id).is_some_and(|open| open.is_any_doubled(births)) {
            self.drop_copies_in_flight(id, births);
        }
        let new = self.book_gain(id, births);
        let count = births.len().max(1);
        let duplicate = u128::from(bytes) * u128::from(count - new.min(count)) / u128::from(count);
        let duplicate = u64::try_from(duplicate).unwrap_or(u64::MAX);
        self.stats.chunks_arrived += new;
        self.stats.chunks_duplicate += births.len() - new;
        let counter = match from_writer {
            true => &mut self.stats.bytes_from_writer,
            false => &mut self.stats.bytes_from_peers,
        };
        *counter = counter.saturating_add(bytes);
        self.stats.bytes_duplicate = self.stats.bytes_duplicate.saturating_add(duplicate);
        self.budget.receive(bytes);
        self.intake.arrived(self.now, bytes);
        if new > 0 {
            // It was worth meeting, and will be again.
            self.met.remove(&peer_id);
            self.trust_around(peer_id, id);
        }
        self.recount_near(peer_id);
    }

    /// The peer answered something: whatever was held against it for silence is forgotten.
    fn lives(&mut self, peer_id: NodeId, note: impl FnOnce(&mut Peer, Time)) {
        let Some(peer) = self.peers.get_mut(&peer_id) else {
            return;
        };
        note(peer, self.now);
        if peer.end_probation() {
            self.recount_all_of(peer_id);
        }
    }

    pub(super) fn chunk_corrupt(&mut self, peer_id: NodeId, request: RequestId, id: LineageId, birth: Birth) {
        self.stats.chunks_corrupt += 1;
        self.event(Event::ChunkCorrupt { peer: peer_id, lineage: id, birth });
        if self.requests.is_at(request, peer_id) {
            self.cancel_request(request);
        }
        if !self.lineages.contains_key(&id) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&peer_id) {
            peer.sent_corrupt(id, birth);
        }
        self.recount(id);
        self.ban_if_guilty(peer_id);
    }

    pub(super) fn chunks_deferred(
        &mut self,
        peer_id: NodeId,
        request: RequestId,
        id: LineageId,
        births: &BirthSet,
        holder: NodeId,
    ) {
        if self.requests.of_peer(request, peer_id, id).is_none() {
            return;
        }
        let part = self.settle_part(request, births);
        self.stats.chunks_deferred += part.len();
        self.lives(peer_id, |peer, now| peer.pace.answered(now));
        let (Some(peer), Some(lineage)) = (self.peers.get_mut(&peer_id), self.lineages.get_mut(&id)) else {
            return;
        };
        let queued = peer.pace.expected(peer.outstanding, 0).saturating_mul(4);
        // A holder that is no peer of ours may become one; else the chunk comes by way of others.
        let wait = match holder == self.me {
            true => std::time::Duration::from_millis(1),
            false => self.config.defer_wait.max(queued.min(self.config.timeout_max)),
        };
        // Someone else was here: go on at another random place.
        lineage.cursor = None;
        let until = self.now.after(wait);
        peer.lineages.entry(id).or_default().defer(&part, Some(holder), until);
        self.due.offer(Some(until), Wake::Deferral);
        self.give_back(id, &part);
        self.meet(holder);
    }

    pub(super) fn chunks_not_held(
        &mut self,
        peer_id: NodeId,
        request: RequestId,
        id: LineageId,
        births: &BirthSet,
    ) {
        if self.requests.of_peer(request, peer_id, id).is_none() {
            return;
        }
        let part = self.settle_part(request, births);
        self.stats.chunks_not_held += part.len();
        self.lives(peer_id, |peer, now| peer.pace.answered(now));
        if let Some(peer) = self.peers.get_mut(&peer_id) {
            peer.broke_promise();
            peer.lineages.entry(id).or_default().lacks(&part);
        }
        self.give_back(id, &part);
        self.doubt(peer_id, id, &part);
        self.ban_if_guilty(peer_id);
    }

    pub(super) fn request_ended(&mut self, peer_id: NodeId, request: RequestId, how: Ended) {
        if !self.requests.is_at(request, peer_id) {
            return;
        }
        let Some(ended) = self.end_request(request) else {
            return;
        };
        if how != Ended::Failed {
            self.lives(peer_id, |peer, now| peer.pace.answered(now));
        }
        let Some(peer) = self.peers.get_mut(&peer_id) else {
            return;
        };
        match how {
            Ended::Busy | Ended::Failed => {
                let until = peer.refused(self.now, &self.config);
                self.due.offer(Some(until), Wake::PeerRetry);
                self.doubt(peer_id, ended.lineage, &ended.births);
            }
            Ended::NotAllowed => {
                peer.lineages.remove(&ended.lineage);
                self.recount(ended.lineage);
            }
            Ended::Served => {
                peer.broke_promise();
                self.doubt(peer_id, ended.lineage, &ended.births);
                self.ban_if_guilty(peer_id);
            }
        }
    }
}
