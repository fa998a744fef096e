//! What a VM starts from and how it runs: the caller's side of starting one, and the start message made from it.

use crate::capture::{CaptureKind, Strategy};
use crate::captured::SavedState;
use crate::failure::VmFailure;
use crate::lazy::{LazyFailure, LazyMemory};
use crate::memory::{ImageMemory, SharedMemory};
use crate::pace::PaceMode;
use crate::processor::ProcessorKind;
use crate::protocol::{Residency, Start};
use pageswarm_machine::guest::{self, BootParameters, LoadError};
use pageswarm_machine::layout::{Layout, RamSizeError};
use pageswarm_machine::{CheckpointIndex, Devices, PAGE_BYTES};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The command whose process calls [`crate::child::serve`] with its standard input.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// What a VM starts from.
#[derive(Debug)]
pub enum Origin {
    /// The workload guest, from nothing. The first checkpoint is full and is taken when the base image is complete.
    Boot {
        /// Bytes of RAM.
        ram_bytes: u64,
        /// What the guest does.
        parameters: BootParameters,
    },
    /// A checkpoint whose RAM is complete. The first checkpoint is incremental against it.
    Restore {
        /// RAM as the caller filled it.
        ram: SharedMemory,
        /// The rest.
        state: SavedState,
    },
    /// A checkpoint whose RAM is an image that other VMs may start from too. The guest begins at once, whatever the size of its
    /// RAM. The first checkpoint is incremental against it.
    Clone {
        /// RAM; it must not change as long as the VM runs.
        image: Arc<ImageMemory>,
        /// The rest.
        state: SavedState,
    },
    /// A checkpoint whose RAM is filled while the VM runs. The first checkpoint is incremental against it.
    LazyRestore {
        /// Bytes of RAM.
        ram_bytes: u64,
        /// The rest.
        state: SavedState,
        /// How RAM is filled.
        memory: LazyMemory,
    },
}

/// How a VM runs.
#[derive(Clone, Debug)]
pub struct VmOptions {
    /// What runs it.
    pub processor: ProcessorKind,
    /// How fast the guest works.
    pub pace: PaceMode,
    /// How checkpoints are taken.
    pub strategy: Strategy,
    /// From one boundary to the next.
    pub interval: Duration,
    /// The index of the first checkpoint taken.
    pub first_index: CheckpointIndex,
    /// Bytes of the staging area, a multiple of 4096; at least RAM's size for [`Strategy::StopAndCopy`].
    pub staging_bytes: u64,
    /// Checkpoints at which the whole RAM is written to a file as well, as independent evidence.
    pub witness: BTreeSet<u64>,
    /// Where those files go, named `INDEX.ram`.
    pub witness_dir: PathBuf,
}

impl Default for VmOptions {
    fn default() -> Self {
        Self {
            processor: ProcessorKind::Kvm,
            pace: PaceMode::Rate { dirty_pages_per_second: 22_000, check_pages_per_second: 10_000 },
            strategy: Strategy::PreCopy,
            interval: Duration::from_millis(500),
            first_index: CheckpointIndex(0),
            staging_bytes: 256 << 20,
            witness: BTreeSet::new(),
            witness_dir: PathBuf::new(),
        }
    }
}

/// Why a VM did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The guest cannot have this RAM size.
    #[error(transparent)]
    RamSize(#[from] RamSizeError),
    /// The guest program cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The options are impossible: no staging area, or too many witnesses.
    #[error("staging area or witness list has an impossible size")]
    Options,
    /// Shared memory cannot be made.
    #[error("shared memory cannot be made")]
    Memory(#[source] io::Error),
    /// The program cannot be started.
    #[error("vm process cannot be started")]
    Launch(#[source] io::Error),
    /// The child said why it cannot run the VM.
    #[error("vm cannot start")]
    Vm(#[from] VmFailure),
    /// The child ended or was silent, or said something that it cannot say.
    #[error("vm process did not say that it is ready")]
    NotReady(#[source] io::Error),
    /// The lazy memory handler could not start.
    #[error("lazy memory cannot start")]
    Lazy(#[from] LazyFailure),
}

/// A VM's RAM, as the parent has it.
#[derive(Debug)]
pub(crate) enum Ram {
    Shared(Arc<SharedMemory>),
    /// What the child has a view of.
    Image(Arc<ImageMemory>),
}

impl Ram {
    pub(crate) fn pages(&self) -> usize {
        match self {
            Self::Shared(memory) => memory.pages(),
            Self::Image(image) => image.pages(),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Shared(memory) => memory.fd(),
            Self::Image(image) => image.fd(),
        }
    }
}

/// An origin, ready to be given to a child.
pub(crate) struct Prepared {
    pub(crate) ram: Ram,
    pub(crate) state: SavedState,
    pub(crate) first_kind: CaptureKind,
    pub(crate) lazy: Option<LazyMemory>,
}

/// Makes RAM and state ready.
pub(crate) fn prepare(origin: Origin) -> Result<Prepared, SpawnError> {
    let pages = |ram_bytes| Ok::<_, RamSizeError>(Layout::new(ram_bytes)?.ram_pages() as usize);
    match origin {
        Origin::Boot { ram_bytes, parameters } => {
            let mut ram = SharedMemory::create(pages(ram_bytes)?).map_err(SpawnError::Memory)?;
            let cpu = guest::load(ram.bytes_mut(), parameters)?.encode();
            let state = SavedState { cpu, devices: Devices::default().encode(), attachment: Vec::new() };
            Ok(Prepared { ram: Ram::Shared(Arc::new(ram)), state, first_kind: CaptureKind::Full, lazy: None })
        }
        Origin::Restore { ram, state } => {
            Layout::new(ram.pages() as u64 * PAGE_BYTES as u64)?;
            Ok(Prepared {
                ram: Ram::Shared(Arc::new(ram)),
                state,
                first_kind: CaptureKind::Incremental,
                lazy: None,
            })
        }
        Origin::Clone { image, state } => {
            Layout::new(image.pages() as u64 * PAGE_BYTES as u64)?;
            Ok(Prepared { ram: Ram::Image(image), state, first_kind: CaptureKind::Incremental, lazy: None })
        }
        Origin::LazyRestore { ram_bytes, state, memory } => {
            let ram = SharedMemory::create(pages(ram_bytes)?).map_err(SpawnError::Memory)?;
            let (ram, first_kind) = (Ram::Shared(Arc::new(ram)), CaptureKind::Incremental);
            Ok(Prepared { ram, state, first_kind, lazy: Some(memory) })
        }
    }
}

/// The message that starts a child.
pub(crate) fn start_message(
    options: &VmOptions,
    ram: &Ram,
    staging: &SharedMemory,
    state: SavedState,
    first_kind: CaptureKind,
    lazy: Option<&LazyMemory>,
) -> Start {
    Start {
        ram_pages: u32::try_from(ram.pages()).expect("the layout bounds it"),
        staging_slots: u32::try_from(staging.pages()).expect("checked by the caller"),
        residency: match (ram, lazy) {
            (Ram::Image(_), _) => Residency::Cloned,
            (Ram::Shared(_), Some(_)) => Residency::Lazy,
            (Ram::Shared(_), None) => Residency::Complete,
        },
        processor: options.processor,
        pace: options.pace,
        strategy: options.strategy,
        first_kind,
        first_index: options.first_index.0,
        interval_ns: u64::try_from(options.interval.as_nanos()).unwrap_or(u64::MAX),
        state,
        witness_dir: options.witness_dir.as_os_str().as_bytes().to_vec(),
        witness: options.witness.clone(),
    }
}
