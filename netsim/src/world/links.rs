//! Who is connected to whom: peer sampling, cuts that are noticed late, and reconnections.
//!
//! Few nodes are all connected to each other. Among more than [`MESH_MAX`], a node dials others, drawn uniformly from
//! all that are up, until it has [`DEGREE`] connections; it accepts up to [`DEGREE_MAX`], whoever is refused draws
//! again, and whoever loses one draws another. The publisher dials nobody and accepts [`PUBLISHER_DEGREE`]; when it
//! loses one, any other node gets its place. The product draws from the same population by the provider records of
//! the lineage and by what its peers say of theirs, refuses above the same limits, and tries the next.
//!
//! Who has something that a node lacks is connected with it when its engine asks for that ([`World::meet`]): a node
//! that has no room parts with the neighbour that it can spare.
//!
//! Even degrees matter: an uplink is shared by those who ask, so that a node with half as many neighbours as others
//! gets half as much when all are busy.

use std::time::Duration;

use pageswarm_swarm::{Input, Time};

use super::{Event, World, node_id, node_of};
use crate::host::{LINEAGE, Neighbour};

/// A cut connection is noticed after this, and up to ten times this.
const NOTICE_MIN: Duration = Duration::from_millis(50);
/// Up to this many nodes are all connected to each other.
const MESH_MAX: usize = 48;
/// Connections that a node looks for among more nodes.
const DEGREE: usize = 36;
/// Connections of a node that it does not refuse.
const DEGREE_MAX: usize = 40;
/// How long a node waits before it draws again if it has too few.
const DRAW_AGAIN: Duration = Duration::from_millis(2);
/// Connections of the publisher.
const PUBLISHER_DEGREE: usize = 40;

impl World {
    fn is_mesh(&self) -> bool {
        self.hosts.len() <= MESH_MAX
    }

    fn can_accept(&self, node: usize) -> bool {
        let most = match node {
            // A server has a place for everyone, as far as its engine has.
            0 if self.options.is_central => pageswarm_swarm::limits::PEERS_MAX,
            0 => PUBLISHER_DEGREE,
            _ => DEGREE_MAX,
        };
        self.is_mesh() || self.hosts[node].neighbours.len() < most
    }

    /// Connects two nodes that are up, can reach each other, have room, and are not connected.
    pub(super) fn connect(&mut self, a: usize, b: usize) {
        let reachable = self.sides.as_ref().is_none_or(|sides| sides[a] == sides[b]);
        let both_up = self.hosts[a].engine.is_some() && self.hosts[b].engine.is_some();
        if !reachable || !both_up || self.hosts[a].epoch(b).is_some() {
            return;
        }
        if !self.can_accept(a) {
            return;
        }
        if !self.can_accept(b) {
            self.draw_again(a);
            return;
        }
        self.epochs += 1;
        let epoch = self.epochs;
        for (node, peer) in [(a, b), (b, a)] {
            if self.hosts[node].neighbour(peer).is_some() {
                self.feed(node, Input::PeerDown { peer: node_id(peer) });
            }
            self.hosts[node].meet(Neighbour { node: peer, epoch, is_up: true });
            let labels = self.labels(peer);
            let peer = node_id(peer);
            self.feed(node, Input::PeerUp { peer });
            if self.options.racks_known {
                self.feed(node, Input::PeerLabels { peer, labels });
            }
            self.feed(node, Input::PeerFollows { peer, lineage: LINEAGE });
        }
    }

    /// As [`Self::connect`]; whoever has no room parts with the neighbour that was of no use for the longest time.
    pub(super) fn meet(&mut self, a: usize, b: usize) {
        if a == b || b >= self.hosts.len() || self.hosts[a].epoch(b).is_some() {
            return;
        }
        let reachable = self.sides.as_ref().is_none_or(|sides| sides[a] == sides[b]);
        if !reachable || [a, b].iter().any(|node| self.hosts[*node].engine.is_none()) {
            return;
        }
        for node in [a, b] {
            if !self.can_accept(node) && !self.part(node) {
                return;
            }
        }
        self.connect(a, b);
    }

    /// Ends the connection with a neighbour that can be spared, if there is one; both ends know at once.
    fn part(&mut self, node: usize) -> bool {
        let now = self.scheduler.now();
        let spare =
            self.hosts[node].engine.as_ref().and_then(|engine| engine.spare_peers(now).first().copied());
        let Some(other) = spare.map(node_of).filter(|other| self.hosts[node].epoch(*other).is_some()) else {
            return false;
        };
        for (node, peer) in [(node, other), (other, node)] {
            self.hosts[node].cut(peer);
            self.hosts[node].forget(peer);
            self.feed(node, Input::PeerDown { peer: node_id(peer) });
        }
        // It looks for another one, if it has too few now.
        self.draw_again(other);
        true
    }

    /// A node that is up looks for its neighbours.
    pub(super) fn dial(&mut self, node: usize) {
        let delay = self.options.latency * 2;
        if self.is_mesh() {
            for other in (0..self.hosts.len()).filter(|other| *other != node) {
                self.scheduler.after(delay, Event::Connect { a: node, b: other });
            }
            return;
        }
        if node == 0 {
            for _ in self.hosts[0].neighbours.len()..PUBLISHER_DEGREE {
                let other = self.some_node(0);
                self.scheduler.after(delay, Event::Connect { a: other, b: 0 });
            }
            return;
        }
        // Half of what it lacks: the others are expected to come from the nodes that dial it.
        let lacks = DEGREE.saturating_sub(self.hosts[node].neighbours.len());
        for _ in 0..lacks.div_ceil(2) {
            let other = self.some_node(node);
            self.scheduler.after(delay, Event::Connect { a: node, b: other });
        }
        if lacks > 0 {
            self.draw_again(node);
        }
    }

    fn draw_again(&mut self, node: usize) {
        if !self.hosts[node].is_dialling {
            self.hosts[node].is_dialling = true;
            self.scheduler.after(DRAW_AGAIN, Event::Dial { node });
        }
    }

    /// A node that has too few connections looks for more.
    pub(super) fn redial(&mut self, node: usize) {
        self.hosts[node].is_dialling = false;
        if self.hosts[node].engine.is_some() && self.hosts[node].neighbours.len() < DEGREE {
            self.dial(node);
        }
    }

    /// A node other than the publisher and `node`, drawn uniformly; one that is up if a few draws find any.
    fn some_node(&mut self, node: usize) -> usize {
        let mut other = node;
        for _ in 0..20 {
            other = 1 + usize::try_from(self.rng.below(self.hosts.len() as u64 - 1)).unwrap_or(0);
            if other != node && self.hosts[other].engine.is_some() && self.can_accept(other) {
                break;
            }
        }
        if other == node { 1 + node % (self.hosts.len() - 1) } else { other }
    }

    /// Cuts a connection; both ends notice later.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        let Some(epoch) = self.hosts[a].epoch(b) else {
            return;
        };
        for (node, peer) in [(a, b), (b, a)] {
            self.hosts[node].cut(peer);
            let late = u32::try_from(self.rng.below(10)).unwrap_or(0);
            self.scheduler.after(NOTICE_MIN * (1 + late), Event::Notice { node, peer, epoch });
        }
    }

    /// A node notices a cut, unless the connection is a new one by now.
    pub(super) fn notice(&mut self, node: usize, peer: usize, epoch: u64) {
        let known = self.hosts[node].neighbour(peer);
        if known.is_some_and(|known| known.epoch == epoch && !known.is_up) {
            self.hosts[node].forget(peer);
            self.feed(node, Input::PeerDown { peer: node_id(peer) });
            if !self.is_mesh() && self.hosts[node].engine.is_some() {
                self.dial(node);
            }
        }
    }

    /// A node bans another: its engine has forgotten it already.
    pub(super) fn banned(&mut self, node: usize, peer: usize, until: Time) {
        self.cut(node, peer);
        self.hosts[node].forget(peer);
        let again = until.after(Duration::from_millis(1));
        self.scheduler.at(again, Event::Connect { a: node, b: peer });
    }

    /// All its connections end; it forgets them at once.
    pub(super) fn cut_all(&mut self, node: usize) {
        let others: Vec<usize> = self.hosts[node].neighbours.iter().map(|known| known.node).collect();
        for other in others {
            self.cut(node, other);
        }
        self.hosts[node].neighbours.clear();
    }

    pub(super) fn split(&mut self, sides: Vec<bool>) {
        for a in 0..self.hosts.len() {
            let others: Vec<usize> = self.hosts[a].neighbours.iter().map(|known| known.node).collect();
            for b in others {
                if sides[a] != sides[b] {
                    self.cut(a, b);
                }
            }
        }
        self.sides = Some(sides);
        self.reconnect_all();
    }

    pub(super) fn heal(&mut self) {
        self.sides = None;
        self.reconnect_all();
    }

    fn reconnect_all(&mut self) {
        for node in 0..self.hosts.len() {
            if self.hosts[node].engine.is_some() {
                self.dial(node);
            }
        }
    }
}
