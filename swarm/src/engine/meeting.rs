//! With whom this node should be connected: in a large swarm a node is connected with some of the others only.
//!
//! What is wanted and no connected peer offers, the writer has; and what the writer sent to somebody, that node has.
//! So a node without a connection to one of these asks for one: with the writer only if peers do not come to offer it
//! by themselves, as they do where many want the same. Whoever has no room for it can part with the peer that was of
//! no use for the longest time.

use std::time::Duration;

use pageswarm_checkpoint::{LineageId, NodeId};

use super::Engine;
use crate::limits::MET_MAX;
use crate::lineages::Lineage;
use crate::output::{Output, Wake};
use crate::peers::{Peer, PeerLineage};
use crate::time::Time;
use crate::timers::Timers;

/// Before a connection is asked for again that did not come about; twice as long each time, up to the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(250);
const AGAIN_LAST: Duration = Duration::from_secs(30);
/// How long after that it is forgotten that one was asked for.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Between two looks at what nobody offers: if it has not become less, its writer is missed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A peer that was of use since is not parted with.
const USED_LATELY: Duration = Duration::from_secs(1);

/// A node with which a connection was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meeting {
    again_at: Time,
    pause: Duration,
}

impl Engine {
    /// The peers that can be parted with, the one that was of no use for the longest time first: no request is open
    /// between the two, and it neither writes nor holds anything that is wanted here.
    #[must_use]
    pub fn spare_peers(&self, now: Time) -> Vec<NodeId> {
        let wanted = || self.lineages.iter().filter(|(_, open)| !open.wanted().is_empty());
        let is_needed = |id: &NodeId, peer: &Peer| {
            wanted().any(|(lineage, open)| {
                let has = |part: &PeerLineage| !part.askable(open.wanted()).is_empty();
                open.writer == Some(*id) || peer.lineages.get(lineage).is_some_and(has)
            })
        };
        let spare = self.peers.iter().filter(|(id, peer)| {
            let is_idle = peer.requests + peer.fault_requests == 0 && !self.uploads.has_any_of(**id);
            is_idle && peer.used_at.after(USED_LATELY) <= now && !is_needed(id, peer)
        });
        let mut spare: Vec<(Time, NodeId)> = spare.map(|(id, peer)| (peer.used_at, *id)).collect();
        spare.sort_unstable();
        spare.into_iter().map(|(_, id)| id).collect()
    }

    /// A lineage's writer, if there is no connection with it.
    fn far_writer(&self, open: &Lineage) -> Option<NodeId> {
        open.writer.filter(|writer| *writer != self.me && !self.peers.contains_key(writer))
    }

    /// Asks for connections with the writers of what is wanted, not offered, and not about to be.
    pub(super) fn meet_writers(&mut self) {
        if self.now < self.meet_at {
            return;
        }
        self.meet_at = self.now.after(LOOK_EVERY);
        let looked = self.lineages.iter().map(|(id, open)| {
            let writer = self.far_writer(open);
            (*id, writer, writer.map_or(0, |_| open.unasked().minus(open.copies.any()).len()))
        });
        for (id, writer, unoffered) in looked.collect::<Vec<_>>() {
            let before = self.unoffered.insert(id, unoffered).unwrap_or(0);
            if before > 0 && before <= unoffered {
                writer.into_iter().for_each(|writer| self.meet(writer));
            }
        }
    }

    /// Asks for a connection with the writer of a chunk that a guest waits for and nobody offers.
    pub(super) fn meet_writer_of_fault(&mut self, id: LineageId) {
        let writer = self.lineages.get(&id).and_then(|open| self.far_writer(open));
        writer.into_iter().for_each(|writer| self.meet(writer));
    }

    /// Asks for a connection with a node, not too often.
    pub(super) fn meet(&mut self, node: NodeId) {
        let is_banned = self.banned.get(&node).is_some_and(|(until, _)| self.now < *until);
        if node == self.me || self.peers.contains_key(&node) || is_banned {
            return;
        }
        let now = self.now;
        let lately = |meeting: &Meeting| now < meeting.again_at.after(FORGOTTEN_AFTER);
        let before = self.met.get(&node).copied().filter(lately);
        if before.is_some_and(|meeting| now < meeting.again_at) {
            return;
        }
        if before.is_none() && self.met.len() >= MET_MAX {
            // Those whose time has come can begin again with a short pause.
            self.met.retain(|_, meeting| now < meeting.again_at);
            if self.met.len() >= MET_MAX {
                return;
            }
        }
        let pause = before.map_or(AGAIN_FIRST, |meeting| (meeting.pause * 2).min(AGAIN_LAST));
        self.met.insert(node, Meeting { again_at: now.after(pause), pause });
        self.stats.meetings += 1;
        self.emit(Output::Meet { peer: node });
    }

    /// When it is time to look whether a writer is missed.
    pub(super) fn offer_meetings(&self, timers: &mut Timers) {
        let is_missed =
            |open: &Lineage| self.far_writer(open).is_some() && !open.unasked().is_subset(open.copies.any());
        if self.lineages.values().any(is_missed) {
            timers.offer(Some(self.meet_at), Wake::Meet);
        }
    }
}
