//! Virtual machines of this node: each a child process, started, resumed, asked and stopped from here.

mod back_pressure;
mod publishing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::membership::{MembershipError, Role};
use pageswarm_checkpoint::{BranchPoint, CheckpointIndex, Genesis, LineageId, PAGE_BYTES};
use pageswarm_machine::guest::BootParameters;
use pageswarm_machine::{Devices, RamSizeError, Workload};
use pageswarm_vmm::{
    Background, DeathReason, Launcher, LazyMemory, LazyStats, Origin, PaceMode, ProcessorKind, Report,
    SavedState, SpawnError, Strategy, VmEvent, VmFailure, VmOptions, VmProcess,
};
use tokio::sync::Notify;

use crate::events::What;
use crate::fetch;
use crate::identity::{self, KeyError};
use crate::limits::FAULT_TIMEOUT;
use crate::lineages::{LineageError, MapError};
use crate::node::Node;
use crate::page_source::CheckpointPages;
use crate::publish::{CheckpointFigures, Publisher};
use crate::rebuild::{self, RebuildError};
use crate::{follow, report};
pub use back_pressure::{Drive, UnknownWay, WhenBehind};
use publishing::{End, Publishing};

/// Figures of checkpoints kept for one VM.
const FIGURES_KEPT: usize = 10_000;
/// Pages that a running guest checks itself in the background: a quarter of the RAM of the smallest in a second.
const CHECK_PAGES_PER_SECOND: u32 = 8_000;
/// Pages that a resumed guest dirties before it checks all of its memory.
const VERIFY_DIRTY_PAGES: u32 = 1_000;

/// Up to here a VM gets a staging area of twice its RAM.
const STAGING_BYTES_TWICE: u64 = 512 << 20;
/// Staging area of a VM of which no checkpoint is taken: the least that any strategy accepts.
const STAGING_BYTES_IDLE: u64 = 16 << 20;

/// Why a VM does not start.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// This node may not publish.
    #[error("this node may not publish: start it with a ticket of role publisher")]
    Role(#[source] MembershipError),
    /// A key or random bytes.
    #[error("key")]
    Key(#[from] KeyError),
    /// The lineage.
    #[error("lineage")]
    Lineage(#[from] LineageError),
    /// The map of the checkpoint to resume.
    #[error("map")]
    Map(#[from] MapError),
    /// The checkpoint to resume cannot be read.
    #[error("checkpoint")]
    Rebuild(#[from] RebuildError),
    /// What is needed to resume it cannot be fetched.
    #[error("checkpoint cannot be fetched")]
    Fetch(#[from] fetch::FetchError),
    /// The VM's process.
    #[error("virtual machine")]
    Spawn(#[from] SpawnError),
    /// This program's own path.
    #[error("cannot find this program to start it for the virtual machine")]
    Program(#[source] std::io::Error),
    /// RAM of no possible size.
    #[error(transparent)]
    RamSize(#[from] RamSizeError),
    /// The checkpoint was imported, its state is in another program's form.
    #[error(
        "checkpoint {index} was imported: write it out with `checkpoint get` and resume it where it was made"
    )]
    Imported {
        /// Which.
        index: CheckpointIndex,
    },
    /// The node could not finish its own work.
    #[error("node is ending")]
    Ending,
}

impl MachineError {
    /// What the host lacks, if that is why.
    #[must_use]
    pub const fn host_failure(&self) -> Option<&VmFailure> {
        match self {
            Self::Spawn(SpawnError::Vm(failure)) => Some(failure),
            _ => None,
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The workload.
    pub workload: Workload,
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// From checkpoint to checkpoint.
    pub interval: Duration,
    /// How checkpoints are taken.
    pub strategy: Strategy,
    /// Ends the VM after so many.
    pub checkpoints: Option<u64>,
    /// Seeds the guest.
    pub seed: u64,
    /// Checkpoints at which the RAM is written to a file besides.
    pub witness: BTreeSet<u64>,
    /// Where to.
    pub witness_directory: PathBuf,
    /// What is done when checkpoints are not taken as fast as they are made.
    pub when_behind: WhenBehind,
}

/// One VM.
#[derive(Debug)]
pub struct Machine {
    /// Its number on this node.
    pub id: u64,
    /// The lineage that it writes.
    pub lineage: Option<LineageId>,
    /// The checkpoint that it was resumed from.
    pub resumed: Option<(LineageId, CheckpointIndex)>,
    /// When it was started.
    pub started: Instant,
    process: VmProcess,
    drive: Mutex<Drive>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    report: Report,
    first_report: Option<Duration>,
    ended: Option<String>,
    failed: bool,
    figures: VecDeque<CheckpointFigures>,
}

/// All VMs of this node.
#[derive(Debug, Default)]
pub struct Machines {
    next: AtomicU64,
    running: Mutex<BTreeMap<u64, Arc<Machine>>>,
}

/// What resuming a checkpoint and letting the guest check itself showed.
#[derive(Clone, Debug, Default)]
pub struct SelfCheck {
    /// Pages the guest had dirtied when the checkpoint was taken.
    pub operations_before: u64,
    /// The same at the end.
    pub operations_after: u64,
    /// Whole passes over its memory that the guest completed since it was resumed.
    pub whole_passes: u32,
    /// The page in which it found a wrong byte.
    pub wrong_page: Option<u32>,
    /// Why the VM ended by itself.
    pub died: Option<String>,
    /// From the wish to resume to the guest's first report.
    pub first_report: Option<Duration>,
    /// From the wish to resume to the end of the check.
    pub took: Duration,
    /// What lazy memory did; none for a guest that started from an image.
    pub lazy: Option<LazyStats>,
}

impl SelfCheck {
    /// Whether the guest found itself whole and went on from the checkpoint.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.wrong_page.is_none()
            && self.died.is_none()
            && self.whole_passes >= 1
            && self.operations_after > self.operations_before
    }
}

impl Machines {
    /// The VM of that number.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Arc<Machine>> {
        lock(&self.running).get(&id).cloned()
    }

    /// All VMs that were started and not removed, by number.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Machine>> {
        lock(&self.running).values().cloned().collect()
    }

    /// Stops all.
    pub fn end_all(&self) {
        for machine in self.all() {
            machine.process.stop();
        }
    }

    fn remove(&self, id: u64) {
        lock(&self.running).remove(&id);
    }
}

impl Machine {
    /// The guest's own figures, as last reported.
    #[must_use]
    pub fn report(&self) -> Report {
        lock(&self.state).report
    }

    /// Why it ended, if it did, and whether that was a failure.
    #[must_use]
    pub fn ended(&self) -> Option<(String, bool)> {
        let state = lock(&self.state);
        state.ended.clone().map(|why| (why, state.failed))
    }

    /// Figures of its checkpoints from `from` on.
    #[must_use]
    pub fn figures(&self, from: u64) -> Vec<CheckpointFigures> {
        lock(&self.state).figures.iter().filter(|figures| figures.index >= from).cloned().collect()
    }

    /// How it is driven, and what waits.
    #[must_use]
    pub fn driven(&self) -> Drive {
        *lock(&self.drive)
    }

    fn drive<T>(&self, change: impl FnOnce(&mut Drive) -> T) -> T {
        change(&mut lock(&self.drive))
    }

    /// Ends it.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// The process that runs it.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// What runs its guest.
    #[must_use]
    pub const fn processor(&self) -> &'static str {
        match self.process.processor() {
            ProcessorKind::Kvm => "kvm",
            ProcessorKind::Interpreter => "interpreter",
        }
    }

    fn note_report(&self, report: Report) {
        let mut state = lock(&self.state);
        state.report = report;
        state.first_report.get_or_insert_with(|| self.started.elapsed());
        drop(state);
        self.changed.notify_waiters();
    }

    fn note_end(&self, reason: &DeathReason, why: Option<End>) {
        let mut state = lock(&self.state);
        let (why, failed) = match why {
            Some(End::AllTaken) => ("all checkpoints were taken".to_owned(), false),
            Some(End::Failed(why)) => (why, true),
            None => (report::chain(reason), !matches!(reason, DeathReason::Stopped)),
        };
        state.failed |= failed;
        state.ended.get_or_insert(why);
        drop(state);
        self.changed.notify_waiters();
    }

    fn note_figures(&self, figures: CheckpointFigures) {
        let mut state = lock(&self.state);
        if state.figures.len() >= FIGURES_KEPT {
            state.figures.pop_front();
        }
        state.figures.push_back(figures);
        drop(state);
        self.changed.notify_waiters();
    }
}

/// Boots a VM whose checkpoints become a new lineage.
///
/// # Errors
///
/// [`MachineError`].
pub async fn run(node: &Arc<Node>, options: RunOptions) -> Result<Arc<Machine>, MachineError> {
    node.members.certificate().allows(Role::Publisher).map_err(MachineError::Role)?;
    let size_error = RamSizeError { ram_bytes: options.ram_bytes };
    let pages = u32::try_from(options.ram_bytes / PAGE_BYTES as u64).map_err(|_| size_error)?;
    pageswarm_machine::Layout::new(options.ram_bytes)?;
    let origin = Origin::Boot {
        ram_bytes: options.ram_bytes,
        parameters: BootParameters { seed: options.seed, workload: options.workload },
    };
    let process = spawn(node, origin, vm_options(&options)).await?;
    start_lineage(node, process, None, pages, &options).await
}

/// Resumes a checkpoint as a branch of its lineage, its memory filled as the guest touches it. What is not memory must come
/// within `patience`.
///
/// # Errors
///
/// [`MachineError`].
pub async fn resume_as_branch(
    node: &Arc<Node>,
    id: LineageId,
    index: CheckpointIndex,
    patience: Duration,
    options: RunOptions,
) -> Result<Arc<Machine>, MachineError> {
    node.members.certificate().allows(Role::Publisher).map_err(MachineError::Role)?;
    let (origin, state_root, pages) =
        resumable(node, id, index, (Order::WrittenFirst, Filled::FromImage), patience).await?;
    // What the guest does not touch comes with everything else, and is mapped when it is here.
    let fetching = Arc::clone(node);
    tokio::spawn(async move {
        if let Err(error) = fetch::fetch(&fetching, id, index).await {
            tracing::warn!(error = report::chain(&error), "checkpoint is fetched page by page only");
        }
    });
    let options = RunOptions { ram_bytes: u64::from(pages) * PAGE_BYTES as u64, ..options };
    let process = spawn(node, origin, vm_options(&options)).await?;
    let parent = BranchPoint { lineage: id, index, state_root };
    start_lineage(node, process, Some(parent), pages, &options).await
}

/// Resumes a checkpoint and lets its guest work on, then check all of its memory. The VM ends with it. `patience` is for
/// what is not memory, and then again for the guest's check.
///
/// # Errors
///
/// [`MachineError`].
pub async fn self_check(
    node: &Arc<Node>,
    id: LineageId,
    index: CheckpointIndex,
    patience: Duration,
    memory: Filled,
) -> Result<SelfCheck, MachineError> {
    let started = Instant::now();
    let (origin, ..) = resumable(node, id, index, (Order::ByNumber, memory), patience).await?;
    let (Origin::LazyRestore { state, .. } | Origin::Clone { state, .. }) = &origin else {
        return Err(MachineError::Ending);
    };
    let before = Devices::decode(&state.devices).unwrap_or_default();
    let interval = Duration::from_secs(86_400);
    let options = VmOptions {
        pace: PaceMode::Verify { dirty_first: VERIFY_DIRTY_PAGES },
        interval,
        staging_bytes: STAGING_BYTES_IDLE,
        ..VmOptions::default()
    };
    let (process, events) = spawn(node, origin, options).await?;
    let drive = Drive::new(WhenBehind::default(), interval);
    let machine = enter(node, (process, drive), None, Some((id, index)), started);
    let watching = Arc::clone(&machine);
    std::thread::spawn(move || watch(&watching, &events));
    // The pass under way when the checkpoint was taken is not a whole one.
    let done =
        |report: &Report| report.wrong_page.is_some() || report.passes >= before.passes.saturating_add(2);
    let finished = tokio::time::timeout(patience, wait_for(&machine, done)).await;
    let report = machine.report();
    let died = machine.ended().map(|(why, _)| why).or_else(|| {
        finished.is_err().then(|| format!("no whole self-check pass within {} s", patience.as_secs()))
    });
    let check = SelfCheck {
        operations_before: before.operations,
        operations_after: report.operations,
        whole_passes: report.passes.saturating_sub(before.passes).saturating_sub(1),
        wrong_page: report.wrong_page.map(|page| page.0),
        died,
        first_report: lock(&machine.state).first_report,
        took: started.elapsed(),
        lazy: machine.process.lazy_stats(),
    };
    machine.process.stop();
    node.machines.remove(machine.id);
    Ok(check)
}

async fn wait_for(machine: &Machine, done: impl Fn(&Report) -> bool) {
    loop {
        let changed = machine.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if machine.ended().is_some() || done(&machine.report()) {
            return;
        }
        changed.await;
    }
}

/// Where a resumed guest's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It is a view of the checkpoint's image; where there is none, as [`Filled::ByFaults`].
    FromImage,
    /// Page by page as it is touched, and in the background.
    ByFaults,
}

/// In which order memory is filled in the background.
#[derive(Clone, Copy)]
enum Order {
    /// What the recorded interval wrote first: a guest that goes on touches the same.
    WrittenFirst,
    /// For a guest that goes through all of its memory.
    ByNumber,
}

type Started = (VmProcess, Receiver<VmEvent>);

async fn spawn(node: &Node, origin: Origin, options: VmOptions) -> Result<Started, MachineError> {
    let processor = node.config.processor.here();
    if processor == ProcessorKind::Interpreter {
        tracing::info!("the guest runs on the interpreter, which is slower than this machine's processor");
    }
    let options = VmOptions { processor, ..options };
    let program = std::env::current_exe().map_err(MachineError::Program)?;
    let launcher = Launcher { program, arguments: vec!["vm-process".into()] };
    let spawned = tokio::task::spawn_blocking(move || VmProcess::spawn(&launcher, origin, &options));
    Ok(spawned.await.map_err(|_| MachineError::Ending)??)
}

fn vm_options(options: &RunOptions) -> VmOptions {
    // Room for two whole intervals of dirty pages, and for all of RAM where everything is copied at once.
    let per_interval = f64::from(options.workload.dirty_pages_per_second()) * options.interval.as_secs_f64();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a small positive number of pages"
    )]
    let pages = (per_interval * 2.5) as u64 + 4096;
    // A guest that dirties all of a small RAM can be captured while its last checkpoint is still published.
    let wanted = (pages * PAGE_BYTES as u64).max((2 * options.ram_bytes).min(STAGING_BYTES_TWICE));
    let staging_bytes = match options.strategy {
        Strategy::StopAndCopy => options.ram_bytes,
        Strategy::IncrementalStopAndCopy | Strategy::PreCopy => wanted.max(64 << 20),
    };
    VmOptions {
        pace: PaceMode::Rate {
            dirty_pages_per_second: options.workload.dirty_pages_per_second(),
            check_pages_per_second: CHECK_PAGES_PER_SECOND,
        },
        strategy: options.strategy,
        interval: options.interval,
        first_index: CheckpointIndex(0),
        staging_bytes,
        witness: options.witness.clone(),
        witness_dir: options.witness_directory.clone(),
        ..VmOptions::default()
    }
}

/// The origin of a VM that resumes a checkpoint: its image, if all of it was proven lately, else its pages as the guest
/// touches them. CPU and devices are fetched now.
async fn resumable(
    node: &Arc<Node>,
    id: LineageId,
    index: CheckpointIndex,
    (order, memory): (Order, Filled),
    patience: Duration,
) -> Result<(Origin, pageswarm_checkpoint::StateRoot, u32), MachineError> {
    fetch::fetch_state_within(node, id, index, patience).await?;
    let preparing = Arc::clone(node);
    let prepared = tokio::task::spawn_blocking(move || {
        let unknown = MapError::UnknownCheckpoint { lineage: id, index };
        let lineage = preparing.lineages.get(&id).ok_or(MapError::UnknownLineage(id))?;
        let head = preparing.lineages.head(&id, index)?.ok_or(unknown)?;
        let map = preparing.lineages.map_at(&id, index)?;
        let state: SavedState = rebuild::read_state(&preparing.store, &map, index)?;
        if state.cpu.is_empty() {
            return Err(MachineError::Imported { index });
        }
        let ram_bytes = lineage.genesis.ram_bytes();
        let pages = lineage.genesis.pages;
        let image = preparing.images.get(id, index);
        if let (Filled::FromImage, Some(image)) = (memory, &image) {
            let origin = Origin::Clone { image: Arc::clone(image), state };
            return Ok((origin, head.state_root, pages));
        }
        let prefetch = match order {
            Order::WrittenFirst => preparing.lineages.written_after(&id, index),
            Order::ByNumber => Vec::new(),
        };
        let source = Box::new(CheckpointPages::new(preparing, lineage, map, image));
        let memory = LazyMemory { source, prefetch, background: Background::Fill, timeout: FAULT_TIMEOUT };
        Ok::<_, MachineError>((Origin::LazyRestore { ram_bytes, state, memory }, head.state_root, pages))
    });
    prepared.await.map_err(|_| MachineError::Ending)?
}

async fn start_lineage(
    node: &Arc<Node>,
    (process, events): Started,
    parent: Option<BranchPoint>,
    pages: u32,
    options: &RunOptions,
) -> Result<Arc<Machine>, MachineError> {
    let (id, publisher) = new_lineage(node, pages, options.interval, parent).await?;
    let resumed = parent.map(|point| (point.lineage, point.index));
    let drive = Drive::new(options.when_behind, options.interval);
    let machine = enter(node, (process, drive), Some(id), resumed, Instant::now());
    node.events.add(What::VmStarted { vm: machine.id, lineage: Some(id.to_string()) });
    tokio::spawn(back_pressure::keep(Arc::clone(node), Arc::clone(&machine)));
    let (node, checkpoints) = (Arc::clone(node), options.checkpoints);
    let publishing = Publishing { node, machine: Arc::clone(&machine), publisher, checkpoints };
    std::thread::Builder::new()
        .name("publisher".to_owned())
        .spawn(move || publishing.run(&events))
        .map_err(MachineError::Program)?;
    Ok(machine)
}

/// Signs and opens a lineage of this node's own; its name and whoever publishes it.
///
/// # Errors
///
/// [`MachineError`].
pub async fn new_lineage(
    node: &Arc<Node>,
    pages: u32,
    interval: Duration,
    parent: Option<BranchPoint>,
) -> Result<(LineageId, Publisher), MachineError> {
    let genesis = Genesis {
        writer: node.id,
        nonce: identity::random()?,
        pages,
        interval_ms: u32::try_from(interval.as_millis()).unwrap_or(u32::MAX),
        parent,
    };
    node.lineages.check_room_for(&genesis, 0)?;
    let (record, id) = genesis.sign(&node.key);
    let lineage = node.lineages.open(&record, &node.members.certificate_record())?;
    let lineage = lineage.ok_or(LineageError::Unknown(id))?;
    follow::start(node, &lineage).await;
    let map = node.lineages.latest_map(&id)?;
    Ok((id, Publisher::new(Arc::clone(node), lineage, map)))
}

fn enter(
    node: &Node,
    (process, drive): (VmProcess, Drive),
    lineage: Option<LineageId>,
    resumed: Option<(LineageId, CheckpointIndex)>,
    started: Instant,
) -> Arc<Machine> {
    let id = node.machines.next.fetch_add(1, Ordering::Relaxed);
    let machine = Arc::new(Machine {
        id,
        lineage,
        resumed,
        started,
        process,
        drive: Mutex::new(drive),
        state: Mutex::default(),
        changed: Notify::new(),
    });
    lock(&node.machines.running).insert(id, Arc::clone(&machine));
    machine
}

/// Turns a VM's events into a report only.
fn watch(machine: &Machine, events: &Receiver<VmEvent>) {
    for event in events {
        match event {
            VmEvent::Report(report) => machine.note_report(report),
            VmEvent::Died { reason } => machine.note_end(&reason, None),
            VmEvent::Console(_) | VmEvent::Pages(_) | VmEvent::Captured(_) => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
