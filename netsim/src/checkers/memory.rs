//! Engines stay within their limits whatever their peers say.

use pageswarm_swarm::{Config, limits};

use super::Violation;
use crate::host::Host;

pub(super) fn check(node: usize, host: &Host, found: &mut Vec<Violation>) {
    let config = Config::default();
    // The last run may start just below the limit; faults come on top.
    let outstanding_max = config.outstanding_bytes_max + limits::ASKED_BYTES_MAX;
    let Some(engine) = &host.engine else { return };
    let peers = engine.peer_stats().count() as u64;
    let stats = engine.stats();
    let mut check = |what, actual, allowed| {
        if actual > allowed {
            found.push(Violation::Memory { node, what, actual, allowed });
        }
    };
    check("outstanding bytes", stats.outstanding_bytes, outstanding_max);
    check("queued answers", stats.uploads, peers * limits::UPLOAD_QUEUE_MAX as u64);
    for (_, peer) in engine.peer_stats() {
        check("bytes of a peer's sets", peer.has_memory_bytes, limits::PEER_HAS_BYTES_MAX as u64);
    }
}
