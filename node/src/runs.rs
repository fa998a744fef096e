//! Runs that this node asks of others: one stream each, from request to verified chunks in the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pageswarm_checkpoint::wire::{self, Opening, RunAnswer, RunRequest};
use pageswarm_checkpoint::{Birth, ChunkHash, ChunkRef, Decoder, EncodedChunk, Encoding, LineageId, NodeId};
use pageswarm_store::{ReadError, SharedBytes, VerifiedChunk, WriteError};
use pageswarm_swarm::{BirthSet, Ended, Input, Patience, RequestId, Urgency};
use tokio::time::timeout;

use crate::limits::{RUN_ANSWER_BYTES_MAX, RUN_TIMEOUT};
use crate::lineages::{MapError, lineage_of};
use crate::node::Node;
use crate::peers::{Peer, Traffic};
use crate::transport::frames::{self, FrameError};

/// What the engine asks a peer for.
#[derive(Debug)]
pub struct Run {
    /// The engine's number for it.
    pub request: RequestId,
    /// Whose chunks.
    pub lineage: LineageId,
    /// Which.
    pub births: BirthSet,
    /// How urgently.
    pub urgency: Urgency,
    /// Whether the peer may send us elsewhere.
    pub patience: Patience,
}

/// Why arrived chunks cannot be kept, through no fault of the peer.
#[derive(Debug, thiserror::Error)]
enum AbsorbError {
    #[error("births")]
    Map(#[from] MapError),
    #[error("store")]
    Read(#[from] ReadError),
    #[error("store")]
    Write(#[from] WriteError),
}

#[derive(Debug, Default)]
struct Answers {
    chunks: Vec<(Birth, EncodedChunk<ChunkRef>)>,
    deferred: BTreeMap<NodeId, BirthSet>,
    not_held: BirthSet,
    ended: Option<Ended>,
}

#[derive(Debug, Default)]
struct Absorbed {
    arrived: BirthSet,
    bytes: u64,
    corrupt: Vec<Birth>,
}

/// Asks `peer` for the run and tells the engine what came of it.
pub async fn ask(node: Arc<Node>, peer: Arc<Peer>, run: Run) {
    let (id, request, lineage) = (peer.id, run.request, run.lineage);
    let how = match timeout(RUN_TIMEOUT, exchange(&node, &peer, &run)).await {
        Ok(Ok(answers)) => {
            let how = answers.ended.unwrap_or(Ended::Served);
            deliver(&node, &peer, run, answers).await;
            how
        }
        Ok(Err(error)) => {
            tracing::debug!(peer = %id.short(), error = crate::report::chain(&error), "run failed");
            Ended::Failed
        }
        Err(_) => Ended::Failed,
    };
    tracing::trace!(peer = %id.short(), lineage = %lineage.short(), ?how, "run ended");
    node.hub.input(Input::RequestEnded { peer: id, request, how }).await;
}

async fn exchange(node: &Node, peer: &Peer, run: &Run) -> Result<Answers, FrameError> {
    let stream = peer.connection.open_bi().await;
    let (mut send, mut receive) = stream.map_err(|error| FrameError::Write(error.into()))?;
    let chunks = node.lineages.with_bases(&run.lineage, &run.births);
    let request = RunRequest {
        lineage: run.lineage,
        urgency: match run.urgency {
            Urgency::Fault => wire::Urgency::Fault,
            Urgency::Deadline => wire::Urgency::Deadline,
            Urgency::Normal => wire::Urgency::Normal,
        },
        patience: match run.patience {
            Patience::MayDefer => wire::Patience::MayDefer,
            Patience::Insist => wire::Patience::Insist,
        },
        chunks,
    };
    frames::write(&mut send, &Opening::Run(request).encode()).await?;
    let mut answers = Answers::default();
    let mut bytes = 0;
    while let Some(frame) = frames::read(&mut receive).await? {
        bytes += frame.len();
        if bytes > RUN_ANSWER_BYTES_MAX {
            return Err(FrameError::TooLong { length: bytes });
        }
        match RunAnswer::decode(&frame)? {
            RunAnswer::Chunk { birth, chunk } => answers.chunks.push((birth, chunk)),
            RunAnswer::NotHeld { birth } => {
                answers.not_held.insert(birth);
            }
            RunAnswer::Deferred { birth, holder } => {
                answers.deferred.entry(holder).or_default().insert(birth);
            }
            RunAnswer::Refused { why } => {
                answers.ended = Some(match why {
                    wire::Refusal::Busy => Ended::Busy,
                    wire::Refusal::NotAllowed => Ended::NotAllowed,
                    wire::Refusal::Unreasonable => Ended::Failed,
                });
            }
        }
    }
    Ok(answers)
}

async fn deliver(node: &Arc<Node>, peer: &Arc<Peer>, run: Run, answers: Answers) {
    let (peer_id, request, lineage) = (peer.id, run.request, run.lineage);
    for (holder, births) in answers.deferred {
        node.hub.input(Input::ChunksDeferred { peer: peer_id, request, lineage, births, holder }).await;
    }
    if !answers.not_held.is_empty() {
        let births = answers.not_held;
        node.hub.input(Input::ChunksNotHeld { peer: peer_id, request, lineage, births }).await;
    }
    if answers.chunks.is_empty() {
        return;
    }
    let Ok(place) = Arc::clone(&node.coding).acquire_owned().await else {
        return;
    };
    let absorbing = Arc::clone(node);
    let absorbed = tokio::task::spawn_blocking(move || {
        let absorbed = absorb(&absorbing, lineage, &run.births, answers.chunks);
        drop(place);
        absorbed
    });
    let absorbed = match absorbed.await {
        Ok(Ok(absorbed)) => absorbed,
        Ok(Err(error)) => {
            node.note_store_trouble(&error);
            return;
        }
        Err(_) => return,
    };
    Traffic::add(&peer.traffic.chunks_down, absorbed.bytes);
    for birth in absorbed.corrupt {
        node.hub.input(Input::ChunkCorrupt { peer: peer_id, request, lineage, birth }).await;
    }
    if !absorbed.arrived.is_empty() {
        let Absorbed { arrived: births, bytes, .. } = absorbed;
        node.hub.input(Input::ChunksArrived { peer: peer_id, request, lineage, births, bytes }).await;
    }
}

/// Decodes, hashes and stores what came. Nothing that is not its hash enters the store.
fn absorb(
    node: &Node,
    id: LineageId,
    asked: &BirthSet,
    chunks: Vec<(Birth, EncodedChunk<ChunkRef>)>,
) -> Result<Absorbed, AbsorbError> {
    let mut absorbed = Absorbed::default();
    let Some(lineage) = node.lineages.get(&id) else {
        return Ok(absorbed);
    };
    let births: Vec<Birth> = chunks.iter().map(|(birth, _)| *birth).collect();
    let hashes = node.lineages.hashes(id, &births)?;
    let mut wanted = Vec::new();
    for ((birth, chunk), expected) in chunks.into_iter().zip(hashes) {
        let named = chunk.rename_base(|base| {
            lineage_of(&lineage, base)?;
            node.lineages.hash_of(&lineage, base)
        });
        match (named, expected) {
            (Some(chunk), Some(expected)) if asked.contains(birth) => {
                wanted.push((birth, expected, chunk));
            }
            _ => absorbed.corrupt.push(birth),
        }
    }
    let bases = read_bases(node, &wanted)?;
    let mut decoder = Decoder::new();
    let mut verified = Vec::with_capacity(wanted.len());
    let mut arrived = Vec::with_capacity(wanted.len());
    for (birth, expected, chunk) in wanted {
        let bytes = chunk.bytes.len() as u64;
        let base = match chunk.encoding {
            Encoding::Patch { base } => bases.get(&base).map(SharedBytes::verified),
            Encoding::Raw | Encoding::Zstd => None,
        };
        match VerifiedChunk::decode(&mut decoder, expected, chunk, base) {
            Ok(chunk) => {
                absorbed.bytes += bytes;
                verified.push(chunk);
                arrived.push(birth);
            }
            Err(error) => {
                tracing::warn!(%birth, %error, "chunk refused");
                absorbed.corrupt.push(birth);
            }
        }
    }
    node.store.put_chunks(&verified)?;
    node.recent.add(verified.iter().map(|chunk| chunk.shared().clone()));
    arrived.sort_unstable();
    arrived.into_iter().for_each(|birth| {
        absorbed.arrived.insert(birth);
    });
    Ok(absorbed)
}

type Wanted = (Birth, ChunkHash, EncodedChunk<ChunkHash>);

fn read_bases(node: &Node, wanted: &[Wanted]) -> Result<HashMap<ChunkHash, SharedBytes>, ReadError> {
    let base = |(_, _, chunk): &Wanted| match chunk.encoding {
        Encoding::Patch { base } => Some(base),
        Encoding::Raw | Encoding::Zstd => None,
    };
    node.recent.read(&node.store, wanted.iter().filter_map(base).collect())
}
