//! Connections, routing and the loop: hosts, links and faults under one scheduler.

mod delivery;
mod effects;
mod links;
mod outcome;
mod setup;

use std::time::Duration;

use pageswarm_checkpoint::{Birth, NodeId};
use pageswarm_swarm::{Input, RequestId, Rng, Time};

use crate::checkers::{self, Ledger, Violation};
use crate::faults::Fault;
use crate::host::{Host, LINEAGE};
use crate::message::{Content, Message};
use crate::options::{Behaviour, Options};
use crate::report::Report;
use crate::scheduler::Scheduler;
use crate::trace::Trace;
use links::Connections;

/// Virtual time after the safety phase in which everything must complete, beside a multiple of the bound.
const LIVENESS_MIN: Duration = Duration::from_secs(120);
/// Looks at all invariants, spread over the safety phase.
const CHECKS: u32 = 40;

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message reaches the receiver's downlink.
    Arrive {
        from: usize,
        to: usize,
        epoch: u64,
        message: Message,
    },
    Check,
    Connect {
        a: usize,
        b: usize,
    },
    /// A message is through the downlink.
    Deliver {
        from: usize,
        to: usize,
        epoch: u64,
        message: Message,
    },
    Fault(Fault),
    /// The safety phase is over.
    Liveness,
    /// A node notices that its connection is gone.
    Notice {
        node: usize,
        peer: usize,
        epoch: u64,
    },
    PageFault {
        node: usize,
        birth: Birth,
    },
    Served {
        node: usize,
        life: u64,
        peer: usize,
        request: RequestId,
        bytes: u64,
    },
    Stored {
        node: usize,
        life: u64,
        from: usize,
        slice: Slice,
    },
    UplinkFree {
        node: usize,
        life: u64,
    },
    Wake {
        node: usize,
        life: u64,
        at: Time,
    },
}

/// Chunks of one answer, between arrival and store.
#[derive(Debug)]
pub(crate) struct Slice {
    request: RequestId,
    chunks: Vec<(Birth, Content)>,
    bytes: u64,
    is_last: bool,
}

/// The whole simulation.
#[derive(Debug)]
pub(crate) struct World {
    options: Options,
    rng: Rng,
    scheduler: Scheduler<Event>,
    hosts: Vec<Host>,
    connections: Connections,
    lengths: Vec<u32>,
    trace: Trace,
    events: u64,
    is_live: bool,
    ledger: Ledger,
    found: Vec<Violation>,
    timed_out: u64,
    deferred: u64,
}

/// What the bytes of a chunk really are.
pub(crate) fn true_content(seed: u64, birth: Birth) -> Content {
    Content(Rng::new(seed ^ birth.0.wrapping_mul(0x2545_f491_4f6c_dd1d)).next_u64())
}

/// The id of a node.
pub(crate) fn node_id(node: usize) -> NodeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(node as u64).to_be_bytes());
    NodeId(id)
}

/// The node with an id, if it is one of `nodes`.
pub(crate) fn node_of(id: NodeId) -> usize {
    let mut number = [0; 8];
    number.copy_from_slice(&id.0[..8]);
    usize::try_from(u64::from_be_bytes(number)).unwrap_or(usize::MAX)
}

/// Runs what the seed brings with this many nodes.
#[must_use]
pub fn run(seed: u64, nodes: usize) -> Report {
    run_options(Options::from_seed(seed, nodes))
}

/// Runs exactly this.
#[must_use]
pub fn run_options(options: Options) -> Report {
    let mut world = World::new(options);
    world.begin();
    world.go();
    world.report()
}

impl World {
    fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let spread = u64::from(options.chunk_bytes_max - options.chunk_bytes_min) + 1;
        let lengths = (0..options.chunks)
            .map(|_| options.chunk_bytes_min + u32::try_from(rng.below(spread)).unwrap_or(0))
            .collect();
        let hosts = (0..options.nodes).map(|node| {
            let up = if node == 0 { options.publisher_up } else { options.up };
            Host::new(options.behaviour(node), up)
        });
        let mut world = Self {
            hosts: hosts.collect(),
            connections: Connections::new(options.nodes),
            scheduler: Scheduler::new(),
            lengths,
            trace: Trace::new(),
            events: 0,
            is_live: false,
            ledger: Ledger::default(),
            found: Vec::new(),
            timed_out: 0,
            deferred: 0,
            rng,
            options,
        };
        world.fill();
        world
    }

    fn go(&mut self) {
        let bound = self.bound().time();
        let limit =
            Time::ZERO.after(self.options.safety_phase()).after(LIVENESS_MIN).after(bound.saturating_mul(40));
        while let Some(event) = self.scheduler.next() {
            if self.scheduler.now() > limit || !self.found.is_empty() || self.is_done() {
                break;
            }
            self.events += 1;
            self.happen(event);
        }
        checkers::check_always(&self.hosts, &mut self.ledger, &mut self.found);
        checkers::check_at_end(&self.options, &self.hosts, &mut self.found);
    }

    fn is_done(&self) -> bool {
        let mut honest = self.hosts.iter().filter(|host| host.behaviour == Behaviour::Honest);
        self.is_live && honest.all(|host| host.complete_at.is_some() && host.faults.is_empty())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { from, to, epoch, message } => self.arrive(from, to, epoch, message),
            Event::Check => {
                checkers::check_always(&self.hosts, &mut self.ledger, &mut self.found);
            }
            Event::Connect { a, b } => self.connect(a, b),
            Event::Deliver { from, to, epoch, message } => self.deliver(from, to, epoch, message),
            Event::Fault(fault) => self.apply(fault),
            Event::Liveness => self.begin_liveness(),
            Event::Notice { node, peer, epoch } => self.notice(node, peer, epoch),
            Event::PageFault { node, birth } => self.page_fault(node, birth),
            Event::Served { node, life, peer, request, bytes } => {
                if self.hosts[node].life == life {
                    self.feed(node, Input::Served { peer: node_id(peer), request, bytes });
                }
            }
            Event::Stored { node, life, from, slice } => {
                if self.hosts[node].life == life {
                    self.stored(node, from, slice);
                }
            }
            Event::UplinkFree { node, life } => {
                if self.hosts[node].life == life {
                    self.hosts[node].link.is_sending = false;
                    self.send_next(node);
                }
            }
            Event::Wake { node, life, at } => {
                let host = &mut self.hosts[node];
                if host.life == life && host.wakes_at == Some(at) {
                    host.wakes_at = None;
                    self.feed(node, Input::Tick);
                }
            }
        }
    }

    fn apply(&mut self, fault: Fault) {
        match fault {
            Fault::Crash(node) => self.crash(node),
            Fault::Restart(node) => {
                if self.hosts[node].engine.is_none() {
                    self.boot(node);
                }
            }
            Fault::Split(side) => self.split(side),
            Fault::Heal => self.heal(),
            Fault::Slow(node) => self.hosts[node].up = (self.options.up / 20).max(1),
        }
    }

    /// Heals everything but liars.
    fn begin_liveness(&mut self) {
        self.is_live = true;
        self.heal();
        for node in 0..self.hosts.len() {
            self.hosts[node].up = if node == 0 { self.options.publisher_up } else { self.options.up };
            if self.hosts[node].engine.is_none() {
                self.boot(node);
            }
        }
    }

    fn page_fault(&mut self, node: usize, birth: Birth) {
        let now = self.scheduler.now();
        let host = &mut self.hosts[node];
        if host.engine.is_some() && !host.store.contains_key(&birth) {
            host.faults.entry(birth).or_insert(now);
            self.feed(node, Input::Fault { lineage: LINEAGE, birth });
        }
    }
}
