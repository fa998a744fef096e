//! Simulating an interval on this node.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use pageswarm_checkpoint::CheckpointIndex;
use pageswarm_checkpoint::membership::Role;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::server::{Answer, lineage_id, millis, patience};
use super::views::CheckpointRequest;
use crate::lazy_ram::MemoryUse;
use crate::node::Node;
use crate::rebuild::RebuildError;
use crate::simulate::{self, Job, Restore, Tracing};
use crate::work::{self, WorkError};

/// An interval to be simulated.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SimulationRequest {
    /// The lineage, the interval as `index`, and the patience.
    #[serde(flatten)]
    pub of: CheckpointRequest,
    /// Whether what comes of it is published as this node's signed result.
    #[serde(default)]
    pub publish: bool,
    /// How it gets the RAM that it begins with.
    #[serde(default)]
    pub restore: Restore,
    /// Whether and how its accesses are traced; the trace is offered to the swarm, so only what is published has one.
    #[serde(default)]
    pub tracing: Option<Tracing>,
}

/// How a simulation used its memory, where that was filled when it was touched. Pages that are zero are not counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemoryUseView {
    /// Pages that it was expected to touch: what it touched before, or what its delta says and the nearest interval touched.
    pub expected_pages: u64,
    /// Pages that it touched.
    pub touched_pages: u64,
    /// Pages that it was expected to touch, and did.
    pub hit_pages: u64,
    /// Pages that were not here when they were touched.
    pub awaited_pages: u64,
    /// Waiting for them.
    pub waited_ms: u64,
}

impl MemoryUseView {
    pub(super) fn of(used: &MemoryUse) -> Self {
        Self {
            expected_pages: used.expected_pages,
            touched_pages: used.touched_pages,
            hit_pages: used.hit_pages,
            awaited_pages: used.awaited_pages,
            waited_ms: millis(used.waited),
        }
    }
}

/// A simulated interval whose end is its checkpoint, bit for bit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SimulationView {
    /// Interval k, from checkpoint k to k+1.
    pub interval: u64,
    /// Instructions; a repeated string instruction is one.
    pub instructions: u64,
    /// Accesses to memory that were reads.
    pub reads: u64,
    /// Accesses to memory that were writes.
    pub writes: u64,
    /// Pages that the interval changed.
    pub changed_pages: u64,
    /// The state root of what was simulated, which is that of checkpoint k+1.
    pub state_root: String,
    /// Chunks of checkpoint k that were wanted before the first instruction and were not here.
    pub lacked_chunks: u64,
    /// Until they had come or, where RAM is filled when it is touched, the rest had.
    pub fetch_ms: u64,
    /// Reading back and checking what the first instruction needs.
    pub read_back_ms: u64,
    /// How it used its memory; none where all of it was there before.
    #[serde(default)]
    pub memory: Option<MemoryUseView>,
    /// The simulation itself.
    pub simulation_ms: u64,
    /// Bytes of its trace; none if none was taken.
    #[serde(default)]
    pub trace_bytes: Option<u64>,
}

/// An interval that was written to files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordingView {
    /// Which.
    pub interval: u64,
    /// Bytes of RAM.
    pub ram_bytes: u64,
}

pub(super) fn changing() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/v1/simulations", post(simulate))
        .route("/api/v1/recordings", post(write_recording))
}

/// Writes what another process needs to simulate an interval: RAM to `output`, everything else to `state_output`.
async fn write_recording(
    State(node): State<Arc<Node>>,
    Json(request): Json<CheckpointRequest>,
) -> Answer<RecordingView> {
    let (id, interval) = (lineage_id(&request.lineage)?, CheckpointIndex(request.index));
    if request.index == u64::MAX {
        return Err(ApiError::usage("index: there is no interval behind the last checkpoint that can be"));
    }
    let patience = patience(&request);
    let (Some(ram_file), Some(state_file)) = (request.output, request.state_output) else {
        return Err(ApiError::usage("output and state_output: name a file for RAM and one for the rest"));
    };
    let written = simulate::prepared(&node, id, interval, patience, move |prepared| {
        std::fs::write(&ram_file, &prepared.ram)?;
        std::fs::write(&state_file, prepared.recording.encode())?;
        Ok::<_, std::io::Error>(RecordingView { interval: interval.0, ram_bytes: prepared.ram.len() as u64 })
    });
    let written = written.await.map_err(|error| ApiError::failed(&error))?;
    Ok(Json(written.map_err(|error| ApiError::failed(&RebuildError::Image(error)))?))
}

async fn simulate(
    State(node): State<Arc<Node>>,
    Json(SimulationRequest { of: request, publish, restore, tracing }): Json<SimulationRequest>,
) -> Answer<SimulationView> {
    if tracing.is_some() && !publish {
        return Err(ApiError::usage("tracing: a trace is offered with a result, so it needs publish"));
    }
    if publish {
        node.members
            .certificate()
            .allows(Role::Worker)
            .map_err(|error| ApiError::failed(&WorkError::from(error)))?;
    }
    let (id, interval) = (lineage_id(&request.lineage)?, CheckpointIndex(request.index));
    if request.index == u64::MAX {
        return Err(ApiError::usage("index: there is no interval behind the last checkpoint that can be"));
    }
    let job = Job { lineage: id, interval, restore, tracing, patience: patience(&request) };
    let mut simulated = simulate::simulate(&node, job, &node.simulations).await;
    let mut trace = None;
    if publish {
        let published = work::publish_one(&node, id, (interval, tracing), &mut simulated).await;
        trace = published.map_err(|error| ApiError::failed(&error))?;
    }
    let simulated = simulated.map_err(|error| ApiError::failed(&error))?;
    Ok(Json(SimulationView {
        interval: interval.0,
        instructions: simulated.instructions,
        reads: simulated.reads,
        writes: simulated.writes,
        changed_pages: simulated.changed_pages,
        state_root: simulated.state_root.to_string(),
        lacked_chunks: simulated.fetched.lacked_chunks,
        fetch_ms: millis(simulated.fetched.took),
        read_back_ms: millis(simulated.read_back),
        memory: simulated.memory.as_ref().map(MemoryUseView::of),
        simulation_ms: millis(simulated.simulation),
        trace_bytes: trace.map(|trace| trace.bytes),
    }))
}
