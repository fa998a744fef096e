//! The engine: one mutation per input, then effects until the next wait.
//!
//! All branching on inputs is here; each sub-machine owns its state. After every input, `maintain` restores the
//! standing invariants (due requests issued, overdue ones moved, gains announced), so no handler has to.

mod announcing;
mod answers;
mod booking;
mod local;
mod maintain;
mod meeting;
mod neighbours;
mod picking;
mod serving;
mod sharing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pageswarm_checkpoint::{LineageId, NodeId};

use crate::births::BirthSet;
use crate::budget::Budget;
use crate::config::Config;
use crate::input::Input;
use crate::intake::Intake;
use crate::lineages::Lineage;
use crate::output::{BanReason, Event, Output};
use crate::peers::Peer;
use crate::requests::Requests;
use crate::rng::Rng;
use crate::sent::Sent;
use crate::stats::{PeerStats, Stats};
use crate::time::Time;
use crate::timers::Timers;
use crate::uploads::Uploads;
use crate::wants::Wants;

/// The distribution engine of one node, for all its lineages.
///
/// Call [`handle`](Self::handle) with each thing that happens, then [`poll`](Self::poll) until it returns
/// [`Output::Wait`]. Time given to `handle` should not go back; if it does, the latest time stands.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    me: NodeId,
    now: Time,
    rng: Rng,
    lineages: BTreeMap<LineageId, Lineage>,
    peers: BTreeMap<NodeId, Peer>,
    /// Peers that may be worth asking: something changed since they were last found full or without use.
    ready: BTreeSet<NodeId>,
    banned: BTreeMap<NodeId, (Time, BanReason)>,
    wants: Wants,
    requests: Requests,
    budget: Budget,
    intake: Intake,
    uploads: Uploads,
    sent: Sent,
    /// Nodes with which a connection was asked for.
    met: BTreeMap<NodeId, meeting::Meeting>,
    /// When it is time to look whether a writer is missed.
    meet_at: Time,
    /// How many births were wanted and offered by nobody at the last look, of lineages whose writer is no peer.
    unoffered: BTreeMap<LineageId, u64>,
    /// Rises whenever something may be asked for that could not be before.
    supply: u64,
    /// Not later than anything that is due of peers, requests and answers: most inputs need not look at all of them.
    due: Timers,
    stats: Stats,
    outputs: VecDeque<Output>,
    drained: bool,
}

impl Engine {
    /// An engine with no peers and no lineages. Engines with different seeds prefer different chunks.
    #[must_use]
    pub fn new(config: Config, me: NodeId, seed: u64) -> Self {
        Self {
            config,
            me,
            now: Time::ZERO,
            rng: Rng::new(seed),
            lineages: BTreeMap::new(),
            peers: BTreeMap::new(),
            ready: BTreeSet::new(),
            banned: BTreeMap::new(),
            wants: Wants::default(),
            requests: Requests::default(),
            budget: Budget::default(),
            intake: Intake::default(),
            uploads: Uploads::default(),
            sent: Sent::default(),
            met: BTreeMap::new(),
            meet_at: Time::ZERO,
            unoffered: BTreeMap::new(),
            supply: 1,
            due: Timers::new(),
            stats: Stats::default(),
            outputs: VecDeque::new(),
            drained: true,
        }
    }

    /// Takes one input. Nothing from the network is ever a reason to panic.
    ///
    /// In debug builds, panics if the effects of the input before were not drained.
    pub fn handle(&mut self, now: Time, input: Input) {
        debug_assert!(self.drained, "poll until Output::Wait before the next input");
        self.drained = false;
        self.now = self.now.max(now);
        self.dispatch(input);
        self.maintain();
    }

    /// The next effect; [`Output::Wait`] once there are no more.
    pub fn poll(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        self.drained = true;
        let (until, why) = self.next_wake().earliest();
        Output::Wait { until, why }
    }

    /// Counters and levels.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            outstanding_bytes: self.budget.outstanding(),
            uploads: u64::try_from(self.uploads.len()).unwrap_or(u64::MAX),
            ..self.stats
        }
    }

    /// What is known of each connected peer, ordered by id.
    pub fn peer_stats(&self) -> impl Iterator<Item = (NodeId, PeerStats)> + '_ {
        self.peers.iter().map(|(id, peer)| (*id, peer.stats()))
    }

    /// What is held of a lineage; `None` if it is not open.
    #[must_use]
    pub fn held(&self, lineage: LineageId) -> Option<&BirthSet> {
        self.lineages.get(&lineage).map(|lineage| &lineage.held)
    }

    /// What is wanted of a lineage and not held; `None` if it is not open.
    #[must_use]
    pub fn missing(&self, lineage: LineageId) -> Option<&BirthSet> {
        self.lineages.get(&lineage).map(Lineage::wanted)
    }

    /// What healthy peers other than the writer hold of a lineage; `None` if it is not open.
    #[must_use]
    pub fn copied(&self, lineage: LineageId) -> Option<&BirthSet> {
        self.lineages.get(&lineage).map(|lineage| lineage.copies.any())
    }

    /// Encoded bytes of births in the form in which they were born; a typical length for those not known.
    #[must_use]
    pub fn born_bytes(&self, lineage: LineageId, births: &BirthSet) -> u64 {
        self.lineages.get(&lineage).map_or(0, |lineage| lineage.lengths.sum(births))
    }

    /// An estimate of the memory that its state takes, in bytes: sets, requests, answers and peers.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let lineages: usize = self.lineages.values().map(Lineage::memory_bytes).sum();
        let peers: usize = self.peers.values().map(Peer::memory_bytes).sum();
        let requests =
            self.requests.iter().map(|(_, request)| size_of_val(request) + request.births.memory_bytes());
        let outputs = self.outputs.capacity() * size_of::<Output>();
        size_of::<Self>() + lineages + peers + requests.sum::<usize>() + self.uploads.memory_bytes() + outputs
    }

    /// Panics if the engine's books do not balance; for tests and simulations, it walks everything.
    pub fn assert_invariants(&self) {
        let outstanding: u64 = self.requests.iter().map(|(_, request)| request.bytes).sum();
        assert_eq!(outstanding, self.budget.outstanding(), "the budget is the sum of the requests");
        let mut in_flight: BTreeMap<LineageId, BirthSet> = BTreeMap::new();
        for (_, request) in self.requests.iter() {
            assert!(!request.births.is_empty(), "an answered request is closed");
            assert!(self.peers.contains_key(&request.peer), "requests end with their peer");
            in_flight.entry(request.lineage).or_default().add(&request.births);
        }
        for (id, lineage) in &self.lineages {
            lineage.assert_invariants();
            let asked = in_flight.remove(id).unwrap_or_default();
            assert!(lineage.is_exactly_in_flight(&asked), "in flight is the union of the requests");
            assert_eq!(lineage.wanted(), &self.wants.still_wanted(*id), "wanted follows the wants");
        }
        assert!(in_flight.is_empty(), "requests end with their lineage");
        for (id, peer) in &self.peers {
            let at_peer = || self.requests.iter().filter(|(_, request)| request.peer == *id);
            let bytes: u64 = at_peer().map(|(_, request)| request.bytes).sum();
            assert_eq!(peer.outstanding, bytes, "a peer's share of the budget");
            assert_eq!(peer.requests + peer.fault_requests, at_peer().count(), "a peer's requests");
        }
    }

    fn dispatch(&mut self, input: Input) {
        match input {
            Input::Asked { peer, request, lineage, births, urgency, patience } => {
                self.asked(peer, request, lineage, births, (urgency, patience));
            }
            Input::AskedCancelled { peer, request } => self.asked_cancelled(peer, request),
            Input::ChunkCorrupt { peer, request, lineage, birth } => {
                self.chunk_corrupt(peer, request, lineage, birth);
            }
            Input::ChunksArrived { peer, request, lineage, births, bytes } => {
                self.chunks_arrived(peer, request, lineage, &births, bytes);
            }
            Input::ChunksDeferred { peer, request, lineage, births, holder } => {
                self.chunks_deferred(peer, request, lineage, &births, holder);
            }
            Input::ChunksNotHeld { peer, request, lineage, births } => {
                self.chunks_not_held(peer, request, lineage, &births);
            }
            Input::Close { lineage } => self.close(lineage),
            Input::Fault { lineage, birth } => self.fault(lineage, birth),
            Input::Lengths { lineage, first, lengths } => {
                self.lineages.entry(lineage).or_default().lengths.learn(first, &lengths);
            }
            Input::LocalHas { lineage, births } => self.gain(lineage, &births),
            Input::LocalLost { lineage, births } => self.local_lost(lineage, &births),
            Input::Open { lineage, writer } => self.open(lineage, writer),
            Input::PeerDown { peer } => self.peer_down(peer),
            Input::PeerFollows { peer, lineage } => self.peer_follows(peer, lineage),
            Input::PeerHas { peer, lineage, births } => self.peer_has(peer, lineage, &births),
            Input::PeerLabels { peer, labels } => self.peer_labels(peer, labels),
            Input::PeerLacks { peer, lineage, births } => self.peer_lacks(peer, lineage, &births),
            Input::PeerUnfollows { peer, lineage } => self.peer_unfollows(peer, lineage),
            Input::PeerUp { peer } => self.peer_up(peer),
            Input::RequestEnded { peer, request, how } => self.request_ended(peer, request, how),
            Input::Served { peer, request, bytes } => self.served(peer, request, bytes),
            Input::Tick => {}
            Input::Unfault { lineage, birth } => self.unfault(lineage, birth),
            Input::Unwant { want } => self.unwant(want),
            Input::Want { want, lineage, births, deadline } => {
                self.want(want, lineage, births, deadline);
            }
        }
    }

    fn emit(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}
