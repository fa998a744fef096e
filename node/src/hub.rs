//! The one task that owns the swarm engine: takes an input, lets the engine think, carries out what it asks for.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::wire::Control;
use pageswarm_checkpoint::{Birth, LineageId, NodeId};
use pageswarm_store::WriteError;
use pageswarm_swarm::{
    BirthSet, Config, Engine, Input, Output, Patience, PeerStats, RequestId, Stats, Time, WantId,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::config::Sources;
use crate::limits::ENGINE_QUEUE;
use crate::node::Node;
use crate::spread::{OwnNeed, OwnNeeds, Peak, Weight};
use crate::uploads::ServeCommand;
use crate::{births, place, runs};

/// Why a want ended without everything being here.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WantError {
    /// The engine takes no more wants.
    #[error("too many checkpoints are being fetched: wait for some")]
    Refused,
    /// Chunks came, and the store does not take them.
    #[error("chunks came and cannot be stored")]
    NotStored(#[source] Arc<WriteError>),
    /// The node ends.
    #[error("node is ending")]
    Ending,
}

/// What came of a page fault that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// The chunk is held.
    Held,
    /// The engine has no place for more faults.
    Refused,
    /// Chunks came, and the store is full.
    NotStored,
    /// Chunks came, and the store failed.
    StoreFailed,
}

/// Where the answer to a page fault goes.
#[derive(Debug)]
struct FaultReply {
    done: std_mpsc::SyncSender<FaultOutcome>,
    /// Gone once nobody waits for the answer.
    waiting: Weak<()>,
}

/// A page fault that was asked for. Whoever drops it does not wait any more.
#[derive(Debug)]
pub struct Faulted {
    /// Gets what came of it, once that is known.
    pub answer: std_mpsc::Receiver<FaultOutcome>,
    /// Names it.
    waiting: Arc<()>,
}

enum Message {
    Engine(Input),
    Want { lineage: LineageId, births: BirthSet, done: oneshot::Sender<Result<(), WantError>> },
    Fault { lineage: LineageId, birth: Birth, done: FaultReply },
    Unfault { lineage: LineageId, birth: Birth, who: Weak<()> },
    NotStored { lineage: LineageId, births: BirthSet, why: Arc<WriteError> },
    Needs { done: oneshot::Sender<Vec<OwnNeed>> },
    Spare { done: oneshot::Sender<Vec<NodeId>> },
    Weigh { lineage: LineageId, births: BirthSet, done: oneshot::Sender<Weight> },
}

/// A handle on the engine's task.
#[derive(Clone, Debug)]
pub struct Hub {
    messages: mpsc::Sender<Message>,
    view: Arc<Mutex<View>>,
}

/// What the engine counted, as of its last turn.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Its counters.
    pub stats: Stats,
    /// Of each peer.
    pub peers: BTreeMap<NodeId, PeerStats>,
    /// Wants that are open.
    pub wants: usize,
    /// The highest rate at which chunks were sent lately.
    pub up_peak: Option<NonZeroU64>,
    /// The highest rate at which chunks were received lately.
    pub down_peak: Option<NonZeroU64>,
}

/// The receiving side of [`Hub`], until the task starts.
#[derive(Debug)]
pub struct HubQueue {
    messages: mpsc::Receiver<Message>,
    view: Arc<Mutex<View>>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Message")
    }
}

/// A hub and the queue to start its task with.
#[must_use]
pub fn channel() -> (Hub, HubQueue) {
    let (sender, messages) = mpsc::channel(ENGINE_QUEUE);
    let view = Arc::default();
    (Hub { messages: sender, view: Arc::clone(&view) }, HubQueue { messages, view })
}

impl Hub {
    /// Tells the engine something.
    pub async fn input(&self, input: Input) {
        if self.messages.send(Message::Engine(input)).await.is_err() {
            tracing::debug!("engine has ended");
        }
    }

    /// Tells the engine something, from a thread that may block.
    pub fn input_blocking(&self, input: Input) {
        if self.messages.blocking_send(Message::Engine(input)).is_err() {
            tracing::debug!("engine has ended");
        }
    }

    /// Completes when all the births are held. If this is dropped before, they are soon not wanted any more.
    ///
    /// # Errors
    ///
    /// [`WantError`].
    pub async fn want(&self, lineage: LineageId, births: BirthSet) -> Result<(), WantError> {
        let (done, outcome) = oneshot::channel();
        let sent = self.messages.send(Message::Want { lineage, births, done }).await;
        sent.map_err(|_| WantError::Ending)?;
        outcome.await.map_err(|_| WantError::Ending)?
    }

    /// Asks for a chunk that a guest waits for. From a thread that may block.
    #[must_use]
    pub fn fault(&self, lineage: LineageId, birth: Birth) -> Faulted {
        let (done, answer) = std_mpsc::sync_channel(1);
        let waiting = Arc::new(());
        let done = FaultReply { done, waiting: Arc::downgrade(&waiting) };
        if self.messages.blocking_send(Message::Fault { lineage, birth, done }).is_err() {
            tracing::debug!("engine has ended");
        }
        Faulted { answer, waiting }
    }

    /// Says that a chunk whose [`Faulted`] the caller still has is not waited for any more. From a thread that may block.
    pub fn unfault(&self, lineage: LineageId, birth: Birth, faulted: &Faulted) {
        let who = Arc::downgrade(&faulted.waiting);
        if self.messages.blocking_send(Message::Unfault { lineage, birth, who }).is_err() {
            tracing::debug!("engine has ended");
        }
    }

    /// Says that these chunks came and the store does not take them: whoever waits for chunks of the lineage is
    /// told, and no more of them are asked for until somebody wants some again.
    pub async fn not_stored(&self, lineage: LineageId, births: BirthSet, why: WriteError) {
        let why = Arc::new(why);
        if self.messages.send(Message::NotStored { lineage, births, why }).await.is_err() {
            tracing::debug!("engine has ended");
        }
    }

    /// What this node needs of each lineage; nothing if the node ends.
    pub async fn needs(&self) -> Vec<OwnNeed> {
        let (done, needs) = oneshot::channel();
        let sent = self.messages.send(Message::Needs { done }).await;
        if sent.is_err() { Vec::new() } else { needs.await.unwrap_or_default() }
    }

    /// The same, from a thread that may block.
    #[must_use]
    pub fn needs_blocking(&self) -> Vec<OwnNeed> {
        let (done, needs) = oneshot::channel();
        let sent = self.messages.blocking_send(Message::Needs { done });
        if sent.is_err() { Vec::new() } else { needs.blocking_recv().unwrap_or_default() }
    }

    /// How many bytes births are, and how many of them only the writer holds; `None` if the node ends. From a thread
    /// that may block.
    #[must_use]
    pub fn weigh_blocking(&self, lineage: LineageId, births: BirthSet) -> Option<Weight> {
        let (done, weight) = oneshot::channel();
        self.messages.blocking_send(Message::Weigh { lineage, births, done }).ok()?;
        weight.blocking_recv().ok()
    }

    /// The peers that the engine can spare, the first one first.
    pub async fn spare_peers(&self) -> Vec<NodeId> {
        let (done, spare) = oneshot::channel();
        let sent = self.messages.send(Message::Spare { done }).await;
        if sent.is_err() { Vec::new() } else { spare.await.unwrap_or_default() }
    }

    /// What the engine counted.
    #[must_use]
    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Messages taken from the queue at a time.
const TAKEN_TOGETHER: usize = 64;
/// How old published counters may be.
const VIEW_AGE_MAX: Duration = Duration::from_millis(100);
/// How long a want may stay that nobody waits for any more.
const ABANDONED_AFTER: Duration = Duration::from_millis(250);

struct Task {
    node: Arc<Node>,
    engine: Engine,
    /// Inputs that follow from carrying out outputs.
    own: VecDeque<Input>,
    wants: BTreeMap<WantId, (LineageId, oneshot::Sender<Result<(), WantError>>)>,
    next_want: u64,
    wants_looked_at: Instant,
    faults: BTreeMap<(LineageId, Birth), Vec<FaultReply>>,
    requests: BTreeMap<RequestId, AbortHandle>,
    needs: OwnNeeds,
    up: Peak,
    down: Peak,
    view: Arc<Mutex<View>>,
    viewed: Instant,
    /// Whether something happened since.
    view_is_old: bool,
}

/// Runs the engine until the node drops its hubs.
pub async fn run(node: Arc<Node>, queue: HubQueue, seed: u64) {
    let HubQueue { mut messages, view } = queue;
    let upload_bytes_per_s = node.config.upload_bytes_per_s;
    let labels = place::labels(&node.config.place);
    let engine = Engine::new(Config { labels, upload_bytes_per_s, ..Config::default() }, node.id, seed);
    let mut task = Task {
        node,
        engine,
        own: VecDeque::new(),
        wants: BTreeMap::new(),
        next_want: 0,
        wants_looked_at: Instant::now(),
        faults: BTreeMap::new(),
        requests: BTreeMap::new(),
        needs: OwnNeeds::default(),
        up: Peak::start(Instant::now()),
        down: Peak::start(Instant::now()),
        view,
        viewed: Instant::now(),
        view_is_old: false,
    };
    let mut wake = task.drain();
    let mut taken = Vec::with_capacity(TAKEN_TOGETHER);
    loop {
        let sleep = async {
            match wake {
                Some(until) => {
                    tokio::time::sleep_until(task.node.clock.instant(until).into()).await;
                }
                None => std::future::pending().await,
            }
        };
        // What has happened comes before what is due: a queue that is not empty costs no timer.
        tokio::select! {
            biased;
            count = messages.recv_many(&mut taken, TAKEN_TOGETHER) => {
                if count == 0 {
                    return;
                }
            }
            () = sleep => taken.push(Message::Engine(Input::Tick)),
            () = tokio::time::sleep(VIEW_AGE_MAX), if task.view_is_old => task.show(Duration::ZERO),
            () = tokio::time::sleep(ABANDONED_AFTER), if !task.wants.is_empty() => {}
        }
        taken.drain(..).for_each(|message| task.take(message));
        task.forget_wants();
        wake = task.drain();
        task.show(VIEW_AGE_MAX);
    }
}

impl Task {
    fn take(&mut self, message: Message) {
        match message {
            Message::Engine(input) => {
                if let Input::RequestEnded { request, .. } = &input {
                    self.requests.remove(request);
                }
                self.own.push_back(input);
            }
            Message::Want { lineage, births, done } => {
                let want = WantId(self.next_want);
                self.next_want += 1;
                self.wants.insert(want, (lineage, done));
                self.own.push_back(Input::Want { want, lineage, births, deadline: None });
            }
            Message::Fault { lineage, birth, done } => {
                self.faults.entry((lineage, birth)).or_default().push(done);
                self.own.push_back(Input::Fault { lineage, birth });
            }
            Message::Unfault { lineage, birth, who } => {
                let waiting = self.faults.get_mut(&(lineage, birth)).map(|waiting| {
                    waiting.retain(|reply| reply.waiting.strong_count() > 0 && !reply.waiting.ptr_eq(&who));
                    waiting.len()
                });
                // Another guest may wait for the same.
                if waiting == Some(0) {
                    self.faults.remove(&(lineage, birth));
                    self.own.push_back(Input::Unfault { lineage, birth });
                }
            }
            Message::NotStored { lineage, births, why } => self.stop_intake(lineage, &births, &why),
            // Whoever asked may have given up.
            Message::Needs { done } => {
                let _gone = done.send(self.needs.seen(&self.engine, self.node.clock.now()));
            }
            Message::Spare { done } => {
                let _gone = done.send(self.engine.spare_peers(self.node.clock.now()));
            }
            Message::Weigh { lineage, births, done } => {
                let _gone = done.send(self.weigh(lineage, &births));
            }
        }
    }

    /// Takes back wants that nobody waits for any more.
    fn forget_wants(&mut self) {
        if self.wants_looked_at.elapsed() < ABANDONED_AFTER {
            return;
        }
        self.wants_looked_at = Instant::now();
        let abandoned = self.wants.extract_if(.., |_, (_, done)| done.is_closed());
        self.own.extend(abandoned.map(|(want, _)| Input::Unwant { want }));
    }

    /// Ends what waits for these: they would come again and again.
    fn stop_intake(&mut self, lineage: LineageId, births: &BirthSet, why: &Arc<WriteError>) {
        for (want, (_, done)) in self.wants.extract_if(.., |_, (of, _)| *of == lineage) {
            // Nobody may wait any more.
            let _gone = done.send(Err(WantError::NotStored(Arc::clone(why))));
            self.own.push_back(Input::Unwant { want });
        }
        let outcome = if why.is_full() { FaultOutcome::NotStored } else { FaultOutcome::StoreFailed };
        let is_one = |(of, birth): &&(LineageId, Birth)| *of == lineage && births.contains(*birth);
        for (lineage, birth) in self.faults.keys().filter(is_one).copied().collect::<Vec<_>>() {
            self.end_fault((lineage, birth), outcome);
            self.own.push_back(Input::Unfault { lineage, birth });
        }
    }

    /// Feeds the engine until nothing is left to do; returns when it wants to be called again.
    fn drain(&mut self) -> Option<Time> {
        loop {
            let input = self.own.pop_front().unwrap_or(Input::Tick);
            let input = if self.is_from_a_source(&input) { input } else { Input::Tick };
            let now = self.node.clock.now();
            self.needs.before(&self.engine, now, &input);
            self.engine.handle(now, input);
            self.needs.after(&self.engine, now);
            let until = loop {
                match self.engine.poll() {
                    Output::Wait { until, .. } => break until,
                    output => self.carry_out(output),
                }
            };
            if self.own.is_empty() {
                return until;
            }
        }
    }

    /// False for what a peer says of chunks that this node asks of their writer only.
    fn is_from_a_source(&self, input: &Input) -> bool {
        let (Sources::Writer, Input::PeerHas { peer, lineage, .. }) = (self.node.config.sources, input)
        else {
            return true;
        };
        self.node.lineages.writer(lineage).is_none_or(|writer| writer == *peer)
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Request { peer, request, lineage, births, urgency, patience } => {
                let patience = match self.node.config.sources {
                    Sources::Swarm => patience,
                    // There is nobody else to be sent to.
                    Sources::Writer => Patience::Insist,
                };
                let Some(peer) = self.node.peers.get(&peer) else {
                    // Its session has ended and is about to say so. To say that the request failed would not do: for a page
                    // that only this peer has, the engine would ask it again at once, and so on for ever.
                    self.own.push_back(Input::PeerDown { peer });
                    return;
                };
                let run = runs::Run { request, lineage, births, urgency, patience };
                let task = tokio::spawn(runs::ask(Arc::clone(&self.node), peer, run));
                self.requests.insert(request, task.abort_handle());
            }
            Output::CancelRequest { request, .. } => {
                if let Some(task) = self.requests.remove(&request) {
                    task.abort();
                }
            }
            Output::AnnounceHave { to, lineage, births } => {
                self.tell_births(to, &births, |births| Control::Have { lineage, births });
            }
            Output::AnnounceLack { to, lineage, births } => {
                self.tell_births(to, &births, |births| Control::Lack { lineage, births });
            }
            Output::Ban { peer, why, until } => {
                tracing::warn!(peer = %peer.short(), ?why, "banned");
                self.node.note_ban(peer, self.node.clock.instant(until), why);
            }
            Output::Meet { peer } => self.node.meet(peer),
            Output::Event(event) => self.node.note_engine_event(&event),
            Output::WantComplete { want } => self.end_want(want, Ok(())),
            Output::WantRefused { want } => self.end_want(want, Err(WantError::Refused)),
            Output::FaultDone { lineage, birth } => self.end_fault((lineage, birth), FaultOutcome::Held),
            Output::FaultRefused { lineage, birth } => {
                self.end_fault((lineage, birth), FaultOutcome::Refused);
            }
            Output::Wait { .. } => unreachable!("the caller keeps waits for itself"),
            answer => self.decide_answer(answer),
        }
    }

    /// What concerns a request that a peer made of this node.
    fn decide_answer(&mut self, output: Output) {
        match output {
            Output::Serve { peer, request, births, .. } => {
                self.serve(peer, request, ServeCommand::Serve(births));
            }
            Output::Defer { peer, request, births, holder, .. } => {
                self.serve(peer, request, ServeCommand::Defer { births, holder });
            }
            Output::NotHeld { peer, request, births, .. } => {
                self.serve(peer, request, ServeCommand::NotHeld(births));
            }
            Output::Refuse { peer, request, why } => {
                self.serve(peer, request, ServeCommand::Refuse(why));
            }
            Output::AbandonServe { peer, request } => {
                self.serve(peer, request, ServeCommand::Abandon);
            }
            other => unreachable!("{other:?} concerns no request of a peer"),
        }
    }

    fn serve(&mut self, peer: NodeId, request: RequestId, command: ServeCommand) {
        let serving = matches!(command, ServeCommand::Serve(_));
        // Whoever asked may be gone; the engine must hear that its serve is over.
        if !self.node.uploads.tell(peer, request, command) && serving {
            self.own.push_back(Input::Served { peer, request, bytes: 0 });
        }
    }

    fn tell_births(
        &self,
        to: NodeId,
        births: &BirthSet,
        message: impl Fn(Vec<pageswarm_checkpoint::wire::BirthRange>) -> Control,
    ) {
        if let Some(peer) = self.node.peers.get(&to) {
            births::to_messages(births).into_iter().for_each(|part| peer.tell(message(part)));
        }
    }

    fn end_want(&mut self, want: WantId, outcome: Result<(), WantError>) {
        // Nobody may wait any more.
        let _gone = self.wants.remove(&want).map(|(_, done)| done.send(outcome));
    }

    fn end_fault(&mut self, fault: (LineageId, Birth), outcome: FaultOutcome) {
        for done in self.faults.remove(&fault).unwrap_or_default() {
            // The guest may be gone; the channel has room for the one answer.
            let _gone = done.done.try_send(outcome);
        }
    }

    fn weigh(&self, lineage: LineageId, births: &BirthSet) -> Weight {
        let is_writer = self.node.lineages.writer(&lineage) == Some(self.node.id);
        let mut only_at_writer = births.clone();
        if let (Some(held), Some(copied)) = (self.engine.held(lineage), self.engine.copied(lineage)) {
            // What the writer keeps from others is not on its way to anybody.
            if is_writer {
                only_at_writer.keep(held);
            } else {
                only_at_writer.subtract(held);
            }
            only_at_writer.subtract(copied);
        }
        Weight {
            born_bytes: self.engine.born_bytes(lineage, births),
            only_at_writer_bytes: self.engine.born_bytes(lineage, &only_at_writer),
        }
    }

    /// Publishes counters, a few times a second.
    fn show(&mut self, age_min: Duration) {
        self.view_is_old = self.viewed.elapsed() < age_min;
        if self.view_is_old {
            return;
        }
        self.viewed = Instant::now();
        let stats = self.engine.stats();
        self.up.note(self.viewed, stats.bytes_served);
        self.down.note(self.viewed, stats.bytes_from_writer.saturating_add(stats.bytes_from_peers));
        let view = View {
            stats,
            peers: self.engine.peer_stats().collect(),
            wants: self.wants.len(),
            up_peak: self.up.bytes_per_s(),
            down_peak: self.down.bytes_per_s(),
        };
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }
}
