//! Inputs from this node itself: lineages, the store, wants and faults.

use pageswarm_checkpoint::{Birth, LineageId, NodeId};

use super::Engine;
use crate::births::BirthSet;
use crate::input::WantId;
use crate::output::Output;
use crate::time::Time;

impl Engine {
    pub(super) fn open(&mut self, id: LineageId, writer: Option<NodeId>) {
        self.lineages.entry(id).or_default().writer = writer;
        self.recount(id);
    }

    pub(super) fn close(&mut self, id: LineageId) {
        for request in self.requests.select(|request| request.lineage == id) {
            self.cancel_request(request);
        }
        self.wants.close_lineage(id);
        self.unoffered.remove(&id);
        self.sent.forget_lineage(id);
        let peers: Vec<NodeId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.abandon_answers(peer, id);
        }
        for peer in self.peers.values_mut() {
            peer.lineages.remove(&id);
        }
        self.lineages.remove(&id);
    }

    /// The store holds more: wants and faults may be done.
    pub(super) fn gain(&mut self, id: LineageId, births: &BirthSet) {
        self.drop_copies_in_flight(id, births);
        self.book_gain(id, births);
    }

    /// Books held births; returns how many are new. Requests for them were settled before.
    pub(super) fn book_gain(&mut self, id: LineageId, births: &BirthSet) -> u64 {
        let new = self.lineages.entry(id).or_default().gain(births);
        self.note_untold(id, &new);
        for birth in self.wants.faulted_among(id, births) {
            self.wants.unfault(id, birth);
            self.stats.faults_done += 1;
            self.emit(Output::FaultDone { lineage: id, birth });
        }
        for want in self.wants.gained(id, births) {
            self.emit(Output::WantComplete { want });
        }
        new.len()
    }

    /// Takes births that are held now out of all requests; requests left empty are cancelled.
    pub(super) fn drop_copies_in_flight(&mut self, id: LineageId, births: &BirthSet) {
        let Some(lineage) = self.lineages.get(&id) else {
            return;
        };
        if !lineage.is_in_flight(births) {
            return;
        }
        let with =
            |request: &crate::requests::Request| request.lineage == id && !request.births.is_disjoint(births);
        for request in self.requests.select(with) {
            let peer = self.requests.get(request).map(|request| request.peer);
            self.settle_part(request, births);
            if let (Some(peer), None) = (peer, self.requests.get(request)) {
                self.emit(Output::CancelRequest { peer, request });
            }
        }
    }

    pub(super) fn local_lost(&mut self, id: LineageId, births: &BirthSet) {
        let Some(lineage) = self.lineages.get_mut(&id) else {
            return;
        };
        let lost = lineage.lose(births);
        if lost.is_empty() {
            return;
        }
        lineage.want(&self.wants.lost(id, &lost));
        self.divide(id);
        self.more_supply();
        for (to, peer) in &self.peers {
            if peer.lineages.get(&id).is_some_and(|part| part.follows) {
                let births = lost.clone();
                self.outputs.push_back(Output::AnnounceLack { to: *to, lineage: id, births });
            }
        }
    }

    pub(super) fn want(&mut self, want: WantId, id: LineageId, births: BirthSet, deadline: Option<Time>) {
        self.unwant(want);
        let lineage = self.lineages.entry(id).or_default();
        let missing = births.minus(&lineage.held);
        if missing.is_empty() {
            self.emit(Output::WantComplete { want });
            return;
        }
        if self.wants.open(want, id, births, missing.clone(), deadline).is_err() {
            self.emit(Output::WantRefused { want });
            return;
        }
        lineage.want(&missing);
        // There is more now: whether peers come to offer it shows from here on.
        self.unoffered.insert(id, 0);
        self.divide(id);
        self.more_supply();
    }

    pub(super) fn unwant(&mut self, want: WantId) {
        if let Some(id) = self.wants.close(want) {
            self.drop_unwanted(id);
        }
    }

    /// Gives up what no open want or fault asks for; requests with nothing else are cancelled.
    fn drop_unwanted(&mut self, id: LineageId) {
        let wanted = self.wants.still_wanted(id);
        let Some(lineage) = self.lineages.get_mut(&id) else {
            return;
        };
        lineage.want_only(&wanted);
        let useless =
            |request: &crate::requests::Request| request.lineage == id && request.births.is_disjoint(&wanted);
        for request in self.requests.select(useless) {
            self.cancel_request(request);
        }
    }

    pub(super) fn fault(&mut self, id: LineageId, birth: Birth) {
        let lineage = self.lineages.entry(id).or_default();
        if lineage.held.contains(birth) {
            self.emit(Output::FaultDone { lineage: id, birth });
        } else if self.wants.fault(id, birth).is_err() {
            self.emit(Output::FaultRefused { lineage: id, birth });
        } else {
            lineage.want(&BirthSet::range(birth, birth));
            self.more_supply();
        }
    }

    pub(super) fn unfault(&mut self, id: LineageId, birth: Birth) {
        if self.wants.unfault(id, birth) {
            self.drop_unwanted(id);
        }
    }
}
