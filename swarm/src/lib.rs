//! Which chunk to ask of whom, and when: the sans-IO distribution engine, one per node for all lineages.
//!
//! | module | owns |
//! |---|---|
//! | [`engine`](Engine) | the order of things: one input, then maintenance, then effects |
//! | `lineages` | what is held, wanted and asked for, and how rare each chunk is |
//! | `wants` | open wants by deadline; page faults |
//! | `peers`, `pace` | what each peer holds, how it behaves, how fast it answers |
//! | `picker` | which run to ask of a peer with room |
//! | `requests`, `budget`, `intake` | what is outstanding, and how much may and should be |
//! | `engine/meeting` | with whom to be connected in a large swarm |
//! | `locality` | where nodes are, and who fetches what into a rack |
//! | `uploads`, `sent` | answers to peers; whom the writer sent each chunk |
//! | `gains` | what followers have not been told |
//! | `timers` | when something is due next |
//! | `bound` | the least time that links allow, to measure against |
//! | [`births`](BirthSet), `run` | sets of births and their gap coding |
//!
//! It knows lineages, births and encoded lengths, never bytes or hashes. It has no clock, no threads and no
//! ambient chance: the same inputs give the same outputs. Disk and network are inputs and outputs: chunks are
//! decoded, verified and stored outside and come back as [`Input::ChunksArrived`].
//!
//! The chunks of a lineage spread like this. Everyone announces what it holds. A node asks the writer only for
//! chunks that no other connected peer offers, walking on from a random place; the writer answers a request for a
//! chunk that it has sent already by naming the holder ([`Output::Defer`]). The asker waits a bounded time
//! for the holder's announcement, then insists and is served; if the holder is gone, the writer offers the chunk again.
//!
//! What keeps all uplinks busy, and new chunks moving (netsim measures each of these):
//!
//! - One small run is asked of every peer that offers anything, the rarest of what it has; more only while few requests
//!   are outstanding, or what they ask for does not cover what comes in meanwhile. What waits in a queue cannot be asked
//!   of others.
//! - An uplink with nothing to do offers what it gained to a few followers at once, and to all a little later: whoever
//!   gets it first can pass it on to the rest.
//! - Of the answers that wait, those with chunks that few hold go first.
//! - When nothing is left to ask for, chunks that are late are asked of a second peer, within 1 % of what was received.

#![forbid(unsafe_code)]

mod births;
mod bound;
mod budget;
mod config;
mod engine;
mod gains;
mod input;
mod intake;
mod lengths;
pub mod limits;
mod lineages;
mod locality;
mod output;
mod pace;
mod peers;
mod picker;
mod requests;
mod rng;
mod run;
mod sent;
mod stats;
mod time;
mod timers;
mod uploads;
mod wants;

pub use births::BirthSet;
pub use bound::{Bound, Distribution, Link, Part, Rate};
pub use config::Config;
pub use engine::Engine;
pub use input::{Ended, Input, Patience, RequestId, Urgency, WantId};
pub use locality::{Label, Labels};
pub use output::{BanReason, Event, Output, Refusal, Wake};
pub use rng::Rng;
pub use run::{DecodeSetError, SetLimits, decode_set, encode_set, encoded_set_bytes};
pub use stats::{PeerStats, Stats};
pub use time::Time;
