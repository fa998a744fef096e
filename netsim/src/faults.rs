//! What goes wrong in the safety phase, and when: drawn from the seed before the run.

use std::time::Duration;

use pageswarm_swarm::{Rng, Time};

use crate::options::Options;

/// One change to the world.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Crash(usize),
    Restart(usize),
    /// Nodes on different sides cannot reach each other until the partition heals.
    Split(Vec<bool>),
    Heal,
    /// The uplink falls to a twentieth.
    Slow(usize),
    /// A new node comes.
    Join(usize),
    /// A node goes for good.
    Leave(usize),
}

/// All faults of a run with their times; those that heal, heal by the end of the safety phase.
pub(crate) fn plan(options: &Options, rng: &mut Rng) -> Vec<(Time, Fault)> {
    let span = options.safety_phase();
    let mut plan = Vec::new();
    let mut moment = |from: Duration| {
        let left = span.saturating_sub(from).as_micros();
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        Duration::from_micros(rng.below(left.max(1))) + from
    };
    let mut spans = Vec::new();
    for _ in 0..options.crashes + options.partitions {
        let from = moment(Duration::ZERO);
        spans.push((Time::ZERO.after(from), Time::ZERO.after(moment(from))));
    }
    let (crashes, partitions) = spans.split_at(usize::try_from(options.crashes).unwrap_or(0));
    for (down, up) in crashes {
        // The publisher too: its store survives.
        let node = usize::try_from(rng.below(options.nodes as u64)).unwrap_or(0);
        plan.push((*down, Fault::Crash(node)));
        plan.push((*up, Fault::Restart(node)));
    }
    for (cut, heal) in partitions {
        let side = (0..options.nodes + options.churning()).map(|_| rng.below(2) == 0).collect();
        plan.push((*cut, Fault::Split(side)));
        plan.push((*heal, Fault::Heal));
    }
    for slow in 0..options.slow.min(options.nodes - 1) {
        plan.push((Time::ZERO, Fault::Slow(1 + slow)));
    }
    plan
}

/// Who leaves and who joins when, spread over a time as long as the bound; the publisher stays.
pub(crate) fn churn(options: &Options, bound: Duration, rng: &mut Rng) -> Vec<(Time, Fault)> {
    let span = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX).max(1);
    let mut plan = Vec::new();
    for change in 0..options.churning() {
        let leaver = 1 + usize::try_from(rng.below(options.nodes as u64 - 1)).unwrap_or(0);
        let moment = |rng: &mut Rng| Time::ZERO.after(Duration::from_micros(rng.below(span)));
        plan.push((moment(rng), Fault::Leave(leaver)));
        plan.push((moment(rng), Fault::Join(options.nodes + change)));
    }
    plan
}
