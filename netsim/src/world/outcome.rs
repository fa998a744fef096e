//! The end of a run: the bound, and the report.

use std::time::Duration;

use pageswarm_checkpoint::Birth;
use pageswarm_swarm::{BirthSet, Time};

use super::World;
use crate::bound::Bound;
use crate::options::Behaviour;
use crate::report::Report;

impl World {
    /// The bound for the honest nodes, liars' uplinks counted as helpful: it stays a lower bound.
    pub(super) fn bound(&self) -> Bound {
        let bytes = |births: &BirthSet| births.iter().map(|birth| self.length(birth)).sum::<u64>();
        let mut union = BirthSet::new();
        let lacks = self.hosts[1..].iter().map(|host| {
            let honest = host.behaviour == Behaviour::Honest;
            let lacked = host.wants.minus(&host.began_with);
            if honest {
                union.add(&lacked);
            }
            (if honest { bytes(&lacked) } else { 0 }, self.options.down, self.options.up)
        });
        let lacks: Vec<_> = lacks.collect();
        // What others began with need not come from the publisher.
        for host in &self.hosts[1..] {
            union.subtract(&host.began_with);
        }
        Bound::new(bytes(&union), self.options.publisher_up, &lacks)
    }

    pub(super) fn length(&self, birth: Birth) -> u64 {
        let at = usize::try_from(birth.0).unwrap_or(usize::MAX);
        self.lengths.get(at).map_or(0, |length| u64::from(*length))
    }

    pub(super) fn report(self) -> Report {
        let honest = || self.hosts.iter().filter(|host| host.behaviour == Behaviour::Honest);
        let complete = honest().map(|host| host.complete_at).collect::<Option<Vec<Time>>>();
        let last = complete.and_then(|times| times.into_iter().max());
        let stats = self.hosts.iter().filter_map(|host| Some(host.engine.as_ref()?.stats()));
        let timed_out = self.timed_out + stats.map(|stats| stats.requests_timed_out).sum::<u64>();
        let publisher = self.hosts[0].engine.as_ref().map(|engine| engine.stats());
        let mut fault_ns: Vec<u64> = honest().flat_map(|host| host.fault_ns.iter().copied()).collect();
        fault_ns.sort_unstable();
        let p99 = fault_ns.get((fault_ns.len() * 99 / 100).min(fault_ns.len().saturating_sub(1)));
        Report {
            trace: self.trace.hash(),
            events: self.events,
            makespan: last.map(|last| last.since(Time::ZERO)),
            bound: self.bound(),
            publisher_bytes: self.hosts[0].sent_chunk_bytes,
            received_bytes: honest().map(|host| host.received_chunk_bytes).sum(),
            duplicate_bytes: honest().map(|host| host.duplicate_bytes).sum(),
            rejected_chunks: honest().map(|host| host.rejected).sum(),
            timed_out,
            deferred: self.deferred + publisher.map_or(0, |stats| stats.deferred_for_others),
            fault_p99: p99.map(|ns| Duration::from_nanos(*ns)),
            violations: self.found,
        }
    }
}
