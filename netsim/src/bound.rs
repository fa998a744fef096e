//! The least time in which a run could end: T >= max{|U D_i| / u_s, max |D_i| / d_i, sum |D_i| / (u_s + sum u_i)}.

use std::fmt;
use std::time::Duration;

use crate::link::transfer_time;

/// The smallest run of the engine, which is its piece in small deltas.
pub(crate) const PIECE_BYTES: u64 = pageswarm_swarm::limits::RUN_BYTES_SPLIT;

/// The three terms, and the attainable gain.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bound {
    /// The publisher must send every lacked chunk once.
    pub publisher: Duration,
    /// A node must receive what it lacks.
    pub slowest_node: Duration,
    /// All uplinks together must send everything.
    pub all_uplinks: Duration,
    /// Each rack's link must pass what its nodes lack once, and that of the publisher's rack too.
    pub racks: Duration,
    /// The publisher's term with whole pieces that every hop stores before it forwards them: (M + floor(log2 N)) / M of
    /// it, M pieces of 16 KiB, N receivers with equal links (Mundinger, Weber and Weiss, 2006).
    pub in_pieces: Duration,
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
            racks: Duration::ZERO,
            in_pieces: Duration::ZERO,
            union_bytes,
            sum_bytes,
        }
    }

    /// With the term for whole pieces.
    #[must_use]
    pub fn for_receivers(mut self, receivers: u64) -> Self {
        let pieces = (self.union_bytes / PIECE_BYTES).max(1);
        let hops = u64::from(receivers.max(1).ilog2());
        let nanos = self.publisher.as_nanos() * u128::from(pieces + hops) / u128::from(pieces);
        self.in_pieces = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self
    }

    /// With the term for the links of racks.
    #[must_use]
    pub fn for_racks(mut self, racks: usize, rate: u64) -> Self {
        if racks > 1 {
            self.racks = transfer_time(self.union_bytes, rate);
        }
        self
    }

    /// The largest of the terms, for a fluid that is not cut into pieces.
    #[must_use]
    pub fn time(&self) -> Duration {
        self.publisher.max(self.slowest_node).max(self.all_uplinks).max(self.racks)
    }

    /// The least time for one node that lacks `bytes`: by its downlink, and by what binds all.
    #[must_use]
    pub fn of_node(&self, bytes: u64, down: u64) -> Duration {
        transfer_time(bytes, down).max(self.time()).max(self.in_pieces)
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bound {:?} (publisher {:?}, slowest node {:?}, all uplinks {:?}); in pieces of {PIECE_BYTES} bytes {:?}",
            self.time(),
            self.publisher,
            self.slowest_node,
            self.all_uplinks,
            self.in_pieces
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_many_nodes_are_added_up_in_full() {
        let (bytes, rate) = (20 << 20, 12_500_000);
        let bound = Bound::new(bytes, rate, &vec![(bytes, rate, rate); 9_999]);
        let share = bound.all_uplinks.as_secs_f64() / bound.publisher.as_secs_f64();
        assert!((0.999..1.0).contains(&share), "all send as much as all but one receive: {bound}");
    }
}
