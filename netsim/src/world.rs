//! Connections, routing and the loop: hosts, links and faults under one scheduler.

mod delivery;
mod effects;
mod links;
mod outcome;
mod setup;
mod simulating;
mod trouble;

use std::time::Duration;

use pageswarm_checkpoint::{Birth, NodeId};
use pageswarm_swarm::{BirthSet, Input, Output, RequestId, Rng, Time};

use crate::bound::Bound;
use crate::checkers::{self, Ledger, Violation};
use crate::faults::Fault;
use crate::host::Host;
use crate::lengths::Lengths;
use crate::message::Message;
use crate::options::Options;
use crate::processor::Processor;
use crate::racks::Racks;
use crate::report::Report;
use crate::scheduler::Scheduler;
use crate::trace::Trace;
use simulating::Simulations;

/// Virtual time after the safety phase in which everything must complete, beside a multiple of the bound.
const LIVENESS_MIN: Duration = Duration::from_secs(120);
/// Looks at all invariants, spread over the safety phase.
const CHECKS: u32 = 40;
/// Most nodes that one look is at: others have their turn at the next.
const CHECKED_MAX: usize = 256;

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// Chunks reach the receiver's downlink.
    Arrive {
        from: usize,
        to: usize,
        epoch: u64,
        slice: Slice,
    },
    Check,
    Connect {
        a: usize,
        b: usize,
    },
    /// A node wants to be connected with a certain other one.
    Meet {
        a: usize,
        b: usize,
    },
    /// A node looks for more connections.
    Dial {
        node: usize,
    },
    /// A small message is through the downlink.
    Deliver {
        from: usize,
        to: usize,
        epoch: u64,
        message: Message,
    },
    /// A node removes chunks from its store.
    Evict {
        node: usize,
    },
    Fault(Fault),
    /// A greedy node asks.
    Greed {
        node: usize,
    },
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
    /// A small message waits to be read.
    Read {
        from: usize,
        to: usize,
        epoch: u64,
        message: Message,
    },
    /// Chunks are through the downlink.
    Received {
        node: usize,
        life: u64,
        from: usize,
        slice: Slice,
    },
    /// Another interval is recorded.
    Recorded,
    /// Somebody may take an interval.
    Lease,
    Served {
        node: usize,
        life: u64,
        peer: usize,
        request: RequestId,
        bytes: u64,
    },
    /// A worker has simulated its interval.
    Simulated {
        node: usize,
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

/// Chunks of one answer, from the sender's uplink to the receiver's store.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) request: RequestId,
    pub(crate) births: BirthSet,
    /// Those of `births` whose bytes are wrong.
    pub(crate) wrong: Vec<Birth>,
    pub(crate) bytes: u64,
    /// From its first to its last bit on the sender's uplink.
    pub(crate) took: Duration,
    pub(crate) is_last: bool,
}

/// The whole simulation.
#[derive(Debug)]
pub(crate) struct World {
    options: Options,
    rng: Rng,
    scheduler: Scheduler<Event>,
    hosts: Vec<Host>,
    lengths: Lengths,
    processor: Processor,
    racks: Racks,
    /// What the nodes simulate, if there is a recording.
    simulations: Option<Simulations>,
    bound: Bound,
    trace: Trace,
    events: u64,
    messages: u64,
    wakes: u64,
    epochs: u64,
    /// During a partition: the side of each node.
    sides: Option<Vec<bool>>,
    is_live: bool,
    /// Honest nodes that are not complete, those that have not joined yet included.
    waiting: usize,
    /// Page faults open at honest nodes.
    open_faults: usize,
    /// The first host of the next look at invariants.
    checked: usize,
    engine_bytes_max: usize,
    ledger: Ledger,
    found: Vec<Violation>,
    timed_out: u64,
    deferred: u64,
    /// Reused for the effects of one input.
    outputs: Vec<Output>,
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
        let hosts = (0..options.nodes + options.churning())
            .map(|node| Host::new(options.behaviour(node), options.rates(node)));
        let mut world = Self {
            hosts: hosts.collect(),
            scheduler: Scheduler::new(),
            lengths: Lengths::new(lengths),
            processor: Processor::new(options.processor),
            racks: Racks::new(options.racks, options.rack_rate),
            simulations: None,
            bound: Bound::default(),
            trace: Trace::new(),
            events: 0,
            messages: 0,
            wakes: 0,
            epochs: 0,
            sides: None,
            is_live: false,
            waiting: 0,
            open_faults: 0,
            checked: 0,
            engine_bytes_max: 0,
            ledger: Ledger::default(),
            found: Vec::new(),
            timed_out: 0,
            deferred: 0,
            outputs: Vec::new(),
            rng,
            options,
        };
        // Drawn only then, so that other runs are what they were.
        world.simulations = world
            .options
            .recording
            .map(|recording| Simulations::new(recording, world.rng.next_u64(), world.hosts.len()));
        world.fill();
        world.bound = world.compute_bound();
        world.waiting = world.hosts.iter().filter(|host| host.counts()).count();
        world
    }

    fn go(&mut self) {
        let bound = self.bound.time();
        let simulated = self.options.recording.map_or(Duration::ZERO, |recording| {
            recording.sequential().saturating_add(recording.least(1)).saturating_mul(2)
        });
        let limit = Time::ZERO.after(self.options.safety_phase()).after(LIVENESS_MIN);
        let limit = limit.after(bound.saturating_mul(40)).after(simulated);
        self.go_until(limit, Self::is_done);
        self.check();
        checkers::check_at_end(&self.options, &self.hosts, &mut self.found);
        let (content, into) = (self.bound.union_bytes, self.racks.bytes_in());
        checkers::check_rack_traffic(&self.options, content, into, &mut self.found);
        if self.found.is_empty() && self.options.liars() == 0 {
            self.settle();
        }
    }

    /// Lets things happen until the limit, a violation, or what `is_over` looks for.
    fn go_until(&mut self, limit: Time, is_over: impl Fn(&Self) -> bool) {
        while self.found.is_empty() && !is_over(self) {
            let Some(event) = self.scheduler.next() else { return };
            self.events += 1;
            self.happen(event);
            if self.scheduler.now() > limit {
                return;
            }
        }
    }

    /// After the end, the last timers and announcements have their time; then nothing may happen.
    fn settle(&mut self) {
        let settled = self.scheduler.now().after(checkers::SETTLE);
        self.go_until(settled, |_| false);
        let before = (self.messages, self.wakes);
        self.go_until(settled.after(checkers::SETTLE), |_| false);
        let (messages, wakes) = (self.messages - before.0, self.wakes - before.1);
        checkers::check_quiescence(messages, wakes, &mut self.found);
    }

    fn is_done(&self) -> bool {
        self.is_live && self.waiting == 0 && self.open_faults == 0
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { from, to, epoch, slice } => self.arrive(from, to, epoch, slice),
            Event::Check => self.check(),
            Event::Connect { a, b } => self.connect(a, b),
            Event::Meet { a, b } => self.meet(a, b),
            Event::Dial { node } => self.redial(node),
            Event::Deliver { from, to, epoch, message } => self.deliver(from, to, epoch, message),
            Event::Evict { node } => self.evict(node),
            Event::Fault(fault) => self.apply(fault),
            Event::Greed { node } => self.greed(node),
            Event::Liveness => self.begin_liveness(),
            Event::Notice { node, peer, epoch } => self.notice(node, peer, epoch),
            Event::PageFault { node, birth } => self.page_fault(node, birth),
            Event::Read { from, to, epoch, message } => self.read(from, to, epoch, message),
            Event::Lease => self.lease_intervals(),
            Event::Recorded => self.recorded(),
            Event::Simulated { node } => self.simulated(node),
            Event::Received { node, life, from, slice } => self.received(node, life, from, slice),
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
                    self.wakes += 1;
                    self.feed(node, Input::Tick);
                }
            }
        }
    }

    /// Looks at what must hold at any moment, at as many nodes as one look is at.
    fn check(&mut self) {
        let count = self.hosts.len().min(CHECKED_MAX);
        for step in 0..count {
            let node = (self.checked + step) % self.hosts.len();
            let host = &self.hosts[node];
            checkers::check_always(node, host, &mut self.ledger, &mut self.found);
            let bytes = host.engine.as_ref().map_or(0, pageswarm_swarm::Engine::memory_bytes);
            self.engine_bytes_max = self.engine_bytes_max.max(bytes);
        }
        self.checked = (self.checked + count) % self.hosts.len();
    }

    /// Sets when a node was complete, and keeps count of those that are not.
    fn set_complete(&mut self, node: usize, at: Option<Time>) {
        let host = &mut self.hosts[node];
        let was = std::mem::replace(&mut host.complete_at, at).is_some();
        if host.counts() {
            match (was, at.is_some()) {
                (true, false) => self.waiting += 1,
                (false, true) => self.waiting -= 1,
                _ => {}
            }
        }
    }
}
