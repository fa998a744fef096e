//! The guest ABI: memory layout, port devices, canonical CPU state, event log and the guests. No KVM, no I/O.
//!
//! - [`layout`]: where everything is in guest-physical memory.
//! - [`guest`]: puts a guest's program into RAM and gives its first [`cpu::CpuState`]; [`forbidden`] is what it must not
//!   have in it.
//! - [`cpu`], [`devices`]: canonical architectural state with one byte form each; whoever executes the guest,
//!   KVM or an interpreter, produces the same bytes.
//! - [`event`]: the non-deterministic inputs of one interval.
//! - [`workload`], [`content`]: what guests do, how fast, and what the paced one writes.

#![forbid(unsafe_code)]

pub mod abi;
pub mod bytes;
pub mod content;
pub mod cpu;
pub mod devices;
pub mod event;
pub mod forbidden;
pub mod guest;
pub mod layout;
pub mod workload;

pub use cpu::CpuState;
pub use devices::Devices;
pub use event::EventLog;
pub use layout::{Layout, RamSizeError};
pub use pageswarm_checkpoint::{CheckpointIndex, PAGE_BYTES, PageNumber};
pub use workload::Workload;
