//! Simulating an interval: from checkpoint k and the record of interval k to a proof that its end is checkpoint k+1.
//!
//! The simulation gets the bytes of checkpoint k, checked against hashes that lead to the state root in its head, and of
//! checkpoint k+1 the hashes of its pages, its processor and its devices, which are checked against its head. What comes out
//! is hashed anew. A simulation may begin before all of checkpoint k is here: then a page is had when it is touched first.

mod traced;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::{
    Birth, BlobKind, CheckpointIndex, CheckpointMap, ChunkRef, IntervalRecord, LineageId, PAGE_BYTES,
    PageNumber, RecordError, Slot, StateRoot, Work, chunk_hash, state_root, zero_page_hash,
};
use pageswarm_machine::bytes::BytesError;
use pageswarm_machine::{CpuState, Devices, EventLog};
use pageswarm_sim::{
    Boundary, CompleteRam, Memory, Observer, PageUnavailable, Reason, Refusal, ReplayError, ReplayFailure,
    Replayed, Unobserved, replay_while,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::fetch::{self, FetchError, Fetched};
use crate::lazy_ram::{self, LazyRam, MemoryUse, PageSet, Trouble, Waiting};
use crate::limits::{FAULT_TIMEOUT, SIMULATED_RAM_BYTES_MAX, SIMULATION_TIMEOUT};
use crate::lineages::{LineageError, MapError};
use crate::node::Node;
use crate::page_source::CheckpointPages;
use crate::rebuild::{self, RebuildError};
use crate::recording::Recording;
use crate::report;

pub use traced::{TakenTrace, Tracing};

/// Why an interval was not simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// Its checkpoints did not come.
    #[error("checkpoints of the interval")]
    Fetch(#[from] FetchError),
    /// A map.
    #[error("map")]
    Map(#[from] MapError),
    /// A head.
    #[error("head")]
    Lineage(#[from] LineageError),
    /// A checkpoint cannot be read back.
    #[error("checkpoint")]
    Rebuild(#[from] RebuildError),
    /// There is no record of the interval: the lineage was not recorded by a VM of this swarm.
    #[error(
        "checkpoint {end} carries no record of the interval before it: only what a VM recorded can be simulated"
    )]
    NoRecord {
        /// The checkpoint.
        end: CheckpointIndex,
    },
    /// The record is not the writer's.
    #[error("interval record")]
    Record(#[from] RecordError),
    /// The record is of another interval.
    #[error("record of interval {found} was published as that of {wanted}")]
    OtherRecord {
        /// Which it should be.
        wanted: CheckpointIndex,
        /// Which it says it is.
        found: CheckpointIndex,
    },
    /// A state or the event log cannot be read.
    #[error("state of the machine")]
    State(#[from] BytesError),
    /// The simulation did not come to the end.
    #[error("simulation")]
    Replay(#[from] ReplayError),
    /// It came to an end that is not the checkpoint: a fault of the simulator.
    #[error("interval {interval} ends with state root {found}, its checkpoint has {promised}")]
    OtherEnd {
        /// Which interval.
        interval: CheckpointIndex,
        /// Computed from what was simulated.
        found: StateRoot,
        /// In the head.
        promised: StateRoot,
        /// What was done on the way.
        work: Work,
    },
    /// What it needs did not come in time, or other simulations took all places.
    #[error("what the interval needs did not come within {} s: `status` shows who has it", waited.as_secs())]
    Late {
        /// How long it was waited for.
        waited: Duration,
    },
    /// A page that it touched did not come in time.
    #[error(
        "page {page} of checkpoint {interval} did not come within {} s: nobody who is connected has it, `status` shows who is",
        FAULT_TIMEOUT.as_secs()
    )]
    PageLate {
        /// Of which interval's beginning.
        interval: CheckpointIndex,
        /// Which.
        page: PageNumber,
    },
    /// A page that it touched cannot be kept.
    #[error("page {page} of checkpoint {interval} came and the store is full: give it room")]
    PageNotStored {
        /// Of which interval's beginning.
        interval: CheckpointIndex,
        /// Which.
        page: PageNumber,
    },
    /// A page that it touched cannot be read.
    #[error("page {page} of checkpoint {interval} cannot be read from the store: the node's log says why")]
    PageUnreadable {
        /// Of which interval's beginning.
        interval: CheckpointIndex,
        /// Which.
        page: PageNumber,
    },
    /// More RAM than a simulation may have.
    #[error("the guest has {bytes} bytes of RAM, a simulation at most {SIMULATED_RAM_BYTES_MAX}")]
    RamSize {
        /// The guest's.
        bytes: u64,
    },
    /// The trace cannot be written.
    #[error("trace")]
    Trace(#[from] pageswarm_sim::trace::WriteError),
    /// The file of the trace cannot be written.
    #[error("file of the trace")]
    TraceFile(#[source] std::io::Error),
    /// The trace came to no end.
    #[error(
        "the trace could not be written to its end: give it room, or a larger limit than {bytes_max} bytes"
    )]
    TraceCut {
        /// The limit that was set.
        bytes_max: u64,
    },
    /// The system gives no thread for it.
    #[error("no thread for the simulation")]
    Thread(#[source] std::io::Error),
    /// A fault of this program.
    #[error("the simulation broke off: a fault of the simulator, its log says more")]
    BrokeOff,
    /// The node ends.
    #[error("node is ending")]
    Ending,
}

impl SimulateError {
    /// Whether it is the trace that failed, and not what was traced.
    #[must_use]
    pub const fn is_of_its_trace(&self) -> bool {
        matches!(self, Self::Trace(_) | Self::TraceFile(_) | Self::TraceCut { .. })
    }
}

/// Stops a simulation whose result nobody waits for any more.
#[derive(Debug, Default)]
struct Abandoned(Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How a simulation gets the RAM that it begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restore {
    /// A page when it is touched first: only what is touched, or expected to be, is fetched.
    #[default]
    Lazy,
    /// All of it before the first instruction.
    Full,
}

/// Which interval, and how.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Whose.
    pub lineage: LineageId,
    /// Interval k, from checkpoint k to k+1.
    pub interval: CheckpointIndex,
    /// How it gets its RAM.
    pub restore: Restore,
    /// Whether its accesses are traced.
    pub tracing: Option<Tracing>,
    /// How long to wait for what has to be here before the first instruction.
    pub patience: Duration,
}

/// A simulated interval whose end is its checkpoint, bit for bit.
#[derive(Debug)]
pub struct Simulated {
    /// What had to be fetched of checkpoint k, or was begun to be: until when it had come, or the simulation could begin.
    pub fetched: Fetched,
    /// Reading back and checking what has to be here before the first instruction.
    pub read_back: Duration,
    /// How the simulation used its memory, if that was filled where it was touched.
    pub memory: Option<MemoryUse>,
    /// When the first instruction was simulated.
    pub began: Instant,
    /// The simulation itself.
    pub simulation: Duration,
    /// Instructions; a repeated string instruction is one.
    pub instructions: u64,
    /// Accesses to memory that were reads.
    pub reads: u64,
    /// Accesses to memory that were writes.
    pub writes: u64,
    /// Pages that the interval changed.
    pub changed_pages: u64,
    /// The end's state root, computed from what was simulated.
    pub state_root: StateRoot,
    /// The trace, if one was to be taken.
    pub trace: Option<TakenTrace>,
}

/// What a simulation needs, read and checked.
#[derive(Debug)]
pub struct Prepared {
    /// All RAM of the checkpoint that the interval begins with.
    pub ram: Vec<u8>,
    /// Everything else.
    pub recording: Recording,
    read_back: Duration,
}

/// Fetches what a job needs, simulates it in one of `places`, and proves its end. If this is dropped, the simulation ends
/// soon.
///
/// # Errors
///
/// [`SimulateError`].
///
/// # Panics
///
/// If no checkpoint can follow the interval: its number is the largest there is.
pub async fn simulate(
    node: &Arc<Node>,
    job: Job,
    places: &Arc<Semaphore>,
) -> Result<Simulated, SimulateError> {
    let late = |_| SimulateError::Late { waited: job.patience };
    let gathered = timeout(job.patience, gather(node, job, places)).await.map_err(late)??;
    let abandoned = Abandoned::default();
    let (stop, simulating) = (Arc::clone(&abandoned.0), Arc::clone(node));
    let Gathered { fetched, place, expected, arriving } = gathered;
    let simulated = on_own_thread(move || {
        let simulated = match job.restore {
            Restore::Full => prepare(&simulating, &job.lineage, job.interval)
                .and_then(|prepared| run_full(&simulating, job, (prepared, fetched), &stop)),
            Restore::Lazy => run_lazily(&simulating, job, (fetched, &expected), &stop),
        };
        drop(place);
        simulated
    });
    let simulated = simulated.await;
    // What has not come by now is not wanted any more.
    drop(arriving);
    simulated
}

/// How far everything else that a node does precedes its simulations: others wait for its answers, and so do the simulations.
const SIMULATION_GIVES_WAY: u8 = 10;

/// Runs a simulation on a thread of its own, which gives way to all others of the node.
async fn on_own_thread<T: Send + 'static>(
    simulate: impl FnOnce() -> Result<T, SimulateError> + Send + 'static,
) -> Result<T, SimulateError> {
    let (done, waiting) = oneshot::channel();
    let thread = std::thread::Builder::new().name("simulation".into()).spawn(move || {
        pageswarm_vmm::give_way(SIMULATION_GIVES_WAY);
        // Whoever waited may have gone.
        let _unheard = done.send(simulate());
    });
    thread.map_err(SimulateError::Thread)?;
    // One that panics sends nothing.
    waiting.await.map_err(|_| SimulateError::BrokeOff)?
}

/// Fetches what a job will need before its turn comes.
///
/// # Errors
///
/// [`SimulateError`].
pub async fn fetch_ahead(node: &Arc<Node>, job: Job) -> Result<(), SimulateError> {
    let Job { lineage, interval, restore, patience, .. } = job;
    fetch::wait_announced(node, lineage, interval.next(), patience).await?;
    let plan = match restore {
        Restore::Full => fetch::Plan::of_checkpoint(node, lineage, interval).await?,
        Restore::Lazy => plan_expected(node, job).await?.0,
    };
    fetch::fetch_state(node, lineage, interval).await?;
    fetch::fetch_state(node, lineage, interval.next()).await?;
    Ok(plan.carry_out(node).await?)
}

/// What the interval is expected to touch, and how to fetch it.
async fn plan_expected(node: &Arc<Node>, job: Job) -> Result<(fetch::Plan, PageSet), SimulateError> {
    let (expecting, Job { lineage, interval, .. }) = (Arc::clone(node), job);
    let expected = tokio::task::spawn_blocking(move || {
        // A size that is refused must not decide how large sets of pages become.
        ram_bytes(&expecting.lineages.map_at(&lineage, interval)?)?;
        Ok::<_, SimulateError>(lazy_ram::expected(&expecting, lineage, interval))
    });
    let expected = expected.await.map_err(broken)??;
    Ok((fetch::Plan::of_pages(node, lineage, interval, expected.clone()).await?, expected))
}

/// Fetches what interval `interval` needs within `patience` and gives it to whoever simulates it elsewhere.
///
/// # Errors
///
/// [`SimulateError`].
///
/// # Panics
///
/// As [`simulate`].
pub async fn prepared<T: Send + 'static>(
    node: &Arc<Node>,
    id: LineageId,
    interval: CheckpointIndex,
    patience: Duration,
    give: impl FnOnce(Prepared) -> T + Send + 'static,
) -> Result<T, SimulateError> {
    let late = |_| SimulateError::Late { waited: patience };
    let job = Job { lineage: id, interval, restore: Restore::Full, tracing: None, patience };
    let gathered = gather(node, job, &node.simulations);
    let Gathered { place, .. } = timeout(patience, gathered).await.map_err(late)??;
    let preparing = Arc::clone(node);
    let given = tokio::task::spawn_blocking(move || {
        let given = prepare(&preparing, &id, interval).map(give);
        drop(place);
        given
    });
    given.await.map_err(broken)?
}

fn broken(error: tokio::task::JoinError) -> SimulateError {
    if error.is_panic() { SimulateError::BrokeOff } else { SimulateError::Ending }
}

/// What has to be waited for before the first instruction.
struct Gathered {
    fetched: Fetched,
    place: OwnedSemaphorePermit,
    /// What a lazy simulation is expected to touch.
    expected: PageSet,
    /// What is fetched meanwhile.
    arriving: JoinSet<()>,
}

async fn gather(node: &Arc<Node>, job: Job, places: &Arc<Semaphore>) -> Result<Gathered, SimulateError> {
    let Job { lineage, interval, restore, patience, .. } = job;
    let (mut arriving, mut expected) = (JoinSet::new(), PageSet::default());
    fetch::wait_announced(node, lineage, interval.next(), patience).await?;
    let start = Instant::now();
    let mut fetched = match restore {
        Restore::Full => fetch::fetch(node, lineage, interval).await?,
        Restore::Lazy => {
            let plan;
            (plan, expected) = plan_expected(node, job).await?;
            let (lacked_chunks, held_chunks) = (plan.lacked_chunks(), plan.held_chunks());
            let fetching = Arc::clone(node);
            arriving.spawn(async move {
                if let Err(error) = plan.carry_out(&fetching).await {
                    tracing::debug!(error = report::chain(&error), %interval, "expected pages do not come");
                }
            });
            fetch::fetch_state(node, lineage, interval).await?;
            Fetched { lacked_chunks, held_chunks, took: Duration::ZERO }
        }
    };
    fetch::fetch_state(node, lineage, interval.next()).await?;
    fetched.took = start.elapsed();
    let place = Arc::clone(places).acquire_owned().await.map_err(|_| SimulateError::Ending)?;
    Ok(Gathered { fetched, place, expected, arriving })
}

fn prepare(node: &Node, id: &LineageId, interval: CheckpointIndex) -> Result<Prepared, SimulateError> {
    let clock = Instant::now();
    let map = node.lineages.map_at(id, interval)?;
    let record = record(node, id, interval)?;
    let mut ram = vec![0; ram_bytes(&map)?];
    let rebuilt = rebuild::rebuild_into(node, id, interval, |page, bytes| {
        let start = page.0 as usize * PAGE_BYTES;
        ram[start..start + PAGE_BYTES].copy_from_slice(bytes);
        Ok(())
    })?;
    let start = boundary(&rebuilt.state.cpu, &rebuilt.state.devices, map)?;
    let recording = record.recording(start, rebuilt.state_root);
    Ok(Prepared { ram, recording, read_back: clock.elapsed() })
}

/// The interval's record and end, checked.
struct Record {
    interval: CheckpointIndex,
    events: EventLog,
    end: Boundary,
    end_root: StateRoot,
}

impl Record {
    fn recording(self, start: Boundary, start_root: StateRoot) -> Recording {
        let Self { interval, events, end, end_root } = self;
        Recording { interval, start_root, end_root, start, events, end }
    }
}

fn record(node: &Node, id: &LineageId, interval: CheckpointIndex) -> Result<Record, SimulateError> {
    let next = interval.next();
    let lineage = node.lineages.get(id).ok_or(MapError::UnknownLineage(*id))?;
    let next_map = node.lineages.map_at(id, next)?;
    let record = rebuild::read_blob(&node.store, &next_map, BlobKind::IntervalRecord, next)?;
    if record.is_empty() {
        return Err(SimulateError::NoRecord { end: next });
    }
    let record = IntervalRecord::open(&record, &lineage.genesis.writer)?;
    if record.lineage != *id || record.interval != interval {
        return Err(SimulateError::OtherRecord { wanted: interval, found: record.interval });
    }
    // What is imported has a record without a log: not even an empty one, which has a version.
    if record.event_log.is_empty() {
        return Err(SimulateError::NoRecord { end: next });
    }
    let (end, end_root) = proven_boundary(node, id, next, next_map)?;
    Ok(Record { interval, events: EventLog::decode(&record.event_log)?, end, end_root })
}

/// A checkpoint's hashes, processor and devices, which together are what its head promises, and that root.
///
/// The maps of an honest writer lead to it; so do those that are believed here.
fn proven_boundary(
    node: &Node,
    id: &LineageId,
    index: CheckpointIndex,
    map: CheckpointMap,
) -> Result<(Boundary, StateRoot), SimulateError> {
    let head = node.lineages.head(id, index)?.ok_or(MapError::UnknownCheckpoint { lineage: *id, index })?;
    let promised = head.state_root;
    let blob = |kind| rebuild::read_blob(&node.store, &map, kind, index);
    let (cpu, devices) = (blob(BlobKind::Cpu)?, blob(BlobKind::Devices)?);
    let found = state_root(&map.ram, [&cpu, &devices], None);
    if found != promised {
        return Err(RebuildError::WrongRoot { index, found, promised }.into());
    }
    Ok((boundary(&cpu, &devices, map)?, promised))
}

fn ram_bytes(map: &CheckpointMap) -> Result<usize, SimulateError> {
    let bytes = u64::from(map.ram.pages()) * PAGE_BYTES as u64;
    if bytes > SIMULATED_RAM_BYTES_MAX {
        return Err(SimulateError::RamSize { bytes });
    }
    Ok(map.ram.pages() as usize * PAGE_BYTES)
}

fn boundary(cpu: &[u8], devices: &[u8], map: CheckpointMap) -> Result<Boundary, BytesError> {
    let (cpu, devices) = (CpuState::decode(cpu)?, Devices::decode(devices)?);
    Ok(Boundary { cpu, devices, map: map.ram })
}

fn run_full(
    node: &Node,
    job: Job,
    (prepared, fetched): (Prepared, Fetched),
    stop: &AtomicBool,
) -> Result<Simulated, SimulateError> {
    let Prepared { ram, recording, read_back } = prepared;
    let (simulated, _) = run_job(node, job, &recording, CompleteRam::new(ram), stop)?;
    Ok(Simulated { fetched, read_back, ..simulated })
}

fn run_lazily(
    node: &Arc<Node>,
    job: Job,
    (fetched, expected): (Fetched, &PageSet),
    stop: &Arc<AtomicBool>,
) -> Result<Simulated, SimulateError> {
    let (clock, Job { lineage: id, interval, .. }) = (Instant::now(), job);
    let record = record(node, &id, interval)?;
    let lineage = node.lineages.get(&id).ok_or(MapError::UnknownLineage(id))?;
    let map = node.lineages.map_at(&id, interval)?;
    let (start, start_root) = proven_boundary(node, &id, interval, map.clone())?;
    let ram = map.ram.clone();
    let pages = CheckpointPages::new(Arc::clone(node), lineage, map, node.images.get(id, interval));
    let trouble = Arc::new(OnceLock::new());
    let waiting = Waiting {
        patience: FAULT_TIMEOUT,
        deadline: clock + SIMULATION_TIMEOUT,
        trouble: Arc::clone(&trouble),
    };
    let memory = LazyRam::new(pages.until(Arc::clone(stop)), ram, expected, waiting);
    let read_back = clock.elapsed();
    let ran = run_job(node, job, &record.recording(start, start_root), memory, stop);
    let (simulated, memory) = ran.map_err(|error| match (error, trouble.get()) {
        (SimulateError::PageLate { interval, page }, Some(Trouble::Store)) => {
            SimulateError::PageUnreadable { interval, page }
        }
        (SimulateError::PageLate { interval, page }, Some(Trouble::NotStored)) => {
            SimulateError::PageNotStored { interval, page }
        }
        (SimulateError::PageLate { .. }, Some(Trouble::Deadline)) => {
            SimulateError::Late { waited: SIMULATION_TIMEOUT }
        }
        (error, _) => error,
    })?;
    let (used, touched) = memory.used();
    node.touched.note(id, interval, touched);
    Ok(Simulated { fetched, read_back, memory: Some(used), ..simulated })
}

/// Simulates a job's interval from its beginning in `memory`, proves its end, and traces it if it is to be.
fn run_job<M: Memory>(
    node: &Node,
    job: Job,
    recording: &Recording,
    memory: M,
    stop: &AtomicBool,
) -> Result<(Simulated, M), SimulateError> {
    let Some(tracing) = job.tracing else {
        let ran = run(recording, memory, Unobserved, || !stop.load(Ordering::Relaxed));
        let (simulated, memory, Unobserved) = ran?;
        return Ok((simulated, memory));
    };
    let (subject, kept) = ((job.lineage, recording), (tracing, node.config.directory.as_path()));
    let (simulated, memory, trace) = traced::run_traced(subject, memory, kept, stop)?;
    Ok((Simulated { trace: Some(trace), ..simulated }, memory))
}

/// Simulates an interval from its beginning in `memory` under an observer, and proves its end.
fn run<M: Memory, O: Observer>(
    recording: &Recording,
    memory: M,
    observer: O,
    mut go_on: impl FnMut() -> bool,
) -> Result<(Simulated, M, O), SimulateError> {
    let (clock, promised, interval) = (Instant::now(), recording.end_root, recording.interval);
    let replayed = replay_while(&recording.wanted(), memory, observer, || {
        go_on() && clock.elapsed() < SIMULATION_TIMEOUT
    });
    let replayed = replayed.map_err(|error| match error.cause {
        ReplayFailure::Refused(Refusal { reason: Reason::Page(PageUnavailable { page }), .. }) => {
            SimulateError::PageLate { interval, page }
        }
        _ => SimulateError::Replay(error),
    })?;
    let simulation = clock.elapsed();
    let found = root_of(&recording.start, &replayed);
    if found != promised {
        let work = Work {
            instructions: replayed.instructions,
            reads: replayed.reads,
            writes: replayed.writes,
            changed_pages: replayed.changed.len() as u64,
        };
        return Err(SimulateError::OtherEnd { interval, found, promised, work });
    }
    let simulated = Simulated {
        fetched: Fetched::default(),
        read_back: Duration::ZERO,
        memory: None,
        began: clock,
        simulation,
        instructions: replayed.instructions,
        reads: replayed.reads,
        writes: replayed.writes,
        changed_pages: replayed.changed.len() as u64,
        state_root: found,
        trace: None,
    };
    Ok((simulated, replayed.memory, replayed.observer))
}

/// The state root of what was simulated from `start` on: the pages that it wrote hashed anew, the others those of the start.
pub fn root_of<M: Memory, O>(start: &Boundary, replayed: &Replayed<M, O>) -> StateRoot {
    let slot = |page: &PageNumber| {
        let hash = chunk_hash(replayed.memory.page(*page));
        // The root is over hashes; where a chunk was born makes no difference to it.
        let source = ChunkRef::own(Birth(0));
        (*page, if hash == zero_page_hash() { Slot::Zero } else { Slot::Chunk { source, hash } })
    };
    let written: Vec<(PageNumber, Slot)> = replayed.written.iter().map(slot).collect();
    let ram = start.map.with(&written);
    state_root(&ram, [&replayed.cpu.encode(), &replayed.devices.encode()], None)
}
