//! What goes wrong, carried out: crashes, churn, slow links, evictions, page faults, greedy requests.

use std::time::Duration;

use pageswarm_checkpoint::Birth;
use pageswarm_swarm::{BirthSet, Input, Patience, RequestId, Urgency};

use super::{Event, World};
use crate::faults::Fault;
use crate::host::LINEAGE;
use crate::message::Message;

/// Between two requests of a greedy node.
const GREED_PAUSE: Duration = Duration::from_millis(5);
/// The numbers of its requests begin here, beyond those of its engine.
const GREEDY_REQUESTS: u64 = 1 << 40;
/// Chunks that one of them asks for.
const GREEDY_BIRTHS: u64 = 64;
/// Chunks that are removed at a time, at most.
const EVICTED_MAX: u64 = 64;

impl World {
    pub(super) fn apply(&mut self, fault: Fault) {
        match fault {
            Fault::Crash(node) => self.crash(node),
            Fault::Restart(node) => self.restart(node),
            Fault::Split(side) => self.split(side),
            Fault::Heal => self.heal(),
            Fault::Slow(node) => self.hosts[node].up = (self.options.up / 20).max(1),
            Fault::Join(node) => {
                self.hosts[node].joined_at = self.scheduler.now();
                self.restart(node);
            }
            Fault::Leave(node) => self.leave(node),
        }
    }

    fn restart(&mut self, node: usize) {
        if self.hosts[node].engine.is_none() && !self.hosts[node].has_left {
            self.boot(node);
        }
    }

    fn crash(&mut self, node: usize) {
        let Some(stats) = self.hosts[node].engine.as_ref().map(pageswarm_swarm::Engine::stats) else {
            return;
        };
        self.timed_out += stats.requests_timed_out;
        if node == 0 {
            self.deferred += stats.deferred_for_others;
        }
        if self.hosts[node].counts() {
            self.open_faults -= self.hosts[node].faults.len();
        }
        self.hosts[node].crash();
        self.cut_all(node);
        self.set_complete(node, None);
    }

    fn leave(&mut self, node: usize) {
        self.crash(node);
        if self.hosts[node].counts() {
            self.waiting -= usize::from(self.hosts[node].complete_at.is_none());
        }
        self.hosts[node].has_left = true;
    }

    /// Heals everything but liars.
    pub(super) fn begin_liveness(&mut self) {
        self.is_live = true;
        self.heal();
        for node in 0..self.options.nodes {
            self.hosts[node].up = self.hosts[node].rates.up;
            self.restart(node);
        }
    }

    pub(super) fn page_fault(&mut self, node: usize, birth: Birth) {
        let now = self.scheduler.now();
        let host = &mut self.hosts[node];
        if host.engine.is_none() || host.store.held().contains(birth) || host.faults.contains_key(&birth) {
            return;
        }
        host.faults.insert(birth, now);
        self.open_faults += usize::from(host.counts());
        self.feed(node, Input::Fault { lineage: LINEAGE, birth });
    }

    /// Removes chunks of which another node that is up holds a copy, as a store does that has no room.
    pub(super) fn evict(&mut self, node: usize) {
        let (chunks, now_wanted) = (self.options.chunks, self.hosts[node].complete_at.is_none());
        if self.is_live || self.hosts[node].engine.is_none() {
            return;
        }
        let first = self.rng.below(chunks);
        let last = (first + self.rng.below(EVICTED_MAX)).min(chunks - 1);
        let births = BirthSet::range(Birth(first), Birth(last)).and(self.hosts[node].store.held());
        let mut elsewhere = BirthSet::new();
        for other in self.hosts[node].neighbours.iter().filter(|known| known.is_up) {
            let host = &self.hosts[other.node];
            if host.counts() {
                elsewhere.add(&births.and(host.store.held()));
            }
        }
        if elsewhere.is_empty() {
            return;
        }
        let host = &mut self.hosts[node];
        host.store.evict(&elsewhere);
        if !now_wanted {
            host.wants.subtract(&elsewhere);
        }
        self.feed(node, Input::LocalLost { lineage: LINEAGE, births: elsewhere });
    }

    /// A greedy node asks some neighbour for something, needed or not.
    pub(super) fn greed(&mut self, node: usize) {
        if self.is_done() {
            return;
        }
        self.scheduler.after(GREED_PAUSE, Event::Greed { node });
        let count = self.hosts[node].neighbours.len() as u64;
        if self.hosts[node].engine.is_none() || count == 0 {
            return;
        }
        let at = usize::try_from(self.rng.below(count)).unwrap_or(0);
        let to = self.hosts[node].neighbours[at].node;
        let first = self.rng.below(self.options.chunks);
        let last = (first + GREEDY_BIRTHS).min(self.options.chunks - 1);
        let (urgency, patience) = match self.rng.below(2) {
            0 => (Urgency::Fault, Patience::Insist),
            _ => (Urgency::Normal, Patience::MayDefer),
        };
        let request = RequestId(GREEDY_REQUESTS + self.events);
        let births = BirthSet::range(Birth(first), Birth(last));
        self.send(node, to, Message::Request { request, births, urgency, patience });
        self.send_next(node);
    }
}
