//! Signed results of simulations: every worker's log of them, as far as this node has it. Durable before anyone is told.

pub mod hearing;
#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pageswarm_checkpoint::membership::{Certificate, MembershipError};
use pageswarm_checkpoint::result::RESULTS_LISTED_MAX;
use pageswarm_checkpoint::wire::Control;
use pageswarm_checkpoint::{
    AnnouncedResult, CheckpointIndex, LineageId, NodeId, ObjectHash, RecordError, SimulationResult,
    SimulatorBuild,
};
use pageswarm_store::{IndexError, Store, WriteError};

use crate::gossip::GossipCommand;
use crate::limits::{RESULT_WORKERS_MAX, RESULTS_BEYOND, RESULTS_MAX};
use crate::node::Node;

/// Why a result is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// It is malformed, or its worker did not sign it.
    #[error("result")]
    Record(#[from] RecordError),
    /// Its signer may not publish results.
    #[error("signer of a result")]
    Member(#[from] MembershipError),
    /// There is another one with its number.
    #[error("worker {} signed two results number {number}", worker.short())]
    Equivocation {
        /// Who signed both.
        worker: NodeId,
        /// Their number.
        number: u64,
    },
    /// It does not continue its worker's log.
    #[error("result {number} of worker {} does not continue its log", worker.short())]
    BrokenChain {
        /// Whose.
        worker: NodeId,
        /// Which.
        number: u64,
    },
    /// The worker's log has a result of this interval.
    #[error("worker {} signed a second result of interval {interval}", worker.short())]
    Repeated {
        /// Whose.
        worker: NodeId,
        /// Of which interval.
        interval: u64,
    },
    /// More than a node keeps.
    #[error("more results than this node keeps")]
    TooMany,
    /// The store cannot be written.
    #[error("store")]
    Write(#[from] WriteError),
    /// The store cannot be read.
    #[error("store")]
    Index(#[from] IndexError),
}

/// What came of a result that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is kept now.
    News,
    /// It was known.
    Known,
    /// Those from this number on are missing before it.
    Missing(u64),
    /// It is of an interval far beyond what this node knows to be recorded; it may know more later.
    Ahead,
    /// Its lineage is not followed.
    Unfollowed,
}

/// A result whose signature holds.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What it says.
    pub result: SimulationResult,
    /// As it travels.
    pub announced: AnnouncedResult,
}

/// What this node measures a result by.
pub trait Measure {
    /// How many intervals of the lineage were recorded, as far as is known; `None` if it is not followed.
    fn recorded(&self, lineage: &LineageId) -> Option<u64>;

    /// Whether the certificate allows the worker to publish results.
    ///
    /// # Errors
    ///
    /// [`MembershipError`] says what is wrong.
    fn admit(&self, worker: &NodeId, certificate: &[u8]) -> Result<Certificate, MembershipError>;
}

impl Measure for Node {
    fn recorded(&self, lineage: &LineageId) -> Option<u64> {
        let lineage = self.lineages.get(lineage)?;
        Some(lineage.applied.map_or(0, |(head, _)| head.index.0))
    }

    fn admit(&self, worker: &NodeId, certificate: &[u8]) -> Result<Certificate, MembershipError> {
        self.members.admit_worker(worker, certificate)
    }
}

/// All workers' logs.
#[derive(Debug)]
pub struct Results {
    store: Arc<Store>,
    logs: Mutex<Logs>,
    /// Held while a log grows.
    growing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Logs {
    logs: BTreeMap<LineageId, BTreeMap<NodeId, Log>>,
    /// Hashes of all records: what is known is told again and again, and costs no look at its signature.
    hashes: HashSet<ObjectHash>,
}

#[derive(Debug)]
struct Log {
    results: Vec<SimulationResult>,
    done: BTreeSet<Done>,
    latest: AnnouncedResult,
}

/// What a worker signs one result of.
type Done = (CheckpointIndex, SimulatorBuild, Vec<u8>);

const NOTES: &[u8] = b"result/";

impl Opened {
    /// Checks the signature.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn new(announced: AnnouncedResult) -> Result<Self, RecordError> {
        let result = SimulationResult::open(&announced.record)?;
        Ok(Self { result, announced })
    }
}

impl Results {
    /// What the store has, without the results of those who are out. From a thread that may block: each signature is
    /// checked again.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if it cannot be read.
    pub fn load(store: Arc<Store>, is_out: impl Fn(&NodeId) -> bool) -> Result<Self, IndexError> {
        let mut logs = Logs::default();
        // In the order of their keys: each log from its first result on.
        for note in store.notes(NOTES, RESULTS_MAX)? {
            let Ok(announced) = AnnouncedResult::decode(&note.value) else { continue };
            if let Ok(opened) = Opened::new(announced)
                && !is_out(&opened.result.worker)
                && logs.place(&opened, u64::MAX) == Ok(Offered::News)
            {
                logs.push(opened);
            }
        }
        Ok(Self { store, logs: Mutex::new(logs), growing: Mutex::default() })
    }

    /// Whether exactly this record is kept.
    #[must_use]
    pub fn knows(&self, announced: &AnnouncedResult) -> bool {
        let hash = announced.hash();
        self.lock().hashes.contains(&hash)
    }

    /// Takes in results, one after the other; what came of each. Durable on return, all at once. From a thread that
    /// may block.
    ///
    /// # Errors
    ///
    /// [`WriteError`] if the store cannot be written. Each result has its own error.
    pub fn offer(
        &self,
        list: Vec<Opened>,
        measure: &impl Measure,
    ) -> Result<Vec<Result<Offered, ResultError>>, WriteError> {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut offered = Vec::with_capacity(list.len());
        for opened in list {
            let one = self.offer_one(opened, measure);
            if let Err(ResultError::Write(error)) = one {
                return Err(error);
            }
            offered.push(one);
        }
        if offered.iter().any(|one| matches!(one, Ok(Offered::News))) {
            self.store.sync()?;
        }
        Ok(offered)
    }

    fn offer_one(&self, opened: Opened, measure: &impl Measure) -> Result<Offered, ResultError> {
        let Opened { result, announced } = &opened;
        let Some(recorded) = measure.recorded(&result.lineage) else {
            return Ok(Offered::Unfollowed);
        };
        measure.admit(&result.worker, &announced.certificate)?;
        let offered = self.lock().place(&opened, recorded).map_err(|fault| fault.of(result))?;
        if offered == Offered::News {
            self.keep(opened)?;
        }
        Ok(offered)
    }

    /// Continues the log that `worker` has for the lineage, of which `recorded` intervals are known, with what `sign`
    /// makes of the next number and the hash before it. Durable on return. From a thread that may block.
    ///
    /// # Errors
    ///
    /// [`ResultError`]; [`ResultError::Repeated`] if the log has a result of that interval.
    pub fn append(
        &self,
        lineage: LineageId,
        worker: NodeId,
        recorded: u64,
        sign: impl FnOnce(u64, ObjectHash) -> AnnouncedResult,
    ) -> Result<AnnouncedResult, ResultError> {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, parent) = self.lock().next(lineage, worker);
        let announced = sign(number, parent);
        let opened = Opened::new(announced.clone())?;
        let offered = self.lock().place(&opened, recorded).map_err(|fault| fault.of(&opened.result))?;
        if offered != Offered::News {
            // Others would not take it.
            return Err(ResultError::TooMany);
        }
        self.keep(opened)?;
        self.store.sync()?;
        Ok(announced)
    }

    /// Durable after the next sync.
    fn keep(&self, opened: Opened) -> Result<(), ResultError> {
        let Opened { result, announced } = &opened;
        let key = note(&result.lineage, &result.worker, result.number);
        self.store.put_note_unsynced(&key, Some(&announced.encode()))?;
        self.lock().push(opened);
        Ok(())
    }

    /// A worker's results for a lineage from a number on, as an object; `None` if there are none. From a thread that
    /// may block.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn object(
        &self,
        lineage: LineageId,
        worker: NodeId,
        from: u64,
    ) -> Result<Option<Vec<u8>>, IndexError> {
        let next = self.lock().next(lineage, worker).0;
        let mut list = Vec::new();
        for number in (from..next).take(RESULTS_LISTED_MAX) {
            let Some(value) = self.store.note(&note(&lineage, &worker, number))? else { break };
            let Ok(announced) = AnnouncedResult::decode(&value) else { break };
            list.push(announced);
        }
        let mut bytes = Vec::new();
        AnnouncedResult::put_list(&list, &mut bytes);
        Ok((!list.is_empty()).then_some(bytes))
    }

    /// The latest result of every worker for a lineage.
    #[must_use]
    pub fn latest(&self, lineage: &LineageId) -> Vec<AnnouncedResult> {
        let logs = self.lock();
        let workers = logs.logs.get(lineage).into_iter().flat_map(BTreeMap::values);
        workers.map(|log| log.latest.clone()).collect()
    }

    /// One worker's latest result for a lineage.
    #[must_use]
    pub fn latest_of(&self, lineage: &LineageId, worker: &NodeId) -> Option<AnnouncedResult> {
        Some(self.lock().logs.get(lineage)?.get(worker)?.latest.clone())
    }

    /// The number of the next result of a worker for a lineage.
    #[must_use]
    pub fn next_number(&self, lineage: LineageId, worker: NodeId) -> u64 {
        self.lock().next(lineage, worker).0
    }

    /// How many results each worker has for a lineage.
    #[must_use]
    pub fn counts(&self, lineage: &LineageId) -> BTreeMap<NodeId, usize> {
        let logs = self.lock();
        let of_lineage = logs.logs.get(lineage).into_iter().flatten();
        of_lineage.map(|(worker, log)| (*worker, log.results.len())).collect()
    }

    /// One result.
    #[must_use]
    pub fn get(&self, lineage: &LineageId, worker: &NodeId, number: usize) -> Option<SimulationResult> {
        self.lock().logs.get(lineage)?.get(worker)?.results.get(number).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Logs> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a result has no place in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Equivocation,
    BrokenChain,
    Repeated,
    TooMany,
}

impl Fault {
    const fn of(self, result: &SimulationResult) -> ResultError {
        let SimulationResult { worker, number, interval, .. } = *result;
        match self {
            Self::Equivocation => ResultError::Equivocation { worker, number },
            Self::BrokenChain => ResultError::BrokenChain { worker, number },
            Self::Repeated => ResultError::Repeated { worker, interval: interval.0 },
            Self::TooMany => ResultError::TooMany,
        }
    }
}

impl Logs {
    fn next(&self, lineage: LineageId, worker: NodeId) -> (u64, ObjectHash) {
        match self.logs.get(&lineage).and_then(|workers| workers.get(&worker)) {
            Some(log) => (log.results.len() as u64, log.latest.hash()),
            None => (0, SimulationResult::first_parent(lineage)),
        }
    }

    fn place(&self, opened: &Opened, recorded: u64) -> Result<Offered, Fault> {
        let Opened { result, announced } = opened;
        let workers = self.logs.get(&result.lineage);
        let log = workers.and_then(|workers| workers.get(&result.worker));
        let (next, parent) = self.next(result.lineage, result.worker);
        if result.number < next {
            let known = log.and_then(|log| log.results.get(usize::try_from(result.number).ok()?));
            return if known == Some(result) { Ok(Offered::Known) } else { Err(Fault::Equivocation) };
        }
        let most = recorded.saturating_add(RESULTS_BEYOND);
        if result.interval.0 >= most || result.number >= most {
            return Ok(Offered::Ahead);
        }
        if result.number > next {
            return Ok(Offered::Missing(next));
        }
        if result.parent != parent {
            return Err(Fault::BrokenChain);
        }
        if log.is_some_and(|log| log.done.contains(&done(result))) {
            return Err(Fault::Repeated);
        }
        let workers_full = log.is_none() && workers.is_some_and(|known| known.len() >= RESULT_WORKERS_MAX);
        if workers_full || self.hashes.len() >= RESULTS_MAX || announced.record.is_empty() {
            return Err(Fault::TooMany);
        }
        Ok(Offered::News)
    }

    fn push(&mut self, opened: Opened) {
        let Opened { result, announced } = opened;
        self.hashes.insert(announced.hash());
        let workers = self.logs.entry(result.lineage).or_default();
        match workers.entry(result.worker) {
            Entry::Vacant(place) => {
                let done = BTreeSet::from([done(&result)]);
                place.insert(Log { results: vec![result], done, latest: announced });
            }
            Entry::Occupied(mut log) => {
                let log = log.get_mut();
                log.done.insert(done(&result));
                log.results.push(result);
                log.latest = announced;
            }
        }
    }
}

fn done(result: &SimulationResult) -> Done {
    (result.interval, result.simulator, result.options.clone())
}

fn note(lineage: &LineageId, worker: &NodeId, number: u64) -> Vec<u8> {
    [NOTES, lineage.as_bytes(), worker.as_bytes(), &number.to_be_bytes()].concat()
}

/// Tells everyone of a result of this node's own.
pub fn announce(node: &Node, announced: &AnnouncedResult) {
    for peer in node.peers.all() {
        peer.tell(Control::Results(vec![announced.clone()]));
    }
    node.gossip_try(GossipCommand::Result(announced.encode()));
}
