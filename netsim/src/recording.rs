//! A VM that is recorded while the nodes simulate its intervals: how long things take, and what each interval needs.

use std::fmt;
use std::time::Duration;

use pageswarm_checkpoint::Birth;
use pageswarm_swarm::{BirthSet, Rng};

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Intervals, one after the other.
    pub intervals: u64,
    /// How long recording one takes.
    pub interval: Duration,
    /// How long simulating one takes.
    pub simulation: Duration,
    /// Pages of the VM's RAM, each a chunk at the start.
    pub pages: u64,
    /// Pages that an interval writes, drawn uniformly; each becomes a new chunk.
    pub dirty_pages: u64,
}

impl Recording {
    /// Chunks that are born in all: those at the start, and those of every interval.
    #[must_use]
    pub const fn chunks(&self) -> u64 {
        self.pages.saturating_add(self.intervals.saturating_mul(self.dirty_pages))
    }

    /// The chunks that are born by the end of so many intervals: their births are below this.
    #[must_use]
    pub const fn born_by(&self, intervals: u64) -> u64 {
        self.pages + intervals * self.dirty_pages
    }

    /// How long one node takes to simulate everything, if it waits for nothing.
    #[must_use]
    pub fn sequential(&self) -> Duration {
        let nanos = self.simulation.as_nanos().saturating_mul(u128::from(self.intervals));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The least time to the end with so many workers and no network, by the model of `sim/`'s `speed_up`: nobody is
    /// done before the last interval is recorded and simulated, nor before the workers have simulated all.
    #[must_use]
    pub fn least(&self, workers: u64) -> Duration {
        let (recorded, simulated) = (self.interval.as_secs_f64(), self.simulation.as_secs_f64());
        let intervals = self.intervals as f64;
        let busy = intervals * simulated / workers.max(1) as f64 + recorded;
        Duration::try_from_secs_f64((intervals * recorded + simulated).max(busy)).unwrap_or(Duration::MAX)
    }
}

impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "recording {} intervals of {:?}, simulated in {:?} each; {} pages, {} written in an interval",
            self.intervals, self.interval, self.simulation, self.pages, self.dirty_pages
        )
    }
}

/// The chunks that checkpoints consist of, one checkpoint after the other.
#[derive(Debug)]
pub(crate) struct Maps {
    recording: Recording,
    rng: Rng,
    /// Of the next checkpoint.
    next: u64,
    /// The chunk of each page in it.
    pages: Vec<u64>,
}

impl Maps {
    pub(crate) fn new(recording: Recording, seed: u64) -> Self {
        Self { recording, rng: Rng::new(seed), next: 0, pages: (0..recording.pages).collect() }
    }

    /// The chunks of the next checkpoint, which is where the interval of the same number starts.
    pub(crate) fn next(&mut self) -> BirthSet {
        let chunks = self.pages.iter().copied().map(Birth).collect();
        self.write();
        chunks
    }

    /// One interval's writes: so many different pages, numbered in the order of their addresses.
    fn write(&mut self) {
        let mut written = Vec::new();
        let mut is_written = vec![false; self.pages.len()];
        let wanted = self.recording.dirty_pages.min(self.recording.pages);
        while (written.len() as u64) < wanted {
            let page = usize::try_from(self.rng.below(self.recording.pages)).unwrap_or(0);
            if !std::mem::replace(&mut is_written[page], true) {
                written.push(page);
            }
        }
        written.sort_unstable();
        let first = self.recording.born_by(self.next);
        for (page, birth) in written.into_iter().zip(first..) {
            self.pages[page] = birth;
        }
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Recording = Recording {
        intervals: 10,
        interval: Duration::from_millis(500),
        simulation: Duration::from_secs(5),
        pages: 100,
        dirty_pages: 30,
    };

    #[test]
    fn each_checkpoint_names_what_the_interval_before_it_wrote() {
        let mut maps = Maps::new(SMALL, 3);
        let mut before = maps.next();
        assert_eq!(before, BirthSet::range(Birth(0), Birth(99)));
        for interval in 1..SMALL.intervals {
            let now = maps.next();
            assert_eq!(now.len(), SMALL.pages);
            let first = SMALL.born_by(interval - 1);
            assert_eq!(now.minus(&before), BirthSet::range(Birth(first), Birth(first + 29)));
            before = now;
        }
        assert!(before.last().is_some_and(|last| last.0 < SMALL.chunks()));
    }

    #[test]
    fn workers_help_until_there_are_enough() {
        assert_eq!(SMALL.sequential(), Duration::from_secs(50));
        assert_eq!(SMALL.least(1), Duration::from_millis(50_500));
        assert_eq!(SMALL.least(5), Duration::from_millis(10_500));
        assert_eq!(SMALL.least(1000), Duration::from_secs(10));
    }
}
