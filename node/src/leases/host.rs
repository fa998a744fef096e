//! The lease tables that this node hosts, and how workers reach the host of a lineage's table.
//!
//! Every node that may publish hosts a table for whichever lineage it is asked for; workers ask the lineage's writer, and
//! if it is gone the member with the smallest name among those that may publish. Nothing is handed over: a table is made
//! of published results, and leases under way come with their renewals. Two hosts at a time cost double work, no result.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::membership::Role;
use pageswarm_checkpoint::wire::{LeaseAnswer, LeaseRefusal, LeaseRequest, LeaseWish, Opening};
use pageswarm_checkpoint::{LineageId, NodeId, Outcome, SimulationResult};
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::judgement::{Finding, Verdict};
use super::policy::{Policy, Share};
use super::table::{AskId, Input, LeaseTable, Output, Summary};
use crate::events::What;
use crate::limits::{LEASE_ANSWER_TIMEOUT, LINEAGES_MAX};
use crate::node::Node;
use crate::peers::Peer;
use crate::transport::frames;

const SEED_CONTEXT: &str = "pageswarm 2026 sample of intervals simulated twice";

/// The tables that this node hosts.
#[derive(Debug, Default)]
pub struct LeaseHost {
    state: Mutex<State>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct State {
    tables: BTreeMap<LineageId, Hosted>,
    waiting: BTreeMap<AskId, oneshot::Sender<LeaseAnswer>>,
    asks: u64,
}

#[derive(Debug)]
struct Hosted {
    table: LeaseTable,
    /// Results of each worker that the table knows.
    told: BTreeMap<NodeId, usize>,
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
        let mut state = self.lock();
        if let Some(hosted) = state.tables.get_mut(&lineage) {
            hosted.bring_on(node, lineage);
            let summary = hosted.table.summary();
            let liars = state.drain(lineage);
            drop(state);
            report(node, lineage, &liars);
            return (summary, true);
        }
        drop(state);
        let mut looked = Hosted::new(node, lineage, Share::NONE);
        looked.bring_on(node, lineage);
        (looked.table.summary(), false)
    }

    /// Tells a table something and sends the answers that follow. From a thread that may block.
    fn tell(&self, node: &Node, lineage: LineageId, input: Input) {
        let mut state = self.lock();
        let hosted = state
            .tables
            .entry(lineage)
            .or_insert_with(|| Hosted::new(node, lineage, node.config.simulate_twice));
        hosted.bring_on(node, lineage);
        hosted.table.handle(Instant::now(), input);
        let liars = state.drain(lineage);
        drop(state);
        report(node, lineage, &liars);
        self.wake();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sends what the table says; names the workers that it found lying.
    fn drain(&mut self, lineage: LineageId) -> Vec<NodeId> {
        let Some(Hosted { table, .. }) = self.tables.get_mut(&lineage) else {
            return Vec::new();
        };
        let term_ms = u64::try_from(table.term().as_millis()).unwrap_or(u64::MAX);
        let mut liars = Vec::new();
        while let Some(output) = table.poll() {
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
            let _gone = self.waiting.remove(&ask).map(|waiting| waiting.send(answer));
        }
        liars
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

    /// Tells the table which intervals were recorded and what was found since it was told last.
    fn bring_on(&mut self, node: &Node, lineage: LineageId) {
        let now = Instant::now();
        let applied = node.lineages.get(&lineage).and_then(|lineage| lineage.applied);
        let recorded = applied.map_or(0, |(head, _)| head.index.0);
        self.table.handle(now, Input::Recorded(recorded));
        for (worker, count) in node.results.counts(&lineage) {
            let told = self.told.entry(worker).or_default();
            while *told < count {
                let Some(result) = node.results.get(&lineage, &worker, *told) else { break };
                // What is compared with a head waits for it.
                if result.interval.0 >= recorded {
                    break;
                }
                *told += 1;
                let verdict = verdict(node, &result);
                let finding = Finding { name: result.finding(), verdict };
                let took = Duration::from_millis(result.simulation_ms);
                self.table.handle(now, Input::Found { interval: result.interval, worker, finding, took });
            }
        }
    }
}

/// What a result is worth beside the heads.
pub(crate) fn verdict(node: &Node, result: &SimulationResult) -> Verdict {
    let Outcome::Ended { end_root, .. } = result.outcome else {
        return Verdict::Failed;
    };
    let root = |index| {
        let head = node.lineages.head(&result.lineage, index).ok().flatten();
        head.map(|head| head.state_root)
    };
    let exact =
        root(result.interval) == Some(result.input_root) && root(result.interval.next()) == Some(end_root);
    if exact { Verdict::Exact } else { Verdict::Different }
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
            let (answering, waiting) = oneshot::channel();
            let mut state = node.leases.lock();
            state.asks += 1;
            let ask = AskId(state.asks);
            state.waiting.insert(ask, answering);
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
        let changed = node.lineages.changed();
        let due = node
            .leases
            .lock()
            .tables
            .values()
            .filter_map(|hosted| hosted.table.due())
            .min_by_key(|due| due.0);
        let until = due.map(|(until, _)| tokio::time::Instant::from_std(until));
        let waited = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = changed => {}
            () = node.leases.woken.notified() => {}
            () = waited => {}
        }
        let keeping = Arc::clone(&node);
        let kept = tokio::task::spawn_blocking(move || bring_all_on(&keeping)).await;
        if kept.is_err() {
            return;
        }
    }
}

fn bring_all_on(node: &Node) {
    let lineages: Vec<LineageId> = node.leases.lock().tables.keys().copied().collect();
    for lineage in lineages {
        let mut state = node.leases.lock();
        if let Some(hosted) = state.tables.get_mut(&lineage) {
            hosted.bring_on(node, lineage);
            hosted.table.handle(Instant::now(), Input::Time);
        }
        let liars = state.drain(lineage);
        drop(state);
        report(node, lineage, &liars);
    }
}

/// Asks the host of the lineage's table; `None` if no node answers that keeps one.
pub async fn ask(node: &Arc<Node>, lineage: LineageId, wish: LeaseWish) -> Option<LeaseAnswer> {
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
    let answer = answer(node, peer.id, peer.certificate.role, request).await;
    match frames::write(&mut send, &answer.encode()).await {
        // The stream may be gone already; then there is nobody to tell.
        Ok(()) => drop(send.finish()),
        Err(error) => tracing::debug!(%error, "lease answer not sent"),
    }
}
