//! The end of a run: the bound, and the report.

use std::time::Duration;

use pageswarm_swarm::{BirthSet, Time};

use super::World;
use super::simulating::Simulations;
use crate::bound::Bound;
use crate::options::{Behaviour, Links, Pattern};
use crate::progress::{self, Point};
use crate::report::{Excess, Finish, Report};

impl World {
    /// The bound for the honest nodes, liars' uplinks counted as helpful: it stays a lower bound. Nodes that leave or
    /// join count as if they had been there all the time, or not at all.
    pub(super) fn compute_bound(&self) -> Bound {
        let mut union = BirthSet::new();
        let lacks = self.hosts[1..self.options.nodes].iter().map(|host| {
            let honest = host.behaviour == Behaviour::Honest;
            let lacked = host.wants.minus(&host.began_with);
            if honest {
                union.add(&lacked);
            }
            (if honest { self.lengths.sum(&lacked) } else { 0 }, host.rates.down, host.rates.up)
        });
        let lacks: Vec<_> = lacks.collect();
        // What others began with need not come from the publisher.
        for host in &self.hosts[1..self.options.nodes] {
            union.subtract(&host.began_with);
        }
        let alike = self.options.links == Links::Equal && self.options.pattern == Pattern::Same;
        let receivers = if alike { self.options.nodes as u64 - 1 } else { 1 };
        let union = self.lengths.sum(&union);
        let bound = Bound::new(union, self.options.publisher_up, &lacks).for_receivers(receivers);
        bound.for_racks(self.options.racks, self.options.rack_rate)
    }

    /// When each node that counts was complete, and the least time in which it could have been.
    fn finishes(&self) -> Vec<Finish> {
        let nodes = self.hosts.iter().enumerate().skip(1).filter(|(_, host)| host.counts());
        let finish = |(_, host): (usize, &crate::host::Host)| {
            let lacked = self.lengths.sum(&host.wants.minus(&host.began_with));
            let at = host.complete_at?.since(Time::ZERO);
            let took = host.complete_at?.since(host.joined_at);
            let least = self.bound.of_node(lacked, host.rates.down);
            Some(Finish { at, took, least })
        };
        nodes.filter_map(finish).collect()
    }

    /// What those who count got when.
    fn curve(&self) -> Vec<Point> {
        let nodes = self.hosts.iter().skip(1).filter(|host| host.counts()).filter_map(|host| {
            let lacked = self.lengths.sum(&host.wants.minus(&host.began_with));
            Some((&host.progress, lacked, host.complete_at?.since(host.joined_at)))
        });
        progress::curve(&nodes.collect::<Vec<_>>(), self.bound.time())
    }

    pub(super) fn report(self) -> Report {
        let honest = || self.hosts.iter().filter(|host| host.behaviour == Behaviour::Honest);
        let counted = self.hosts.iter().filter(|host| host.counts());
        let complete = counted.map(|host| host.complete_at).collect::<Option<Vec<Time>>>();
        let last = complete.and_then(|times| times.into_iter().max());
        let stats = || self.hosts.iter().filter_map(|host| Some(host.engine.as_ref()?.stats()));
        let timed_out = self.timed_out + stats().map(|stats| stats.requests_timed_out).sum::<u64>();
        let publisher = self.hosts[0].engine.as_ref().map(|engine| engine.stats());
        let mut fault_ns: Vec<u64> = honest().flat_map(|host| host.fault_ns.iter().copied()).collect();
        fault_ns.sort_unstable();
        let p99 = fault_ns.get((fault_ns.len() * 99 / 100).min(fault_ns.len().saturating_sub(1)));
        let finishes = self.finishes();
        Report {
            trace: self.trace.hash(),
            events: self.events,
            makespan: last.map(|last| last.since(Time::ZERO)),
            bound: self.bound,
            excess: Excess::of(&finishes),
            points: self.curve(),
            simulated: self.simulations.and_then(Simulations::outcome),
            finishes,
            publisher_bytes: self.hosts[0].sent_chunk_bytes,
            received_bytes: honest().map(|host| host.received_chunk_bytes).sum(),
            duplicate_bytes: honest().map(|host| host.duplicate_bytes).sum(),
            control_bytes: honest().map(|host| host.sent_other_bytes).sum(),
            stolen: stats().map(|stats| stats.chunks_stolen).sum(),
            insisting: stats().map(|stats| stats.requests_insisting).sum(),
            requests: stats().map(|stats| stats.requests).sum(),
            announcements: stats().map(|stats| stats.announcements).sum(),
            rack_bytes_max: self.racks.bytes_in().max(),
            worked: self.processor.worked(),
            engine_bytes_max: self.engine_bytes_max,
            rejected_chunks: honest().map(|host| host.rejected).sum(),
            timed_out,
            deferred: self.deferred + publisher.map_or(0, |stats| stats.deferred_for_others),
            fault_p99: p99.map(|ns| Duration::from_nanos(*ns)),
            violations: self.found,
        }
    }
}
