//! What one run is: every number drawn from the seed, printed before anything else.

use std::fmt;
use std::time::Duration;

use pageswarm_swarm::Rng;

use crate::processor::Costs;
use crate::recording::Recording;

/// Bytes of a chunk that is a whole page.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Which chunks the nodes want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Every node wants everything.
    Same,
    /// Every node wants a random half, in blocks.
    Overlapping,
    /// Every node wants everything; each chunk is at one node other than the publisher, who never comes up.
    Orphaned,
    /// Node `i` starts with the first chunks, the more the larger `i`, and wants the rest.
    Staggered,
}

/// How a node behaves towards others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// As the product does.
    Honest,
    /// It sends wrong bytes half of the time.
    Corrupting,
    /// It announces everything, and leaves requests for what it lacks unanswered.
    Boasting,
    /// It announces what it holds, and sends none of it.
    Withholding,
    /// It asks everyone for everything again and again, whether it holds it or not.
    Greedy,
}

/// How the rates of the nodes' links differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// All nodes have the same.
    Equal,
    /// Of the nodes other than the publisher, 50 % have the base rates, 30 % twice and 20 % four times the uplink; the
    /// downlink is twice the uplink of the class, but four times the base rate at most.
    Mixed,
}

/// The rates of one node's link in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) up: u64,
    pub(crate) down: u64,
}

/// One run. Rates are bytes per second.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything else follows from it.
    pub seed: u64,
    /// Nodes at the start, the publisher (node 0) included.
    pub nodes: usize,
    /// Chunks of the lineage.
    pub chunks: u64,
    /// Encoded bytes of a chunk: from this.
    pub chunk_bytes_min: u32,
    /// Encoded bytes of a chunk: to this.
    pub chunk_bytes_max: u32,
    /// Who wants what.
    pub pattern: Pattern,
    /// How links differ.
    pub links: Links,
    /// Rate of the publisher's uplink.
    pub publisher_up: u64,
    /// Rate of every other uplink.
    pub up: u64,
    /// Rate of every downlink.
    pub down: u64,
    /// One way.
    pub latency: Duration,
    /// Of 1000 transfers, how many are delayed as if lost.
    pub loss_permille: u64,
    /// Of 1000 transfers, how many arrive a second time.
    pub repeat_permille: u64,
    /// From arrival to verified and stored.
    pub store_delay: Duration,
    /// Of 1000 writes to a store, how many fail.
    pub disk_error_permille: u64,
    /// Of 1000 nodes, how many leave for good, and how many new ones join, during a time as long as the bound.
    pub churn_permille: u64,
    /// Node crashes, with a restart each.
    pub crashes: u64,
    /// Partitions of the nodes into two sides, healed later.
    pub partitions: u64,
    /// Times that a node removes chunks which another node holds too.
    pub evictions: u64,
    /// Nodes whose uplink has a twentieth of its rate during the safety phase.
    pub slow: usize,
    /// Nodes that send wrong bytes.
    pub corrupting: usize,
    /// Nodes that announce what they lack.
    pub boasting: usize,
    /// Nodes that announce and never send.
    pub withholding: usize,
    /// Nodes that ask without end.
    pub greedy: usize,
    /// Page faults, at random nodes and times.
    pub faults: u64,
    /// Racks among which the nodes are dealt out; 0 for a network of which each node has its own part.
    pub racks: usize,
    /// Rate of a rack's link, in each direction.
    pub rack_rate: u64,
    /// Whether the engines are told who is in which rack.
    pub racks_known: bool,
    /// The processor that all nodes share; without one, work takes no time.
    pub processor: Option<Costs>,
    /// What the nodes simulate while it is recorded; then they want what their intervals need, whatever the pattern.
    pub recording: Option<Recording>,
    /// Nodes ask the publisher only, as with central distribution.
    pub is_central: bool,
}

impl Options {
    /// A fault-free run: everyone wants the same `bytes` in chunks of 4 KiB, on equal links of `rate` bytes per second.
    #[must_use]
    pub fn equal_links(seed: u64, nodes: usize, bytes: u64, rate: u64) -> Self {
        Self {
            seed,
            nodes,
            chunks: bytes / 4096,
            chunk_bytes_min: 4096,
            chunk_bytes_max: 4096,
            pattern: Pattern::Same,
            links: Links::Equal,
            publisher_up: rate,
            up: rate,
            down: rate,
            latency: Duration::from_micros(250),
            loss_permille: 0,
            repeat_permille: 0,
            store_delay: Duration::from_micros(500),
            disk_error_permille: 0,
            churn_permille: 0,
            crashes: 0,
            partitions: 0,
            evictions: 0,
            slow: 0,
            corrupting: 0,
            boasting: 0,
            withholding: 0,
            greedy: 0,
            faults: 0,
            racks: 0,
            rack_rate: 0,
            racks_known: false,
            processor: None,
            recording: None,
            is_central: false,
        }
    }

    /// A run without faults in which the nodes simulate what is recorded, on equal links of `rate` bytes per second.
    /// Every chunk is a whole page.
    #[must_use]
    pub fn recorded(seed: u64, nodes: usize, recording: Recording, rate: u64) -> Self {
        let equal = Self::equal_links(seed, nodes, 0, rate);
        Self { chunks: recording.chunks(), recording: Some(recording), ..equal }
    }

    /// A run with whatever the seed brings; each kind of fault is absent from about half of the runs.
    #[must_use]
    pub fn from_seed(seed: u64, nodes: usize) -> Self {
        let mut rng = Rng::new(seed ^ 0x6f70_7469_6f6e_7321);
        let nodes = nodes.max(2);
        let others = nodes as u64 - 1;
        let mut some = |most: u64| {
            if rng.below(2) == 0 { 0 } else { 1 + rng.below(most.max(1)) }
        };
        let crashes = some(others);
        let partitions = some(2);
        let slow = small(some(others / 3));
        let corrupting = small(some(others / 4));
        let boasting = small(some(others / 4));
        let faults = some(40);
        let withholding = small(some(others / 4));
        let greedy = small(some(others / 6));
        let evictions = some(2 * others);
        let disk_error_permille = some(20);
        let repeat_permille = some(15);
        let churn_permille = some(300);
        let rate = 1_000_000 << rng.below(5);
        let pattern = match rng.below(4) {
            0 => Pattern::Same,
            1 => Pattern::Overlapping,
            2 => Pattern::Orphaned,
            _ => Pattern::Staggered,
        };
        Self {
            seed,
            nodes,
            chunks: 256 + rng.below(768),
            chunk_bytes_min: 500,
            chunk_bytes_max: 4200,
            pattern,
            links: if rng.below(3) == 0 { Links::Mixed } else { Links::Equal },
            publisher_up: rate * (1 + rng.below(3)),
            up: rate,
            down: rate * (1 + rng.below(2)),
            latency: Duration::from_micros(100 << rng.below(9)),
            loss_permille: rng.below(3) * rng.below(15),
            repeat_permille,
            store_delay: Duration::from_micros(100 + rng.below(3000)),
            disk_error_permille,
            // What is at one node only goes with it.
            churn_permille: if pattern == Pattern::Orphaned { 0 } else { churn_permille },
            crashes,
            partitions,
            evictions,
            slow,
            corrupting,
            boasting,
            withholding,
            greedy,
            faults,
            racks: 0,
            rack_rate: 0,
            racks_known: false,
            processor: None,
            recording: None,
            is_central: false,
        }
    }

    /// How a node behaves: liars are the last nodes of those at the start.
    #[must_use]
    pub fn behaviour(&self, node: usize) -> Behaviour {
        if node == 0 || node >= self.nodes {
            return Behaviour::Honest;
        }
        let kinds = [
            (Behaviour::Corrupting, self.corrupting),
            (Behaviour::Boasting, self.boasting),
            (Behaviour::Withholding, self.withholding),
            (Behaviour::Greedy, self.greedy),
        ];
        let mut from_end = self.nodes - 1 - node;
        for (kind, count) in kinds {
            if from_end < count {
                return kind;
            }
            from_end -= count;
        }
        Behaviour::Honest
    }

    /// Nodes that do not behave as the product does.
    #[must_use]
    pub fn liars(&self) -> usize {
        self.corrupting + self.boasting + self.withholding + self.greedy
    }

    /// Whether nothing goes wrong in this run; that nodes leave and join is not wrong.
    #[must_use]
    pub fn is_fault_free(&self) -> bool {
        let kinds = self.crashes + self.partitions + self.loss_permille + self.repeat_permille;
        kinds + self.disk_error_permille + self.evictions == 0 && self.slow + self.liars() == 0
    }

    /// How many nodes leave, and how many join.
    #[must_use]
    pub fn churning(&self) -> usize {
        let churning = self.nodes as u64 * self.churn_permille / 1000;
        small(if self.churn_permille > 0 { churning.max(1) } else { 0 })
    }

    /// The rates of a node's link; which class a node is in depends on its number alone.
    pub(crate) fn rates(&self, node: usize) -> Rates {
        if node == 0 {
            return Rates { up: self.publisher_up, down: self.down };
        }
        let factor = match (self.links, node % 10) {
            (Links::Equal, _) | (Links::Mixed, 0..5) => 1,
            (Links::Mixed, 5..8) => 2,
            (Links::Mixed, _) => 4,
        };
        let down = if self.links == Links::Equal { self.down } else { self.down * (2 * factor).min(4) };
        Rates { up: self.up * factor, down }
    }

    /// How long anything may fail: about as long as the transfer takes without faults.
    #[must_use]
    pub fn safety_phase(&self) -> Duration {
        let bytes = self.chunks * u64::from(self.chunk_bytes_max);
        Duration::from_millis(500 + 2000 * bytes / self.publisher_up.min(self.up))
    }
}

fn small(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "seed {} nodes {} pattern {:?} links {:?}",
            self.seed, self.nodes, self.pattern, self.links
        )?;
        writeln!(
            f,
            "chunks {} of {} to {} bytes, store delay {:?}, disk errors {}/1000, evictions {}",
            self.chunks,
            self.chunk_bytes_min,
            self.chunk_bytes_max,
            self.store_delay,
            self.disk_error_permille,
            self.evictions
        )?;
        writeln!(
            f,
            "bytes per second: publisher up {}, up {}, down {}; latency {:?}, loss {}/1000, repeated {}/1000",
            self.publisher_up, self.up, self.down, self.latency, self.loss_permille, self.repeat_permille
        )?;
        write!(
            f,
            "churn {}/1000 crashes {} partitions {} slow {} corrupting {} boasting {} withholding {} greedy {} \
             page faults {}",
            self.churn_permille,
            self.crashes,
            self.partitions,
            self.slow,
            self.corrupting,
            self.boasting,
            self.withholding,
            self.greedy,
            self.faults
        )?;
        if self.racks > 0 {
            let known = if self.racks_known { "known" } else { "not known" };
            write!(
                f,
                "\nracks {} with {} bytes per second each, {known} to the nodes",
                self.racks, self.rack_rate
            )?;
        }
        if let Some(recording) = self.recording {
            let from = if self.is_central { "the publisher" } else { "the swarm" };
            write!(f, "\n{recording}; chunks come from {from}")?;
        }
        match self.processor {
            None => Ok(()),
            Some(Costs { cores, request, message, kilobyte }) => write!(
                f,
                "\ncores {cores}: a request {request:?}, a message {message:?}, 1000 bytes {kilobyte:?}, both ends"
            ),
        }
    }
}
