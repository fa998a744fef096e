//! One node: the product's engine, a simulated store, and how it behaves.

use std::collections::BTreeMap;

use pageswarm_checkpoint::{Birth, LineageId, NodeId};
use pageswarm_swarm::{BirthSet, Config, Engine, Labels, Time};

use crate::link::Link;
use crate::options::{Behaviour, Rates};
use crate::progress::Progress;
use crate::store::Store;

/// The one lineage of a run.
pub(crate) const LINEAGE: LineageId = LineageId([7; 32]);

/// One simulated node.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) behaviour: Behaviour,
    /// `None` while it is down.
    pub(crate) engine: Option<Engine>,
    /// Rises with every crash: what belongs to an earlier life is void.
    pub(crate) life: u64,
    /// Survives crashes.
    pub(crate) store: Store,
    pub(crate) link: Link,
    /// As long as nothing slows it down.
    pub(crate) rates: Rates,
    /// The uplink's rate now, in bytes per second.
    pub(crate) up: u64,
    pub(crate) neighbours: Vec<Neighbour>,
    /// It will look for more of them soon.
    pub(crate) is_dialling: bool,
    pub(crate) wants: BirthSet,
    /// What it had at the start.
    pub(crate) began_with: BirthSet,
    pub(crate) joined_at: Time,
    /// What it got when.
    pub(crate) progress: Progress,
    /// It went for good: nothing is expected of it any more.
    pub(crate) has_left: bool,
    /// When its want was complete, in its latest life.
    pub(crate) complete_at: Option<Time>,
    /// The earliest wake-up that is scheduled.
    pub(crate) wakes_at: Option<Time>,
    /// Page faults: when they happened, by chunk.
    pub(crate) faults: BTreeMap<Birth, Time>,
    /// How long answered faults took, in nanoseconds.
    pub(crate) fault_ns: Vec<u64>,
    pub(crate) sent_chunk_bytes: u64,
    pub(crate) sent_other_bytes: u64,
    pub(crate) received_chunk_bytes: u64,
    pub(crate) duplicate_bytes: u64,
    /// Wrong chunks that were noticed.
    pub(crate) rejected: u64,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Neighbour {
    pub(crate) node: usize,
    /// Of the connection: both ends have the same, and messages of an earlier one are lost.
    pub(crate) epoch: u64,
    /// False between the cut and the time at which this end notices it.
    pub(crate) is_up: bool,
}

impl Host {
    pub(crate) fn new(behaviour: Behaviour, rates: Rates) -> Self {
        Self {
            behaviour,
            engine: None,
            life: 0,
            store: Store::default(),
            link: Link::default(),
            rates,
            up: rates.up,
            neighbours: Vec::new(),
            is_dialling: false,
            wants: BirthSet::new(),
            began_with: BirthSet::new(),
            joined_at: Time::ZERO,
            progress: Progress::default(),
            has_left: false,
            complete_at: None,
            wakes_at: None,
            faults: BTreeMap::new(),
            fault_ns: Vec::new(),
            sent_chunk_bytes: 0,
            sent_other_bytes: 0,
            received_chunk_bytes: 0,
            duplicate_bytes: 0,
            rejected: 0,
        }
    }

    /// Starts a new life with an engine that knows nothing.
    pub(crate) fn boot(&mut self, me: NodeId, seed: u64, labels: Labels) {
        self.engine = Some(Engine::new(Config { labels, ..Config::default() }, me, seed));
        self.link = Link::default();
        self.wakes_at = None;
        self.complete_at = None;
    }

    /// Ends its life; the store stays.
    pub(crate) fn crash(&mut self) {
        self.engine = None;
        self.life += 1;
        self.link = Link::default();
        self.faults.clear();
    }

    /// Whether it must get what it wants.
    pub(crate) fn counts(&self) -> bool {
        self.behaviour == Behaviour::Honest && !self.has_left
    }

    /// The end of its connection to a node, up or not yet noticed to be down.
    pub(crate) fn neighbour(&self, node: usize) -> Option<&Neighbour> {
        let at = self.neighbours.binary_search_by_key(&node, |neighbour| neighbour.node).ok()?;
        self.neighbours.get(at)
    }

    /// The epoch of the connection to a node, if it is up.
    pub(crate) fn epoch(&self, node: usize) -> Option<u64> {
        self.neighbour(node).filter(|neighbour| neighbour.is_up).map(|neighbour| neighbour.epoch)
    }

    /// Notes the end of a new connection.
    pub(crate) fn meet(&mut self, neighbour: Neighbour) {
        match self.neighbours.binary_search_by_key(&neighbour.node, |known| known.node) {
            Ok(at) => self.neighbours[at] = neighbour,
            Err(at) => self.neighbours.insert(at, neighbour),
        }
    }

    /// The connection is cut: nothing passes any more.
    pub(crate) fn cut(&mut self, node: usize) {
        if let Ok(at) = self.neighbours.binary_search_by_key(&node, |known| known.node) {
            self.neighbours[at].is_up = false;
        }
        self.link.drop_all_to(node);
    }

    /// The connection is forgotten.
    pub(crate) fn forget(&mut self, node: usize) {
        self.neighbours.retain(|known| known.node != node);
    }
}
