//! Signed results of simulations: every worker's log of them, as far as this node has it. Durable before anyone is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pageswarm_checkpoint::codec::Take;
use pageswarm_checkpoint::membership::{Certificate, MembershipError};
use pageswarm_checkpoint::result::RESULTS_LISTED_MAX;
use pageswarm_checkpoint::wire::{Control, ObjectRequest};
use pageswarm_checkpoint::{AnnouncedResult, LineageId, NodeId, ObjectHash, RecordError, SimulationResult};
use pageswarm_store::{IndexError, Store, WriteError};

use crate::gossip::GossipCommand;
use crate::limits::{RESULT_LIST_BYTES_MAX, RESULT_WORKERS_MAX, RESULTS_MAX};
use crate::node::Node;
use crate::objects;

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
#[derive(Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is kept now.
    News,
    /// It was known.
    Known,
    /// Those from this number on are missing before it.
    Missing(u64),
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
    count: usize,
}

#[derive(Debug)]
struct Log {
    results: Vec<SimulationResult>,
    latest: AnnouncedResult,
}

const NOTES: &[u8] = b"result/";

impl Results {
    /// What the store has.
    ///
    /// # Errors
    ///
    /// [`IndexError`] if it cannot be read.
    pub fn load(store: Arc<Store>) -> Result<Self, IndexError> {
        let mut logs = Logs::default();
        // In the order of their keys: each log from its first result on.
        for note in store.notes(NOTES, RESULTS_MAX)? {
            let Ok(announced) = AnnouncedResult::decode(&note.value) else { continue };
            if let Ok(result) = SimulationResult::open(&announced.record)
                && logs.place(&result, &announced) == Ok(Offered::News)
            {
                logs.push(result, announced);
            }
        }
        Ok(Self { store, logs: Mutex::new(logs), growing: Mutex::default() })
    }

    /// Takes in a result whose certificate `admit` accepts. Durable on return. From a thread that may block.
    ///
    /// # Errors
    ///
    /// [`ResultError`].
    pub fn offer(
        &self,
        announced: AnnouncedResult,
        admit: impl FnOnce(&NodeId, &[u8]) -> Result<Certificate, MembershipError>,
    ) -> Result<Offered, ResultError> {
        let result = SimulationResult::open(&announced.record)?;
        admit(&result.worker, &announced.certificate)?;
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let offered = self.lock().place(&result, &announced).map_err(|fault| fault.of(&result))?;
        if offered == Offered::News {
            self.keep(result, announced)?;
        }
        Ok(offered)
    }

    /// Continues the log that `worker` has for the lineage with what `sign` makes of the next number and the hash
    /// before it. From a thread that may block.
    ///
    /// # Errors
    ///
    /// [`ResultError`]; [`ResultError::Repeated`] if the log has a result of that interval.
    pub fn append(
        &self,
        lineage: LineageId,
        worker: NodeId,
        sign: impl FnOnce(u64, ObjectHash) -> AnnouncedResult,
    ) -> Result<AnnouncedResult, ResultError> {
        let _growing = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, parent) = self.lock().next(lineage, worker);
        let announced = sign(number, parent);
        let result = SimulationResult::open(&announced.record)?;
        self.lock().place(&result, &announced).map_err(|fault| fault.of(&result))?;
        self.keep(result, announced.clone())?;
        Ok(announced)
    }

    fn keep(&self, result: SimulationResult, announced: AnnouncedResult) -> Result<(), ResultError> {
        let key = note(&result.lineage, &result.worker, result.number);
        self.store.put_note(&key, Some(&announced.encode()))?;
        self.lock().push(result, announced);
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

    /// The latest result of every log.
    #[must_use]
    pub fn latest(&self) -> Vec<AnnouncedResult> {
        let logs = self.lock();
        logs.logs.values().flat_map(BTreeMap::values).map(|log| log.latest.clone()).collect()
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

    fn place(&self, result: &SimulationResult, announced: &AnnouncedResult) -> Result<Offered, Fault> {
        let workers = self.logs.get(&result.lineage);
        let log = workers.and_then(|workers| workers.get(&result.worker));
        let (next, parent) = self.next(result.lineage, result.worker);
        if result.number > next {
            return Ok(Offered::Missing(next));
        }
        if result.number < next {
            let known = log.and_then(|log| log.results.get(usize::try_from(result.number).ok()?));
            return if known == Some(result) { Ok(Offered::Known) } else { Err(Fault::Equivocation) };
        }
        if result.parent != parent {
            return Err(Fault::BrokenChain);
        }
        let same = |other: &SimulationResult| {
            (other.interval, other.simulator, &other.options)
                == (result.interval, result.simulator, &result.options)
        };
        if log.is_some_and(|log| log.results.iter().any(same)) {
            return Err(Fault::Repeated);
        }
        let workers_full = log.is_none() && workers.is_some_and(|known| known.len() >= RESULT_WORKERS_MAX);
        if workers_full || self.count >= RESULTS_MAX || announced.record.is_empty() {
            return Err(Fault::TooMany);
        }
        Ok(Offered::News)
    }

    fn push(&mut self, result: SimulationResult, announced: AnnouncedResult) {
        self.count += 1;
        let workers = self.logs.entry(result.lineage).or_default();
        match workers.entry(result.worker) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(Log { results: vec![result], latest: announced });
            }
            std::collections::btree_map::Entry::Occupied(mut log) => {
                let log = log.get_mut();
                log.results.push(result);
                log.latest = announced;
            }
        }
    }
}

fn note(lineage: &LineageId, worker: &NodeId, number: u64) -> Vec<u8> {
    [NOTES, lineage.as_bytes(), worker.as_bytes(), &number.to_be_bytes()].concat()
}

/// Takes in a result from wherever it came, and what precedes it in its log.
pub async fn hear(node: &Arc<Node>, announced: AnnouncedResult) {
    loop {
        let Ok(result) = SimulationResult::open(&announced.record) else {
            return node.note_refused_record("malformed result");
        };
        if node.lineages.get(&result.lineage).is_none() {
            return;
        }
        match take_in(node, announced.clone()).await {
            Some(Offered::Missing(from)) if !catch_up(node, &result, from).await => return,
            Some(Offered::Missing(_)) => {}
            Some(Offered::News) => return node.leases.wake(),
            Some(Offered::Known) | None => return,
        }
    }
}

async fn take_in(node: &Arc<Node>, announced: AnnouncedResult) -> Option<Offered> {
    let offering = Arc::clone(node);
    let offered = tokio::task::spawn_blocking(move || {
        offering.results.offer(announced, |worker, record| offering.members.admit_worker(worker, record))
    });
    match offered.await.ok()? {
        Ok(offered) => Some(offered),
        Err(ResultError::Write(error)) => {
            node.note_store_trouble(&error);
            None
        }
        Err(error) => {
            node.note_refused_record(&crate::report::chain(&error));
            None
        }
    }
}

/// Fetches results that are missing from `from` on; false if none came that could be taken.
async fn catch_up(node: &Arc<Node>, result: &SimulationResult, from: u64) -> bool {
    let SimulationResult { lineage, worker, .. } = *result;
    let request = ObjectRequest::Results { lineage, worker, from };
    let list = objects::ask_around(node, request, Some(worker), RESULT_LIST_BYTES_MAX, |bytes| {
        let mut take = Take::new(&bytes);
        let list = AnnouncedResult::take_list(&mut take).ok()?;
        (take.finish().is_ok() && !list.is_empty()).then_some(list)
    });
    let mut grew = false;
    for announced in list.await.unwrap_or_default() {
        match take_in(node, announced).await {
            Some(Offered::News) => grew = true,
            Some(Offered::Known) => {}
            Some(Offered::Missing(_)) | None => break,
        }
    }
    grew
}

/// Tells everyone of a result of this node's own.
pub fn announce(node: &Node, announced: &AnnouncedResult) {
    for peer in node.peers.all() {
        peer.tell(Control::Results(vec![announced.clone()]));
    }
    node.gossip_try(GossipCommand::Result(announced.encode()));
}
