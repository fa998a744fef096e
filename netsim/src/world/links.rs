//! Who is connected to whom: cuts are noticed late, reconnections are new connections.

use std::collections::BTreeMap;
use std::time::Duration;

use pageswarm_swarm::Input;

use super::{Event, World, node_id};
use crate::host::LINEAGE;

/// A cut connection is noticed after this, and up to ten times this.
const NOTICE_MIN: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    /// Rises with every cut and every connection; messages of an earlier one are lost.
    epoch: u64,
    is_up: bool,
}

/// All pairs of nodes; there is at most one connection between two.
#[derive(Debug)]
pub(super) struct Connections {
    pairs: BTreeMap<(usize, usize), Connection>,
    /// Whether the first node's engine was told of a connection to the second.
    believed: BTreeMap<(usize, usize), bool>,
    /// During a partition: the side of each node.
    sides: Option<Vec<bool>>,
    nodes: usize,
}

impl Connections {
    pub(super) fn new(nodes: usize) -> Self {
        Self { pairs: BTreeMap::new(), believed: BTreeMap::new(), sides: None, nodes }
    }

    /// The epoch of the connection, if it is up.
    pub(super) fn epoch(&self, a: usize, b: usize) -> Option<u64> {
        self.pairs.get(&pair(a, b)).filter(|known| known.is_up).map(|known| known.epoch)
    }

    fn believes(&self, node: usize, peer: usize) -> bool {
        self.believed.get(&(node, peer)).copied().unwrap_or(false)
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

impl World {
    /// Connects two nodes that are up, can reach each other, and are not connected.
    pub(super) fn connect(&mut self, a: usize, b: usize) {
        let reachable = self.connections.sides.as_ref().is_none_or(|sides| sides[a] == sides[b]);
        let both_up = self.hosts[a].engine.is_some() && self.hosts[b].engine.is_some();
        if !reachable || !both_up || self.connections.epoch(a, b).is_some() {
            return;
        }
        let known = self.connections.pairs.entry(pair(a, b)).or_default();
        known.epoch += 1;
        known.is_up = true;
        for (node, peer) in [(a, b), (b, a)] {
            if self.connections.believes(node, peer) {
                self.feed(node, Input::PeerDown { peer: node_id(peer) });
            }
            self.connections.believed.insert((node, peer), true);
            self.feed(node, Input::PeerUp { peer: node_id(peer) });
            let peer = node_id(peer);
            self.feed(node, Input::PeerFollows { peer, lineage: LINEAGE });
        }
    }

    /// Cuts a connection; both ends notice later.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        let Some(known) = self.connections.pairs.get_mut(&pair(a, b)) else {
            return;
        };
        if !known.is_up {
            return;
        }
        known.epoch += 1;
        known.is_up = false;
        let epoch = known.epoch;
        for (node, peer) in [(a, b), (b, a)] {
            self.hosts[node].link.drop_all_to(peer);
            let late = u32::try_from(self.rng.below(10)).unwrap_or(0);
            self.scheduler.after(NOTICE_MIN * (1 + late), Event::Notice { node, peer, epoch });
        }
    }

    /// A node notices a cut, unless the connection is a new one by now.
    pub(super) fn notice(&mut self, node: usize, peer: usize, epoch: u64) {
        let same = self.connections.pairs.get(&pair(node, peer)).map(|known| known.epoch);
        if same == Some(epoch) && self.connections.believes(node, peer) {
            self.connections.believed.insert((node, peer), false);
            self.feed(node, Input::PeerDown { peer: node_id(peer) });
        }
    }

    /// A node bans another: its engine has forgotten it already.
    pub(super) fn banned(&mut self, node: usize, peer: usize, until: pageswarm_swarm::Time) {
        self.connections.believed.insert((node, peer), false);
        self.cut(node, peer);
        let again = until.after(Duration::from_millis(1));
        self.scheduler.at(again, Event::Connect { a: node, b: peer });
    }

    pub(super) fn crash(&mut self, node: usize) {
        if self.hosts[node].engine.is_none() {
            return;
        }
        let stats = self.hosts[node].engine.as_ref().map(pageswarm_swarm::Engine::stats);
        self.timed_out += stats.map_or(0, |stats| stats.requests_timed_out);
        if node == 0 {
            self.deferred += stats.map_or(0, |stats| stats.deferred_for_others);
        }
        self.hosts[node].crash();
        for other in 0..self.connections.nodes {
            self.cut(node, other);
            self.connections.believed.insert((node, other), false);
        }
    }

    pub(super) fn split(&mut self, sides: Vec<bool>) {
        for a in 0..self.connections.nodes {
            for b in a + 1..self.connections.nodes {
                if sides[a] != sides[b] {
                    self.cut(a, b);
                }
            }
        }
        self.connections.sides = Some(sides);
        self.reconnect_all();
    }

    pub(super) fn heal(&mut self) {
        self.connections.sides = None;
        self.reconnect_all();
    }

    fn reconnect_all(&mut self) {
        for a in 0..self.connections.nodes {
            for b in a + 1..self.connections.nodes {
                self.scheduler.after(self.options.latency * 2, Event::Connect { a, b });
            }
        }
    }
}
