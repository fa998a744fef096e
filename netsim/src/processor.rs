//! The processor of a machine on which all nodes run, as in measurements: work waits for a free core.
//!
//! Work is done in the order in which it comes, each piece on the core that is free first. An operating system
//! shares its time out more finely; as far as the time of whole answers goes, that comes to the same.
//!
//! What work costs has to be measured. `cargo xtask bench swarm` states processor seconds per GB delivered: 27.0 for its
//! profile `big` and 40.1 for `delta` (docs/measurements.md, two cores of an AMD EPYC). Two figures determine two costs,
//! those of a request and of a byte, if a small message is given 20 us. With 325 us and 21.4 us for 1,000 bytes the
//! simulated runs take 27.0 and 40.3 s per GB:
//!
//! | profile | options, with `--processor 2 325 20 21400` | simulated time | real time |
//! |---|---|---|---|
//! | `big` | `--seed 1 --nodes 9 --equal 256 100` | 29.27 s | 32.0 s |
//! | `delta` | `--seed 1 --nodes 17 --equal 20 50` | 6.86 s | 7.28 s |
//!
//! So the time follows from the processor time within 10 %; the links alone would let them take 21.6 and 3.5 s.

use std::time::Duration;

use pageswarm_swarm::Time;

/// What the work of nodes costs on one core, and how many cores all nodes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// Cores of the machine.
    pub cores: usize,
    /// Of one request and its answer: half where it is answered, half where it was asked.
    pub request: Duration,
    /// Of one small message: half where it is sent, half where it is received.
    pub message: Duration,
    /// Of 1,000 bytes of chunks, likewise.
    pub kilobyte: Duration,
}

/// The cores, if they are a limit.
#[derive(Debug)]
pub(crate) struct Processor {
    costs: Option<Costs>,
    free_at: Vec<Time>,
    worked: Duration,
}

impl Processor {
    pub(crate) fn new(costs: Option<Costs>) -> Self {
        let cores = costs.map_or(0, |costs| costs.cores.max(1));
        Self { costs, free_at: vec![Time::ZERO; cores], worked: Duration::ZERO }
    }

    /// Whether work takes time.
    pub(crate) fn is_limited(&self) -> bool {
        self.costs.is_some()
    }

    /// Core time of all the work until now.
    pub(crate) fn worked(&self) -> Duration {
        self.worked
    }

    /// When one end is done with a small message that it has now.
    pub(crate) fn message(&mut self, now: Time) -> Time {
        let cost = self.costs.map(|costs| costs.message / 2);
        self.work(now, cost)
    }

    /// When one end is done with a part of an answer that it has now; the last part carries the cost of the request.
    pub(crate) fn slice(&mut self, now: Time, bytes: u64, is_last: bool) -> Time {
        let cost = self.costs.map(|costs| {
            let nanos = costs.kilobyte.as_nanos() * u128::from(bytes) / 1000;
            let request = if is_last { costs.request } else { Duration::ZERO };
            (Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)) + request) / 2
        });
        self.work(now, cost)
    }

    fn work(&mut self, now: Time, cost: Option<Duration>) -> Time {
        let (Some(cost), Some(core)) = (cost, self.free_at.iter_mut().min()) else {
            return now;
        };
        self.worked += cost;
        *core = now.max(*core).after(cost);
        *core
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_waits_for_the_core_that_is_free_first() {
        let millis = Duration::from_millis;
        let costs = Costs { cores: 2, request: millis(20), message: millis(2), kilobyte: millis(4) };
        let mut processor = Processor::new(Some(costs));
        assert_eq!(processor.slice(Time::ZERO, 1000, true), Time::from_millis(12));
        assert_eq!(processor.message(Time::ZERO), Time::from_millis(1));
        assert_eq!(processor.message(Time::ZERO), Time::from_millis(2));
        assert_eq!(processor.slice(Time::from_millis(5), 1500, false), Time::from_millis(8));
        assert_eq!(processor.worked(), millis(12 + 1 + 1 + 3));
        assert_eq!(Processor::new(None).slice(Time::from_millis(3), 1 << 20, true), Time::from_millis(3));
    }
}
