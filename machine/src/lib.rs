//! The guest ABI: memory layout, port devices, canonical CPU state, event log and the workload guest. No KVM, no I/O.
//!
//! - [`layout`]: where everything is in guest-physical memory.
//! - [`guest`]: puts the workload guest into RAM and gives its first [`cpu::CpuState`].
//! - [`cpu`], [`devices`]: canonical architectural state with one byte form each; whoever executes the guest,
//!   KVM or an interpreter, produces the same bytes.
//! - [`event`]: the non-deterministic inputs of one interval.
//! - [`workload`], [`content`]: what the guest writes, how fast, and with which contents.

#![forbid(unsafe_code)]

pub mod abi;
pub mod bytes;
pub mod content;
pub mod cpu;
pub mod devices;
pub mod event;
pub mod guest;
pub mod layout;
pub mod workload;

pub use cpu::CpuState;
pub use devices::Devices;
pub use event::EventLog;
pub use layout::Layout;
pub use pageswarm_checkpoint::{CheckpointIndex, PAGE_BYTES, PageNumber};
pub use workload::Workload;
