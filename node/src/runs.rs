//! Runs that this node asks of others: one stream each, from request to verified chunks in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use pageswarm_checkpoint::wire::{self, Opening, RunAnswer, RunRequest};
use pageswarm_checkpoint::{Birth, ChunkHash, ChunkRef, Decoder, LineageId, NodeId};
use pageswarm_store::{Arrived, ReadError, SharedBytes, Step, VerifiedChunk, WriteError};
use pageswarm_swarm::{BirthSet, Ended, Input, Patience, RequestId, Urgency};
use tokio::time::timeout;

use crate::limits::{RUN_ANSWER_BYTES_MAX, RUN_TIMEOUT};
use crate::lineages::{Lineage, MapError};
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

/// Chunks decoded before the wrong ones among them are dropped.
const DECODED_TOGETHER: usize = 64;

/// What a run's frames held.
#[derive(Debug, Default)]
struct Absorbed {
    arrived: BirthSet,
    /// Encoded bytes of what arrived.
    bytes: u64,
    corrupt: Vec<Birth>,
    deferred: BTreeMap<NodeId, BirthSet>,
    not_held: BirthSet,
    ended: Option<Ended>,
}

/// A chunk as it came.
struct Come {
    birth: Birth,
    base: Option<ChunkRef>,
    steps: Vec<Step<Bytes>>,
}

/// A chunk as it came, with hashes for births.
struct Named {
    birth: Birth,
    expected: ChunkHash,
    base: Option<ChunkHash>,
    /// What this node asked to have it based on.
    own: Option<ChunkHash>,
    steps: Vec<Step<Bytes>>,
}

/// Asks `peer` for the run and tells the engine what came of it.
pub async fn ask(node: Arc<Node>, peer: Arc<Peer>, run: Run) {
    let (id, request, lineage) = (peer.id, run.request, run.lineage);
    let how = match timeout(RUN_TIMEOUT, exchange(&node, &peer, &run)).await {
        Ok(Ok(frames)) => deliver(&node, &peer, run, frames).await,
        Ok(Err(error)) => {
            tracing::debug!(peer = %id.short(), error = crate::report::chain(&error), "run failed");
            Ended::Failed
        }
        Err(_) => Ended::Failed,
    };
    tracing::trace!(peer = %id.short(), lineage = %lineage.short(), ?how, "run ended");
    node.hub.input(Input::RequestEnded { peer: id, request, how }).await;
}

/// Sends the request; the frames that come back, not yet read.
async fn exchange(node: &Node, peer: &Peer, run: &Run) -> Result<Vec<Bytes>, FrameError> {
    let _in_use = peer.use_stream();
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
    let mut frames = Vec::new();
    let mut bytes = 0;
    while let Some(frame) = frames::read(&mut receive).await? {
        bytes += frame.len();
        if bytes > RUN_ANSWER_BYTES_MAX {
            return Err(FrameError::TooLong { length: bytes });
        }
        frames.push(frame.into());
    }
    Ok(frames)
}

async fn deliver(node: &Arc<Node>, peer: &Arc<Peer>, run: Run, frames: Vec<Bytes>) -> Ended {
    let (peer_id, request, lineage) = (peer.id, run.request, run.lineage);
    let Ok(place) = Arc::clone(&node.coding).acquire_owned().await else {
        return Ended::Failed;
    };
    let (absorbing, births) = (Arc::clone(node), run.births.clone());
    let absorbed = tokio::task::spawn_blocking(move || {
        let absorbed = absorb(&absorbing, lineage, &run.births, &frames);
        drop(place);
        absorbed
    });
    let absorbed = match absorbed.await {
        Ok(Ok(absorbed)) => absorbed,
        Ok(Err(error)) => {
            node.note_store_trouble(&error);
            if let AbsorbError::Write(why) = error {
                node.hub.not_stored(lineage, births, why).await;
            }
            return Ended::Served;
        }
        Err(_) => return Ended::Failed,
    };
    for (holder, births) in absorbed.deferred {
        node.hub.input(Input::ChunksDeferred { peer: peer_id, request, lineage, births, holder }).await;
    }
    if !absorbed.not_held.is_empty() {
        let births = absorbed.not_held;
        node.hub.input(Input::ChunksNotHeld { peer: peer_id, request, lineage, births }).await;
    }
    Traffic::add(&peer.traffic.chunks_down, absorbed.bytes);
    if !absorbed.arrived.is_empty() {
        let (births, bytes) = (absorbed.arrived, absorbed.bytes);
        node.hub.input(Input::ChunksArrived { peer: peer_id, request, lineage, births, bytes }).await;
    }
    // Last: the engine cancels the request over it, which ends this task.
    for birth in absorbed.corrupt {
        node.hub.input(Input::ChunkCorrupt { peer: peer_id, request, lineage, birth }).await;
    }
    absorbed.ended.unwrap_or(Ended::Served)
}

/// Reads what came; decodes, hashes and stores the chunks. Nothing that is not its hash enters the store.
fn absorb(node: &Node, id: LineageId, asked: &BirthSet, frames: &[Bytes]) -> Result<Absorbed, AbsorbError> {
    let mut absorbed = Absorbed::default();
    let chunks = absorbed.note_all(asked, frames);
    if chunks.is_empty() {
        return Ok(absorbed);
    }
    let Some(lineage) = node.lineages.get(&id) else {
        return Ok(absorbed);
    };
    let named = identify(node, &lineage, chunks, &mut absorbed)?;
    // What came in one step is kept as it came; only several steps are made into one, on this node's own version.
    let names =
        named.iter().flat_map(|chunk| [chunk.base, chunk.own.filter(|_| chunk.steps.len() > 1)]).flatten();
    let bases = node.recent.read(&node.store, names.collect())?;
    let bytes_of =
        |name: Option<ChunkHash>| name.and_then(|name| bases.get(&name)).map(SharedBytes::verified);
    let mut arrived: Vec<(Birth, Arrived<'_>)> = Vec::with_capacity(named.len());
    for Named { birth, expected, base, own, steps } in named {
        let (stored_on, base_bytes) = (bytes_of(own), bytes_of(base));
        if base.is_some() && base == own && base_bytes.is_none() {
            // The peer did as it was asked; what is not here any more is our own. It is asked for without a base next.
            node.lineages.forget_base(&id, birth);
            continue;
        }
        arrived.push((birth, Arrived { expected, base: base_bytes, steps, stored_on }));
    }
    let (mut verified, mut received) = (Vec::with_capacity(arrived.len()), Vec::with_capacity(arrived.len()));
    let mut decoder = Decoder::new();
    // A part at a time: what turns out wrong must not fill the memory before it is known to be.
    while !arrived.is_empty() {
        let part = arrived.split_off(arrived.len().saturating_sub(DECODED_TOGETHER));
        let (births, part): (Vec<Birth>, Vec<Arrived<'_>>) = part.into_iter().unzip();
        let outcomes = VerifiedChunk::decode_together(&mut decoder, &part);
        for ((birth, chunk), outcome) in births.into_iter().zip(&part).zip(outcomes) {
            match outcome {
                Ok(whole) => {
                    let bytes: usize = chunk.steps.iter().map(|step| step.bytes.len()).sum();
                    absorbed.bytes += bytes as u64;
                    received.push((birth, u32::try_from(bytes).unwrap_or(u32::MAX)));
                    absorbed.arrived.insert(birth);
                    verified.push(whole);
                }
                Err(error) => {
                    tracing::warn!(%birth, %error, "chunk refused");
                    absorbed.corrupt.push(birth);
                }
            }
        }
    }
    // By birth again: neighbours are read together later.
    verified.reverse();
    node.store.put_chunks(&verified)?;
    node.lineages.note_received(id, &received);
    node.recent.add(verified.iter().filter_map(VerifiedChunk::shared).cloned());
    Ok(absorbed)
}

/// Finds the hashes of what came and of its bases. What names no base that is known is corrupt.
fn identify(
    node: &Node,
    lineage: &Lineage,
    chunks: Vec<Come>,
    absorbed: &mut Absorbed,
) -> Result<Vec<Named>, MapError> {
    let births: BirthSet = chunks.iter().map(|chunk| chunk.birth).collect();
    let own: BTreeMap<Birth, ChunkRef> = node
        .lineages
        .with_bases(&lineage.id, &births)
        .into_iter()
        .filter_map(|(birth, base)| Some((birth, base?)))
        .collect();
    let names: Vec<ChunkRef> = chunks
        .iter()
        .flat_map(|chunk| [Some(ChunkRef::own(chunk.birth)), chunk.base, own.get(&chunk.birth).copied()])
        .flatten()
        .collect();
    let hashes = node.lineages.hashes_of(lineage, &names)?;
    let mut hashes = names.into_iter().zip(hashes);
    let mut next = || hashes.next().and_then(|(_, hash)| hash);
    let mut named = Vec::with_capacity(chunks.len());
    for Come { birth, base, steps } in chunks {
        let expected = next();
        let base_hash = base.and_then(|_| next());
        let own = own.get(&birth).and_then(|_| next());
        let is_complete = base.is_none() || base_hash.is_some();
        match expected.filter(|_| is_complete) {
            Some(expected) => named.push(Named { birth, expected, base: base_hash, own, steps }),
            None => absorbed.corrupt.push(birth),
        }
    }
    Ok(named)
}

impl Absorbed {
    /// Notes what the frames say; returns the chunks among it. Each birth asked for is answered once: what was not
    /// asked for, or comes again, ends the reading, so a peer cannot make this node hold more than it asked for.
    fn note_all(&mut self, asked: &BirthSet, frames: &[Bytes]) -> Vec<Come> {
        let mut left = asked.clone();
        let mut chunks = Vec::new();
        for frame in frames {
            let answers = match RunAnswer::decode_frame(frame) {
                Ok(answers) => answers,
                Err(error) => {
                    tracing::debug!(%error, "malformed answer");
                    self.ended = Some(Ended::Failed);
                    return chunks;
                }
            };
            for answer in answers {
                if let Some(birth) = answer.birth().filter(|birth| !left.remove(*birth)) {
                    tracing::warn!(%birth, "answer that was not asked for");
                    self.corrupt.push(birth);
                    self.ended = Some(Ended::Failed);
                    return chunks;
                }
                self.note(answer, frame, &mut chunks);
            }
        }
        chunks
    }

    /// Notes an answer, which is in `frame`; chunks are for later.
    fn note<'frame>(
        &mut self,
        answer: RunAnswer<&'frame [u8]>,
        frame: &'frame Bytes,
        chunks: &mut Vec<Come>,
    ) {
        let part = |step: Step<&'frame [u8]>| step.map_bytes(|bytes| frame.slice_ref(bytes));
        match answer {
            RunAnswer::Chunk { birth, chunk } => {
                let base = chunk.encoding.base().copied();
                let step = chunk.rename_base(|_| Some(()));
                chunks.push(Come { birth, base, steps: step.into_iter().map(part).collect() });
            }
            RunAnswer::Steps { birth, base, steps } => {
                chunks.push(Come { birth, base, steps: steps.into_iter().map(part).collect() });
            }
            RunAnswer::NotHeld { birth } => {
                self.not_held.insert(birth);
            }
            RunAnswer::Deferred { birth, holder } => {
                self.deferred.entry(holder).or_default().insert(birth);
            }
            RunAnswer::Refused { why } => {
                self.ended = Some(match why {
                    wire::Refusal::Busy => Ended::Busy,
                    wire::Refusal::NotAllowed => Ended::NotAllowed,
                    wire::Refusal::Unreasonable => Ended::Failed,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(births: &[u64]) -> Vec<u8> {
        let mut frame = vec![];
        for birth in births {
            RunAnswer::<&[u8]>::NotHeld { birth: Birth(*birth) }.encode_to(&mut frame);
        }
        frame
    }

    #[test]
    fn a_birth_is_answered_once_and_only_if_it_was_asked_for() {
        let asked: BirthSet = [1, 2, 3].into_iter().map(Birth).collect();
        for (answered, refused) in [(vec![1, 2, 3], None), (vec![1, 1, 2], Some(1)), (vec![2, 9, 3], Some(9))]
        {
            let mut absorbed = Absorbed::default();
            absorbed.note_all(&asked, &[frame(&answered).into()]);
            assert_eq!(absorbed.corrupt, refused.into_iter().map(Birth).collect::<Vec<_>>());
            assert_eq!(absorbed.ended, refused.map(|_| Ended::Failed));
            // What came before it counts, what came after does not.
            assert_eq!(absorbed.not_held.len(), if refused.is_some() { 1 } else { 3 });
        }
    }
}
