//! The engine's tunables, each with its meaning, unit, trade-off and default.

use std::time::Duration;

use crate::locality::Labels;

/// How an engine behaves; [`Config::default`] suits links from 10 Mbit/s to 10 Gbit/s.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where this node is. Default unknown: all peers are equally far.
    pub labels: Labels,
    /// How long gained chunks may wait to be announced together to those who lack them; while the uplink has little to
    /// do, a few are told sooner. Shorter spreads chunks sooner and sends more messages. Default 40 ms.
    pub announce_within: Duration,
    /// How long those who hold the gained chunks too may have to wait to be told. Default 500 ms.
    pub announce_lazily: Duration,
    /// How near a deadline must be for its want to overtake rarity. Default 10 s.
    pub deadline_horizon: Duration,
    /// The least time that a deferred chunk waits for its holder's offer before we insist. Shorter makes the
    /// writer send more chunks twice. Default 1 s.
    pub defer_wait: Duration,
    /// How long the writer remembers to whom it sent a chunk, at least; twice that at most. Default 2 s.
    pub sent_memory: Duration,
    /// How much of a peer's measured rate is kept asked for, as time, beside its latency; less where more than 16
    /// peers have chunks. Longer hides more jitter, shorter reacts faster. Default 150 ms.
    pub queue_time: Duration,
    /// How much of the rate at which all chunks come in is kept asked for, as time, beside the peers' latency. Longer
    /// hides more jitter; shorter leaves the choice of whom to ask for what open for longer. Default 10 ms.
    pub intake_time: Duration,
    /// How much later than three times the expected time a request must be for its chunks to be asked of another peer
    /// when nothing else is left to ask for. Default 20 ms.
    pub steal_after: Duration,
    /// Requests kept outstanding at a lineage's writer. Default 2.
    pub writer_depth: usize,
    /// Requests kept outstanding at any other peer while rate times latency asks for no more. Default 4.
    pub peer_depth: usize,
    /// Encoded bytes asked for and not arrived, all peers together. Default 64 MiB.
    pub outstanding_bytes_max: u64,
    /// Encoded bytes asked for and not arrived, one peer. Default 16 MiB.
    pub peer_outstanding_bytes_max: u64,
    /// Share of received bytes that may be asked for twice to get rid of stragglers, in 1/1000. Default 10.
    pub duplicate_permille: u64,
    /// The shortest silence that counts as a timeout. Default 400 ms.
    pub timeout_min: Duration,
    /// The longest wait for a silent peer. Default 10 s.
    pub timeout_max: Duration,
    /// The shortest time after which a fault is asked of a second peer. Default 30 ms.
    pub fault_hedge_min: Duration,
    /// Answers sent at the same time, urgent ones apart. Fewer finish each sooner, more keep a long link
    /// full. Default 8.
    pub upload_slots: usize,
    /// Upload limit in bytes per second. Default none.
    pub upload_bytes_per_s: Option<u64>,
    /// How long one answer may take before it is abandoned. Default 30 s.
    pub serve_timeout: Duration,
    /// How long a peer stays banned. Default 10 min for wrong bytes and hostile sets, a tenth of it otherwise.
    pub ban: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            labels: Labels::default(),
            announce_within: Duration::from_millis(40),
            announce_lazily: Duration::from_millis(500),
            deadline_horizon: Duration::from_secs(10),
            defer_wait: Duration::from_secs(1),
            sent_memory: Duration::from_secs(2),
            queue_time: Duration::from_millis(150),
            intake_time: Duration::from_millis(10),
            steal_after: Duration::from_millis(20),
            writer_depth: 2,
            peer_depth: 4,
            outstanding_bytes_max: 64 << 20,
            peer_outstanding_bytes_max: 16 << 20,
            duplicate_permille: 10,
            timeout_min: Duration::from_millis(400),
            timeout_max: Duration::from_secs(10),
            fault_hedge_min: Duration::from_millis(30),
            upload_slots: 8,
            upload_bytes_per_s: None,
            serve_timeout: Duration::from_secs(30),
            ban: Duration::from_secs(600),
        }
    }
}
