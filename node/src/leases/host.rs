//! The lease tables that this node hosts, and how workers reach the host of a lineage's table.
//!
//! Every node that may publish hosts a table for whichever lineage it is asked for; workers ask the lineage's writer, and
//! if it is gone the member with the smallest name among those that may publish. Nothing is handed over: a table is made
//! of published results, and leases under way come with their renewals. Two hosts at a time cost double work, no result.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::membership::Role;
use pageswarm_checkpoint::wire::{LeaseAnswer, LeaseRefusal, LeaseRequest, LeaseWish, Opening};
use pageswarm_checkpoint::{CheckpointIndex, LineageId, NodeId, Outcome, SimulationResult, object_hash};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::judgement::{Finding, Traced, Verdict};
use super::policy::{Policy, Share};
use super::table::{AskId, Input, LeaseTable, Output, Summary};
use crate::events::What;
use crate::limits::{LEASE_ANSWER_TIMEOUT, LEASE_ASKS_PER_WORKER_MAX, LINEAGES_MAX};
use crate::lineages::LineageError;
use crate::node::Node;
use crate::peers::Peer;
use crate::results::Measure as _;
use crate::transport::frames;

/// How long a worker waits for a connection with a lineage's writer before it asks another host.
const WRITER_PATIENCE: Duration = Duration::from_secs(2);

const SEED_CONTEXT: &str = "pageswarm 2026 sample of intervals simulated twice";

/// The tables that this node hosts.
///
/// The tables are touched by threads that may block alone, and none of them reads the store meanwhile. What an
/// asynchronous thread needs is elsewhere: the requests that wait, and their numbers.
#[derive(Debug, Default)]
pub struct LeaseHost {
    tables: Mutex<BTreeMap<LineageId, Hosted>>,
    /// Held while the store is read for a table, so that it is read once.
    reading: Mutex<()>,
    waiting: Mutex<BTreeMap<AskId, Waiting>>,
    asks: AtomicU64,
    woken: Notify,
}

#[derive(Debug)]
struct Waiting {
    worker: NodeId,
    answering: oneshot::Sender<LeaseAnswer>,
}

#[derive(Debug)]
struct Hosted {
    table: LeaseTable,
    /// Results of each worker that the table knows.
    told: BTreeMap<NodeId, usize>,
}

/// What a table is to hear, read before it is touched.
#[derive(Debug)]
struct News {
    recorded: u64,
    results: Vec<Told>,
}

#[derive(Debug)]
struct Told {
    worker: NodeId,
    number: usize,
    interval: CheckpointIndex,
    finding: Finding,
    took: Duration,
}

impl LeaseHost {
    /// There is news for the tables.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Where a lineage's intervals stand: as the table that this node hosts says, else as results say. From a thread
    /// that may block.
    #[must_use]
    pub fn summary(&self, node: &Node, lineage: LineageId) -> (Summary, bool) {
        if self.lock().contains_key(&lineage) {
            self.bring_on(node, lineage, None);
            if let Some(hosted) = self.lock().get(&lineage) {
                return (hosted.table.summary(), true);
            }
        }
        let mut looked = Hosted::new(node, lineage, Share::NONE);
        looked.hear(News::read(node, lineage, &looked.told));
        (looked.table.summary(), false)
    }

    /// Tells a table something and sends the answers that follow. From a thread that may block.
    fn tell(&self, node: &Node, lineage: LineageId, input: Input) {
        self.bring_on(node, lineage, Some(input));
        self.wake();
    }

    /// Tells a table what is new, then the input; makes the table if there is none.
    fn bring_on(&self, node: &Node, lineage: LineageId, input: Option<Input>) {
        let (outputs, term) = {
            let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
            let told = self.lock().get(&lineage).map(|hosted| hosted.told.clone()).unwrap_or_default();
            let news = News::read(node, lineage, &told);
            let mut tables = self.lock();
            let hosted = tables
                .entry(lineage)
                .or_insert_with(|| Hosted::new(node, lineage, node.config.simulate_twice));
            hosted.hear(news);
            hosted.table.handle(Instant::now(), input.unwrap_or(Input::Time));
            let term = hosted.table.term();
            (std::iter::from_fn(|| hosted.table.poll()).collect::<Vec<_>>(), term)
        };
        report(node, lineage, &self.send(outputs, term));
    }

    /// Sends what the table says; names the workers that it found lying.
    fn send(&self, outputs: Vec<Output>, term: Duration) -> Vec<NodeId> {
        let term_ms = u64::try_from(term.as_millis()).unwrap_or(u64::MAX);
        let mut liars = Vec::new();
        for output in outputs {
            let (ask, answer) = match output {
                Output::Granted(ask, interval) => (ask, LeaseAnswer::Granted { interval, term_ms }),
                Output::Candidates(ask, intervals) => (ask, LeaseAnswer::Candidates(intervals)),
                Output::Idle(ask, finished) => (ask, LeaseAnswer::Idle { finished }),
                Output::Distrusted(ask) => (ask, LeaseAnswer::Refused(LeaseRefusal::Distrusted)),
                Output::Busy(ask) => (ask, LeaseAnswer::Refused(LeaseRefusal::Busy)),
                Output::Liar(worker) => {
                    liars.push(worker);
                    continue;
                }
            };
            // Whoever asked may be gone; its lease then ends by itself.
            let waiting = self.lock_waiting().remove(&ask);
            let _gone = waiting.map(|waiting| waiting.answering.send(answer));
        }
        liars
    }

    /// A place for a request; `None` if too many of this worker's wait.
    fn wait(&self, worker: NodeId) -> Option<(AskId, oneshot::Receiver<LeaseAnswer>)> {
        let mut waiting = self.lock_waiting();
        if waiting.values().filter(|other| other.worker == worker).count() >= LEASE_ASKS_PER_WORKER_MAX {
            return None;
        }
        let ask = AskId(self.asks.fetch_add(1, Ordering::Relaxed));
        let (answering, answer) = oneshot::channel();
        waiting.insert(ask, Waiting { worker, answering });
        Some((ask, answer))
    }

    /// Brings all tables on; when to do so again.
    fn bring_all_on(&self, node: &Node) -> Option<Instant> {
        let lineages: Vec<LineageId> = self.lock().keys().copied().collect();
        lineages.into_iter().for_each(|lineage| self.bring_on(node, lineage, None));
        let tables = self.lock();
        tables.values().filter_map(|hosted| Some(hosted.table.due()?.0)).min()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LineageId, Hosted>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_waiting(&self) -> MutexGuard<'_, BTreeMap<AskId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn report(node: &Node, lineage: LineageId, liars: &[NodeId]) {
    for worker in liars {
        tracing::warn!(worker = %worker.short(), lineage = %lineage.short(), "worker signed false results");
        node.events.add(What::WorkerLied { worker: worker.to_string(), lineage: lineage.to_string() });
    }
}

impl Hosted {
    fn new(node: &Node, lineage: LineageId, sample: Share) -> Self {
        // Known to this node alone, and the same whenever it makes the table anew.
        let seed = blake3::derive_key(SEED_CONTEXT, &node.key.to_bytes());
        let policy = Policy { term: node.config.lease_term, sample, seed, lineage };
        Self { table: LeaseTable::new(policy), told: BTreeMap::new() }
    }

    /// Tells the table what it has not heard yet.
    fn hear(&mut self, news: News) {
        let now = Instant::now();
        let News { recorded, results } = news;
        self.table.handle(now, Input::Recorded(recorded));
        for Told { worker, number, interval, finding, took } in results {
            let told = self.told.entry(worker).or_default();
            if *told == number {
                *told += 1;
                self.table.handle(now, Input::Found { interval, worker, finding, took });
            }
        }
    }
}

impl News {
    /// Which intervals were recorded, and what was found besides the results that were told of each worker.
    fn read(node: &Node, lineage: LineageId, told: &BTreeMap<NodeId, usize>) -> Self {
        let recorded = node.recorded(&lineage).unwrap_or(0);
        let mut results = Vec::new();
        for (worker, count) in node.results.counts(&lineage) {
            for number in told.get(&worker).copied().unwrap_or(0)..count {
                let Some(result) = node.results.get(&lineage, &worker, number) else { break };
                // What is compared with a head waits for it.
                if result.interval.0 >= recorded {
                    break;
                }
                let verdict = match verdict(node, &result) {
                    Ok(verdict) => verdict,
                    Err(error) => {
                        tracing::warn!(error = crate::report::chain(&error), "result not judged yet");
                        break;
                    }
                };
                let finding = finding(&result, verdict);
                let (interval, took) = (result.interval, Duration::from_millis(result.simulation_ms));
                results.push(Told { worker, number, interval, finding, took });
            }
        }
        Self { recorded, results }
    }
}

/// A result, as the table compares it.
fn finding(result: &SimulationResult, verdict: Verdict) -> Finding {
    let way = || object_hash(&[&result.simulator.0[..], &result.options].concat());
    let traced = result.trace.map(|trace| Traced { way: way(), digest: trace.digest });
    Finding { name: result.finding(), verdict, simulator: result.simulator, traced }
}

/// What a result is worth beside the heads.
///
/// # Errors
///
/// [`LineageError`] if a head cannot be read now: that says nothing of the result.
pub(crate) fn verdict(node: &Node, result: &SimulationResult) -> Result<Verdict, LineageError> {
    let Outcome::Ended { end_root, .. } = result.outcome else {
        return Ok(Verdict::Failed);
    };
    let root = |index| {
        let head = node.lineages.head(&result.lineage, index)?;
        Ok::<_, LineageError>(head.map(|head| head.state_root))
    };
    let exact =
        root(result.interval)? == Some(result.input_root) && root(result.interval.next())? == Some(end_root);
    Ok(if exact { Verdict::Exact } else { Verdict::Different })
}

/// Answers a worker.
pub async fn answer(node: &Arc<Node>, worker: NodeId, role: Role, request: LeaseRequest) -> LeaseAnswer {
    let LeaseRequest { lineage, wish } = request;
    if node.members.certificate().role < Role::Publisher {
        return LeaseAnswer::Refused(LeaseRefusal::NoHost);
    }
    if role < Role::Worker {
        return LeaseAnswer::Refused(LeaseRefusal::NoWorker);
    }
    if node.lineages.get(&lineage).is_none() || node.lineages.ids().len() > LINEAGES_MAX {
        return LeaseAnswer::Refused(LeaseRefusal::UnknownLineage);
    }
    let (input, waiting) = match wish {
        LeaseWish::Ask { jobs, lacks } => {
            let Some((ask, waiting)) = node.leases.wait(worker) else {
                return LeaseAnswer::Refused(LeaseRefusal::Busy);
            };
            (Input::Ask { ask, worker, jobs, lacks }, Some(waiting))
        }
        LeaseWish::Renew(intervals) => (Input::Renew { worker, intervals }, None),
        LeaseWish::GiveBack(interval) => (Input::GiveBack { worker, interval }, None),
    };
    let telling = Arc::clone(node);
    let told = tokio::task::spawn_blocking(move || telling.leases.tell(&telling, lineage, input)).await;
    match (told, waiting) {
        (Ok(()), Some(waiting)) => waiting.await.unwrap_or(LeaseAnswer::Refused(LeaseRefusal::Busy)),
        (Ok(()), None) => LeaseAnswer::Noted,
        (Err(_), _) => LeaseAnswer::Refused(LeaseRefusal::Busy),
    }
}

/// Keeps the tables up to date: with time, new checkpoints and new results.
pub async fn keep(node: Arc<Node>) {
    loop {
        // Before the tables are looked at, so that no change is missed.
        let changed = node.lineages.changed();
        let keeping = Arc::clone(&node);
        let Ok(due) = tokio::task::spawn_blocking(move || keeping.leases.bring_all_on(&keeping)).await else {
            return;
        };
        let waited = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = node.leases.woken.notified() => {}
            () = waited => {}
        }
    }
}

/// Asks the host of the lineage's table; `None` if no node answers that keeps one.
pub async fn ask(node: &Arc<Node>, lineage: LineageId, wish: LeaseWish) -> Option<LeaseAnswer> {
    if let Some(writer) = node.lineages.writer(&lineage).filter(|writer| *writer != node.id) {
        node.meet_within(writer, WRITER_PATIENCE).await;
    }
    for host in hosts(node, lineage) {
        let request = LeaseRequest { lineage, wish: wish.clone() };
        let answered = match host {
            None => Some(answer(node, node.id, node.members.certificate().role, request).await),
            Some(peer) => ask_peer(&peer, request).await,
        };
        match answered {
            None | Some(LeaseAnswer::Refused(LeaseRefusal::NoHost | LeaseRefusal::UnknownLineage)) => {}
            answered => return answered,
        }
    }
    None
}

/// Who may host the table, whom to ask first first; `None` is this node.
fn hosts(node: &Node, lineage: LineageId) -> Vec<Option<Arc<Peer>>> {
    let writer = node.lineages.writer(&lineage);
    let may_publish = |role: Role| role >= Role::Publisher;
    let peers = node.peers.all().into_iter().filter(|peer| may_publish(peer.certificate.role));
    let mut hosts: Vec<(NodeId, Option<Arc<Peer>>)> = peers.map(|peer| (peer.id, Some(peer))).collect();
    if may_publish(node.members.certificate().role) {
        hosts.push((node.id, None));
    }
    hosts.sort_by_key(|(id, _)| (Some(*id) != writer, *id));
    hosts.into_iter().map(|(_, host)| host).collect()
}

async fn ask_peer(peer: &Peer, request: LeaseRequest) -> Option<LeaseAnswer> {
    let _in_use = peer.use_stream();
    peer.note_lease();
    let asked = async {
        let (mut send, mut receive) = peer.connection.open_bi().await.ok()?;
        send.set_priority(2).ok()?;
        frames::write(&mut send, &Opening::Lease(request).encode()).await.ok()?;
        let frame = frames::read(&mut receive).await.ok()??;
        LeaseAnswer::decode(&frame).ok()
    };
    timeout(LEASE_ANSWER_TIMEOUT, asked).await.ok().flatten()
}

/// Answers a peer's request on its stream.
pub async fn answer_peer(node: &Arc<Node>, peer: &Peer, request: LeaseRequest, mut send: quinn::SendStream) {
    peer.note_lease();
    let answer = answer(node, peer.id, peer.certificate.role, request).await;
    match frames::write(&mut send, &answer.encode()).await {
        // The stream may be gone already; then there is nobody to tell.
        Ok(()) => drop(send.finish()),
        Err(error) => tracing::debug!(%error, "lease answer not sent"),
    }
}
