//! A small guest on the publisher, run until it has taken its checkpoints: what the nodes of a measurement then work with.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::SEED;
use super::process::until_true;
use super::systems::nodes::{Imported, Nodes};

#[derive(Deserialize)]
struct Vm<Checkpoint> {
    vm: u64,
    lineage: Option<String>,
    ended: Option<String>,
    failed: bool,
    checkpoints: Vec<Checkpoint>,
}

/// Runs a workload in 64 MiB for so many checkpoints; the last of them, and the figures of all.
pub(super) fn record<Checkpoint: DeserializeOwned>(
    nodes: &Nodes,
    workload: &str,
    checkpoints: u64,
    interval_ms: u64,
    patience: Duration,
) -> Result<(Imported, Vec<Checkpoint>)> {
    let api = nodes.api(0);
    let body = json!({
        "workload": workload, "ram_bytes": 64 << 20, "interval_ms": interval_ms, "strategy": "pre-copy",
        "checkpoints": checkpoints, "seed": SEED,
    });
    let vm: Vm<Checkpoint> = api.post("/api/v1/vms", &body, patience)?;
    let lineage = vm.lineage.context("a VM without a lineage")?;
    let path = format!("/api/v1/vms/{}?from=0", vm.vm);
    until_true("all checkpoints are taken", patience, || {
        let vm: Vm<Checkpoint> = api.get(&path)?;
        ensure!(!vm.failed, "the guest failed: {:?}", vm.ended);
        Ok(vm.ended.is_some())
    })?;
    let taken = api.get::<Vm<Checkpoint>>(&path)?.checkpoints;
    ensure!(taken.len() as u64 == checkpoints && checkpoints > 0, "{} checkpoints were taken", taken.len());
    Ok((Imported { lineage, index: checkpoints - 1, state_root: String::new() }, taken))
}
