//! Simulating an interval: from checkpoint k and the record of interval k to a proof that its end is checkpoint k+1.
//!
//! The simulation gets all bytes of checkpoint k, whose state root is checked first, and of checkpoint k+1 the hashes
//! of its pages, its processor and its devices, which are checked against its head. What comes out is hashed anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::{
    Birth, BlobKind, CheckpointIndex, CheckpointMap, ChunkRef, IntervalRecord, LineageId, PAGE_BYTES,
    PageNumber, RecordError, Slot, StateRoot, Work, chunk_hash, state_root, zero_page_hash,
};
use pageswarm_machine::bytes::BytesError;
use pageswarm_machine::{CpuState, Devices, EventLog};
use pageswarm_sim::{Boundary, CompleteRam, Memory, ReplayError, Replayed, Unobserved, replay_while};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::fetch::{self, FetchError, Fetched};
use crate::limits::{SIMULATED_RAM_BYTES_MAX, SIMULATION_TIMEOUT};
use crate::lineages::{LineageError, MapError};
use crate::node::Node;
use crate::rebuild::{self, RebuildError};
use crate::recording::Recording;

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
    /// More RAM than a simulation may have.
    #[error("the guest has {bytes} bytes of RAM, a simulation at most {SIMULATED_RAM_BYTES_MAX}")]
    RamSize {
        /// The guest's.
        bytes: u64,
    },
    /// A fault of this program.
    #[error("the simulation broke off: a fault of the simulator, its log says more")]
    BrokeOff,
    /// The node ends.
    #[error("node is ending")]
    Ending,
}

/// Stops a simulation whose result nobody waits for any more.
#[derive(Debug, Default)]
struct Abandoned(Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A simulated interval whose end is its checkpoint, bit for bit.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// What had to be fetched of checkpoint k.
    pub fetched: Fetched,
    /// Reading checkpoint k back and checking it.
    pub read_back: Duration,
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

/// Fetches what interval `interval` needs within `patience`, simulates it in one of `places`, and proves its end. If
/// this is dropped, the simulation ends soon.
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
    id: LineageId,
    interval: CheckpointIndex,
    patience: Duration,
    places: &Arc<Semaphore>,
) -> Result<Simulated, SimulateError> {
    let late = |_| SimulateError::Late { waited: patience };
    let (fetched, place) =
        timeout(patience, gather(node, id, interval, patience, places)).await.map_err(late)??;
    let abandoned = Abandoned::default();
    let (stop, simulating) = (Arc::clone(&abandoned.0), Arc::clone(node));
    let simulated = tokio::task::spawn_blocking(move || {
        let prepared = prepare(&simulating, &id, interval);
        let simulated = prepared.and_then(|prepared| run(interval, prepared, fetched, &stop));
        drop(place);
        simulated
    });
    simulated.await.map_err(broken)?
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
    let gathered = gather(node, id, interval, patience, &node.simulations);
    let (_, place) = timeout(patience, gathered).await.map_err(late)??;
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

/// What has to be waited for: the chunks, and a place.
async fn gather(
    node: &Arc<Node>,
    id: LineageId,
    interval: CheckpointIndex,
    patience: Duration,
    places: &Arc<Semaphore>,
) -> Result<(Fetched, OwnedSemaphorePermit), SimulateError> {
    fetch::wait_announced(node, id, interval.next(), patience).await?;
    let fetched = fetch::fetch(node, id, interval).await?;
    fetch::fetch_state(node, id, interval.next()).await?;
    let place = Arc::clone(places).acquire_owned().await;
    Ok((fetched, place.map_err(|_| SimulateError::Ending)?))
}

fn prepare(node: &Node, id: &LineageId, interval: CheckpointIndex) -> Result<Prepared, SimulateError> {
    let clock = Instant::now();
    let unknown = |index| MapError::UnknownCheckpoint { lineage: *id, index };
    let next = interval.next();
    let lineage = node.lineages.get(id).ok_or(MapError::UnknownLineage(*id))?;
    let (map, next_map) = (node.lineages.map_at(id, interval)?, node.lineages.map_at(id, next)?);
    let promised = node.lineages.head(id, next)?.ok_or_else(|| unknown(next))?.state_root;
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
    let ram_bytes = u64::from(map.ram.pages()) * PAGE_BYTES as u64;
    if ram_bytes > SIMULATED_RAM_BYTES_MAX {
        return Err(SimulateError::RamSize { bytes: ram_bytes });
    }
    let mut ram = vec![0; map.ram.pages() as usize * PAGE_BYTES];
    let rebuilt = rebuild::rebuild_into(node, id, interval, |page, bytes| {
        let start = page.0 as usize * PAGE_BYTES;
        ram[start..start + PAGE_BYTES].copy_from_slice(bytes);
        Ok(())
    })?;
    let blob = |kind| rebuild::read_blob(&node.store, &next_map, kind, next);
    let (end_cpu, end_devices) = (blob(BlobKind::Cpu)?, blob(BlobKind::Devices)?);
    // The maps of an honest writer lead to what its head promises; so do those that are believed here.
    let found = state_root(&next_map.ram, [&end_cpu, &end_devices], None);
    if found != promised {
        return Err(RebuildError::WrongRoot { index: next, found, promised }.into());
    }
    Ok(Prepared {
        ram,
        recording: Recording {
            interval,
            start_root: rebuilt.state_root,
            end_root: promised,
            start: boundary(&rebuilt.state.cpu, &rebuilt.state.devices, map)?,
            events: EventLog::decode(&record.event_log)?,
            end: boundary(&end_cpu, &end_devices, next_map)?,
        },
        read_back: clock.elapsed(),
    })
}

fn boundary(cpu: &[u8], devices: &[u8], map: CheckpointMap) -> Result<Boundary, BytesError> {
    let (cpu, devices) = (CpuState::decode(cpu)?, Devices::decode(devices)?);
    Ok(Boundary { cpu, devices, map: map.ram })
}

fn run(
    interval: CheckpointIndex,
    prepared: Prepared,
    fetched: Fetched,
    stop: &AtomicBool,
) -> Result<Simulated, SimulateError> {
    let Prepared { ram, recording, read_back } = prepared;
    let (clock, promised) = (Instant::now(), recording.end_root);
    let replayed = replay_while(&recording.wanted(), CompleteRam::new(ram), Unobserved, || {
        !stop.load(Ordering::Relaxed) && clock.elapsed() < SIMULATION_TIMEOUT
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
    Ok(Simulated {
        fetched,
        read_back,
        began: clock,
        simulation,
        instructions: replayed.instructions,
        reads: replayed.reads,
        writes: replayed.writes,
        changed_pages: replayed.changed.len() as u64,
        state_root: found,
    })
}

/// The state root of what was simulated from `start` on: the pages that it wrote hashed anew, the others those of the start.
pub fn root_of<O>(start: &Boundary, replayed: &Replayed<CompleteRam, O>) -> StateRoot {
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
