//! What a run came to: figures, then the verdict.

use std::fmt;
use std::time::Duration;

use crate::bound::Bound;
use crate::checkers::Violation;

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
    /// Chunk bytes that the publisher sent.
    pub publisher_bytes: u64,
    /// Chunk bytes that honest nodes received.
    pub received_bytes: u64,
    /// Of these, bytes of chunks that they held already.
    pub duplicate_bytes: u64,
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
}

fn permille(part: u128, whole: u128) -> Option<u64> {
    u64::try_from((part * 1000).checked_div(whole)?).ok()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = |permille: Option<u64>| {
            permille.map_or_else(|| "-".to_owned(), |p| format!("{}.{:03}", p / 1000, p % 1000))
        };
        writeln!(f, "trace {:016x} events {}", self.trace, self.events)?;
        writeln!(f, "{}", self.bound)?;
        let makespan = self.makespan.map_or_else(|| "-".to_owned(), |span| format!("{span:?}"));
        writeln!(f, "makespan {makespan}, over bound {}", ratio(self.over_bound_permille()))?;
        let gain = permille(u128::from(self.bound.sum_bytes), u128::from(self.bound.union_bytes));
        writeln!(
            f,
            "publisher egress over union {}, attainable gain {}, duplicates {}",
            ratio(self.publisher_egress_permille()),
            ratio(gain),
            ratio(Some(self.duplicate_permille()))
        )?;
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
