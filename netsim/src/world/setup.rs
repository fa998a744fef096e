//! The beginning of a run: who has and wants what, engines started, faults scheduled.

use std::time::Duration;

use pageswarm_checkpoint::Birth;
use pageswarm_swarm::{BirthSet, Input, Labels, Time, WantId};

use super::{CHECKS, Event, World, node_id};
use crate::faults;
use crate::host::LINEAGE;
use crate::options::{Behaviour, Pattern};
use crate::store::Store;

impl World {
    /// Decides who has and wants what.
    pub(super) fn fill(&mut self) {
        if let Some(recording) = self.options.recording {
            let begins_with = BirthSet::range(Birth(0), Birth(recording.pages - 1));
            self.hosts[0].store = Store::of(begins_with.clone());
            self.hosts[0].began_with = begins_with;
            return;
        }
        let chunks = self.options.chunks;
        let all = BirthSet::range(Birth(0), Birth(chunks - 1));
        let honest = self.honest_others();
        for node in 0..self.hosts.len() {
            let mut wants = all.clone();
            let mut has = BirthSet::new();
            match (node, self.options.pattern) {
                (0, Pattern::Orphaned) => wants = BirthSet::new(),
                (0, _) => has = all.clone(),
                (_, Pattern::Orphaned) => {
                    let place = honest.iter().position(|other| *other == node);
                    let every = honest.len() as u64;
                    let place = place.map(|place| place as u64);
                    has.extend((0..chunks).filter(|birth| Some(birth % every) == place).map(Birth));
                }
                (_, Pattern::Same) => {}
                (_, Pattern::Overlapping) => {
                    for block in 0..chunks / 16 {
                        if self.rng.below(2) == 0 {
                            wants.subtract(&BirthSet::range(Birth(block * 16), Birth(block * 16 + 15)));
                        }
                    }
                }
                (_, Pattern::Staggered) => {
                    let part = chunks * node as u64 / (2 * self.hosts.len() as u64);
                    has.extend((0..part).map(Birth));
                }
            }
            let host = &mut self.hosts[node];
            host.store = Store::of(has.clone());
            host.began_with = has;
            host.wants = wants;
        }
    }

    pub(super) fn begin(&mut self) {
        for node in 0..self.options.nodes {
            self.boot(node);
        }
        if let Some(recording) = self.options.recording {
            self.scheduler.after(recording.interval, Event::Recorded);
        }
        let mut plan = faults::churn(&self.options, self.bound.time(), &mut self.rng);
        if !self.options.is_fault_free() {
            plan.extend(faults::plan(&self.options, &mut self.rng));
        }
        for (at, fault) in plan {
            self.scheduler.at(at, Event::Fault(fault));
        }
        let safety = self.options.safety_phase();
        let others = self.options.nodes as u64 - 1;
        for kind in 0..self.options.faults + self.options.evictions {
            let node = 1 + usize::try_from(self.rng.below(others)).unwrap_or(0);
            let at = Duration::from_micros(self.rng.below(safety.as_micros().min(1 << 40) as u64));
            if kind < self.options.faults {
                let birth = Birth(self.rng.below(self.options.chunks));
                self.scheduler.after(at, Event::PageFault { node, birth });
            } else {
                self.scheduler.after(at, Event::Evict { node });
            }
        }
        for node in 0..self.options.nodes {
            if self.hosts[node].behaviour == Behaviour::Greedy {
                self.scheduler.after(Duration::ZERO, Event::Greed { node });
            }
        }
        for check in 1..=CHECKS {
            self.scheduler.after(safety * check / CHECKS, Event::Check);
        }
        let ends = if self.options.is_fault_free() { Duration::ZERO } else { safety };
        self.scheduler.after(ends, Event::Liveness);
    }

    /// Honest nodes other than the publisher, at least one.
    pub(super) fn honest_others(&self) -> Vec<usize> {
        let honest = |node: &usize| self.options.behaviour(*node) == Behaviour::Honest;
        let found: Vec<usize> = (1..self.options.nodes).filter(honest).collect();
        if found.is_empty() { vec![1] } else { found }
    }

    /// Where a node says that it is: nowhere, if racks are not known.
    pub(super) fn labels(&self, node: usize) -> Labels {
        if self.options.racks_known { self.racks.labels(node) } else { Labels::default() }
    }

    /// Starts a node's engine; it looks for its neighbours.
    pub(super) fn boot(&mut self, node: usize) {
        if node == 0 && self.options.pattern == Pattern::Orphaned {
            self.set_complete(0, Some(Time::ZERO));
            return;
        }
        let seed = self.rng.next_u64();
        self.set_complete(node, None);
        let labels = self.labels(node);
        self.hosts[node].boot(node_id(node), seed, labels);
        let (lineage, births) = (LINEAGE, self.hosts[node].store.held().clone());
        self.feed(node, Input::Open { lineage, writer: Some(node_id(0)) });
        let known = self.options.recording.map_or(self.options.chunks, |recording| recording.pages);
        let lengths = self.lengths.of_range(0, known);
        self.feed(node, Input::Lengths { lineage, first: Birth(0), lengths });
        self.feed(node, Input::LocalHas { lineage, births });
        if self.options.recording.is_none() {
            let births = self.hosts[node].wants.clone();
            self.feed(node, Input::Want { want: WantId(0), lineage, births, deadline: None });
        }
        self.dial(node);
    }
}
