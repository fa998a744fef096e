//! Dividing what comes from outside among the nodes of a rack.

use pageswarm_checkpoint::{LineageId, NodeId};

use super::Engine;
use crate::births::BirthSet;
use crate::locality::Labels;
use crate::output::Wake;

impl Engine {
    /// A peer says where it is.
    pub(super) fn peer_labels(&mut self, id: NodeId, labels: Labels) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut peer.labels, labels) != labels {
            self.recount_all_of(id);
        }
    }

    /// Whether a peer is in the same rack.
    pub(super) fn is_around(&self, id: NodeId) -> bool {
        self.peers.get(&id).is_some_and(|peer| self.config.labels.is_around(&peer.labels))
    }

    /// Notes afresh who is around and what they hold of a lineage. The writer is not among them: it fetches nothing.
    pub(super) fn recount_around(&mut self, id: LineageId) {
        if self.config.labels == Labels::default() {
            return;
        }
        let Some(lineage) = self.lineages.get_mut(&id) else {
            return;
        };
        let (mut members, mut held) = (vec![self.me], BirthSet::new());
        for (peer_id, peer) in &self.peers {
            let part = peer.lineages.get(&id).filter(|part| part.follows);
            let counts = lineage.writer != Some(*peer_id) && !peer.is_on_probation();
            if let (true, Some(part)) = (counts && self.config.labels.is_around(&peer.labels), part) {
                members.push(*peer_id);
                held.add(&part.reliable());
            }
        }
        if members.len() == 1 {
            members.clear();
        }
        if lineage.share.set_around(members, held) {
            let wanted = lineage.wanted().clone();
            lineage.share.divide(self.me, &wanted);
        }
    }

    /// More is wanted: it is divided, and those around are trusted to begin. That someone comes or goes is no reason to
    /// trust: whoever does so all the time would keep us waiting.
    pub(super) fn divide(&mut self, id: LineageId) {
        if self.config.labels == Labels::default() {
            return;
        }
        if let Some(lineage) = self.lineages.get_mut(&id) {
            let wanted = lineage.wanted().clone();
            lineage.share.divide(self.me, &wanted);
            self.due.offer(Some(lineage.share.trust(self.now, self.config.defer_wait)), Wake::Deferral);
        }
    }

    /// Something new came from a peer: those around do their part.
    pub(super) fn trust_around(&mut self, peer: NodeId, id: LineageId) {
        if !self.is_around(peer) {
            return;
        }
        if let Some(lineage) = self.lineages.get_mut(&id)
            && !lineage.wanted().is_empty()
        {
            self.due.offer(Some(lineage.share.trust(self.now, self.config.defer_wait)), Wake::Deferral);
        }
    }
}
