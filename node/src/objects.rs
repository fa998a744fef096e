//! Metadata objects over the data plane: genesis records, certificates, heads, deltas, keyframes.

use std::sync::Arc;
use std::time::Instant;

use pageswarm_checkpoint::NodeId;
use pageswarm_checkpoint::wire::{ObjectAnswer, ObjectRequest, Opening};
use quinn::{RecvStream, SendStream};
use tokio::time::timeout;

use crate::limits::{OBJECT_BYTES_MAX, OBJECT_PATIENCE, OBJECT_TIMEOUT, RESULT_LIST_TIMEOUT};
use crate::node::Node;
use crate::peers::Peer;
use crate::transport::frames::{self, FrameError};

/// Answers a peer's request. A node that knows that the object will come soon lets the peer wait for it: so an
/// object travels down a tree of nodes instead of from its writer to everyone.
pub async fn answer(node: &Arc<Node>, peer: &Peer, request: ObjectRequest, mut send: SendStream) {
    let start = Instant::now();
    let found = loop {
        let changed = node.lineages.changed();
        let looking = Arc::clone(node);
        let found = tokio::task::spawn_blocking(move || match request {
            ObjectRequest::Results { lineage, worker, from } => {
                Ok(looking.results.object(lineage, worker, from)?)
            }
            of_lineage => looking.lineages.object(&of_lineage),
        });
        let found = found.await;
        let patience = OBJECT_PATIENCE.saturating_sub(start.elapsed());
        match found {
            Ok(Ok(Some(bytes))) => break Some(bytes),
            Ok(Ok(None)) if node.lineages.expects(&request) && !patience.is_zero() => {
                if timeout(patience, changed).await.is_err() {
                    break None;
                }
            }
            Ok(Err(error)) => {
                tracing::warn!(error = crate::report::chain(&error), "object cannot be read");
                break None;
            }
            _ => break None,
        }
    };
    let length = found.as_ref().map_or(0, Vec::len);
    let written = match found {
        Some(bytes) => write_answer(&mut send, Ok(bytes)).await,
        None => frames::write(&mut send, &ObjectAnswer::NotHeld.encode()).await,
    };
    match written {
        Ok(()) => peer.count_metadata_sent(length as u64),
        Err(error) => tracing::debug!(%error, "object not sent"),
    }
}

/// Writes an object, or why there is none.
///
/// # Errors
///
/// [`FrameError`].
pub async fn write_answer(send: &mut SendStream, object: Result<Vec<u8>, String>) -> Result<(), FrameError> {
    match object {
        Ok(bytes) => {
            frames::write(send, &ObjectAnswer::Found { length: bytes.len() as u64 }.encode()).await?;
            send.write_all(&bytes).await?;
        }
        Err(why) => frames::write(send, &ObjectAnswer::Refused { why }.encode()).await?,
    }
    // The stream may be gone already; then there is nobody to tell.
    let _gone = send.finish();
    Ok(())
}

/// Reads an object of at most `bytes_max` bytes, or why there is none.
///
/// # Errors
///
/// [`FrameError`].
pub async fn read_answer(
    receive: &mut RecvStream,
    bytes_max: u64,
) -> Result<Result<Vec<u8>, String>, FrameError> {
    let Some(frame) = frames::read(receive).await? else {
        return Ok(Err("no answer".to_owned()));
    };
    let length = match ObjectAnswer::decode(&frame)? {
        ObjectAnswer::Found { length } => length,
        ObjectAnswer::NotHeld => return Ok(Err("not held".to_owned())),
        ObjectAnswer::Refused { why } => return Ok(Err(why)),
    };
    let length = usize::try_from(length.min(bytes_max.saturating_add(1))).unwrap_or(usize::MAX);
    if length as u64 > bytes_max {
        return Err(FrameError::TooLong { length });
    }
    // Grows with what arrives, not with what was promised.
    let mut bytes = Vec::new();
    while bytes.len() < length {
        match receive.read_chunk(length - bytes.len(), true).await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk.bytes),
            Ok(None) => return Err(quinn::ReadExactError::FinishedEarly(bytes.len()).into()),
            Err(error) => return Err(quinn::ReadExactError::ReadError(error).into()),
        }
    }
    Ok(Ok(bytes))
}

/// Asks one peer; `None` if it does not have the object or does not answer.
pub async fn ask(peer: &Peer, request: ObjectRequest, bytes_max: u64) -> Option<Vec<u8>> {
    let _in_use = peer.use_stream();
    let asked = async {
        let (mut send, mut receive) = peer.connection.open_bi().await.ok()?;
        send.set_priority(2).ok()?;
        frames::write(&mut send, &Opening::Object(request).encode()).await.ok()?;
        read_answer(&mut receive, bytes_max.min(OBJECT_BYTES_MAX)).await.ok()?.ok()
    };
    let patience = match request {
        ObjectRequest::Results { .. } => RESULT_LIST_TIMEOUT,
        _ => OBJECT_TIMEOUT,
    };
    let bytes = timeout(patience, asked).await.ok().flatten()?;
    peer.count_metadata_received(bytes.len() as u64);
    Some(bytes)
}

/// Asks peers until one gives what `accept` takes: first the parent in the object's tree, then the writer, then
/// everyone else. The tree is a binary heap over the followers in an order that the object's name gives.
pub async fn ask_around<T>(
    node: &Node,
    request: ObjectRequest,
    writer: Option<NodeId>,
    bytes_max: u64,
    accept: impl Fn(Vec<u8>) -> Option<T>,
) -> Option<T> {
    for peer in order(node, request, writer) {
        if let Some(object) = ask(&peer, request, bytes_max).await.and_then(&accept) {
            return Some(object);
        }
    }
    None
}

fn order(node: &Node, request: ObjectRequest, writer: Option<NodeId>) -> Vec<Arc<Peer>> {
    let name = Opening::Object(request).encode();
    let rank = |id: &NodeId| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&name).update(id.as_bytes());
        *hasher.finalize().as_bytes()
    };
    let (writers, mut others): (Vec<_>, Vec<_>) =
        node.peers.all().into_iter().partition(|peer| Some(peer.id) == writer);
    others.retain(|peer| peer.follows(&request.lineage()));
    others.sort_by_cached_key(|peer| rank(&peer.id));
    let mine = rank(&node.id);
    let place = others.partition_point(|peer| rank(&peer.id) < mine);
    let parent = place.checked_sub(1).map(|above| above / 2);
    let mut ordered = Vec::with_capacity(others.len() + 1);
    if let Some(parent) = parent.filter(|parent| *parent < others.len()) {
        ordered.push(others.remove(parent));
    }
    ordered.extend(writers);
    ordered.extend(others);
    ordered
}
