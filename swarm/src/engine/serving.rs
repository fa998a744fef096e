//! Requests of peers: what is served, deferred, not held or refused.

use pageswarm_checkpoint::{LineageId, NodeId};

use super::Engine;
use crate::births::BirthSet;
use crate::input::{Patience, RequestId, Urgency};
use crate::limits::{ASKED_BYTES_MAX, RUN_BIRTHS_MAX};
use crate::output::{Output, Refusal, Wake};
use crate::uploads::Upload;

impl Engine {
    pub(super) fn asked(
        &mut self,
        peer: NodeId,
        request: RequestId,
        id: LineageId,
        births: BirthSet,
        (urgency, patience): (Urgency, Patience),
    ) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.used_at = self.now;
        }
        if let Err(why) = self.answer(peer, request, id, births, (urgency, patience)) {
            self.stats.refused += 1;
            self.emit(Output::Refuse { peer, request, why });
        }
    }

    fn answer(
        &mut self,
        peer: NodeId,
        request: RequestId,
        id: LineageId,
        births: BirthSet,
        (urgency, patience): (Urgency, Patience),
    ) -> Result<(), Refusal> {
        let part = self.peers.get(&peer).and_then(|known| known.lineages.get(&id));
        let lineage = self.lineages.get(&id).ok_or(Refusal::NotAllowed)?;
        if !part.is_some_and(|part| part.follows) {
            return Err(Refusal::NotAllowed);
        }
        if births.is_empty() || births.len() > RUN_BIRTHS_MAX {
            return Err(Refusal::Unreasonable);
        }
        let lacking = births.minus(&lineage.held);
        let mut served = births;
        served.subtract(&lacking);
        let may_defer =
            lineage.writer == Some(self.me) && patience == Patience::MayDefer && urgency != Urgency::Fault;
        let deferred = if may_defer { self.take_deferred(peer, id, &mut served) } else { Vec::new() };
        let bytes = self.lineages[&id].lengths.sum(&served);
        if bytes > ASKED_BYTES_MAX {
            return Err(Refusal::Unreasonable);
        }
        if !served.is_empty() {
            let (copies, since) = (self.lineages[&id].copies.fewest(&served), self.now);
            let births = served.clone();
            let upload = Upload { request, lineage: id, births, bytes, urgency, copies, since };
            self.uploads.queue(peer, upload)?;
            if self.lineages[&id].writer == Some(self.me) {
                self.sent.note(id, peer, &served, (self.now, self.config.sent_memory));
                self.due.offer(self.sent.ages_at(), Wake::SentAges);
            }
        }
        if !lacking.is_empty() {
            self.emit(Output::NotHeld { peer, request, lineage: id, births: lacking });
        }
        for (holder, births) in deferred {
            self.stats.deferred_for_others += births.len();
            self.emit(Output::Defer { peer, request, lineage: id, births, holder });
        }
        Ok(())
    }

    /// Takes what other connected peers were sent lately or have announced out of `births`, with who they are.
    fn take_deferred(&self, asker: NodeId, id: LineageId, births: &mut BirthSet) -> Vec<(NodeId, BirthSet)> {
        let mut holders = self.sent.holders(id, asker, births);
        if !births.is_disjoint(self.lineages[&id].copies.any()) {
            for (holder, peer) in
                self.peers.iter().filter(|(other, peer)| **other != asker && !peer.is_on_probation())
            {
                if let Some(part) = peer.lineages.get(&id) {
                    holders.push((*holder, births.and(&part.has)));
                }
            }
        }
        let mut deferred = Vec::new();
        for (holder, part) in holders {
            let part = part.and(births);
            if !part.is_empty() {
                births.subtract(&part);
                deferred.push((holder, part));
            }
        }
        deferred
    }

    pub(super) fn asked_cancelled(&mut self, peer: NodeId, request: RequestId) {
        match self.uploads.withdraw(peer, request) {
            Some(upload) => self.sent.forget(upload.lineage, peer, &upload.births),
            None => self.emit_abandon(peer, request),
        }
    }

    /// Stops an answer that is being sent, if it is.
    pub(super) fn emit_abandon(&mut self, peer: NodeId, request: RequestId) {
        if let Some(upload) = self.uploads.done(peer, request) {
            self.sent.forget(upload.lineage, peer, &upload.births);
            self.emit(Output::AbandonServe { peer, request });
        }
    }

    /// Stops all answers to a peer in a lineage.
    pub(super) fn abandon_answers(&mut self, peer: NodeId, lineage: LineageId) {
        for request in self.uploads.leave(peer, lineage) {
            self.emit_abandon(peer, request);
        }
    }

    /// Bytes are counted even for an answer that was abandoned in the meantime.
    pub(super) fn served(&mut self, peer_id: NodeId, request: RequestId, bytes: u64) {
        self.stats.bytes_served = self.stats.bytes_served.saturating_add(bytes);
        if let Some(peer) = self.peers.get_mut(&peer_id) {
            peer.bytes_up = peer.bytes_up.saturating_add(bytes);
            peer.used_at = self.now;
        }
        self.uploads.done(peer_id, request);
    }

    /// Starts answers while there are slots and rate.
    pub(super) fn start_uploads(&mut self) {
        while let Some((peer, upload)) = self.uploads.next(self.now, &self.config) {
            let Upload { request, lineage, urgency, ref births, .. } = *upload;
            let held = self.lineages.get(&lineage).map(|lineage| births.and(&lineage.held));
            let held = held.unwrap_or_default();
            let gone = births.minus(&held);
            if held.is_empty() {
                self.uploads.done(peer, request);
            }
            if !gone.is_empty() {
                self.outputs.push_back(Output::NotHeld { peer, request, lineage, births: gone });
            }
            if !held.is_empty() {
                self.outputs.push_back(Output::Serve { peer, request, lineage, births: held, urgency });
                self.due.offer(Some(self.now.after(self.config.serve_timeout)), Wake::ServeTimeout);
            }
        }
    }
}
