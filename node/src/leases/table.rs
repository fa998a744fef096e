//! The lease table of one lineage, sans-IO: `handle(now, Input)`, then `poll()` until there is nothing more.
//!
//! It decides who simulates which interval. Everything that must outlast it is in the workers' signed results: a table
//! that is given these again stands where this one stood, and leases under way come back with their renewals.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::wire::{JOBS_MAX, LEASE_LIST_MAX};
use pageswarm_checkpoint::{CheckpointIndex, NodeId};

use super::judgement::{Checked, Finding, Judgement, Standing, judge};
use super::policy::Policy;
use crate::limits::SIMULATION_TIMEOUT;

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
/// How soon a worker that got nothing is expected to ask again.
const ASKS_AGAIN: Duration = Duration::from_secs(1);
/// Simulations whose times say how long one takes.
const TIMES_KEPT: usize = 32;
/// No lease is given a second time before.
const HEDGE_AFTER_MIN: Duration = Duration::from_secs(1);
/// Workers that may hold one interval because others are slow.
const HOLDERS_MAX: usize = 3;
/// How long a lease may be renewed: a worker may have many before it that each take as long as a simulation may.
pub(super) const LEASE_AGE_MAX: Duration = Duration::from_secs(3600);
/// The longest time for which a worker is not given again what it gave back.
const GIVEN_BACK_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Workers of which a table remembers that they gave an interval back.
const GIVEN_BACK_MAX: usize = 64;

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
    since: Instant,
    until: Instant,
    hedge_from: Instant,
}

/// That a worker could not do an interval.
#[derive(Clone, Copy, Debug)]
struct GivenBack {
    worker: NodeId,
    times: u32,
    until: Instant,
}

#[derive(Clone, Debug, Default)]
struct State {
    findings: Vec<(NodeId, Finding)>,
    leases: Vec<Lease>,
    given_back: Vec<GivenBack>,
}

impl State {
    /// How often it was given back.
    fn times_given_back(&self) -> u32 {
        self.given_back.iter().fold(0, |times, by| times.saturating_add(by.times))
    }

    /// Each time keeps the interval from the worker for twice as long.
    fn give_back(&mut self, now: Instant, worker: NodeId, term: Duration) {
        let known = self.given_back.iter_mut().find(|by| by.worker == worker);
        let times = known.as_ref().map_or(0, |by| by.times).saturating_add(1);
        let pause = term.saturating_mul(2_u32.saturating_pow(times - 1)).min(GIVEN_BACK_PAUSE_MAX);
        let entry = GivenBack { worker, times, until: now + pause };
        if let Some(known) = known {
            *known = entry;
        } else if self.given_back.len() < GIVEN_BACK_MAX {
            self.given_back.push(entry);
        }
    }
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
    /// Intervals that were given back, and how often.
    given_back: BTreeSet<(u32, CheckpointIndex)>,
    held: BTreeMap<NodeId, u64>,
    liars: BTreeSet<NodeId>,
    /// Those on whose word alone nobody is to rely.
    doubted: BTreeSet<NodeId>,
    asks: VecDeque<Ask>,
    /// Workers that have nothing to simulate, and until when they are expected to ask again.
    idle: BTreeMap<NodeId, Instant>,
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
            given_back: BTreeSet::new(),
            held: BTreeMap::new(),
            liars: BTreeSet::new(),
            doubted: BTreeSet::new(),
            asks: VecDeque::new(),
            idle: BTreeMap::new(),
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
                if self.end_lease(interval, worker) {
                    self.keep_from(now, worker, interval);
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
            .filter(|state| !self.asks.is_empty() && state.leases.len() < HOLDERS_MAX)
            .filter_map(|state| state.leases.iter().map(|lease| lease.hedge_from).max())
            .map(|from| (from, Due::Hedge))
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
        let is_doubtful =
            !trusted.is_empty() && trusted.iter().all(|(worker, _)| self.doubted.contains(worker));
        let checked = if is_doubtful { Checked::Twice } else { self.policy.checked(interval) };
        judge(&trusted, checked)
    }

    /// Brings the sets of intervals up to what its state says.
    fn refresh(&mut self, interval: CheckpointIndex) -> Judgement {
        let judgement = self.judge(interval);
        let wanted = judgement.wanted;
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
        judgement
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
        // It is the worker's word.
        self.times.push_back(took.min(SIMULATION_TIMEOUT));
        let mut judgements = vec![self.refresh(interval)];
        while let Some(Judgement { liars, doubted, .. }) = judgements.pop() {
            let liars: Vec<NodeId> = liars.into_iter().filter(|liar| self.liars.insert(*liar)).collect();
            let doubts = doubted.into_iter().filter(|worker| self.doubted.insert(*worker)).count();
            if liars.is_empty() && doubts == 0 {
                continue;
            }
            self.outputs.extend(liars.iter().copied().map(Output::Liar));
            // Nothing that a liar said counts any more, and what a doubted one said is to be confirmed.
            let touched: Vec<CheckpointIndex> = self.states.keys().copied().collect();
            for interval in touched {
                for liar in &liars {
                    self.end_lease(interval, *liar);
                }
                let judgement = self.refresh(interval);
                if !judgement.liars.is_empty() || !judgement.doubted.is_empty() {
                    judgements.push(judgement);
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
        if self.held_by(worker) == 0 && !self.asks.iter().any(|ask| ask.worker == worker) {
            self.idle.insert(worker, now + ASK_PATIENCE + ASKS_AGAIN);
        }
        let leases_max = LEASES_PER_JOB * jobs.clamp(1, JOBS_MAX);
        self.asks.push_back(Ask { ask, worker, leases_max, lacks, until: now + ASK_PATIENCE });
    }

    /// A lease that is not known is from the time of another table: it holds too, if the interval still wants it.
    fn renew(&mut self, now: Instant, worker: NodeId, interval: CheckpointIndex) {
        let until = now + self.policy.term;
        let state = self.states.get_mut(&interval);
        let lease = state.and_then(|state| state.leases.iter_mut().find(|lease| lease.worker == worker));
        if let Some(lease) = lease {
            lease.until = until.min(lease.since + LEASE_AGE_MAX).max(lease.until);
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
                let given_back = state.given_back.iter().any(|by| by.worker == worker && by.until > now);
                !found && !leased && !given_back
            })
    }

    fn grant(&mut self, now: Instant, worker: NodeId, interval: CheckpointIndex) {
        self.idle.remove(&worker);
        let held = self.held.entry(worker).or_default();
        *held += 1;
        let queue = u32::try_from(*held).unwrap_or(u32::MAX);
        let hedge_after = self.typical().map_or(self.policy.term, |time| {
            time.saturating_mul(2).saturating_mul(queue).clamp(HEDGE_AFTER_MIN, SIMULATION_TIMEOUT)
        });
        let state = self.states.entry(interval).or_default();
        let (until, hedge_from) = (now + self.policy.term, now + hedge_after);
        state.leases.push(Lease { worker, since: now, until, hedge_from });
        self.refresh(interval);
    }

    /// Notes that the worker could not do it.
    fn keep_from(&mut self, now: Instant, worker: NodeId, interval: CheckpointIndex) {
        let state = self.states.entry(interval).or_default();
        self.given_back.remove(&(state.times_given_back(), interval));
        state.give_back(now, worker, self.policy.term);
        self.given_back.insert((state.times_given_back(), interval));
    }

    fn times_given_back(&self, interval: CheckpointIndex) -> u32 {
        self.states.get(&interval).map_or(0, State::times_given_back)
    }

    /// What a worker may have, what was given back least often first; the first ones of these.
    fn candidates(&self, now: Instant, worker: NodeId) -> Vec<CheckpointIndex> {
        let fits = |interval: &CheckpointIndex| self.may_have(now, worker, *interval);
        let fresh = self.wanting.iter().copied().filter(|interval| self.times_given_back(*interval) == 0);
        let others = self.given_back.iter().map(|(_, interval)| *interval);
        let others = others.filter(|interval| self.wanting.contains(interval));
        let mut candidates: Vec<_> = fresh.chain(others).filter(fits).take(CANDIDATES).collect();
        candidates.sort();
        candidates
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
        self.idle.retain(|_, until| *until > now);
        let over = |interval: &CheckpointIndex| {
            let leases = self.states.get(interval).map_or(&[][..], |state| &state.leases);
            let ended = leases.iter().filter(|lease| lease.until <= now);
            ended.map(|lease| (*interval, lease.clone())).collect::<Vec<_>>()
        };
        let over: Vec<_> = self.leased.iter().flat_map(over).collect();
        for (interval, Lease { worker, since, .. }) in over {
            self.end_lease(interval, worker);
            if now.saturating_duration_since(since) >= LEASE_AGE_MAX {
                // It would come back with the next renewal.
                self.keep_from(now, worker, interval);
            }
            self.expired += 1;
            self.refresh(interval);
        }
    }

    /// Answers all requests that can be answered: of all pairs of a request and an interval that it names, the one that
    /// was given back least often and of which fewest bytes are lacked comes first.
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
        let free = |ask: &Ask| self.may_take_more(ask.worker, ask.leases_max);
        let mut pairs = Vec::new();
        for (place, ask) in self.asks.iter().enumerate().filter(|(_, ask)| free(ask)) {
            let fit = ask.lacks.iter().filter(|(interval, _)| {
                self.wanting.contains(interval) && self.may_have(now, ask.worker, *interval)
            });
            let ranked = fit.map(|(interval, bytes)| (self.times_given_back(*interval), *bytes, *interval));
            pairs.extend(ranked.min().map(|rank| (rank, place)));
        }
        pairs.into_iter().min().map(|((.., interval), place)| (place, interval))
    }

    /// Whoever has something to simulate takes more only while there is more than those without anything can take.
    fn may_take_more(&self, worker: NodeId, leases_max: u64) -> bool {
        let held = self.held_by(worker);
        let has_free_lanes = held < leases_max / LEASES_PER_JOB;
        held < leases_max && (has_free_lanes || self.wanting.len() > self.idle.len())
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
        if self.may_take_more(worker, leases_max) {
            let candidates = self.candidates(now, worker);
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

    /// The interval whose leases should all have ended first, if `worker` may have it too.
    fn slowest(&self, now: Instant, worker: NodeId) -> Option<CheckpointIndex> {
        let late = self.leased.iter().filter_map(|interval| {
            let leases = &self.states.get(interval)?.leases;
            let from = leases.iter().map(|lease| lease.hedge_from).max()?;
            let is_late = leases.len() < HOLDERS_MAX && from <= now && !self.standing(*interval).is_settled();
            is_late.then_some((from, *interval))
        });
        let late = late.filter(|(_, interval)| self.may_have(now, worker, *interval));
        late.min().map(|(_, interval)| interval)
    }
}
