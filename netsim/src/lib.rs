//! Network, disks and faults around many swarm engines, in one thread, from one seed.
//!
//! | module | owns |
//! |---|---|
//! | `options` | what a run is, drawn from the seed |
//! | `scheduler` | the only clock: a heap of events ordered by (time, number) |
//! | `message` | what travels, and its bytes |
//! | `link` | one node's uplink and downlink |
//! | `host` | one node: the product's engine, a simulated store, behaviour |
//! | `world` | connections, routing, and the loop |
//! | `faults` | crashes, partitions and slow links, drawn from the seed |
//! | `checkers` | one file per property |
//! | `bound`, `report` | how far from the best possible, and the verdict |
//!
//! The engine is the product's, byte for byte. What the network is not: there are no packets and no congestion
//! control. An uplink serves control messages, then urgent answers, then other answers in turn, 16 KiB at a
//! time; a downlink is a queue without limit, which the engines' own budgets bound. Loss is a
//! delay of its transfer, not a second transmission. Racks and shared links are not modelled. Disks have a delay
//! and keep everything over a crash.
//!
//! A run has a safety phase, in which anything may fail, and a liveness phase, in which the faults are healed (liars
//! stay) and every honest node must get everything that it wants.

#![forbid(unsafe_code)]

mod bound;
pub mod checkers;
mod faults;
mod host;
mod link;
mod message;
mod options;
mod report;
mod scheduler;
mod trace;
mod world;

pub use bound::Bound;
pub use options::{Behaviour, Options, Pattern};
pub use report::Report;
pub use world::{run, run_options};
