//! The interval simulator: an x86-64 interpreter that replays what ran between two checkpoints, bit for bit.
//!
//! - [`simulator`]: the interpreter itself; [`memory`] and [`observe`] are what it is given.
//! - [`interval`]: the replay of one interval, from a checkpoint and an event log to the next checkpoint.
//! - [`trace`]: the accesses of an interval as a file, and what can be asked about it.
//! - [`debug`]: recorded intervals under gdb, forwards and backwards.
//! - [`analysis`]: what is found in simulated intervals, one by one and merged.
//! - [`speed_up`]: what simulating in parallel can gain, by the model.
//! - [`lockstep`]: random programs, run here and by a processor, compared.
//! - [`refusal`]: what it does not simulate, it refuses with bytes and address.
//!
//! Arithmetic is done by the host's own instructions, so that undefined flags match; a guest that depends on them
//! must be simulated on the kind of processor that it ran on.

#![deny(unsafe_code)]

mod access;
#[expect(unsafe_code, reason = "arithmetic by the host's instructions")]
mod alu;
pub mod analysis;
mod cache;
mod cpu;
pub mod debug;
mod decode;
mod exception;
#[expect(clippy::unnecessary_wraps, reason = "instructions have one form, whether they can fail or not")]
mod execute;
pub mod interval;
mod landmark;
mod limits;
pub mod lockstep;
pub mod memory;
pub mod observe;
mod op;
mod operands;
mod paging;
pub mod refusal;
pub mod simulator;
pub mod speed_up;
mod stretches;
mod tlb;
pub mod trace;
mod written;

pub use interval::{Boundary, Interval, ReplayError, ReplayFailure, Replayed, replay, replay_while};
pub use memory::{CompleteRam, Memory, PageUnavailable};
pub use observe::{Access, AccessKind, Observer, Unobserved};
pub use refusal::{Reason, Refusal, UnsupportedState};
pub use simulator::{Exit, Simulator};
pub use stretches::Translation;
