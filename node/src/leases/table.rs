//! The lease table of one lineage, sans-IO: `handle(now, Input)`, then `poll()` until there is nothing more.
//!
//! It decides who simulates which interval. Everything that must outlast it is in the workers' signed results: a table
//! that is given these again stands where this one stood, and leases under way come back with their renewals.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::wire::{JOBS_MAX, LEASE_LIST_MAX};
use pageswarm_checkpoint::{CheckpointIndex, NodeId};

use super::judgement::{Finding, Judgement, Standing, judge};
use super::policy::Policy;

/// Leases that a worker holds for each simulation that it runs: one running, one arriving.
pub(super) const LEASES_PER_JOB: u64 = 2;
/// Intervals of one table.
pub(super) const INTERVALS_MAX: u64 = 1 << 20;
/// Requests that wait in one table.
pub(super) const ASKS_MAX: usize = 1024;
/// Candidates that are named to a worker that asks.
pub(super) const CANDIDATES: usize = 8;
/// How long a request waits for something to do.
pub const ASK_PATIENCE: Duration = Duration::from_secs(1);
/// Simulations whose times say how long one takes.
const TIMES_KEPT: usize = 32;
/// No lease is given a second time before.
const HEDGE_AFTER_MIN: Duration = Duration::from_secs(1);

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// What a table hears.
#[derive(Clone, Debug)]
pub enum Input {
    /// So many intervals were recorded so far.
    Recorded(u64),
    /// A worker's result.
    Found {
        /// Of which interval.
        interval: CheckpointIndex,
        /// Whose.
        worker: NodeId,
        /// What it says.
        finding: Finding,
        /// How long the simulation took.
        took: Duration,
    },
    /// A worker wants one more interval.
    Ask {
        /// Names the request in the answer.
        ask: AskId,
        /// Whose request.
        worker: NodeId,
        /// Simulations that it runs at a time.
        jobs: u64,
        /// Bytes that it lacks of the intervals that it would take.
        lacks: Vec<(CheckpointIndex, u64)>,
    },
    /// A worker still works on these.
    Renew {
        /// Which worker.
        worker: NodeId,
        /// On what.
        intervals: Vec<CheckpointIndex>,
    },
    /// A worker cannot do it now.
    GiveBack {
        /// Which worker.
        worker: NodeId,
        /// Which interval.
        interval: CheckpointIndex,
    },
    /// Time has passed.
    Time,
}

/// What a table says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Output {
    /// An interval for whoever asked.
    Granted(AskId, CheckpointIndex),
    /// What can be had; the worker is to say what it lacks of each.
    Candidates(AskId, Vec<CheckpointIndex>),
    /// Nothing can be had; true if every interval has a result.
    Idle(AskId, bool),
    /// The worker lied before.
    Distrusted(AskId),
    /// Too many requests wait.
    Busy(AskId),
    /// A worker was found lying.
    Liar(NodeId),
}

/// What a table is to be woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A lease ends unless it is renewed.
    Expiry,
    /// A request has waited long enough.
    Patience,
    /// A lease has taken so long that another worker may have it too.
    Hedge,
}

/// Where all intervals stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Intervals recorded so far.
    pub intervals: u64,
    /// How many stand where; what stands nowhere is open.
    pub standings: BTreeMap<Standing, u64>,
    /// Leases under way, by interval.
    pub leases: Vec<(CheckpointIndex, NodeId)>,
    /// Leases that ended because they were not renewed.
    pub expired: u64,
    /// Leases that were given because another took long.
    pub hedged: u64,
    /// Who lied.
    pub liars: Vec<NodeId>,
}

#[derive(Clone, Debug)]
struct Lease {
    worker: NodeId,
    until: Instant,
    hedge_from: Instant,
}

#[derive(Clone, Debug, Default)]
struct State {
    findings: Vec<(NodeId, Finding)>,
    leases: Vec<Lease>,
    given_back: Vec<(NodeId, Instant)>,
}

#[derive(Clone, Debug)]
struct Ask {
    ask: AskId,
    worker: NodeId,
    leases_max: u64,
    lacks: Vec<(CheckpointIndex, u64)>,
    until: Instant,
}

/// The lease table of one lineage.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    policy: Policy,
    recorded: u64,
    states: BTreeMap<CheckpointIndex, State>,
    /// Intervals that want more results than are under way.
    wanting: BTreeSet<CheckpointIndex>,
    /// Intervals with leases.
    leased: BTreeSet<CheckpointIndex>,
    held: BTreeMap<NodeId, u64>,
    liars: BTreeSet<NodeId>,
    asks: VecDeque<Ask>,
    times: VecDeque<Duration>,
    expired: u64,
    hedged: u64,
    outputs: VecDeque<Output>,
    /// When it was told something last.
    now: Option<Instant>,
}

impl LeaseTable {
    /// A table without intervals.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self {
            policy,
            recorded: 0,
            states: BTreeMap::new(),
            wanting: BTreeSet::new(),
            leased: BTreeSet::new(),
            held: BTreeMap::new(),
            liars: BTreeSet::new(),
            asks: VecDeque::new(),
            times: VecDeque::new(),
            expired: 0,
            hedged: 0,
            outputs: VecDeque::new(),
            now: None,
        }
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Recorded(intervals) => {
                let intervals = intervals.min(INTERVALS_MAX);
                for interval in (self.recorded..intervals).map(CheckpointIndex) {
                    self.wanting.insert(interval);
                }
                self.recorded = self.recorded.max(intervals);
            }
            Input::Found { interval, worker, finding, took } => self.found(interval, worker, finding, took),
            Input::Ask { ask, worker, jobs, lacks } => self.ask(now, ask, worker, jobs, lacks),
            Input::Renew { worker, intervals } => {
                for interval in intervals.into_iter().take(LEASE_LIST_MAX) {
                    self.renew(now, worker, interval);
                }
            }
            Input::GiveBack { worker, interval } => {
                let until = now + self.policy.term;
                if self.end_lease(interval, worker)
                    && let Some(state) = self.states.get_mut(&interval)
                {
                    state.given_back.push((worker, until));
                    self.refresh(interval);
                }
            }
            Input::Time => {}
        }
        self.now = Some(now);
        self.expire(now);
        self.answer(now);
    }

    /// The next thing to say.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call again with [`Input::Time`] if nothing else happens, and what for.
    #[must_use]
    pub fn due(&self) -> Option<(Instant, Due)> {
        let leases = || self.leased.iter().filter_map(|interval| self.states.get(interval));
        let expiry = leases().flat_map(|state| &state.leases).map(|lease| (lease.until, Due::Expiry));
        let hedges = leases()
            .filter(|state| !self.asks.is_empty() && state.leases.len() == 1)
            .flat_map(|state| &state.leases)
            .map(|lease| (lease.hedge_from, Due::Hedge))
            // Those that passed were offered to everyone who waits.
            .filter(|(from, _)| Some(*from) > self.now);
        let asks = self.asks.iter().map(|ask| (ask.until, Due::Patience));
        expiry.chain(hedges).chain(asks).min_by_key(|(until, _)| *until)
    }

    /// How long a lease holds after each renewal.
    #[must_use]
    pub const fn term(&self) -> Duration {
        self.policy.term
    }

    /// Where an interval stands.
    #[must_use]
    pub fn standing(&self, interval: CheckpointIndex) -> Standing {
        self.judge(interval).standing
    }

    /// Where all intervals stand.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = Summary {
            intervals: self.recorded,
            liars: self.liars.iter().copied().collect(),
            expired: self.expired,
            hedged: self.hedged,
            ..Summary::default()
        };
        for interval in (0..self.recorded).map(CheckpointIndex) {
            *summary.standings.entry(self.standing(interval)).or_default() += 1;
        }
        for interval in &self.leased {
            let leases = self.states.get(interval).map_or(&[][..], |state| &state.leases);
            summary.leases.extend(leases.iter().map(|lease| (*interval, lease.worker)));
        }
        summary
    }

    fn judge(&self, interval: CheckpointIndex) -> Judgement {
        let findings = self.states.get(&interval).map_or(&[][..], |state| &state.findings);
        let trusted: Vec<(NodeId, Finding)> =
            findings.iter().filter(|(worker, _)| !self.liars.contains(worker)).copied().collect();
        judge(&trusted, self.policy.checked(interval))
    }

    /// Brings the sets of intervals up to what its state says; names whom the judgement finds lying.
    fn refresh(&mut self, interval: CheckpointIndex) -> Vec<NodeId> {
        let Judgement { wanted, liars, .. } = self.judge(interval);
        let leases = self.states.get(&interval).map_or(0, |state| state.leases.len());
        if interval.0 < self.recorded && wanted > leases {
            self.wanting.insert(interval);
        } else {
            self.wanting.remove(&interval);
        }
        if leases > 0 {
            self.leased.insert(interval);
        } else {
            self.leased.remove(&interval);
        }
        liars
    }

    fn found(&mut self, interval: CheckpointIndex, worker: NodeId, finding: Finding, took: Duration) {
        if interval.0 >= INTERVALS_MAX {
            return;
        }
        self.end_lease(interval, worker);
        let state = self.states.entry(interval).or_default();
        if state.findings.iter().any(|(known, _)| *known == worker) {
            self.refresh(interval);
            return;
        }
        state.findings.push((worker, finding));
        if self.times.len() == TIMES_KEPT {
            self.times.pop_front();
        }
        self.times.push_back(took);
        let mut liars = self.refresh(interval);
        while let Some(liar) = liars.pop() {
            if self.liars.insert(liar) {
                self.outputs.push_back(Output::Liar(liar));
                // Nothing that it said counts any more.
                let touched: Vec<CheckpointIndex> = self.states.keys().copied().collect();
                for interval in touched {
                    self.end_lease(interval, liar);
                    liars.extend(self.refresh(interval));
                }
            }
        }
    }

    fn ask(
        &mut self,
        now: Instant,
        ask: AskId,
        worker: NodeId,
        jobs: u64,
        mut lacks: Vec<(CheckpointIndex, u64)>,
    ) {
        if self.liars.contains(&worker) {
            return self.outputs.push_back(Output::Distrusted(ask));
        }
        if self.asks.len() >= ASKS_MAX {
            return self.outputs.push_back(Output::Busy(ask));
        }
        lacks.truncate(LEASE_LIST_MAX);
        let leases_max = LEASES_PER_JOB * jobs.clamp(1, JOBS_MAX);
        self.asks.push_back(Ask { ask, worker, leases_max, lacks, until: now + ASK_PATIENCE });
    }

    /// A lease that is not known is from the time of another table: it holds too, if the interval still wants it.
    fn renew(&mut self, now: Instant, worker: NodeId, interval: CheckpointIndex) {
        let until = now + self.policy.term;
        let state = self.states.get_mut(&interval);
        let lease = state.and_then(|state| state.leases.iter_mut().find(|lease| lease.worker == worker));
        if let Some(lease) = lease {
            lease.until = until;
        } else if self.wanting.contains(&interval)
            && self.may_have(now, worker, interval)
            && self.held_by(worker) < LEASES_PER_JOB * JOBS_MAX
        {
            self.grant(now, worker, interval);
        }
    }

    fn held_by(&self, worker: NodeId) -> u64 {
        self.held.get(&worker).copied().unwrap_or(0)
    }

    fn may_have(&self, now: Instant, worker: NodeId, interval: CheckpointIndex) -> bool {
        !self.liars.contains(&worker)
            && self.states.get(&interval).is_none_or(|state| {
                let found = state.findings.iter().any(|(other, _)| *other == worker);
                let leased = state.leases.iter().any(|lease| lease.worker == worker);
                let given_back =
                    state.given_back.iter().any(|(other, until)| *other == worker && *until > now);
                !found && !leased && !given_back
            })
    }

    fn grant(&mut self, now: Instant, worker: NodeId, interval: CheckpointIndex) {
        let held = self.held.entry(worker).or_default();
        *held += 1;
        let queue = u32::try_from(*held).unwrap_or(u32::MAX);
        let hedge_after = self.typical().map_or(self.policy.term, |time| {
            time.saturating_mul(2).saturating_mul(queue).max(HEDGE_AFTER_MIN)
        });
        let state = self.states.entry(interval).or_default();
        state.given_back.retain(|(_, until)| *until > now);
        state.leases.push(Lease { worker, until: now + self.policy.term, hedge_from: now + hedge_after });
        self.refresh(interval);
    }

    /// The middle one of the latest simulations' times.
    fn typical(&self) -> Option<Duration> {
        let mut times: Vec<Duration> = self.times.iter().copied().collect();
        times.sort();
        times.get(times.len() / 2).copied()
    }

    /// False if there was none.
    fn end_lease(&mut self, interval: CheckpointIndex, worker: NodeId) -> bool {
        let Some(state) = self.states.get_mut(&interval) else {
            return false;
        };
        let before = state.leases.len();
        state.leases.retain(|lease| lease.worker != worker);
        if state.leases.len() == before {
            return false;
        }
        if let Some(held) = self.held.get_mut(&worker) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&worker);
            }
        }
        true
    }

    fn expire(&mut self, now: Instant) {
        let over = |interval: &CheckpointIndex| {
            let leases = self.states.get(interval).map_or(&[][..], |state| &state.leases);
            let ended = leases.iter().filter(|lease| lease.until <= now);
            ended.map(|lease| (*interval, lease.worker)).collect::<Vec<_>>()
        };
        let over: Vec<_> = self.leased.iter().flat_map(over).collect();
        for (interval, worker) in over {
            self.end_lease(interval, worker);
            self.expired += 1;
            self.refresh(interval);
        }
    }

    /// Answers all requests that can be answered: of all pairs of a request and an interval that it names, the one of
    /// which fewest bytes are lacked comes first.
    fn answer(&mut self, now: Instant) {
        while let Some((place, interval)) = self.cheapest(now) {
            self.give(now, place, interval);
        }
        let mut place = 0;
        while place < self.asks.len() {
            if !self.answer_otherwise(now, place) {
                place += 1;
            }
        }
    }

    fn cheapest(&self, now: Instant) -> Option<(usize, CheckpointIndex)> {
        let free = |ask: &Ask| self.held_by(ask.worker) < ask.leases_max;
        let mut pairs = Vec::new();
        for (place, ask) in self.asks.iter().enumerate().filter(|(_, ask)| free(ask)) {
            let fit = ask.lacks.iter().filter(|(interval, _)| {
                self.wanting.contains(interval) && self.may_have(now, ask.worker, *interval)
            });
            pairs.extend(
                fit.min_by_key(|(interval, bytes)| (*bytes, *interval))
                    .map(|(interval, bytes)| (*bytes, *interval, place)),
            );
        }
        pairs.into_iter().min().map(|(_, interval, place)| (place, interval))
    }

    fn give(&mut self, now: Instant, place: usize, interval: CheckpointIndex) {
        if let Some(Ask { ask, worker, .. }) = self.asks.remove(place) {
            self.grant(now, worker, interval);
            self.outputs.push_back(Output::Granted(ask, interval));
        }
    }

    /// True if the request was answered: with candidates, with a lease that another holds for long, or because it
    /// has waited long enough.
    fn answer_otherwise(&mut self, now: Instant, place: usize) -> bool {
        let Some(Ask { ask, worker, leases_max, until, .. }) = self.asks.get(place).cloned() else {
            return false;
        };
        if self.held_by(worker) < leases_max {
            let fits = |interval: &&CheckpointIndex| self.may_have(now, worker, **interval);
            let candidates: Vec<_> = self.wanting.iter().filter(fits).take(CANDIDATES).copied().collect();
            if !candidates.is_empty() {
                self.asks.remove(place);
                self.outputs.push_back(Output::Candidates(ask, candidates));
                return true;
            }
            if let Some(interval) = self.slowest(now, worker) {
                self.hedged += 1;
                self.give(now, place, interval);
                return true;
            }
        }
        if until > now {
            return false;
        }
        self.asks.remove(place);
        let open = |interval| self.standing(interval) == Standing::Open;
        let finished = !self.wanting.iter().chain(&self.leased).any(|interval| open(*interval));
        self.outputs.push_back(Output::Idle(ask, finished));
        true
    }

    /// The lease that should have ended first, if `worker` may have its interval too.
    fn slowest(&self, now: Instant, worker: NodeId) -> Option<CheckpointIndex> {
        let late =
            self.leased.iter().filter_map(|interval| match self.states.get(interval)?.leases.as_slice() {
                [lease] if lease.hedge_from <= now && !self.standing(*interval).is_settled() => {
                    Some((lease.hedge_from, *interval))
                }
                _ => None,
            });
        let late = late.filter(|(_, interval)| self.may_have(now, worker, *interval));
        late.min().map(|(_, interval)| interval)
    }
}
