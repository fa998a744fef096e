//! What was stored stays stored, over crashes too, and the engine agrees with the store.

use super::Violation;
use crate::host::{Host, LINEAGE};

/// How many chunks each node had stored when last looked at.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Vec<usize>);

pub(super) fn check(hosts: &[Host], ledger: &mut Ledger, found: &mut Vec<Violation>) {
    ledger.0.resize(hosts.len(), 0);
    for (node, (host, before)) in hosts.iter().zip(&mut ledger.0).enumerate() {
        let now = host.store.len();
        if now < *before {
            found.push(Violation::Lost { node, births: (*before - now) as u64 });
        }
        *before = now;
        let Some(held) = host.engine.as_ref().and_then(|engine| engine.held(LINEAGE)) else {
            continue;
        };
        let unknown = host.held().minus(held).len() + held.minus(&host.held()).len();
        if unknown > 0 {
            found.push(Violation::Lost { node, births: unknown });
        }
    }
}
