//! Virtual machines of this node: running, looking at, ending.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use pageswarm_vmm::Strategy;

use super::error::ApiError;
use super::server::{Answer, From, announced, failed, millis, patience};
use super::views::{DriveView, RunRequest, VmView};
use crate::machines::{self, Machine, RunOptions};
use crate::node::Node;

pub(super) fn reading() -> Router<Arc<Node>> {
    Router::new().route("/api/v1/vms", get(vms)).route("/api/v1/vms/{vm}", get(vm))
}

pub(super) fn changing() -> Router<Arc<Node>> {
    Router::new().route("/api/v1/vms", post(run_vm)).route("/api/v1/vms/{vm}/stop", post(stop_vm))
}

async fn vms(State(node): State<Arc<Node>>) -> Json<Vec<VmView>> {
    Json(node.machines.all().iter().map(|machine| vm_view(machine, u64::MAX)).collect())
}

async fn vm(
    State(node): State<Arc<Node>>,
    Path(vm): Path<u64>,
    Query(From { from }): Query<From>,
) -> Answer<VmView> {
    let machine = node.machines.get(vm).ok_or_else(|| ApiError::not_found(format!("there is no vm {vm}")))?;
    Ok(Json(vm_view(&machine, from)))
}

fn vm_view(machine: &Machine, from: u64) -> VmView {
    let report = machine.report();
    let (ended, failed) = machine.ended().map_or((None, false), |(why, failed)| (Some(why), failed));
    VmView {
        vm: machine.id,
        process_id: machine.process_id(),
        processor: machine.processor().to_owned(),
        lineage: machine.lineage.map(|id| id.to_string()),
        counter: report.operations,
        passes: report.passes,
        wrong_page: report.wrong_page.map(|page| page.0),
        ended,
        failed,
        drive: drive_view(machine),
        checkpoints: machine.figures(from),
    }
}

pub(super) fn drive_view(machine: &Machine) -> DriveView {
    let drive = machine.driven();
    DriveView {
        vm: machine.id,
        when_behind: drive.way.name().to_owned(),
        interval_set_ms: millis(drive.interval_set),
        interval_ms: millis(drive.interval),
        is_behind: drive.is_behind,
        is_paused: drive.is_paused(),
        is_withholding: drive.is_withholding(),
        to_store_bytes: drive.backlog.to_store_bytes,
        to_store_ms: millis(drive.backlog.to_store),
        to_send_bytes: drive.backlog.to_send_bytes,
        to_send_ms: millis(drive.backlog.to_send),
        behind_from_ms: millis(drive.behind_from()),
    }
}

async fn run_vm(State(node): State<Arc<Node>>, Json(request): Json<RunRequest>) -> Answer<VmView> {
    let strategy: Strategy =
        request.strategy.parse().map_err(|error| ApiError::usage(format!("strategy: {error}")))?;
    if request.interval_ms == 0 {
        return Err(ApiError::usage("interval of 0 ms: give at least 1 ms"));
    }
    let options = RunOptions {
        workload: request.workload.parse().map_err(|error| ApiError::usage(format!("workload: {error}")))?,
        ram_bytes: request.ram_bytes,
        interval: Duration::from_millis(request.interval_ms),
        strategy,
        checkpoints: request.checkpoints,
        seed: request.seed,
        witness: request.witness.into_iter().collect(),
        witness_directory: request.witness_directory.map(PathBuf::from).unwrap_or_default(),
        when_behind: request
            .when_behind
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(|error| ApiError::usage(format!("when_behind: {error}")))?
            .unwrap_or_default(),
    };
    let started = match request.resume {
        None => machines::run(&node, options).await,
        Some(resume) => {
            let (id, index) = announced(&node, &resume).await?;
            machines::resume_as_branch(&node, id, index, patience(&resume), options).await
        }
    };
    let machine = started.map_err(failed)?;
    Ok(Json(vm_view(&machine, 0)))
}

async fn stop_vm(State(node): State<Arc<Node>>, Path(vm): Path<u64>) -> Answer<VmView> {
    let machine = node.machines.get(vm).ok_or_else(|| ApiError::not_found(format!("there is no vm {vm}")))?;
    machine.stop();
    Ok(Json(vm_view(&machine, u64::MAX)))
}
