//! How much of what it lacked a node has got by when, in steps of a part of the bound.

use std::time::Duration;

/// Steps into which the bound is divided.
pub(crate) const STEPS_PER_BOUND: usize = 50;
/// Steps that are kept apart; what comes later counts as come in the last one.
const STEPS_MAX: usize = 40 * STEPS_PER_BOUND;

/// Chunk bytes that were new to a node, by step since it joined. An eviction takes nothing away.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Vec<u32>);

impl Progress {
    /// New bytes were stored `since_joined`.
    pub(crate) fn gain(&mut self, since_joined: Duration, bound: Duration, bytes: u64) {
        let steps = since_joined.as_nanos() * STEPS_PER_BOUND as u128 / bound.as_nanos().max(1);
        let step = usize::try_from(steps).unwrap_or(STEPS_MAX).min(STEPS_MAX - 1);
        if self.0.len() <= step {
            self.0.resize(step + 1, 0);
        }
        self.0[step] = self.0[step].saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Bytes by step, from the first to the last in which any came.
    pub(crate) fn steps(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(|bytes| u64::from(*bytes))
    }
}

/// One point of a propagation curve: the state at the end of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Time since each node joined, in thousandths of the bound.
    pub at_permille: u64,
    /// Of what the nodes lacked, all together, what they have got, in thousandths.
    pub got_permille: u64,
    /// Nodes that are complete, in thousandths.
    pub complete_permille: u64,
}

/// The curve of nodes given as progress, bytes lacked at the beginning and time to completion.
pub(crate) fn curve(nodes: &[(&Progress, u64, Duration)], bound: Duration) -> Vec<Point> {
    let lacked: u64 = nodes.iter().map(|(_, lacked, _)| lacked).sum();
    let last = nodes.iter().map(|(.., took)| *took).max().unwrap_or_default();
    let steps = (last.as_nanos() * STEPS_PER_BOUND as u128).div_ceil(bound.as_nanos().max(1));
    let steps = usize::try_from(steps).unwrap_or(STEPS_MAX).min(STEPS_MAX);
    let mut came = vec![0; steps.max(1)];
    for (progress, ..) in nodes {
        for (step, bytes) in progress.steps().enumerate() {
            came[step.min(steps.max(1) - 1)] += bytes;
        }
    }
    let mut took: Vec<Duration> = nodes.iter().map(|(.., took)| *took).collect();
    took.sort_unstable();
    let mut got = 0;
    let point = |(step, bytes): (usize, u64)| {
        got += bytes;
        let end = step as u64 + 1;
        let at = bound.mul_f64(end as f64 / STEPS_PER_BOUND as f64);
        let complete = took.partition_point(|took| *took <= at) as u64;
        Point {
            at_permille: end * 1000 / STEPS_PER_BOUND as u64,
            got_permille: permille(got, lacked),
            complete_permille: permille(complete, took.len() as u64),
        }
    };
    came.into_iter().enumerate().map(point).collect()
}

fn permille(part: u64, whole: u64) -> u64 {
    let share = u128::from(part) * 1000 / u128::from(whole.max(1));
    u64::try_from(share.min(1000)).unwrap_or(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_counts_bytes_and_nodes_by_the_end_of_a_step() {
        let bound = Duration::from_secs(1);
        let (mut one, mut two) = (Progress::default(), Progress::default());
        one.gain(Duration::from_millis(10), bound, 100);
        one.gain(Duration::from_millis(30), bound, 100);
        two.gain(Duration::from_millis(50), bound, 200);
        let nodes = [(&one, 200, Duration::from_millis(31)), (&two, 200, Duration::from_millis(51))];
        let points: Vec<_> = curve(&nodes, bound)
            .iter()
            .map(|point| (point.at_permille, point.got_permille, point.complete_permille))
            .collect();
        assert_eq!(points, [(20, 250, 0), (40, 500, 500), (60, 1000, 1000)]);
    }
}
