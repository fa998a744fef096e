//! Traces that workers offer: which there are, and fetching one from whoever has its chunks.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pageswarm_checkpoint::{ArtefactPlace, BlobKind, CheckpointIndex, ChunkHash, LineageId, NodeId, Trace};
use pageswarm_sim::trace::TraceSubject;
use pageswarm_store::ReadError;
use tempfile::NamedTempFile;

use crate::fetch::{self, FetchError};
use crate::lineages::MapError;
use crate::node::Node;

/// A trace that a worker's result names.
#[derive(Clone, Debug)]
pub struct OfferedTrace {
    /// Interval k, from checkpoint k to k+1.
    pub interval: CheckpointIndex,
    /// Who took it.
    pub worker: NodeId,
    /// What its result says of it.
    pub trace: Trace,
    /// Options of the simulation.
    pub options: Vec<u8>,
}

/// Why a trace was not fetched. No file was written.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The lineage, or the worker's.
    #[error("map")]
    Map(#[from] MapError),
    /// Nobody offers one.
    #[error(
        "no result of interval {interval} that is known here names a trace: `sim run --publish --trace` on a worker takes one"
    )]
    NotOffered {
        /// Of which interval.
        interval: CheckpointIndex,
    },
    /// It did not come.
    #[error("trace of interval {interval}")]
    Fetch {
        /// Of which interval.
        interval: CheckpointIndex,
        /// Why.
        source: FetchError,
    },
    /// It is not what the result says.
    #[error("what worker {} offers as its trace of interval {interval} is not what its result names", worker.short())]
    Other {
        /// Of which interval.
        interval: CheckpointIndex,
        /// Whose.
        worker: NodeId,
    },
    /// The store cannot be read.
    #[error("store")]
    Read(#[from] ReadError),
    /// The file cannot be written.
    #[error("{} cannot be written", path.display())]
    Output {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The node could not finish its own work.
    #[error("node is ending")]
    Ending,
}

/// A trace that was fetched and written.
#[derive(Clone, Debug)]
pub struct FetchedTrace {
    /// Which.
    pub offered: OfferedTrace,
    /// Chunks that were not here before.
    pub lacked_chunks: u64,
    /// From the wish to the last chunk.
    pub took: Duration,
}

/// The traces of a lineage's intervals that the results known here name and their workers offer, by interval and worker.
#[must_use]
pub fn offered(node: &Node, lineage: LineageId) -> Vec<OfferedTrace> {
    let mut offered = Vec::new();
    for (worker, count) in node.results.counts(&lineage) {
        for result in (0..count).filter_map(|number| node.results.get(&lineage, &worker, number)) {
            if let Some(trace) = result.trace.filter(|trace| trace.place.is_some()) {
                offered.push(OfferedTrace {
                    interval: result.interval,
                    worker,
                    trace,
                    options: result.options,
                });
            }
        }
    }
    offered.sort_by_key(|trace| (trace.interval, trace.worker));
    offered
}

/// Fetches a trace of an interval, from one worker or from any, and writes it to a file once it is found to be what its
/// result names and of this interval.
///
/// # Errors
///
/// [`TraceError`]; of several offers, what became of the last.
pub async fn fetch(
    node: &Arc<Node>,
    (lineage, interval): (LineageId, CheckpointIndex),
    worker: Option<NodeId>,
    output: &Path,
    patience: Duration,
) -> Result<FetchedTrace, TraceError> {
    if node.lineages.get(&lineage).is_none() {
        return Err(MapError::UnknownLineage(lineage).into());
    }
    let mut offers = offered(node, lineage);
    offers.retain(|offer| offer.interval == interval && worker.is_none_or(|worker| offer.worker == worker));
    let mut failure = TraceError::NotOffered { interval };
    for offer in offers {
        match fetch_one(node, lineage, offer, output, patience).await {
            // Another worker's may be good.
            Err(
                error @ (TraceError::Fetch { .. }
                | TraceError::Other { .. }
                | TraceError::Map(_)
                | TraceError::Read(_)),
            ) => failure = error,
            done => return done,
        }
    }
    Err(failure)
}

async fn fetch_one(
    node: &Arc<Node>,
    lineage: LineageId,
    offered: OfferedTrace,
    output: &Path,
    patience: Duration,
) -> Result<FetchedTrace, TraceError> {
    let (interval, worker) = (offered.interval, offered.worker);
    let Some(place) = offered.trace.place else {
        return Err(TraceError::NotOffered { interval });
    };
    let failed = |source| TraceError::Fetch { interval, source };
    let start = Instant::now();
    fetch::wait_announced(node, place.lineage, place.index, patience).await.map_err(failed)?;
    let is_its_own = node
        .lineages
        .get(&place.lineage)
        .is_some_and(|artefacts| artefacts.genesis.writer == worker && artefacts.genesis.is_of_artefacts());
    if !is_its_own {
        return Err(TraceError::Other { interval, worker });
    }
    let looking = Arc::clone(node);
    let (known, offered) = tokio::task::spawn_blocking(move || {
        let known = chunks_of(&looking, place, &offered);
        (known, offered)
    })
    .await
    .map_err(|_| TraceError::Ending)?;
    known?;
    let plan = fetch::Plan::of_checkpoint(node, place.lineage, place.index).await.map_err(failed)?;
    let lacked_chunks = plan.lacked_chunks();
    let carried = tokio::time::timeout(patience, plan.carry_out(node)).await;
    let late = |_| FetchError::StateLate { lineage: place.lineage, index: place.index, waited: patience };
    carried.map_err(late).and_then(|carried| carried).map_err(failed)?;
    let took = start.elapsed();
    let (writing, output) = (Arc::clone(node), output.to_owned());
    let written = tokio::task::spawn_blocking(move || {
        let subject = subject_of(&writing, lineage, interval)?;
        write(&writing, (place, &offered), &subject, &output)?;
        Ok(FetchedTrace { offered, lacked_chunks, took })
    });
    written.await.map_err(|_| TraceError::Ending)?
}

/// What a trace of an interval is of.
fn subject_of(
    node: &Node,
    lineage: LineageId,
    interval: CheckpointIndex,
) -> Result<TraceSubject, TraceError> {
    let head = node.lineages.head(&lineage, interval).map_err(|error| MapError::from(Box::new(error)))?;
    let head = head.ok_or(MapError::UnknownCheckpoint { lineage, index: interval })?;
    Ok(TraceSubject { lineage, interval, input_root: head.state_root })
}

/// The chunks that a trace is made of, if all of them together are as long as its result says and nothing is beside it.
fn chunks_of(
    node: &Node,
    place: ArtefactPlace,
    offered: &OfferedTrace,
) -> Result<Vec<ChunkHash>, TraceError> {
    let mut map = node.lineages.map_at(&place.lineage, place.index)?;
    let chunks = map.blobs.remove(&BlobKind::Trace).map_or_else(Vec::new, |blob| blob.chunks);
    let stated: u64 = chunks.iter().map(|(.., length)| u64::from(*length)).sum();
    if stated != offered.trace.bytes || !map.blobs.is_empty() {
        return Err(TraceError::Other { interval: offered.interval, worker: offered.worker });
    }
    Ok(chunks.into_iter().map(|(_, hash, _)| hash).collect())
}

/// Writes the trace beside `output` and, once it is proven, in its place.
fn write(
    node: &Node,
    (place, offered): (ArtefactPlace, &OfferedTrace),
    subject: &TraceSubject,
    output: &Path,
) -> Result<(), TraceError> {
    let other = || TraceError::Other { interval: offered.interval, worker: offered.worker };
    let failed = |source| TraceError::Output { path: output.to_owned(), source };
    let directory = output.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let part = NamedTempFile::with_prefix_in(".trace-", directory).map_err(failed)?;
    let (mut digest, mut bytes) = (blake3::Hasher::new(), 0);
    let mut file = BufWriter::new(part);
    for hash in chunks_of(node, place, offered)? {
        let chunk = node.store.read_chunk(hash)?.ok_or_else(other)?;
        bytes += chunk.len() as u64;
        if bytes > offered.trace.bytes {
            return Err(other());
        }
        digest.update(&chunk);
        file.write_all(&chunk).map_err(failed)?;
    }
    let part = file.into_inner().map_err(|error| failed(error.into_error()))?;
    if bytes != offered.trace.bytes || digest.finalize() != offered.trace.digest {
        return Err(other());
    }
    let reopened = File::open(part.path()).map_err(failed)?;
    let trace = pageswarm_sim::trace::Trace::open(reopened).map_err(|_| other())?;
    if trace.header().subject != *subject {
        return Err(other());
    }
    part.as_file().sync_all().map_err(failed)?;
    part.persist(output).map(drop).map_err(|error| failed(error.error))
}
