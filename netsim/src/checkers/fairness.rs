//! Nodes that are alike are served alike: where nothing fails and all links and wants are the same, no node that was
//! there from the beginning takes more than half as long again as the median node.
//!
//! The measure is time to completion, which is what a user waits for, and not bytes at some moment, which differ by
//! chance. Nodes on different links, in racks, or with different wants have no common yardstick but their own bounds.

use std::time::Duration;

use pageswarm_swarm::Time;

use super::Violation;
use crate::host::Host;
use crate::options::{Links, Options, Pattern};

pub(super) fn check(options: &Options, hosts: &[Host], found: &mut Vec<Violation>) {
    let alike = options.links == Links::Equal && options.pattern == Pattern::Same && options.racks == 0;
    if !alike || !options.is_fault_free() {
        return;
    }
    let first = hosts.iter().enumerate().take(options.nodes).skip(1).filter(|(_, host)| host.counts());
    let mut took: Vec<(Duration, usize)> =
        first.filter_map(|(node, host)| Some((host.complete_at?.since(Time::ZERO), node))).collect();
    took.sort_unstable();
    let (Some((median, _)), Some((slowest, node))) = (took.get(took.len() / 2), took.last()) else {
        return;
    };
    if *slowest > *median * 3 / 2 {
        found.push(Violation::Unfair { node: *node, took: *slowest, median: *median });
    }
}
