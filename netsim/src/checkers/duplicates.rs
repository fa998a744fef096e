//! Duplicates stay within the budget where nothing fails, and within a fraction where anything does.

use super::Violation;
use crate::host::Host;
use crate::options::{Behaviour, Options};

/// Without faults: 1 % of what was received, and one run a node to begin with.
const FREE_BYTES: u64 = 64 << 10;

pub(super) fn check(options: &Options, hosts: &[Host], found: &mut Vec<Violation>) {
    let honest = || hosts.iter().filter(|host| host.behaviour == Behaviour::Honest);
    let duplicate_bytes: u64 = honest().map(|host| host.duplicate_bytes).sum();
    let received_bytes: u64 = honest().map(|host| host.received_chunk_bytes).sum();
    let share = if options.is_fault_free() { received_bytes / 100 } else { received_bytes / 4 };
    let allowed_bytes = share + FREE_BYTES * hosts.len() as u64;
    if duplicate_bytes > allowed_bytes {
        found.push(Violation::Duplicates { duplicate_bytes, received_bytes, allowed_bytes });
    }
}
