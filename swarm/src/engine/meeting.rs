//! With whom this node should be connected: in a large swarm a node is connected with some of the others only.
//!
//! What is wanted and no connected peer offers, the writer has; and what the writer sent to somebody, that node has. So a
//! node without a connection to one of these asks for one. Whoever has no room for it can part with the peer that was of
//! no use for the longest time.

use std::time::Duration;

use pageswarm_checkpoint::NodeId;

use super::Engine;
use crate::limits::MET_MAX;
use crate::output::{Output, Wake};
use crate::time::Time;
use crate::timers::Timers;

/// Before a connection is asked for again that did not come about; twice as long each time, up to the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(250);
const AGAIN_LAST: Duration = Duration::from_secs(30);
/// A peer that was of use since is not parted with.
const USED_LATELY: Duration = Duration::from_secs(1);

/// A node with which a connection was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meeting {
    again_at: Time,
    pause: Duration,
}

impl Engine {
    /// The peer that was of no use for the longest time, if there is one to part with: no request is open between the two,
    /// and it is not the writer of anything wanted.
    #[must_use]
    pub fn spare_peer(&self, now: Time) -> Option<NodeId> {
        let needed = |id: &NodeId| {
            self.lineages.values().any(|open| open.writer == Some(*id) && !open.wanted().is_empty())
        };
        let spare = self.peers.iter().filter(|(id, peer)| {
            let is_idle = peer.requests + peer.fault_requests == 0 && !self.uploads.has_any_of(**id);
            is_idle && peer.used_at.after(USED_LATELY) <= now && !needed(id)
        });
        spare.min_by_key(|(id, peer)| (peer.used_at, **id)).map(|(id, _)| *id)
    }

    /// The writers that alone have what is wanted here, and with whom there is no connection.
    fn missed_writers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.lineages.values().filter_map(|open| {
            let writer =
                open.writer.filter(|writer| *writer != self.me && !self.peers.contains_key(writer))?;
            (!open.unasked().is_subset(open.copies.any())).then_some(writer)
        })
    }

    /// Asks for connections with them.
    pub(super) fn meet_writers(&mut self) {
        if self.now < self.meet_at {
            return;
        }
        let missed: Vec<NodeId> = self.missed_writers().collect();
        let mut next = self.now.after(AGAIN_FIRST);
        for writer in missed {
            self.meet(writer);
            let again = self.met.get(&writer).map_or(next, |meeting| meeting.again_at);
            next = next.min(again.max(self.now.after(AGAIN_FIRST)));
        }
        self.meet_at = next;
    }

    /// Asks for a connection with a node, not too often.
    pub(super) fn meet(&mut self, node: NodeId) {
        let is_banned = self.banned.get(&node).is_some_and(|(until, _)| self.now < *until);
        if node == self.me || self.peers.contains_key(&node) || is_banned {
            return;
        }
        let now = self.now;
        let before = self.met.get(&node).copied();
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

    /// When a writer is to be asked for again.
    pub(super) fn offer_meetings(&self, timers: &mut Timers) {
        if self.missed_writers().next().is_some() {
            timers.offer(Some(self.meet_at), Wake::Meet);
        }
    }
}
