//! Workers that simulate the intervals of a VM while it is recorded: who simulates which, and when its chunks are
//! there.
//!
//! An interval can be simulated once it is recorded. It is given to a worker that has nothing else; if all have work,
//! to one that has nothing fetched for when it is done. What else travels (leases, deltas, records, results) is left
//! out.

use std::collections::VecDeque;
use std::time::Duration;

use pageswarm_checkpoint::Birth;
use pageswarm_swarm::{BirthSet, Input, Time, WantId};

use super::{Event, World};
use crate::host::LINEAGE;
use crate::recording::{Maps, Recording};
use crate::report::Simulated;

/// The work, and how far it is.
#[derive(Debug)]
pub(super) struct Simulations {
    recording: Recording,
    maps: Maps,
    recorded: u64,
    leased: u64,
    simulated: u64,
    /// By node; the publisher's is not used.
    workers: Vec<Worker>,
    /// Those without an interval, in the order in which they asked.
    idle: VecDeque<usize>,
    /// Those that simulate and have none for afterwards, likewise.
    busy: VecDeque<usize>,
    /// From lease to the last chunk.
    fetches: Vec<Duration>,
    /// Time that workers had an interval and could not begin.
    waited: Duration,
    ended_at: Option<Time>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Worker {
    is_simulating: bool,
    arriving: Option<Arriving>,
    /// Since when it simulates nothing although it has an interval.
    waits_since: Option<Time>,
}

#[derive(Clone, Copy, Debug)]
struct Arriving {
    interval: u64,
    leased_at: Time,
    is_here: bool,
}

impl Simulations {
    pub(super) fn new(recording: Recording, seed: u64, nodes: usize) -> Self {
        Self {
            recording,
            maps: Maps::new(recording, seed),
            recorded: 0,
            leased: 0,
            simulated: 0,
            workers: vec![Worker::default(); nodes],
            idle: (1..nodes).collect(),
            busy: VecDeque::new(),
            fetches: Vec::new(),
            waited: Duration::ZERO,
            ended_at: None,
        }
    }

    /// Gives the next recorded interval away, if there is one and somebody takes it: to whom, and the chunks.
    fn lease(&mut self, now: Time) -> Option<(usize, u64, BirthSet)> {
        if self.leased == self.recorded {
            return None;
        }
        let node = self.idle.pop_front().or_else(|| self.busy.pop_front())?;
        let interval = self.leased;
        self.leased += 1;
        let worker = &mut self.workers[node];
        worker.arriving = Some(Arriving { interval, leased_at: now, is_here: false });
        if !worker.is_simulating {
            worker.waits_since = Some(now);
        }
        Some((node, interval, self.maps.next()))
    }

    /// The chunks of a worker's next interval are there.
    fn arrived(&mut self, node: usize, interval: u64, now: Time) {
        let arriving = self.workers[node].arriving.as_mut();
        if let Some(arriving) = arriving.filter(|arriving| arriving.interval == interval && !arriving.is_here)
        {
            arriving.is_here = true;
            self.fetches.push(now.since(arriving.leased_at));
        }
    }

    /// Whether the worker begins to simulate now.
    fn begins(&mut self, node: usize, now: Time) -> bool {
        let worker = &mut self.workers[node];
        if worker.is_simulating || worker.arriving.is_none_or(|arriving| !arriving.is_here) {
            return false;
        }
        worker.arriving = None;
        worker.is_simulating = true;
        let since = worker.waits_since.take();
        self.waited += since.map_or(Duration::ZERO, |since| now.since(since));
        self.busy.push_back(node);
        true
    }

    /// A worker has simulated its interval.
    fn ended(&mut self, node: usize, now: Time) {
        self.simulated += 1;
        let worker = &mut self.workers[node];
        worker.is_simulating = false;
        if worker.arriving.is_some() {
            worker.waits_since = Some(now);
        } else {
            self.busy.retain(|other| *other != node);
            self.idle.push_back(node);
        }
        if self.simulated == self.recording.intervals {
            self.ended_at = Some(now);
        }
    }

    pub(super) fn outcome(mut self) -> Option<Simulated> {
        let took = self.ended_at?.since(Time::ZERO);
        self.fetches.sort_unstable();
        let quantile = |permille: usize| {
            let rank = (self.fetches.len() * permille).div_ceil(1000).max(1) - 1;
            self.fetches.get(rank).copied().unwrap_or_default()
        };
        let workers = self.workers.len() as u64 - 1;
        Some(Simulated {
            took,
            least: self.recording.least(workers),
            sequential: self.recording.sequential(),
            fetch_p50: quantile(500),
            fetch_p99: quantile(990),
            waited: self.waited,
        })
    }
}

impl World {
    /// The next interval is recorded: its end is a checkpoint that everyone knows of and the publisher holds.
    pub(super) fn recorded(&mut self) {
        let Some(simulations) = &mut self.simulations else { return };
        let recording = simulations.recording;
        let (first, end) =
            (recording.born_by(simulations.recorded), recording.born_by(simulations.recorded + 1));
        simulations.recorded += 1;
        if simulations.recorded < recording.intervals {
            self.scheduler.after(recording.interval, Event::Recorded);
        }
        for node in 0..self.hosts.len() {
            let lengths = self.lengths.of_range(first, end);
            self.feed(node, Input::Lengths { lineage: LINEAGE, first: Birth(first), lengths });
        }
        if first < end {
            let births = BirthSet::range(Birth(first), Birth(end - 1));
            self.hosts[0].store.accept(&births, &[]);
            self.feed(0, Input::LocalHas { lineage: LINEAGE, births });
        }
        self.lease_intervals();
    }

    /// Gives away what is recorded, as long as somebody takes it.
    pub(super) fn lease_intervals(&mut self) {
        let now = self.scheduler.now();
        while let Some((node, interval, births)) =
            self.simulations.as_mut().and_then(|simulations| simulations.lease(now))
        {
            let want = WantId(interval);
            self.feed(node, Input::Want { want, lineage: LINEAGE, births, deadline: None });
        }
    }

    /// An engine says that an interval's chunks are all there.
    pub(super) fn interval_arrived(&mut self, node: usize, interval: u64) {
        let now = self.scheduler.now();
        if let Some(simulations) = &mut self.simulations {
            simulations.arrived(node, interval, now);
        }
        self.begin_simulation(node);
    }

    fn begin_simulation(&mut self, node: usize) {
        let now = self.scheduler.now();
        let Some(simulations) = &mut self.simulations else { return };
        if simulations.begins(node, now) {
            self.scheduler.after(simulations.recording.simulation, Event::Simulated { node });
            self.scheduler.after(Duration::ZERO, Event::Lease);
        }
    }

    pub(super) fn simulated(&mut self, node: usize) {
        let now = self.scheduler.now();
        let Some(simulations) = &mut self.simulations else { return };
        simulations.ended(node, now);
        if simulations.ended_at.is_some() {
            (0..self.hosts.len()).for_each(|node| self.set_complete(node, Some(now)));
            return;
        }
        self.begin_simulation(node);
        self.lease_intervals();
    }
}
