//! Guests on KVM or on an interpreter that the program brings: run, capture, restore, lazy memory. One VM is one child process.
//!
//! The parent side:
//! - [`VmProcess::spawn`] starts a VM from an [`Origin`] (boot, full restore, lazy restore) with [`VmOptions`] and
//!   returns it with a channel of [`VmEvent`]s: console text, the guest's figures, captured checkpoints, its death.
//! - A checkpoint arrives as [`VmEvent::Captured`] (before it, if the staging area was too small for all of it,
//!   [`VmEvent::Pages`]). Its pages lie in the shared staging area until [`VmProcess::release`] of their batch; read
//!   them with [`VmProcess::staged`]. A VM without free slots lengthens its interval, and never stops for them.
//! - [`VmProcess::ram`] is the guest's memory itself; [`LazyMemory`] says where missing pages come from, see [`lazy`].
//!
//! [`BareMachine`] runs short programs in this very process, for comparisons with an interpreter.
//!
//! The child side is [`child::serve`], called by the program that [`Launcher`] names, with its standard input.
//!
//! In the child, the vCPU thread does the work of a pause inline and a copier thread does everything else. Pages are
//! copied after the dirty log was fetched, always, so that a page written during its copy is in the next fetch.
//! KVM's log misses what a VMM itself writes to RAM; this one writes nothing there: all devices are ports.

mod bare;
pub mod child;
pub mod lazy;

mod capture;
mod captured;
mod copier;
mod events;
mod failure;
mod filler;
mod gate;
mod histogram;
mod image_file;
mod kvm;
mod limits;
mod memory;
mod origin;
mod pace;
mod priority;
mod process;
mod processor;
mod protocol;
mod report;
mod socket;
mod staging;
mod state;
mod vcpu;

pub use bare::BareMachine;
pub use capture::{CaptureKind, Strategy, UnknownStrategy};
pub use captured::{CaptureFigures, Captured, PageBatch, SavedState};
pub use child::probe_userfaultfd;
pub use events::{DeathReason, VmEvent};
pub use failure::{Call, GuestExit, VmFailure};
pub use histogram::Histogram;
pub use image_file::ImageFile;
pub use kvm::probe as probe_kvm;
pub use lazy::{
    Awaited, Background, FilledPages, LazyFailure, LazyMemory, LazyStats, PageSource, SourceError,
};
pub use memory::{GuestRam, ImageMemory, PageBytes, SharedMemory};
pub use origin::{Launcher, Origin, SpawnError, VmOptions};
pub use pace::PaceMode;
pub use priority::{give_way, precede};
pub use process::VmProcess;
pub use processor::{Interpreter, MakeInterpreter, Ports, ProcessorKind};
pub use report::Report;
