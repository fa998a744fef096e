//! In the end every honest node that stayed has what it wants, and no guest stands still.

use super::Violation;
use crate::host::Host;

pub(super) fn check(hosts: &[Host], found: &mut Vec<Violation>) {
    for (node, host) in hosts.iter().enumerate() {
        if !host.counts() {
            continue;
        }
        let births = host.wants.minus(host.store.held()).len();
        if births > 0 || host.complete_at.is_none() {
            let engine = host.engine.as_ref();
            let connected = engine.map_or(0, |engine| engine.peer_stats().count());
            let outstanding = engine.map_or(0, |engine| engine.stats().outstanding_bytes);
            found.push(Violation::Incomplete { node, births, connected, outstanding });
        }
        if !host.faults.is_empty() {
            found.push(Violation::FaultOpen { node, faults: host.faults.len() });
        }
    }
}
