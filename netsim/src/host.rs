//! One node: the product's engine, a simulated store, and how it behaves.

use std::collections::BTreeMap;

use pageswarm_checkpoint::{Birth, LineageId, NodeId};
use pageswarm_swarm::{BirthSet, Config, Engine, Time};

use crate::link::Link;
use crate::message::Content;
use crate::options::Behaviour;

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
    pub(crate) store: BTreeMap<Birth, Content>,
    pub(crate) link: Link,
    pub(crate) up: u64,
    pub(crate) wants: BirthSet,
    /// What it had at the start.
    pub(crate) began_with: BirthSet,
    /// When its want was complete, in its latest life.
    pub(crate) complete_at: Option<Time>,
    /// The earliest wake-up that is scheduled.
    pub(crate) wakes_at: Option<Time>,
    /// Page faults: when they happened, by chunk.
    pub(crate) faults: BTreeMap<Birth, Time>,
    /// How long answered faults took, in nanoseconds.
    pub(crate) fault_ns: Vec<u64>,
    pub(crate) sent_chunk_bytes: u64,
    pub(crate) received_chunk_bytes: u64,
    pub(crate) duplicate_bytes: u64,
    /// Wrong chunks that were noticed.
    pub(crate) rejected: u64,
}

impl Host {
    pub(crate) fn new(behaviour: Behaviour, up: u64) -> Self {
        Self {
            behaviour,
            engine: None,
            life: 0,
            store: BTreeMap::new(),
            link: Link::default(),
            up,
            wants: BirthSet::new(),
            began_with: BirthSet::new(),
            complete_at: None,
            wakes_at: None,
            faults: BTreeMap::new(),
            fault_ns: Vec::new(),
            sent_chunk_bytes: 0,
            received_chunk_bytes: 0,
            duplicate_bytes: 0,
            rejected: 0,
        }
    }

    /// Starts a new life with an engine that knows nothing.
    pub(crate) fn boot(&mut self, me: NodeId, seed: u64) {
        self.engine = Some(Engine::new(Config::default(), me, seed));
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

    /// What the store holds.
    pub(crate) fn held(&self) -> BirthSet {
        self.store.keys().copied().collect()
    }
}
