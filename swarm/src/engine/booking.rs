//! The books on requests: what is outstanding where, what may be asked for again, and who is relied on.

use pageswarm_checkpoint::{LineageId, NodeId};

use super::Engine;
use crate::births::BirthSet;
use crate::input::{Patience, RequestId, Urgency};
use crate::lineages::Copies;
use crate::output::{Output, Wake};
use crate::picker::Pick;
use crate::requests::Request;
use crate::wants::Fault;

impl Engine {
    /// Sends a request and books it.
    pub(super) fn issue(&mut self, peer_id: NodeId, pick: Pick) {
        let Pick { lineage, births, bytes, urgency, patience } = pick;
        let peer = self.peers.get_mut(&peer_id).expect("only connected peers are picked");
        // A peer on probation is likely to stay silent: others may take over soon.
        let patient = match peer.is_on_probation() {
            true => std::time::Duration::ZERO,
            false => peer.pace.expected(peer.outstanding, bytes).saturating_mul(3),
        };
        let patient = patient.saturating_add(self.config.steal_after);
        let expected = self.now.after(patient.min(self.config.timeout_max));
        peer.pace.asked(self.now);
        let silent_at = peer.silent_at(&self.config);
        peer.outstanding += bytes;
        match urgency {
            Urgency::Fault => peer.fault_requests += 1,
            Urgency::Deadline | Urgency::Normal => peer.requests += 1,
        }
        self.recount_near(peer_id);
        self.budget.ask(bytes);
        self.lineages.get_mut(&lineage).expect("only open lineages are picked").ask(&births);
        self.stats.requests += 1;
        if patience == Patience::Insist && urgency != Urgency::Fault {
            self.stats.requests_insisting += 1;
        }
        let request = self.requests.open(Request {
            peer: peer_id,
            lineage,
            births: births.clone(),
            bytes,
            urgency,
            expected,
            late: expected.after(self.config.timeout_min / 2),
            gives_up: expected.after(self.config.timeout_max),
        });
        self.due.offer(Some(expected), Wake::Steal);
        self.due.offer(silent_at, Wake::RequestTimeout);
        self.emit(Output::Request { peer: peer_id, request, lineage, births, urgency, patience });
    }

    /// Ends a request; what it had not brought may be asked for again.
    pub(super) fn end_request(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.close(id)?;
        self.budget.settle(request.bytes);
        if let Some(peer) = self.peers.get_mut(&request.peer) {
            peer.outstanding -= request.bytes;
            match request.urgency {
                Urgency::Fault => {
                    peer.fault_requests -= 1;
                    self.supply += 1;
                }
                Urgency::Deadline | Urgency::Normal => peer.requests -= 1,
            }
            self.ready.insert(request.peer);
            if peer.requests + peer.fault_requests == 0 {
                peer.pace.idle();
            }
        }
        self.recount_near(request.peer);
        if !request.births.is_empty() {
            self.give_back(request.lineage, &request.births);
        }
        Some(request)
    }

    /// Brings what is expected of a peer soon up to date.
    pub(super) fn recount_near(&mut self, id: NodeId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let near = peer.near_bytes(self.config.intake_time);
            self.budget.change_near(std::mem::replace(&mut peer.near, near), near);
        }
    }

    /// Ends a request and tells its peer.
    pub(super) fn cancel_request(&mut self, id: RequestId) {
        if let Some(request) = self.end_request(id) {
            self.emit(Output::CancelRequest { peer: request.peer, request: id });
        }
    }

    /// Takes answered births out of a request, and ends it if none are left; returns what was taken.
    pub(super) fn settle_part(&mut self, id: RequestId, births: &BirthSet) -> BirthSet {
        let Some(request) = self.requests.get_mut(id) else {
            return BirthSet::new();
        };
        let part = request.births.and(births);
        if part.is_empty() {
            return part;
        }
        request.births.subtract(&part);
        let lineage = self.lineages.get(&request.lineage);
        let bytes = lineage.map_or(0, |lineage| lineage.lengths.sum(&part)).min(request.bytes);
        request.bytes -= bytes;
        let (peer_id, is_answered) = (request.peer, request.births.is_empty());
        self.budget.settle(bytes);
        if let Some(peer) = self.peers.get_mut(&peer_id) {
            peer.outstanding -= bytes;
            self.ready.insert(peer_id);
        }
        self.recount_near(peer_id);
        if is_answered {
            self.end_request(id);
        }
        part
    }

    /// Births that a request did not bring may be asked for again.
    pub(super) fn give_back(&mut self, lineage_id: LineageId, births: &BirthSet) {
        let Some(lineage) = self.lineages.get_mut(&lineage_id) else {
            return;
        };
        lineage.release(births);
        self.offer_again(lineage_id, births);
        let Some(lineage) = self.lineages.get_mut(&lineage_id) else {
            return;
        };
        for birth in self.wants.faulted_among(lineage_id, births) {
            if !lineage.is_in_flight(&BirthSet::range(birth, birth)) {
                self.wants.set_fault(lineage_id, birth, Some(Fault::Waiting { supply: 0 }));
            }
        }
    }

    /// A peer was asked for these in vain: it is left alone with them for a while, and others are asked too.
    pub(super) fn doubt(&mut self, peer_id: NodeId, lineage: LineageId, births: &BirthSet) {
        let until = self.now.after(self.config.defer_wait);
        if let Some(part) = self.peers.get_mut(&peer_id).and_then(|peer| peer.lineages.get_mut(&lineage)) {
            part.doubt(births);
            part.defer(births, None, until);
            self.due.offer(Some(until), Wake::Deferral);
            self.recount(lineage);
        }
    }

    /// Peers that hold any of these may be asked for them.
    pub(super) fn offer_again(&mut self, lineage: LineageId, births: &BirthSet) {
        for (id, peer) in &self.peers {
            if peer.lineages.get(&lineage).is_some_and(|part| !part.has.is_disjoint(births)) {
                self.ready.insert(*id);
            }
        }
    }

    /// Anyone may be worth asking again.
    pub(super) fn more_supply(&mut self) {
        self.supply += 1;
        self.ready.extend(self.peers.keys());
    }

    /// Counts the holders of a lineage's births afresh: healthy peers other than the writer.
    pub(super) fn recount(&mut self, id: LineageId) {
        let Some(lineage) = self.lineages.get_mut(&id) else {
            return;
        };
        lineage.copies = Copies::default();
        for (peer_id, peer) in &self.peers {
            let counts = lineage.writer != Some(*peer_id) && !peer.is_on_probation();
            if let (true, Some(part)) = (counts, peer.lineages.get(&id)) {
                lineage.copies.add(&part.reliable());
            }
        }
        self.recount_around(id);
        self.more_supply();
    }

    /// Counts the holders of every lineage that a peer has a part in.
    pub(super) fn recount_all_of(&mut self, peer: NodeId) {
        let Some(peer) = self.peers.get(&peer) else {
            return;
        };
        let lineages: Vec<LineageId> = peer.lineages.keys().copied().collect();
        for lineage in lineages {
            self.recount(lineage);
        }
    }
}
