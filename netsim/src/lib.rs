//! Network, disks and faults around many swarm engines, in one thread, from one seed.
//!
//! | module | owns |
//! |---|---|
//! | `options` | what a run is, drawn from the seed |
//! | `scheduler` | the only clock: events by time, then in the order of scheduling |
//! | `message` | what travels, and its bytes |
//! | `link`, `racks` | one node's uplink and downlink; the links that a rack's nodes share |
//! | `processor` | the cores that all nodes share, if they are a limit |
//! | `host`, `store` | one node: the product's engine, a simulated store, behaviour |
//! | `world` | connections, routing, and the loop |
//! | `faults` | crashes, partitions, churn and slow links, drawn from the seed |
//! | `checkers` | one file per property |
//! | `bound`, `progress`, `report` | how far from the best possible, when who had what, and the verdict |
//! | `picture` | propagation curves, drawn |
//! | `recording` | a VM whose intervals the nodes simulate while it is recorded |
//! | `speed_up` | what many workers gain, with a swarm and without |
//! | `script` | an optimal schedule on the same links, which validates them |
//!
//! # The model
//!
//! The engine is the product's, byte for byte. The network is a flow-level one with FIFO links, not max-min fair rates:
//!
//! - A node has one uplink and one downlink, each with a rate in bytes per second. An uplink sends one thing at a time:
//!   small messages first, then urgent answers, then other answers in turn, 16 KiB at a time.
//! - Latency is one number for all pairs. A downlink passes bits as they come, as far as it is fast enough, in the order
//!   in which slices arrive; its queue has no limit but what the engines ask for. Small messages pass by it.
//! - Few nodes are all connected; of many, each draws about 36 others (`world/links.rs`), and the publisher accepts 40.
//! - Loss is a delay of one transfer, not a second transmission. A cut connection loses what is under way, and both ends
//!   notice 50 to 500 ms later. What is repeated arrives twice.
//! - A disk has a delay, keeps everything over a crash, and may fail a write. A chunk's bytes are reduced to whether
//!   they are the right ones.
//!
//! - Nodes may stand in racks, each with one link out and one in that its nodes share in the order in which they send.
//!   Small messages pass by it.
//!
//! With a recording (`recording`, `world/simulating`), nodes are workers: each simulates one interval after the
//! other, for which it wants the chunks of the checkpoint that it begins with. Leases, deltas, records and results
//! travel outside of the simulation.
//!
//! Left out: packets, congestion control, slow start, connection set-up, shared links of several levels,
//! clocks that differ, and encryption. Work takes no time unless a run is given a processor that all nodes share
//! (`processor`), as in measurements on one machine. `script` carries out an optimal schedule on the same links, which
//! takes exactly the (M + floor(log2 N)) / M of the closed form.
//!
//! # A run
//!
//! In a safety phase anything may fail; in a liveness phase the faults are healed (liars stay, and who left is gone)
//! and every honest node must get everything that it wants. Then nothing may happen any more. Every property has a
//! file in `checkers`. A run without faults has no safety phase.

#![forbid(unsafe_code)]

mod bound;
pub mod checkers;
mod faults;
mod host;
mod lengths;
mod link;
mod message;
mod options;
mod picture;
mod processor;
mod progress;
mod racks;
mod recording;
mod report;
mod scheduler;
mod script;
pub mod speed_up;
mod store;
mod trace;
mod world;

pub use bound::Bound;
pub use options::{Behaviour, Links, Options, Pattern};
pub use picture::{Curve, ReadCurveError, picture};
pub use processor::Costs;
pub use progress::Point;
pub use recording::Recording;
pub use report::{Excess, Finish, Report, Simulated};
pub use script::{ScriptReport, run_script};
pub use world::{run, run_options};
