//! The properties that every run must have, one file each, apart from the simulation and the product.

mod completion;
mod duplicates;
mod fairness;
mod memory;
mod nothing_lost;
mod quiescence;
mod rack_traffic;
mod right_bytes;

use std::time::Duration;

use pageswarm_checkpoint::Birth;

use crate::host::Host;
use crate::options::Options;

pub(crate) use nothing_lost::Ledger;
pub(crate) use quiescence::{SETTLE, check as check_quiescence};
pub(crate) use rack_traffic::check as check_rack_traffic;

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
    /// A node took much longer than others like it.
    #[error("node {node} took {took:?}, the median node {median:?}")]
    Unfair {
        /// The node.
        node: usize,
        /// Its time to completion.
        took: Duration,
        /// Half of the nodes took no longer.
        median: Duration,
    },
    /// Too much came through a rack's link.
    #[error("{bytes} bytes came into rack {rack}, allowed {allowed}")]
    RackTraffic {
        /// The rack.
        rack: usize,
        /// Chunk bytes that came in.
        bytes: u64,
        /// The limit.
        allowed: u64,
    },
    /// Something happens although everyone has everything.
    #[error("{messages} messages and {wakes} timers after everything was complete")]
    Restless {
        /// Transfers begun.
        messages: u64,
        /// Times that an engine asked to be called.
        wakes: u64,
    },
}

/// Checks what must hold at any moment, for one node.
pub(crate) fn check_always(node: usize, host: &Host, ledger: &mut Ledger, found: &mut Vec<Violation>) {
    nothing_lost::check(node, host, ledger, found);
    memory::check(node, host, found);
    if let Some(engine) = &host.engine {
        engine.assert_invariants();
    }
}

/// Checks what must hold at the end.
pub(crate) fn check_at_end(options: &Options, hosts: &[Host], found: &mut Vec<Violation>) {
    right_bytes::check(hosts, found);
    duplicates::check(options, hosts, found);
    completion::check(hosts, found);
    fairness::check(options, hosts, found);
}
