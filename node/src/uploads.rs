//! Runs that others ask of this node: told to the engine, answered as it decides.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pageswarm_checkpoint::wire::{self, RunAnswer, RunRequest};
use pageswarm_checkpoint::{Birth, ChunkHash, ChunkRef, EncodedChunk, Encoder, Encoding, LineageId, NodeId};
use pageswarm_store::{EncodedRead, ReadError, SharedBytes};
use pageswarm_swarm::{BirthSet, Input, Patience, Refusal, RequestId, Urgency};
use quinn::SendStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::lineages::MapError;
use crate::node::Node;
use crate::peers::{Peer, Traffic};
use crate::transport::frames;

/// What the engine decides about a part of a request.
#[derive(Debug)]
pub enum ServeCommand {
    /// Send these.
    Serve(BirthSet),
    /// Say that these were sent to another node.
    Defer {
        /// Which.
        births: BirthSet,
        /// To whom.
        holder: NodeId,
    },
    /// Say that these are not held.
    NotHeld(BirthSet),
    /// Refuse all.
    Refuse(Refusal),
    /// Stop.
    Abandon,
}

/// Requests that are being answered, by who asked.
#[derive(Debug, Default)]
pub struct Uploads {
    open: Mutex<BTreeMap<(NodeId, RequestId), mpsc::Sender<ServeCommand>>>,
}

/// How long a request waits for the engine's decision.
const DECISION_TIMEOUT: Duration = Duration::from_secs(60);
/// Decisions on one request: at most one of each kind for each holder named.
const COMMANDS: usize = 64;

/// Why chunks cannot be sent.
#[derive(Debug, thiserror::Error)]
enum CollectError {
    #[error("births")]
    Map(#[from] MapError),
    #[error("store")]
    Read(#[from] ReadError),
}

impl Uploads {
    /// Passes a decision on; false if nobody waits for it.
    pub fn tell(&self, peer: NodeId, request: RequestId, command: ServeCommand) -> bool {
        let open = lock(&self.open).get(&(peer, request)).cloned();
        open.is_some_and(|queue| queue.try_send(command).is_ok())
    }
}

/// Answers one request.
pub async fn answer(node: &Arc<Node>, peer: &Arc<Peer>, run: RunRequest, mut send: SendStream) {
    let request = RequestId(send.id().index());
    let (queue, mut commands) = mpsc::channel(COMMANDS);
    let key = (peer.id, request);
    lock(&node.uploads.open).insert(key, queue);
    let births: BirthSet = births_of(&run);
    let urgency = match run.urgency {
        wire::Urgency::Fault => Urgency::Fault,
        wire::Urgency::Deadline => Urgency::Deadline,
        wire::Urgency::Normal => Urgency::Normal,
    };
    let patience = match run.patience {
        wire::Patience::MayDefer => Patience::MayDefer,
        wire::Patience::Insist => Patience::Insist,
    };
    let priority = match urgency {
        Urgency::Fault => 2,
        Urgency::Deadline => 1,
        Urgency::Normal => 0,
    };
    if send.set_priority(priority).is_ok() {
        let lineage = run.lineage;
        let mut left = births.len();
        let asked = Input::Asked { peer: peer.id, request, lineage, births, urgency, patience };
        node.hub.input(asked).await;
        let upload = Upload { node, peer, request, run: &run };
        while left > 0 {
            let Ok(Some(command)) = timeout(DECISION_TIMEOUT, commands.recv()).await else {
                break;
            };
            match upload.carry_out(command, &mut send).await {
                Some(answered) => left = left.saturating_sub(answered),
                None => break,
            }
        }
        if left > 0 {
            node.hub.input(Input::AskedCancelled { peer: peer.id, request }).await;
        }
    }
    lock(&node.uploads.open).remove(&key);
    // The peer may have gone; then there is nobody to tell.
    let _gone = send.finish();
}

struct Upload<'a> {
    node: &'a Arc<Node>,
    peer: &'a Peer,
    request: RequestId,
    run: &'a RunRequest,
}

impl Upload<'_> {
    /// How many births were answered; `None` if the stream is over.
    async fn carry_out(&self, command: ServeCommand, send: &mut SendStream) -> Option<u64> {
        match command {
            ServeCommand::Serve(births) => {
                let answered = births.len();
                let sent = self.serve(births, send).await;
                let bytes = sent.unwrap_or(0);
                Traffic::add(&self.peer.traffic.chunks_up, bytes);
                self.node.hub.input(Input::Served { peer: self.peer.id, request: self.request, bytes }).await;
                sent.map(|_| answered)
            }
            ServeCommand::Defer { births, holder } => {
                let answers = births.iter().map(|birth| RunAnswer::Deferred { birth, holder });
                write_all(send, answers).await.map(|()| births.len())
            }
            ServeCommand::NotHeld(births) => {
                let answers = births.iter().map(|birth| RunAnswer::NotHeld { birth });
                write_all(send, answers).await.map(|()| births.len())
            }
            ServeCommand::Refuse(why) => {
                let why = match why {
                    Refusal::Busy => wire::Refusal::Busy,
                    Refusal::NotAllowed => wire::Refusal::NotAllowed,
                    Refusal::Unreasonable => wire::Refusal::Unreasonable,
                };
                write_all(send, std::iter::once(RunAnswer::Refused { why })).await.map(|()| u64::MAX)
            }
            ServeCommand::Abandon => None,
        }
    }

    /// Encoded bytes sent.
    async fn serve(&self, births: BirthSet, send: &mut SendStream) -> Option<u64> {
        let place = Arc::clone(&self.node.coding).acquire_owned().await.ok()?;
        let node = Arc::clone(self.node);
        let (lineage, asked) = (self.run.lineage, self.run.chunks.clone());
        let collected = tokio::task::spawn_blocking(move || {
            let collected = collect(&node, lineage, &births, &asked);
            drop(place);
            collected
        });
        let answers = match collected.await.ok()? {
            Ok(answers) => answers,
            Err(error) => {
                self.node.note_store_trouble(&error);
                return None;
            }
        };
        let bytes = answers.iter().map(|answer| match answer {
            RunAnswer::Chunk { chunk, .. } => chunk.bytes.len() as u64,
            _ => 0,
        });
        let bytes = bytes.sum();
        write_all(send, answers.into_iter()).await?;
        Some(bytes)
    }
}

fn births_of(run: &RunRequest) -> BirthSet {
    let mut births = BirthSet::new();
    for (birth, _) in &run.chunks {
        births.insert(*birth);
    }
    births
}

async fn write_all(send: &mut SendStream, answers: impl Iterator<Item = RunAnswer>) -> Option<()> {
    let mut bytes = Vec::new();
    for answer in answers {
        bytes.extend_from_slice(&frames::prefixed(&answer.encode()));
    }
    send.write_all(&bytes).await.ok()
}

/// The chunks in the shortest form that the asker can use.
fn collect(
    node: &Node,
    id: LineageId,
    births: &BirthSet,
    asked: &[(Birth, Option<ChunkRef>)],
) -> Result<Vec<RunAnswer>, CollectError> {
    let Some(lineage) = node.lineages.get(&id) else {
        return Ok(Vec::new());
    };
    let serve: Vec<(Birth, Option<ChunkRef>)> =
        asked.iter().filter(|(birth, _)| births.contains(*birth)).copied().collect();
    let numbers: Vec<Birth> = serve.iter().map(|(birth, _)| *birth).collect();
    let hashes = node.lineages.hashes(id, &numbers)?;
    let mut items = Vec::with_capacity(serve.len());
    let mut answers = Vec::with_capacity(serve.len());
    for ((birth, base), hash) in serve.into_iter().zip(hashes) {
        match hash {
            Some(hash) => {
                let base = base.and_then(|base| Some((base, node.lineages.hash_of(&lineage, base)?)));
                items.push(Item { birth, hash, base });
            }
            None => answers.push(RunAnswer::NotHeld { birth }),
        }
    }
    // What is in memory and will be asked for as a patch is encoded from there; the rest goes out as it is stored.
    let names: Vec<ChunkHash> = items.iter().map(|item| item.hash).collect();
    let (mut recode, items): (Vec<_>, Vec<_>) =
        items.into_iter().zip(node.recent.has(&names)).partition(|(item, here)| *here && item.base.is_some());
    let mut recode: Vec<Item> = recode.drain(..).map(|(item, _)| item).collect();
    let items: Vec<Item> = items.into_iter().map(|(item, _)| item).collect();
    let names: Vec<ChunkHash> = items.iter().map(|item| item.hash).collect();
    node.store.read_encoded(&names, |at, read| {
        let item = items[at];
        let EncodedRead::Held(chunk) = read else {
            answers.push(RunAnswer::NotHeld { birth: item.birth });
            return;
        };
        match chunk.rename_base(|stored| item.base.filter(|(_, hash)| *hash == stored).map(|(base, _)| base))
        {
            Some(chunk) => answers.push(RunAnswer::Chunk { birth: item.birth, chunk }),
            None => recode.push(item),
        }
    })?;
    encode_again(node, &recode, &mut answers)?;
    Ok(answers)
}

#[derive(Clone, Copy)]
struct Item {
    birth: Birth,
    hash: ChunkHash,
    base: Option<(ChunkRef, ChunkHash)>,
}

/// Chunks stored as patches on a base that the asker does not have: decoded, and encoded for it.
fn encode_again(node: &Node, items: &[Item], answers: &mut Vec<RunAnswer>) -> Result<(), ReadError> {
    let names = items.iter().flat_map(|item| [Some(item.hash), item.base.map(|(_, hash)| hash)]).flatten();
    let decoded = node.recent.read(&node.store, names.collect())?;
    let mut encoder = Encoder::new();
    for item in items {
        let Some(bytes) = decoded.get(&item.hash).map(SharedBytes::verified) else {
            answers.push(RunAnswer::NotHeld { birth: item.birth });
            continue;
        };
        let base = item.base.and_then(|(base, hash)| Some((base, decoded.get(&hash)?.verified().bytes())));
        let chunk: EncodedChunk<ChunkRef> = encoder.encode(bytes.bytes(), base);
        debug_assert!(!matches!(chunk.encoding, Encoding::Patch { .. }) || base.is_some());
        answers.push(RunAnswer::Chunk { birth: item.birth, chunk });
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
