//! When everyone has everything and the last timers have run, nothing is sent and nobody wakes.

use std::time::Duration;

use super::Violation;

/// What is left to run down after the last completion, and how long nothing may happen afterwards: longer than the
/// engine's memory of what was sent, its longest wait for a peer, and its longest answer.
pub(crate) const SETTLE: Duration = Duration::from_secs(60);

pub(crate) fn check(messages: u64, wakes: u64, found: &mut Vec<Violation>) {
    if messages > 0 || wakes > 0 {
        found.push(Violation::Restless { messages, wakes });
    }
}
