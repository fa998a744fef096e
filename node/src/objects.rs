//! Metadata objects over the data plane: genesis records, certificates, heads, deltas, keyframes.

use std::sync::Arc;
use std::time::Instant;

use pageswarm_checkpoint::wire::{ObjectAnswer, ObjectRequest, Opening};
use pageswarm_checkpoint::{CheckpointIndex, LineageId, NodeId, ObjectName, object_hash};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::time::{sleep, timeout};

use crate::arrivals::{Arrival, PassOnError, Passage};
use crate::limits::{
    DELTA_SILENCE, OBJECT_BYTES_MAX, OBJECT_PATIENCE, OBJECT_TIMEOUT, RESULT_LIST_TIMEOUT, object_timeout,
};
use crate::node::Node;
use crate::peers::Peer;
use crate::transport::frames::{self, FrameError};

/// Answers a peer's request. A node that knows that the object will come soon lets the peer wait for it, and gives on a
/// delta while it still comes: so an object travels down a tree of nodes instead of from its writer to everyone.
pub async fn answer(node: &Arc<Node>, peer: &Peer, request: ObjectRequest, mut send: SendStream) {
    // Before chunks: nothing of a checkpoint can be asked for without its delta. The stream may be gone already.
    let _gone = send.set_priority(PRIORITY);
    let found = find(node, request).await;
    let length = match &found {
        Some(Found::Here(bytes)) => bytes.len() as u64,
        Some(Found::OnItsWay(passage)) => passage.length(),
        None => 0,
    };
    let written = async {
        match found {
            Some(Found::Here(bytes)) => {
                write_answer(&mut send, Ok(bytes)).await?;
                peer.count_metadata_sent(length);
            }
            Some(Found::OnItsWay(passage)) => {
                passage.pass_on(&mut send, |bytes| peer.count_metadata_sent(bytes as u64)).await?;
                let _gone = send.finish();
            }
            None => frames::write(&mut send, &ObjectAnswer::NotHeld.encode()).await?,
        }
        Ok::<_, PassOnError>(())
    };
    match timeout(object_timeout(length), written).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => tracing::debug!(error = crate::report::chain(&error), "object not sent"),
        Err(_) => tracing::debug!("object not read"),
    }
    // Without this the stream would end as if all were said.
    let _gone = send.reset(ABANDONED);
}

/// Of streams on which objects travel.
const PRIORITY: i32 = 2;
/// Ends a stream whose answer is not whole.
const ABANDONED: VarInt = VarInt::from_u32(1);

/// An object that is asked for.
enum Found {
    Here(Vec<u8>),
    OnItsWay(Passage),
}

/// The object, as soon as there is something of it, if it is expected soon.
async fn find(node: &Arc<Node>, request: ObjectRequest) -> Option<Found> {
    let start = Instant::now();
    loop {
        let (changed, begun) = (node.lineages.changed(), node.arrivals.changed());
        if let Some(passage) = node.arrivals.get(&request) {
            return Some(Found::OnItsWay(passage));
        }
        let looking = Arc::clone(node);
        let found = tokio::task::spawn_blocking(move || match request {
            ObjectRequest::Results { lineage, worker, from } => {
                Ok(looking.results.object(lineage, worker, from)?)
            }
            of_lineage => looking.lineages.object(&of_lineage),
        });
        match found.await {
            Ok(Ok(Some(bytes))) => return Some(Found::Here(bytes)),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::warn!(error = crate::report::chain(&error), "object cannot be read");
                return None;
            }
            Err(_) => return None,
        }
        let patience = OBJECT_PATIENCE.saturating_sub(start.elapsed());
        if patience.is_zero() || !expects(node, &request) {
            return None;
        }
        tokio::select! {
            () = changed => {}
            () = begun => {}
            () = sleep(patience) => {}
        }
    }
}

/// Whether the object is likely to be here soon.
fn expects(node: &Node, request: &ObjectRequest) -> bool {
    let lineage = request.lineage();
    let is_unknown = node.lineages.get(&lineage).is_none() && !node.lineages.is_refused(&lineage);
    let may_come = is_unknown && matches!(request, ObjectRequest::Delta(..));
    node.lineages.expects(request) || (may_come && node.learning.try_lock().is_err())
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
        send.set_priority(PRIORITY).ok()?;
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

/// Why nobody gave a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotGiven {
    /// Nobody has it now.
    NotThere,
    /// What the writer gave is not what its head names.
    Wrong,
}

/// Asks around for the delta that a head names. What the first one that answers gives is passed on while it comes.
///
/// # Errors
///
/// [`NotGiven`].
pub async fn ask_for_delta<'a>(
    node: &'a Node,
    (lineage, index): (LineageId, CheckpointIndex),
    name: ObjectName,
) -> Result<(Vec<u8>, Arrival<'a>), NotGiven> {
    let length = usize::try_from(name.length).ok().filter(|_| name.length <= OBJECT_BYTES_MAX);
    let length = length.ok_or(NotGiven::Wrong)?;
    let request = ObjectRequest::Delta(lineage, index);
    let writer = node.lineages.writer(&lineage);
    let (mut not_given, mut is_first) = (NotGiven::NotThere, true);
    for peer in order(node, request, writer) {
        let _in_use = peer.use_stream();
        let Some(mut receive) = ask_for_object(&peer, request, name.length).await else {
            continue;
        };
        let mut arrival = match std::mem::replace(&mut is_first, false) {
            true => node.arrivals.begin(lineage, index, length),
            false => node.arrivals.begin_unseen(lineage, index, length),
        };
        let receiving = async {
            while arrival.left() > 0 {
                let part = timeout(DELTA_SILENCE, receive.read_chunk(arrival.left(), true)).await;
                let part = part.ok()?.ok()??;
                peer.count_metadata_received(part.bytes.len() as u64);
                arrival.add(&part.bytes).then_some(())?;
            }
            Some(arrival.seen())
        };
        let Some(seen) = timeout(object_timeout(name.length), receiving).await.ok().flatten() else {
            continue;
        };
        let hashed = tokio::task::spawn_blocking(move || {
            let delta = seen.whole();
            (object_hash(&delta), delta)
        });
        match hashed.await {
            Ok((hash, delta)) if hash == name.hash => {
                arrival.prove();
                return Ok((delta, arrival));
            }
            _ => tracing::warn!(peer = %peer.id.short(), lineage = %lineage.short(), "wrong delta"),
        }
        // What another says must not keep this node from asking the writer again soon.
        if writer == Some(peer.id) {
            not_given = NotGiven::Wrong;
        }
    }
    Err(not_given)
}

/// Asks one peer for an object of that length; the stream on which it comes, if the peer has it.
async fn ask_for_object(peer: &Peer, request: ObjectRequest, length: u64) -> Option<RecvStream> {
    let asked = async {
        let (mut send, mut receive) = peer.connection.open_bi().await.ok()?;
        send.set_priority(PRIORITY).ok()?;
        frames::write(&mut send, &Opening::Object(request).encode()).await.ok()?;
        let frame = frames::read(&mut receive).await.ok()??;
        (ObjectAnswer::decode(&frame) == Ok(ObjectAnswer::Found { length })).then_some(receive)
    };
    timeout(DELTA_SILENCE, asked).await.ok().flatten()
}

/// Asks peers until one gives what `accept` takes: first the parent in the object's tree, then the writer, then
/// everyone else.
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

/// Whom to ask for an object. Its tree is a binary heap below the writer, over the members in an order that the object's
/// name gives: where all are connected, each has two to give it to.
fn order(node: &Node, request: ObjectRequest, writer: Option<NodeId>) -> Vec<Arc<Peer>> {
    let name = Opening::Object(request).encode();
    let rank = |id: &NodeId| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&name).update(id.as_bytes());
        *hasher.finalize().as_bytes()
    };
    let (writers, mut others): (Vec<_>, Vec<_>) =
        node.peers.all().into_iter().partition(|peer| Some(peer.id) == writer);
    // Deltas of a new lineage are asked for before one knows who else follows it.
    others.retain(|peer| matches!(request, ObjectRequest::Delta(..)) || peer.follows(&request.lineage()));
    others.sort_by_cached_key(|peer| rank(&peer.id));
    let mine = rank(&node.id);
    let place = others.partition_point(|peer| rank(&peer.id) < mine);
    let mut ordered = Vec::with_capacity(others.len() + 1);
    if let Some(parent) = parent(place) {
        ordered.push(others.remove(parent));
    }
    ordered.extend(writers);
    // Whoever follows is likely to have it.
    others.sort_by_cached_key(|peer| !peer.follows(&request.lineage()));
    ordered.extend(others);
    ordered
}

/// Whom the one at a place has above itself; `None` is the writer.
fn parent(place: usize) -> Option<usize> {
    place.checked_sub(2).map(|below| below / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gives_an_object_to_more_than_two() {
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 6].map(parent),
            [None, None, Some(0), Some(0), Some(1), Some(1), Some(2)]
        );
    }
}
