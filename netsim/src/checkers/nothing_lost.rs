//! What was stored stays stored, over crashes too, unless it was evicted on purpose; and the engine agrees.

use super::Violation;
use crate::host::{Host, LINEAGE};

/// How many chunks each node had stored and evicted when last looked at.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Vec<u64>);

pub(super) fn check(node: usize, host: &Host, ledger: &mut Ledger, found: &mut Vec<Violation>) {
    if ledger.0.len() <= node {
        ledger.0.resize(node + 1, 0);
    }
    let now = host.store.held().len() + host.store.evicted();
    let before = std::mem::replace(&mut ledger.0[node], now);
    if now < before {
        found.push(Violation::Lost { node, births: before - now });
    }
    let Some(held) = host.engine.as_ref().and_then(|engine| engine.held(LINEAGE)) else {
        return;
    };
    let unknown = host.store.held().minus(held).len() + held.minus(host.store.held()).len();
    if unknown > 0 {
        found.push(Violation::Lost { node, births: unknown });
    }
}
