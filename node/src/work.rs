//! A worker: takes leases of a lineage's intervals, simulates them, publishes what it found, and takes the next.
//!
//! Each job is a lane with two leases: while one interval is simulated, the next is leased and its checkpoint fetched.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::membership::{MembershipError, Role};
use pageswarm_checkpoint::wire::{LeaseAnswer, LeaseRefusal, LeaseWish};
use pageswarm_checkpoint::{
    AnnouncedResult, BlobKind, CheckpointIndex, LineageId, Outcome, SimulationFailure, SimulationResult,
    SimulatorBuild, Trace, Work,
};
use pageswarm_sim::{ReplayError, ReplayFailure};
use pageswarm_swarm::BirthSet;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::api::error::code_of;
use crate::artefacts::{self, ArtefactError};
use crate::events::What;
use crate::exit::ExitCode;
use crate::lazy_ram::MemoryUse;
use crate::leases::{Standing, host};
use crate::lineages::MapError;
use crate::node::Node;
use crate::rebuild::RebuildError;
use crate::results::{self, Measure as _, ResultError};
use crate::simulate::{self, Job, Restore, SimulateError, Simulated, TakenTrace, Tracing};
use crate::{clock, fetch, report};

/// Pause before asking again when nobody hosts the lease table, or the host is too busy.
const RETRY: Duration = Duration::from_millis(300);
/// How long what an interval needs may take to come; then the lease is given back.
const PATIENCE: Duration = Duration::from_secs(60);
/// Terms that a host may set, in milliseconds: what it says otherwise is taken for the nearest.
const TERM_MS: std::ops::RangeInclusive<u64> = 100..=600_000;
/// How long a worker waits for results that it does not have when a host says that there are all.
const RESULTS_PATIENCE: Duration = Duration::from_secs(60);
/// Between renewals before a term is known.
const RENEWAL_FIRST: Duration = Duration::from_secs(1);

/// Why a worker does not work.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// This node's role does not allow it.
    #[error("this node may not publish results")]
    Role(#[from] MembershipError),
    /// The host refuses it.
    #[error("the host of the lease table refuses: {0}")]
    Refused(LeaseRefusal),
    /// The lineage is not known here.
    #[error("lineage")]
    Lineage(#[from] MapError),
    /// The program cannot name its own build.
    #[error("own executable")]
    Executable(#[source] std::io::Error),
    /// A result cannot be published.
    #[error("result")]
    Result(#[from] ResultError),
    /// A trace cannot be taken.
    #[error("interval {interval} was not traced")]
    Untraced {
        /// Which.
        interval: CheckpointIndex,
        /// Why.
        source: Box<SimulateError>,
    },
    /// The store takes nothing more.
    #[error("interval {interval} cannot be fetched")]
    NoRoom {
        /// Which.
        interval: CheckpointIndex,
        /// Why.
        source: Box<SimulateError>,
    },
    /// A trace cannot be kept.
    #[error("trace")]
    Artefact(#[from] ArtefactError),
    /// The node ends.
    #[error("node is ending")]
    Ending,
}

/// How long a worker works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until nobody waits for it any more.
    Stopped,
    /// Until every interval recorded so far has a result, and there is nothing left that it could do.
    Done,
}

/// How a worker works.
#[derive(Clone, Copy, Debug)]
pub struct WorkOptions {
    /// Simulations at a time.
    pub jobs: u64,
    /// How they get the RAM that they begin with.
    pub restore: Restore,
    /// Whether their accesses are traced; the traces are offered to the swarm.
    pub tracing: Option<Tracing>,
    /// How long it works.
    pub until: Until,
}

/// What a worker did.
#[derive(Clone, Debug, Default)]
pub struct Worked {
    /// Results that it published, by interval.
    pub published: Vec<Published>,
    /// Leases that it gave back.
    pub given_back: u64,
}

/// One published result.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// Of which interval.
    pub interval: CheckpointIndex,
    /// What came of it.
    pub outcome: Outcome,
    /// From the lease to the first simulated instruction, if there was one.
    pub lease_to_start: Option<Duration>,
    /// How much of that the worker spent without simulating anything in its lane.
    pub idle: Option<Duration>,
    /// The simulation itself.
    pub simulation: Duration,
    /// How it used its memory, if that was filled where it was touched.
    pub memory: Option<MemoryUse>,
    /// The trace, if one was taken.
    pub trace: Option<Trace>,
}

struct Worker {
    node: Arc<Node>,
    lineage: LineageId,
    options: WorkOptions,
    simulator: SimulatorBuild,
    places: Arc<Semaphore>,
    held: Mutex<BTreeSet<CheckpointIndex>>,
    term_ms: AtomicU64,
    worked: Mutex<Worked>,
}

#[derive(Clone, Copy)]
struct Leased {
    interval: CheckpointIndex,
    at: Instant,
}

/// Works on a lineage. If this is dropped, all of it ends soon.
///
/// # Errors
///
/// [`WorkError`].
pub async fn work(node: &Arc<Node>, lineage: LineageId, options: WorkOptions) -> Result<Worked, WorkError> {
    node.members.certificate().allows(Role::Worker)?;
    if node.lineages.get(&lineage).is_none() {
        return Err(MapError::UnknownLineage(lineage).into());
    }
    let simulator = tokio::task::spawn_blocking(own_build).await.map_err(|_| WorkError::Ending)?;
    let worker = Arc::new(Worker {
        node: Arc::clone(node),
        lineage,
        options,
        simulator: simulator.map_err(WorkError::Executable)?,
        places: Arc::new(Semaphore::new(usize::try_from(options.jobs).unwrap_or(1))),
        held: Mutex::default(),
        term_ms: AtomicU64::new(0),
        worked: Mutex::default(),
    });
    let mut lanes = JoinSet::new();
    for _ in 0..options.jobs {
        lanes.spawn(Arc::clone(&worker).lane());
    }
    // Ends with this, as the lanes do.
    let mut renewing = JoinSet::new();
    renewing.spawn(Arc::clone(&worker).renew());
    while let Some(ended) = lanes.join_next().await {
        ended.map_err(|_| WorkError::Ending)??;
    }
    Ok(lock(&worker.worked).clone())
}

/// The running executable. Also right after the file was replaced.
fn own_build() -> std::io::Result<SimulatorBuild> {
    build_of(Path::new("/proc/self/exe"))
}

/// BLAKE3-256 of an executable: how results name the program that simulated.
///
/// # Errors
///
/// If it cannot be read.
pub fn build_of(executable: &Path) -> std::io::Result<SimulatorBuild> {
    let mut file = std::fs::File::open(executable)?;
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut file, &mut hasher)?;
    Ok(SimulatorBuild(*hasher.finalize().as_bytes()))
}

impl Worker {
    async fn lane(self: Arc<Self>) -> Result<(), WorkError> {
        let mut next = self.lease().await?;
        let mut free_since = Instant::now();
        while let Some(current) = next {
            let is_free = Notify::new();
            let simulating = async {
                let done = self.simulate(current, free_since).await;
                is_free.notify_one();
                done
            };
            let arriving = async {
                let leased = self.lease().await?;
                if let Some(leased) = leased {
                    // A free lane does not wait for what it could also fetch while it simulates.
                    tokio::select! {
                        () = self.prefetch(leased.interval) => {}
                        () = is_free.notified() => {}
                    }
                }
                Ok::<_, WorkError>(leased)
            };
            // What cannot go on does not wait for the next lease first.
            (free_since, next) = tokio::try_join!(simulating, arriving)?;
        }
        Ok(())
    }

    /// The next lease; `None` if there is nothing left to do.
    async fn lease(&self) -> Result<Option<Leased>, WorkError> {
        let mut lacks = Vec::new();
        let mut finished_since = None;
        for turn in 0_u64.. {
            let asked = Instant::now();
            let wish = LeaseWish::Ask { jobs: self.options.jobs, lacks: std::mem::take(&mut lacks) };
            let answer = host::ask(&self.node, self.lineage, wish).await;
            let came_at_once = asked.elapsed() < RETRY;
            match answer {
                Some(LeaseAnswer::Granted { interval, term_ms }) => {
                    self.term_ms.store(term_ms.clamp(*TERM_MS.start(), *TERM_MS.end()), Ordering::Relaxed);
                    lock(&self.held).insert(interval);
                    return Ok(Some(Leased { interval, at: Instant::now() }));
                }
                Some(LeaseAnswer::Candidates(candidates)) => lacks = self.lacks(candidates).await?,
                Some(LeaseAnswer::Idle { finished: true }) if self.options.until == Until::Done => {
                    let since = *finished_since.get_or_insert(asked);
                    if self.knows_all_results().await? {
                        return Ok(None);
                    }
                    if since.elapsed() > RESULTS_PATIENCE {
                        tracing::warn!("the host says that all intervals have results; here some have none");
                        return Ok(None);
                    }
                }
                Some(LeaseAnswer::Idle { .. }) => finished_since = None,
                Some(LeaseAnswer::Refused(why @ (LeaseRefusal::NoWorker | LeaseRefusal::Distrusted))) => {
                    return Err(WorkError::Refused(why));
                }
                Some(LeaseAnswer::Refused(_) | LeaseAnswer::Noted) | None => {}
            }
            // Candidates come at once, and then a lease; what else does would do so again and again.
            let is_first = turn == 0 && !lacks.is_empty();
            if came_at_once && !is_first {
                tokio::time::sleep(RETRY).await;
            }
        }
        Err(WorkError::Ending)
    }

    /// Whether each interval that this node knows of has a result that it knows of.
    async fn knows_all_results(&self) -> Result<bool, WorkError> {
        let (node, lineage) = (Arc::clone(&self.node), self.lineage);
        let summary = tokio::task::spawn_blocking(move || node.leases.summary(&node, lineage).0);
        let summary = summary.await.map_err(|_| WorkError::Ending)?;
        Ok(summary.standings.get(&Standing::Open).is_none_or(|open| *open == 0))
    }

    /// The bytes lacked of each candidate whose checkpoint is known here.
    async fn lacks(
        &self,
        candidates: Vec<CheckpointIndex>,
    ) -> Result<Vec<(CheckpointIndex, u64)>, WorkError> {
        if let Some(last) = candidates.last() {
            // The host may be ahead of what this node has learnt.
            let announced = fetch::wait_announced(&self.node, self.lineage, last.next(), PATIENCE);
            if let Err(error) = announced.await {
                tracing::debug!(error = report::chain(&error), "candidates are not known here yet");
            }
        }
        let (node, lineage) = (Arc::clone(&self.node), self.lineage);
        let lacks = tokio::task::spawn_blocking(move || lacked_bytes(&node, lineage, &candidates)).await;
        Ok(lacks.map_err(|_| WorkError::Ending)??)
    }

    const fn job(&self, interval: CheckpointIndex) -> Job {
        let WorkOptions { restore, tracing, .. } = self.options;
        Job { lineage: self.lineage, interval, restore, tracing, patience: PATIENCE }
    }

    /// Fetches what the interval needs while another one is simulated.
    async fn prefetch(&self, interval: CheckpointIndex) {
        let fetching = simulate::fetch_ahead(&self.node, self.job(interval));
        // What does not come now is waited for when its turn comes.
        if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, fetching).await {
            tracing::debug!(error = report::chain(&error), %interval, "interval not fetched ahead");
        }
    }

    /// Simulates and publishes, or gives back; when the lane was free again.
    async fn simulate(&self, leased: Leased, free_since: Instant) -> Result<Instant, WorkError> {
        let Leased { interval, at } = leased;
        let simulated = simulate::simulate(&self.node, self.job(interval), &self.places).await;
        let ended = Instant::now();
        let Some(outcome) = outcome_of(&simulated) else {
            if let Err(error) = &simulated {
                tracing::warn!(error = report::chain(error), %interval, "interval given back");
            }
            lock(&self.worked).given_back += 1;
            lock(&self.held).remove(&interval);
            host::ask(&self.node, self.lineage, LeaseWish::GiveBack(interval)).await;
            return match simulated {
                // It would be the same with the next one, and again with this one.
                Err(source) if source.is_of_its_trace() => {
                    Err(WorkError::Untraced { interval, source: Box::new(source) })
                }
                Err(source) if code_of(&source) == ExitCode::DiskFull => {
                    Err(WorkError::NoRoom { interval, source: Box::new(source) })
                }
                _ => Ok(ended),
            };
        };
        if let Err(error) = &simulated {
            tracing::warn!(error = report::chain(error), %interval, "interval cannot be simulated");
        }
        let began = simulated.as_ref().ok().map(|simulated| simulated.began);
        let (mut simulated, mut trace) = (simulated, None);
        if let Some(taken) = simulated.as_mut().ok().and_then(|simulated| simulated.trace.take()) {
            match offer_trace(&self.node, self.lineage, taken).await {
                Ok(offered) => trace = Some(offered),
                Err(error) => {
                    lock(&self.held).remove(&interval);
                    host::ask(&self.node, self.lineage, LeaseWish::GiveBack(interval)).await;
                    return Err(error.into());
                }
            }
        }
        let published = Published {
            interval,
            outcome,
            lease_to_start: began.map(|began| began.saturating_duration_since(at)),
            idle: began.map(|began| began.saturating_duration_since(free_since.max(at))),
            simulation: simulated.as_ref().map_or(Duration::ZERO, |simulated| simulated.simulation),
            memory: simulated.as_ref().ok().and_then(|simulated| simulated.memory),
            trace,
        };
        self.publish(published).await?;
        lock(&self.held).remove(&interval);
        Ok(ended)
    }

    async fn publish(&self, published: Published) -> Result<(), WorkError> {
        let options = options_of(self.options.tracing);
        let finding = Found { simulator: self.simulator, options, published };
        if append(&self.node, self.lineage, finding).await? {
            lock(&self.worked).published.push(published);
        }
        Ok(())
    }

    /// Says again and again what it works on, three times as often as it must.
    async fn renew(self: Arc<Self>) {
        loop {
            let term = Duration::from_millis(self.term_ms.load(Ordering::Relaxed));
            let pause = if term.is_zero() { RENEWAL_FIRST } else { term / 3 };
            tokio::time::sleep(pause).await;
            let held: Vec<CheckpointIndex> = lock(&self.held).iter().copied().collect();
            if !held.is_empty() {
                host::ask(&self.node, self.lineage, LeaseWish::Renew(held)).await;
            }
        }
    }
}

/// Publishes what came of one simulation, if it is something that others must find too, as the result of this node.
///
/// # Errors
///
/// [`WorkError`].
pub async fn publish_one(
    node: &Arc<Node>,
    lineage: LineageId,
    (interval, tracing): (CheckpointIndex, Option<Tracing>),
    simulated: &mut Result<Simulated, SimulateError>,
) -> Result<Option<Trace>, WorkError> {
    node.members.certificate().allows(Role::Worker)?;
    let Some(outcome) = outcome_of(simulated) else {
        return Ok(None);
    };
    let mut trace = None;
    if let Some(taken) = simulated.as_mut().ok().and_then(|simulated| simulated.trace.take()) {
        trace = Some(offer_trace(node, lineage, taken).await?);
    }
    let simulator = tokio::task::spawn_blocking(own_build).await.map_err(|_| WorkError::Ending)?;
    let simulator = simulator.map_err(WorkError::Executable)?;
    let simulation = simulated.as_ref().map_or(Duration::ZERO, |simulated| simulated.simulation);
    let memory = simulated.as_ref().ok().and_then(|simulated| simulated.memory);
    let (lease_to_start, idle) = (None, None);
    let published = Published { interval, outcome, lease_to_start, idle, simulation, memory, trace };
    let is_news = append(node, lineage, Found { simulator, options: options_of(tracing), published }).await?;
    Ok(trace.filter(|_| is_news))
}

/// Puts a trace into the store and offers it to the swarm; what a result says of it.
async fn offer_trace(
    node: &Arc<Node>,
    lineage: LineageId,
    taken: TakenTrace,
) -> Result<Trace, ArtefactError> {
    let TakenTrace { file, digest, bytes, .. } = taken;
    let place = artefacts::keep(node, lineage, BlobKind::Trace, file).await?;
    Ok(Trace { digest, bytes, place: Some(place) })
}

/// What a result names as the options of its simulation.
fn options_of(tracing: Option<Tracing>) -> &'static [u8] {
    tracing.map_or(&[], Tracing::options)
}

/// What is to be published, and which program found it.
struct Found {
    simulator: SimulatorBuild,
    options: &'static [u8],
    published: Published,
}

/// Signs, keeps and announces; false if this node published it before: a lease that came twice counts once, and the log
/// is announced again.
async fn append(node: &Arc<Node>, lineage: LineageId, found: Found) -> Result<bool, WorkError> {
    let Found { simulator, options, published } = found;
    let Published { interval, outcome, simulation, lease_to_start, trace, .. } = published;
    let appending = Arc::clone(node);
    let appended = tokio::task::spawn_blocking(move || {
        let node = appending;
        let head = node.lineages.head(&lineage, interval).map_err(|error| MapError::from(Box::new(error)))?;
        let input_root = head.ok_or(MapError::UnknownCheckpoint { lineage, index: interval })?.state_root;
        let certificate = node.members.certificate_record();
        let recorded = node.recorded(&lineage).unwrap_or(0);
        let appended = node.results.append(lineage, node.id, recorded, |number, parent| {
            let result = SimulationResult {
                worker: node.id,
                lineage,
                number,
                parent,
                interval,
                input_root,
                simulator,
                options: options.to_vec(),
                outcome,
                simulation_ms: millis(simulation),
                finished_unix_ms: clock::unix_ms(),
                trace,
            };
            AnnouncedResult { certificate, record: result.sign(&node.key) }
        });
        Ok::<_, WorkError>(appended)
    });
    match appended.await.map_err(|_| WorkError::Ending)?? {
        Ok(announced) => results::announce(node, &announced),
        Err(ResultError::Repeated { .. }) => {
            // Whoever gave the lease does not know: it may have missed what was told.
            if let Some(latest) = node.results.latest_of(&lineage, &node.id) {
                results::announce(node, &latest);
            }
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    }
    node.leases.wake();
    node.events.add(What::IntervalSimulated {
        lineage: lineage.to_string(),
        interval: interval.0,
        lease_to_start_ms: lease_to_start.map(millis),
        simulation_ms: millis(simulation),
    });
    Ok(true)
}

/// What others must find too; `None` if it was only this node that could not do it now.
fn outcome_of(simulated: &Result<Simulated, SimulateError>) -> Option<Outcome> {
    let failure = match simulated {
        Ok(simulated) => {
            let work = Work {
                instructions: simulated.instructions,
                reads: simulated.reads,
                writes: simulated.writes,
                changed_pages: simulated.changed_pages,
            };
            return Some(Outcome::Ended { end_root: simulated.state_root, work });
        }
        Err(SimulateError::OtherEnd { found, work, .. }) => {
            return Some(Outcome::Ended { end_root: *found, work: *work });
        }
        Err(SimulateError::Replay(ReplayError { cause: ReplayFailure::Stopped { .. }, .. })) => return None,
        Err(SimulateError::Replay(_)) => SimulationFailure::NotReplayed,
        Err(SimulateError::NoRecord { .. }) => SimulationFailure::NotRecorded,
        Err(
            SimulateError::Record(_)
            | SimulateError::OtherRecord { .. }
            | SimulateError::State(_)
            | SimulateError::Rebuild(RebuildError::WrongRoot { .. }),
        ) => SimulationFailure::CorruptInput,
        Err(_) => return None,
    };
    Some(Outcome::Failed(failure))
}

/// The encoded bytes that this node lacks of each interval's first checkpoint, of those that it knows.
fn lacked_bytes(
    node: &Node,
    id: LineageId,
    intervals: &[CheckpointIndex],
) -> Result<Vec<(CheckpointIndex, u64)>, MapError> {
    let recorded = node.lineages.get(&id).and_then(|lineage| Some(lineage.applied?.0.index));
    let mut demands = Vec::new();
    let mut all = std::collections::BTreeMap::<LineageId, BirthSet>::new();
    for interval in intervals.iter().filter(|interval| Some(interval.next()) <= recorded) {
        let demand = node.lineages.demand(&id, *interval)?;
        demand.iter().for_each(|(lineage, births)| all.entry(*lineage).or_default().add(births));
        demands.push((*interval, demand));
    }
    // Checkpoints have most of their chunks in common: each is looked for in the store once.
    for (lineage, births) in &mut all {
        let lacked = node.lineages.lacked(*lineage, births)?;
        births.subtract(&lacked);
    }
    let held = all;
    let mut lacks = Vec::with_capacity(demands.len());
    for (interval, demand) in demands {
        let mut bytes = 0_u64;
        for (lineage, mut births) in demand {
            if let Some(held) = held.get(&lineage) {
                births.subtract(held);
            }
            let weight = node.hub.weigh_blocking(lineage, births);
            bytes = bytes.saturating_add(weight.map_or(0, |weight| weight.born_bytes));
        }
        lacks.push((interval, bytes));
    }
    Ok(lacks)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
