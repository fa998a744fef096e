//! The only clock: events by time, and by number at the same time.

use std::collections::BTreeMap;
use std::time::Duration;

use pageswarm_swarm::Time;

/// Events to come. Two events at the same time happen in the order in which they were scheduled.
#[derive(Debug)]
pub(crate) struct Scheduler<E> {
    now: Time,
    next: u64,
    events: BTreeMap<(Time, u64), E>,
}

impl<E> Scheduler<E> {
    pub(crate) fn new() -> Self {
        Self { now: Time::ZERO, next: 0, events: BTreeMap::new() }
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// Schedules an event, now at the earliest.
    pub(crate) fn at(&mut self, at: Time, event: E) {
        self.events.insert((at.max(self.now), self.next), event);
        self.next += 1;
    }

    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now.after(delay), event);
    }

    /// The next event; the clock moves to it.
    pub(crate) fn next(&mut self) -> Option<E> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = at;
        Some(event)
    }
}
