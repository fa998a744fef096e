//! What a run came to: figures, then the verdict.

use std::fmt;
use std::time::Duration;

use crate::bound::Bound;
use crate::checkers::Violation;
use crate::progress::Point;

/// When one node was complete.
#[derive(Clone, Copy, Debug)]
pub struct Finish {
    /// Since the beginning of the run.
    pub at: Duration,
    /// Since the node joined.
    pub took: Duration,
    /// The least time in which it could have been.
    pub least: Duration,
}

impl Finish {
    fn excess_permille(&self) -> u64 {
        permille(self.took.as_nanos(), self.least.as_nanos()).unwrap_or(0)
    }
}

/// Times of completion over each node's own bound, in thousandths: quantiles over the nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Excess {
    /// Of half of the nodes at most.
    pub p50: u64,
    /// Of 99 % of the nodes at most.
    pub p99: u64,
    /// Of 99.9 % of the nodes at most.
    pub p999: u64,
}

impl Excess {
    pub(crate) fn of(finishes: &[Finish]) -> Self {
        let mut excess: Vec<u64> = finishes.iter().map(Finish::excess_permille).collect();
        excess.sort_unstable();
        let quantile = |permille: usize| {
            let rank = (excess.len() * permille).div_ceil(1000).max(1) - 1;
            excess.get(rank).copied().unwrap_or(0)
        };
        Self { p50: quantile(500), p99: quantile(990), p999: quantile(999) }
    }
}

/// How the simulation of a recording went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simulated {
    /// From the start of the recording to the end of the last simulation.
    pub took: Duration,
    /// The least time with as many workers and no network.
    pub least: Duration,
    /// What one node takes to simulate everything if it waits for nothing.
    pub sequential: Duration,
    /// From an interval's lease to its last chunk: of half of the intervals at most.
    pub fetch_p50: Duration,
    /// Likewise of 99 %.
    pub fetch_p99: Duration,
    /// Of all workers together: how long they had an interval and could not begin it.
    pub waited: Duration,
}

impl Simulated {
    /// How many times faster than one node, in thousandths.
    #[must_use]
    pub fn speed_up_permille(&self) -> u64 {
        permille(self.sequential.as_nanos(), self.took.as_nanos()).unwrap_or(0)
    }

    /// The same as the model predicts it.
    #[must_use]
    pub fn predicted_permille(&self) -> u64 {
        permille(self.sequential.as_nanos(), self.least.as_nanos()).unwrap_or(0)
    }
}

/// The outcome of one run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Hash over everything that happened.
    pub trace: u64,
    /// Events that happened.
    pub events: u64,
    /// When the last honest node was complete; `None` if one never was.
    pub makespan: Option<Duration>,
    /// The least time possible without faults.
    pub bound: Bound,
    /// Over each node's own bound.
    pub excess: Excess,
    /// Of each honest node that stayed and was complete.
    pub finishes: Vec<Finish>,
    /// How chunks spread over these nodes, as time passed.
    pub points: Vec<Point>,
    /// Of a recording, if there was one.
    pub simulated: Option<Simulated>,
    /// Chunk bytes that the publisher sent.
    pub publisher_bytes: u64,
    /// Chunk bytes that honest nodes received.
    pub received_bytes: u64,
    /// Of these, bytes of chunks that they held already.
    pub duplicate_bytes: u64,
    /// Bytes of requests, announcements and other small messages that honest nodes sent.
    pub control_bytes: u64,
    /// Chunks asked of a second peer because the first was slow.
    pub stolen: u64,
    /// Requests that insist after a deferral.
    pub insisting: u64,
    /// Requests of nodes that are up at the end.
    pub requests: u64,
    /// Announcements of nodes that are up at the end.
    pub announcements: u64,
    /// Chunk bytes that came into the rack that took most, if there are racks.
    pub rack_bytes_max: Option<u64>,
    /// Core time of the nodes' work, if the run has a processor.
    pub worked: Duration,
    /// The most memory that any engine took when it was looked at, in bytes, by its own estimate.
    pub engine_bytes_max: usize,
    /// Wrong chunks that honest nodes refused.
    pub rejected_chunks: u64,
    /// Requests that timed out.
    pub timed_out: u64,
    /// Chunks whose askers the publisher sent to another holder.
    pub deferred: u64,
    /// The slowest of 100 page faults, if any was answered.
    pub fault_p99: Option<Duration>,
    /// Properties that did not hold; empty means passed.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Makespan in thousandths of the bound.
    #[must_use]
    pub fn over_bound_permille(&self) -> Option<u64> {
        permille(self.makespan?.as_nanos(), self.bound.time().as_nanos())
    }

    /// The publisher's chunk bytes in thousandths of what anyone lacked.
    #[must_use]
    pub fn publisher_egress_permille(&self) -> Option<u64> {
        permille(u128::from(self.publisher_bytes), u128::from(self.bound.union_bytes))
    }

    /// Duplicates in thousandths of received bytes.
    #[must_use]
    pub fn duplicate_permille(&self) -> u64 {
        permille(u128::from(self.duplicate_bytes), u128::from(self.received_bytes)).unwrap_or(0)
    }

    /// The propagation curve, as lines of three shares in thousandths: time since joining over the bound, bytes that
    /// the nodes have got over those that they lacked, nodes that are complete over all.
    #[must_use]
    pub fn curve(&self) -> String {
        let mut lines = String::from("time,got,complete\n");
        for Point { at_permille, got_permille, complete_permille } in &self.points {
            lines.push_str(&format!("{at_permille},{got_permille},{complete_permille}\n"));
        }
        lines
    }
}

impl Report {
    /// How far from the bound a spread was.
    fn write_spread(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.bound)?;
        let makespan = self.makespan.map_or_else(|| "-".to_owned(), |span| format!("{span:?}"));
        writeln!(f, "makespan {makespan}, over bound {}", ratio(self.over_bound_permille()))?;
        let [p50, p99, p999] =
            [self.excess.p50, self.excess.p99, self.excess.p999].map(|permille| ratio(Some(permille)));
        writeln!(f, "nodes over their own bounds: p50 {p50}, p99 {p99}, p99.9 {p999}")?;
        let gain = permille(u128::from(self.bound.sum_bytes), u128::from(self.bound.union_bytes));
        writeln!(
            f,
            "publisher egress over union {}, attainable gain {}, duplicates {}, other bytes {}",
            ratio(self.publisher_egress_permille()),
            ratio(gain),
            ratio(Some(self.duplicate_permille())),
            ratio(permille(u128::from(self.control_bytes), u128::from(self.received_bytes)))
        )
    }

    /// What simulating in parallel gained.
    fn write_simulated(&self, f: &mut fmt::Formatter<'_>, simulated: &Simulated) -> fmt::Result {
        let Simulated { took, least, sequential, fetch_p50, fetch_p99, waited } = simulated;
        writeln!(
            f,
            "simulated in {took:?}, speed-up {} (one node {sequential:?}; without a network {least:?}, {})",
            ratio(Some(simulated.speed_up_permille())),
            ratio(Some(simulated.predicted_permille()))
        )?;
        writeln!(
            f,
            "lease to last chunk: p50 {fetch_p50:?}, p99 {fetch_p99:?}; all workers waited {waited:?}"
        )?;
        writeln!(
            f,
            "publisher sent {} MiB, workers received {} MiB, duplicates {}, other bytes {}",
            self.publisher_bytes >> 20,
            self.received_bytes >> 20,
            ratio(Some(self.duplicate_permille())),
            ratio(permille(u128::from(self.control_bytes), u128::from(self.received_bytes)))
        )
    }
}

fn ratio(permille: Option<u64>) -> String {
    permille.map_or_else(|| "-".to_owned(), |p| format!("{}.{:03}", p / 1000, p % 1000))
}

fn permille(part: u128, whole: u128) -> Option<u64> {
    u64::try_from((part * 1000).checked_div(whole)?).ok()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "trace {:016x} events {}", self.trace, self.events)?;
        match &self.simulated {
            Some(simulated) => self.write_simulated(f, simulated)?,
            None => self.write_spread(f)?,
        }
        writeln!(
            f,
            "requests {}, announcements {}, chunks stolen {}, insisting requests {}, engine memory {} KiB at most",
            self.requests,
            self.announcements,
            self.stolen,
            self.insisting,
            self.engine_bytes_max / 1024
        )?;
        if let Some(bytes) = self.rack_bytes_max {
            let copies = permille(u128::from(bytes), u128::from(self.bound.union_bytes));
            writeln!(f, "into a rack came {} copies of the content at most", ratio(copies))?;
        }
        if self.worked > Duration::ZERO {
            let per_gb = self.worked.as_secs_f64() * 1e9 / self.received_bytes.max(1) as f64;
            writeln!(f, "work {:?} of a core, {per_gb:.1} s for each GB received", self.worked)?;
        }
        let p99 = self.fault_p99.map_or_else(|| "-".to_owned(), |time| format!("{time:?}"));
        writeln!(
            f,
            "wrong chunks refused {}, requests timed out {}, chunks deferred {}, page fault p99 {p99}",
            self.rejected_chunks, self.timed_out, self.deferred
        )?;
        for violation in &self.violations {
            writeln!(f, "violated: {violation}")?;
        }
        write!(f, "{}", if self.violations.is_empty() { "PASS" } else { "FAIL" })
    }
}
