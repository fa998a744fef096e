//! Working on a lineage's intervals, and where they stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use pageswarm_checkpoint::wire::JOBS_MAX;
use pageswarm_checkpoint::{LineageId, Outcome};
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::server::{Answer, blocking, lineage_id, millis, unknown_lineage};
use super::simulations::MemoryUseView;
use crate::leases::host::verdict;
use crate::leases::{Standing, Summary, Verdict};
use crate::node::Node;
use crate::simulate::{Restore, Tracing};
use crate::work::{self, Until, WorkOptions, Worked};

/// What a worker is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkRequest {
    /// Whose intervals.
    pub lineage: String,
    /// Simulations at a time, from 1 to 64.
    pub jobs: u64,
    /// Whether it ends once every interval recorded so far has a result.
    pub until_done: bool,
    /// How simulations get the RAM that they begin with; all of it comes while the interval before is simulated.
    #[serde(default = "full")]
    pub restore: Restore,
    /// Whether and how their accesses are traced; traces are offered to the swarm.
    #[serde(default)]
    pub tracing: Option<Tracing>,
}

const fn full() -> Restore {
    Restore::Full
}

/// What a worker did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkView {
    /// Results that it published, in the order in which it did.
    pub published: Vec<PublishedView>,
    /// Leases that it gave back, because what they need did not come.
    pub given_back: u64,
}

/// One published result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PublishedView {
    /// Interval k, from checkpoint k to k+1.
    pub interval: u64,
    /// `ended`, or why it failed.
    pub outcome: String,
    /// Instructions, if it ended.
    pub instructions: u64,
    /// From the lease to the first simulated instruction.
    pub lease_to_start_ms: Option<u64>,
    /// How much of that nothing was simulated in its place.
    pub idle_ms: Option<u64>,
    /// The simulation itself.
    pub simulation_ms: u64,
    /// How it used its memory; none where all of it was there before.
    #[serde(default)]
    pub memory: Option<MemoryUseView>,
    /// Bytes of its trace; none if none was taken.
    #[serde(default)]
    pub trace_bytes: Option<u64>,
}

/// Where the intervals of a lineage stand.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StandingsView {
    /// The lineage.
    pub lineage: String,
    /// Whether this node hosts its lease table: only then leases are known here.
    pub is_host: bool,
    /// Intervals recorded so far.
    pub intervals: u64,
    /// Without a result.
    pub open: u64,
    /// With a result that another worker is to confirm.
    pub unconfirmed: u64,
    /// Found exact by one worker.
    pub exact: u64,
    /// Found exact by several.
    pub confirmed: u64,
    /// Found by several to end otherwise.
    pub different: u64,
    /// Found by several to be beyond simulation.
    pub failed: u64,
    /// Of which workers say different things.
    pub disagreed: u64,
    /// Leases under way.
    pub leases: Vec<LeaseView>,
    /// Leases that ended because their worker was silent.
    pub leases_expired: u64,
    /// Leases given because another took long.
    pub leases_hedged: u64,
    /// Those who published results.
    pub workers: Vec<WorkerView>,
}

/// A lease under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseView {
    /// Of which interval.
    pub interval: u64,
    /// Whose.
    pub worker: String,
}

/// What one worker published for a lineage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its name.
    pub worker: String,
    /// All of its results.
    pub results: u64,
    /// Those that say that the interval ends as the next checkpoint.
    pub exact: u64,
    /// Those that say otherwise.
    pub different: u64,
    /// Those that say that it cannot be simulated.
    pub failed: u64,
    /// Instructions that it simulated.
    pub instructions: u64,
    /// Time that its simulations took.
    pub simulation_ms: u64,
    /// Whether a majority said otherwise: then none of its results counts.
    pub is_distrusted: bool,
}

pub(super) fn reading() -> Router<Arc<Node>> {
    Router::new().route("/api/v1/lineages/{lineage}/simulations", get(standings))
}

pub(super) fn changing() -> Router<Arc<Node>> {
    Router::new().route("/api/v1/work", post(work))
}

/// Ends when the work is done, or soon after whoever asked has gone.
async fn work(State(node): State<Arc<Node>>, Json(request): Json<WorkRequest>) -> Answer<WorkView> {
    let id = lineage_id(&request.lineage)?;
    if !(1..=JOBS_MAX).contains(&request.jobs) {
        return Err(ApiError::usage(format!("jobs: from 1 to {JOBS_MAX}")));
    }
    let until = if request.until_done { Until::Done } else { Until::Stopped };
    let options =
        WorkOptions { jobs: request.jobs, restore: request.restore, tracing: request.tracing, until };
    let worked = work::work(&node, id, options).await;
    Ok(Json(work_view(&worked.map_err(|error| ApiError::failed(&error))?)))
}

fn work_view(worked: &Worked) -> WorkView {
    let published = worked.published.iter().map(|published| {
        let (outcome, instructions) = match published.outcome {
            Outcome::Ended { work, .. } => ("ended", work.instructions),
            Outcome::Failed(failure) => (failure.name(), 0),
        };
        PublishedView {
            interval: published.interval.0,
            outcome: outcome.to_owned(),
            instructions,
            lease_to_start_ms: published.lease_to_start.map(millis),
            idle_ms: published.idle.map(millis),
            simulation_ms: millis(published.simulation),
            memory: published.memory.as_ref().map(MemoryUseView::of),
            trace_bytes: published.trace.map(|trace| trace.bytes),
        }
    });
    WorkView { published: published.collect(), given_back: worked.given_back }
}

async fn standings(State(node): State<Arc<Node>>, Path(lineage): Path<String>) -> Answer<StandingsView> {
    let id = lineage_id(&lineage)?;
    blocking(node, move |node| {
        node.lineages.get(&id).ok_or_else(|| unknown_lineage(id))?;
        Ok(standings_view(node, id))
    })
    .await
}

fn standings_view(node: &Node, id: LineageId) -> StandingsView {
    let (summary, is_host) = node.leases.summary(node, id);
    let count = |standing| summary.standings.get(&standing).copied().unwrap_or(0);
    StandingsView {
        lineage: id.to_string(),
        is_host,
        intervals: summary.intervals,
        open: count(Standing::Open),
        unconfirmed: count(Standing::Unconfirmed),
        exact: count(Standing::Exact),
        confirmed: count(Standing::Confirmed),
        different: count(Standing::Different),
        failed: count(Standing::Failed),
        disagreed: count(Standing::Disagreed),
        leases: summary
            .leases
            .iter()
            .map(|(interval, worker)| LeaseView { interval: interval.0, worker: worker.to_string() })
            .collect(),
        leases_expired: summary.expired,
        leases_hedged: summary.hedged,
        workers: worker_views(node, id, &summary),
    }
}

fn worker_views(node: &Node, id: LineageId, summary: &Summary) -> Vec<WorkerView> {
    let mut views = BTreeMap::new();
    for (worker, count) in node.results.counts(&id) {
        let mut view = WorkerView {
            worker: worker.to_string(),
            results: count as u64,
            is_distrusted: summary.liars.contains(&worker),
            ..WorkerView::default()
        };
        for result in (0..count).filter_map(|number| node.results.get(&id, &worker, number)) {
            match verdict(node, &result) {
                Ok(Verdict::Exact) => view.exact += 1,
                Ok(Verdict::Different) => view.different += 1,
                Ok(Verdict::Failed) => view.failed += 1,
                // It is told when the head can be read again.
                Err(error) => tracing::debug!(error = crate::report::chain(&error), "result not judged"),
            }
            if let Outcome::Ended { work, .. } = result.outcome {
                view.instructions = view.instructions.saturating_add(work.instructions);
            }
            view.simulation_ms = view.simulation_ms.saturating_add(result.simulation_ms);
        }
        views.insert(worker, view);
    }
    views.into_values().collect()
}
