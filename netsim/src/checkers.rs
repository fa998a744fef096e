//! The properties that every run must have, one file each, apart from the simulation and the product.

mod completion;
mod duplicates;
mod memory;
mod nothing_lost;
mod right_bytes;

use pageswarm_checkpoint::Birth;

use crate::host::Host;
use crate::options::Options;

pub(crate) use nothing_lost::Ledger;

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A store accepted wrong bytes.
    #[error("node {node} stored wrong bytes for birth {birth}")]
    WrongBytes {
        /// The node.
        node: usize,
        /// The chunk.
        birth: Birth,
    },
    /// A chunk that was stored is not there any more, or the engine disagrees with the store.
    #[error("node {node} lost {births} chunks")]
    Lost {
        /// The node.
        node: usize,
        /// How many.
        births: u64,
    },
    /// More duplicates than allowed.
    #[error("{duplicate_bytes} of {received_bytes} received bytes were duplicates, allowed {allowed_bytes}")]
    Duplicates {
        /// Bytes of chunks that were held already.
        duplicate_bytes: u64,
        /// All chunk bytes received.
        received_bytes: u64,
        /// The limit.
        allowed_bytes: u64,
    },
    /// An engine holds more than its limits allow.
    #[error("node {node} has {actual} {what}, allowed {allowed}")]
    Memory {
        /// The node.
        node: usize,
        /// Which limit.
        what: &'static str,
        /// The level.
        actual: u64,
        /// The limit.
        allowed: u64,
    },
    /// An honest node did not get what it wants.
    #[error(
        "node {node} lacks {births} chunks at the end; {connected} peers, {outstanding} bytes outstanding"
    )]
    Incomplete {
        /// The node.
        node: usize,
        /// How many chunks.
        births: u64,
        /// Its connected peers.
        connected: usize,
        /// Bytes that it has asked for.
        outstanding: u64,
    },
    /// A page fault was never answered.
    #[error("node {node} has {faults} page faults open at the end")]
    FaultOpen {
        /// The node.
        node: usize,
        /// How many.
        faults: usize,
    },
}

/// Checks what must hold at any moment.
pub(crate) fn check_always(hosts: &[Host], ledger: &mut Ledger, found: &mut Vec<Violation>) {
    nothing_lost::check(hosts, ledger, found);
    memory::check(hosts, found);
    for host in hosts {
        if let Some(engine) = &host.engine {
            engine.assert_invariants();
        }
    }
}

/// Checks what must hold at the end.
pub(crate) fn check_at_end(options: &Options, hosts: &[Host], found: &mut Vec<Violation>) {
    right_bytes::check(options, hosts, found);
    duplicates::check(options, hosts, found);
    completion::check(hosts, found);
}
