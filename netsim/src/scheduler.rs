//! The only clock: events by time, and in the order of scheduling at the same time.

use std::collections::VecDeque;
use std::time::Duration;

use pageswarm_swarm::Time;

/// One bucket for the present and one for each bit in which a time may differ from it.
const BUCKETS: usize = 65;

/// Events to come: a radix heap (Ahuja, Mehlhorn, Orlin and Tarjan, 1990), which fits a clock that never goes back.
///
/// Bucket `b` holds the events whose time differs from now first in bit `b - 1`; bucket 0 those of now. A bucket keeps
/// the order in which events were scheduled, and events of the same time are always in the same bucket, so two events
/// at the same time happen in the order in which they were scheduled.
#[derive(Debug)]
pub(crate) struct Scheduler<E> {
    now: Time,
    /// By bucket: the time and the place in `events`.
    buckets: Vec<VecDeque<(Time, u32)>>,
    events: Vec<Option<E>>,
    free: Vec<u32>,
}

impl<E> Scheduler<E> {
    pub(crate) fn new() -> Self {
        let buckets = (0..BUCKETS).map(|_| VecDeque::new()).collect();
        Self { now: Time::ZERO, buckets, events: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// Schedules an event, now at the earliest.
    pub(crate) fn at(&mut self, at: Time, event: E) {
        let at = at.max(self.now);
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            u32::try_from(self.events.len() - 1).expect("fewer than 2^32 events wait")
        });
        self.events[place as usize] = Some(event);
        self.buckets[bucket(self.now, at)].push_back((at, place));
    }

    pub(crate) fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now.after(delay), event);
    }

    /// The next event; the clock moves to it.
    pub(crate) fn next(&mut self) -> Option<E> {
        if self.buckets[0].is_empty() {
            self.advance()?;
        }
        let (_, place) = self.buckets[0].pop_front()?;
        self.free.push(place);
        self.events[place as usize].take()
    }

    /// Moves the clock to the earliest event and spreads its bucket over the lower ones.
    fn advance(&mut self) -> Option<()> {
        let lowest = (1..BUCKETS).find(|bucket| !self.buckets[*bucket].is_empty())?;
        let waiting = std::mem::take(&mut self.buckets[lowest]);
        self.now = waiting.iter().map(|(at, _)| *at).min()?;
        for (at, place) in waiting {
            self.buckets[bucket(self.now, at)].push_back((at, place));
        }
        Some(())
    }
}

fn bucket(now: Time, at: Time) -> usize {
    usize::try_from(u64::BITS - (now.0 ^ at.0).leading_zeros()).expect("at most 64")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageswarm_swarm::Rng;
    use std::collections::BTreeMap;

    #[test]
    fn events_happen_by_time_and_then_in_the_order_of_scheduling() {
        let mut rng = Rng::new(4);
        let (mut scheduler, mut model) = (Scheduler::new(), BTreeMap::new());
        for number in 0..20_000_u64 {
            let span = 1 << rng.below(30);
            let at = Time(scheduler.now().0 + rng.below(span));
            scheduler.at(at, number);
            model.insert((at, number), number);
            if rng.below(3) == 0 {
                let expected = model.pop_first();
                assert_eq!(scheduler.next(), expected.map(|(_, number)| number));
                assert_eq!(Some(scheduler.now()), expected.map(|((at, _), _)| at));
            }
        }
        while let Some((_, number)) = model.pop_first() {
            assert_eq!(scheduler.next(), Some(number));
        }
        assert_eq!(scheduler.next(), None);
    }
}
