//! What one run is: every number drawn from the seed, printed before anything else.

use std::fmt;
use std::time::Duration;

use pageswarm_swarm::Rng;

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
}

/// One run. Rates are bytes per second.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything else follows from it.
    pub seed: u64,
    /// Nodes, the publisher (node 0) included.
    pub nodes: usize,
    /// Chunks of the lineage.
    pub chunks: u64,
    /// Encoded bytes of a chunk: from this.
    pub chunk_bytes_min: u32,
    /// Encoded bytes of a chunk: to this.
    pub chunk_bytes_max: u32,
    /// Who wants what.
    pub pattern: Pattern,
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
    /// From arrival to verified and stored.
    pub store_delay: Duration,
    /// Node crashes, with a restart each.
    pub crashes: u64,
    /// Partitions of the nodes into two sides, healed later.
    pub partitions: u64,
    /// Nodes whose uplink has a twentieth of its rate during the safety phase.
    pub slow: usize,
    /// Nodes that send wrong bytes.
    pub corrupting: usize,
    /// Nodes that announce what they lack.
    pub boasting: usize,
    /// Page faults, at random nodes and times.
    pub faults: u64,
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
            publisher_up: rate,
            up: rate,
            down: rate,
            latency: Duration::from_micros(250),
            loss_permille: 0,
            store_delay: Duration::from_micros(500),
            crashes: 0,
            partitions: 0,
            slow: 0,
            corrupting: 0,
            boasting: 0,
            faults: 0,
        }
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
            publisher_up: rate * (1 + rng.below(3)),
            up: rate,
            down: rate * (1 + rng.below(2)),
            latency: Duration::from_micros(100 << rng.below(9)),
            loss_permille: rng.below(3) * rng.below(15),
            store_delay: Duration::from_micros(100 + rng.below(3000)),
            crashes,
            partitions,
            slow,
            corrupting,
            boasting,
            faults,
        }
    }

    /// How a node behaves: liars are the last nodes.
    #[must_use]
    pub fn behaviour(&self, node: usize) -> Behaviour {
        let from_end = self.nodes - 1 - node.min(self.nodes - 1);
        if node == 0 {
            Behaviour::Honest
        } else if from_end < self.corrupting {
            Behaviour::Corrupting
        } else if from_end < self.corrupting + self.boasting {
            Behaviour::Boasting
        } else {
            Behaviour::Honest
        }
    }

    /// Whether nothing goes wrong in this run.
    #[must_use]
    pub fn is_fault_free(&self) -> bool {
        let kinds = self.crashes + self.partitions + self.loss_permille;
        kinds == 0 && self.slow + self.corrupting + self.boasting == 0
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
        writeln!(f, "seed {} nodes {} pattern {:?}", self.seed, self.nodes, self.pattern)?;
        writeln!(
            f,
            "chunks {} of {} to {} bytes, store delay {:?}",
            self.chunks, self.chunk_bytes_min, self.chunk_bytes_max, self.store_delay
        )?;
        writeln!(
            f,
            "bytes per second: publisher up {}, up {}, down {}; latency {:?}, loss {}/1000",
            self.publisher_up, self.up, self.down, self.latency, self.loss_permille
        )?;
        write!(
            f,
            "crashes {} partitions {} slow {} corrupting {} boasting {} page faults {}",
            self.crashes, self.partitions, self.slow, self.corrupting, self.boasting, self.faults
        )
    }
}
