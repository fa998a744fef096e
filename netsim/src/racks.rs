//! Links out of racks: all nodes of a rack share one up and one down.

use std::time::Duration;

use pageswarm_swarm::{Label, Labels, Time};

use crate::link::transfer_time;

/// Both directions of one rack's link.
#[derive(Clone, Copy, Debug, Default)]
struct RackLink {
    up_free_at: Time,
    down_free_at: Time,
    bytes_in: u64,
}

/// All racks; none if every node has the network to itself.
#[derive(Debug)]
pub(crate) struct Racks {
    links: Vec<RackLink>,
    /// Bytes per second, in each direction.
    rate: u64,
}

impl Racks {
    pub(crate) fn new(racks: usize, rate: u64) -> Self {
        Self { links: vec![RackLink::default(); racks], rate }
    }

    /// The rack of a node, if there are any: nodes are dealt out in turn.
    fn of(&self, node: usize) -> Option<usize> {
        node.checked_rem(self.links.len())
    }

    /// Where a node is, as it says.
    pub(crate) fn labels(&self, node: usize) -> Labels {
        let rack = self.of(node).map(|rack| Label(rack as u64));
        Labels { zone: None, rack, host: None }
    }

    /// When bytes whose last bit would be `at` the other node, and whose first bit `took` before, are there after the
    /// links out of one rack and into another. Each passes bits as they come, as far as it is free and fast enough.
    pub(crate) fn cross(&mut self, from: usize, to: usize, at: Time, took: Duration, bytes: u64) -> Time {
        let (Some(source), Some(target)) = (self.of(from), self.of(to)) else {
            return at;
        };
        if source == target {
            return at;
        }
        let takes = transfer_time(bytes, self.rate);
        let pass = |free_at: &mut Time, at: Time| {
            let first = Time::ZERO.after(at.since(Time::ZERO).saturating_sub(took));
            *free_at = first.max(*free_at).after(takes).max(at);
            *free_at
        };
        let out = pass(&mut self.links[source].up_free_at, at);
        let target = &mut self.links[target];
        target.bytes_in += bytes;
        pass(&mut target.down_free_at, out)
    }

    /// Bytes of chunks that came into each rack.
    pub(crate) fn bytes_in(&self) -> impl Iterator<Item = u64> + '_ {
        self.links.iter().map(|link| link.bytes_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_crosses_waits_for_both_links_and_what_stays_does_not() {
        let mut racks = Racks::new(2, 1_000_000);
        let at = Time::from_millis(10);
        let took = Duration::from_millis(1);
        assert_eq!(racks.cross(0, 2, at, took, 10_000), at, "the same rack");
        assert_eq!(racks.cross(0, 1, at, took, 10_000), Time::from_millis(28), "9 + 10, then 18 + 10");
        assert_eq!(racks.cross(2, 3, at, took, 1_000), Time::from_millis(29));
        assert_eq!(racks.bytes_in().collect::<Vec<_>>(), [0, 11_000]);
    }
}
