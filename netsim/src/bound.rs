//! The least time in which a run could end: T >= max{|U D_i| / u_s, max |D_i| / d_i, sum |D_i| / (u_s + sum u_i)}.

use std::fmt;
use std::time::Duration;

use crate::link::transfer_time;

/// The three terms, and the attainable gain.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The publisher must send every lacked chunk once.
    pub publisher: Duration,
    /// A node must receive what it lacks.
    pub slowest_node: Duration,
    /// All uplinks together must send everything.
    pub all_uplinks: Duration,
    /// Bytes that at least one node lacks.
    pub union_bytes: u64,
    /// Bytes that the nodes lack, each node counted.
    pub sum_bytes: u64,
}

impl Bound {
    /// From what each node lacks (bytes, downlink rate, uplink rate) and the publisher's uplink rate.
    #[must_use]
    pub fn new(union_bytes: u64, publisher_up: u64, lacks: &[(u64, u64, u64)]) -> Self {
        let sum_bytes = lacks.iter().map(|(lacked, ..)| lacked).sum();
        let uplinks = lacks.iter().map(|(_, _, up)| up).sum::<u64>() + publisher_up;
        let alone = lacks.iter().map(|(lacked, down, _)| transfer_time(*lacked, *down));
        Self {
            publisher: transfer_time(union_bytes, publisher_up),
            slowest_node: alone.max().unwrap_or_default(),
            all_uplinks: transfer_time(sum_bytes, uplinks),
            union_bytes,
            sum_bytes,
        }
    }

    /// The largest term.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.publisher.max(self.slowest_node).max(self.all_uplinks)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bound {:?} (publisher {:?}, slowest node {:?}, all uplinks {:?})",
            self.time(),
            self.publisher,
            self.slowest_node,
            self.all_uplinks
        )
    }
}
