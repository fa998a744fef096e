//! What runs a guest: this machine's processor, through KVM, or an interpreter that the VM process's program brings.
//!
//! An interpreted guest stands still for all of a checkpoint: it shares the thread that copies its pages.

use crate::failure::VmFailure;
use crate::kvm::{DirtyLog, Machine};
use crate::memory::GuestRam;
use crate::state::KvmState;
use pageswarm_machine::{CpuState, PageNumber};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Which processor runs a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessorKind {
    /// This machine's, through KVM.
    #[default]
    Kvm,
    /// An interpreter, where there is no KVM: a tenth to a third as fast.
    Interpreter,
}

/// What answers a guest's port accesses.
pub trait Ports {
    /// The guest reads a port; the answer goes into `bytes`.
    ///
    /// # Errors
    ///
    /// [`VmFailure::Port`] if no device understands it.
    fn input(&mut self, port: u16, bytes: &mut [u8]) -> Result<(), VmFailure>;

    /// The guest wrote a port.
    ///
    /// # Errors
    ///
    /// [`VmFailure::Port`] if no device understands it.
    fn output(&mut self, port: u16, bytes: &[u8]) -> Result<(), VmFailure>;
}

/// A processor in software, with the RAM of its guest.
pub trait Interpreter: Send {
    /// Runs the guest for about a millisecond, or until it has used a port.
    ///
    /// # Errors
    ///
    /// [`VmFailure`]: the guest cannot go on.
    fn run(&mut self, ports: &mut dyn Ports) -> Result<(), VmFailure>;

    /// The canonical state, between two instructions.
    fn state(&self) -> CpuState;

    /// The pages that were written since this was called last.
    fn take_written(&mut self) -> Vec<PageNumber>;
}

/// Makes an interpreter for a guest in a state.
pub type MakeInterpreter = fn(&CpuState, GuestRam) -> Result<Box<dyn Interpreter>, VmFailure>;

/// What runs the guest of this process.
pub(crate) enum Processor {
    Kvm(Box<Machine>),
    Interpreted { interpreter: Box<dyn Interpreter>, written: Arc<WrittenPages> },
}

/// Pages that an interpreter has written and nobody has fetched yet: bit n % 64 of word n / 64 is page n.
#[derive(Debug)]
pub(crate) struct WrittenPages(Mutex<Vec<u64>>);

/// A processor's state at a boundary.
#[derive(Clone, Debug)]
pub(crate) enum StoppedCpu {
    Kvm(Box<KvmState>),
    Canonical(Box<CpuState>),
}

impl Processor {
    pub(crate) fn interpreted(interpreter: Box<dyn Interpreter>, pages: usize) -> Self {
        let written = Arc::new(WrittenPages(Mutex::new(vec![0; pages.div_ceil(64)])));
        Self::Interpreted { interpreter, written }
    }

    /// Names the pages that the guest wrote.
    pub(crate) fn log(&self) -> DirtyLog {
        match self {
            Self::Kvm(machine) => machine.log.clone(),
            Self::Interpreted { written, .. } => DirtyLog::Written(Arc::clone(written)),
        }
    }

    /// The state between two instructions; what was written until then is in the log.
    pub(crate) fn save(&mut self) -> Result<StoppedCpu, VmFailure> {
        match self {
            Self::Kvm(machine) => Ok(StoppedCpu::Kvm(Box::new(machine.save()?))),
            Self::Interpreted { interpreter, written } => {
                written.add(&interpreter.take_written());
                Ok(StoppedCpu::Canonical(Box::new(interpreter.state())))
            }
        }
    }
}

impl fmt::Debug for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm(_) => "Kvm",
            Self::Interpreted { .. } => "Interpreted",
        })
    }
}

impl WrittenPages {
    fn add(&self, pages: &[PageNumber]) {
        let mut bits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for page in pages {
            if let Some(word) = bits.get_mut(page.0 as usize / 64) {
                *word |= 1 << (page.0 % 64);
            }
        }
    }

    pub(crate) fn words(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Replaces `bitmap` by what was written and not fetched before.
    pub(crate) fn fetch(&self, bitmap: &mut [u64]) {
        let mut bits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bitmap.copy_from_slice(&bits);
        bits.fill(0);
    }
}

impl StoppedCpu {
    /// The canonical part.
    pub(crate) fn canonical(&self) -> CpuState {
        match self {
            Self::Kvm(state) => state.canonical(),
            Self::Canonical(state) => (**state).clone(),
        }
    }

    /// What KVM needs besides; nothing of a guest that was interpreted.
    pub(crate) fn attachment(&self) -> Vec<u8> {
        match self {
            Self::Kvm(state) => state.encode(),
            Self::Canonical(_) => Vec::new(),
        }
    }
}
