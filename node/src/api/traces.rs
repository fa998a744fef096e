//! Traces that workers offer.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use pageswarm_checkpoint::{CheckpointIndex, NodeId};
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::server::{Answer, blocking, lineage_id, millis, patience_of, unknown_lineage};
use crate::node::Node;
use crate::traces::{self, OfferedTrace};

/// A trace to be fetched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TraceRequest {
    /// Whose interval.
    pub lineage: String,
    /// Interval k, from checkpoint k to k+1.
    pub interval: u64,
    /// The file to write, from the node's point of view.
    pub output: PathBuf,
    /// The worker whose trace it is to be; any, if none is named.
    #[serde(default)]
    pub worker: Option<String>,
    /// How long to wait for it, in milliseconds.
    #[serde(default)]
    pub patience_ms: Option<u64>,
}

/// A trace that a worker offers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TraceView {
    /// Interval k, from checkpoint k to k+1.
    pub interval: u64,
    /// Who took it.
    pub worker: String,
    /// What of the interval is in it, as the worker says.
    pub options: String,
    /// BLAKE3-256 of the file.
    pub digest: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// The worker's lineage that has it.
    pub artefacts: String,
    /// The checkpoint of that.
    pub index: u64,
}

/// A trace that was fetched and written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FetchedTraceView {
    /// Which.
    pub trace: TraceView,
    /// Chunks that were not here before.
    pub lacked_chunks: u64,
    /// From the wish to the last chunk.
    pub fetch_ms: u64,
}

pub(super) fn reading() -> Router<Arc<Node>> {
    Router::new().route("/api/v1/lineages/{lineage}/traces", get(list))
}

pub(super) fn changing() -> Router<Arc<Node>> {
    Router::new().route("/api/v1/traces/fetch", post(fetch))
}

async fn list(State(node): State<Arc<Node>>, Path(lineage): Path<String>) -> Answer<Vec<TraceView>> {
    let id = lineage_id(&lineage)?;
    blocking(node, move |node| {
        node.lineages.get(&id).ok_or_else(|| unknown_lineage(id))?;
        Ok(traces::offered(node, id).iter().filter_map(view).collect())
    })
    .await
}

async fn fetch(State(node): State<Arc<Node>>, Json(request): Json<TraceRequest>) -> Answer<FetchedTraceView> {
    let (id, interval) = (lineage_id(&request.lineage)?, CheckpointIndex(request.interval));
    let worker: Option<NodeId> = match request.worker.map(|worker| worker.parse()) {
        None => None,
        Some(Ok(worker)) => Some(worker),
        Some(Err(_)) => return Err(ApiError::usage("worker: the name of a node, 64 hexadecimal digits")),
    };
    let patience = patience_of(request.patience_ms);
    let fetched = traces::fetch(&node, (id, interval), worker, &request.output, patience).await;
    let fetched = fetched.map_err(|error| ApiError::failed(&error))?;
    let trace = view(&fetched.offered).ok_or_else(|| ApiError::not_found("the trace is offered no more"))?;
    Ok(Json(FetchedTraceView { trace, lacked_chunks: fetched.lacked_chunks, fetch_ms: millis(fetched.took) }))
}

fn view(offered: &OfferedTrace) -> Option<TraceView> {
    let place = offered.trace.place?;
    Some(TraceView {
        interval: offered.interval.0,
        worker: offered.worker.to_string(),
        // A worker can sign any bytes here.
        options: String::from_utf8_lossy(&offered.options).escape_debug().to_string(),
        digest: hex::encode(offered.trace.digest),
        bytes: offered.trace.bytes,
        artefacts: place.lineage.to_string(),
        index: place.index.0,
    })
}
