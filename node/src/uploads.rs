//! Runs that others ask of this node: told to the engine, answered as it decides.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pageswarm_checkpoint::wire::{self, RunAnswer, RunRequest};
use pageswarm_checkpoint::{
    Birth, ChunkHash, ChunkRef, Effort, EncodedChunk, Encoder, LineageId, NodeId, PAGE_BYTES,
};
use pageswarm_store::{ReadError, SharedBytes, Step, StepsRead, StepsWanted};
use pageswarm_swarm::{BirthSet, Input, Patience, Refusal, RequestId, Urgency};
use quinn::SendStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::lineages::MapError;
use crate::node::Node;
use crate::peers::{Peer, Traffic};

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
    /// Names requests: numbers of streams begin again with each connection.
    next: AtomicU64,
}

/// How long a request waits for the engine's decision.
const DECISION_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a part of an answer may wait to be read: as long as the engine leaves it a place.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
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
    let request = RequestId(node.uploads.next.fetch_add(1, Ordering::Relaxed));
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
    let mut left = births.len();
    if send.set_priority(priority).is_ok() {
        let lineage = run.lineage;
        let asked = Input::Asked { peer: peer.id, request, lineage, births, urgency, patience };
        node.hub.input(asked).await;
        let upload = Upload { node, peer, request, run: &run };
        while left > 0 {
            let Ok(Some(command)) = timeout(DECISION_TIMEOUT, commands.recv()).await else {
                break;
            };
            match upload.carry_out(command, left, &mut send).await {
                Some(answered) => left = left.saturating_sub(answered),
                None => break,
            }
        }
        if left > 0 {
            node.hub.input(Input::AskedCancelled { peer: peer.id, request }).await;
        }
    }
    lock(&node.uploads.open).remove(&key);
    // What a peer does not read is not kept for it. The peer may have gone, or the stream may have been ended for its arrival:
    // then there is nobody to tell.
    let _gone = if left > 0 { send.reset(ABANDONED) } else { send.finish() };
}

/// For how long bulk keeps its place in the engine after it was written. A peer whose link takes longer must not hold the places
/// of others.
const ARRIVAL_MAX: Duration = Duration::from_millis(100);

/// Waits until the peer has acknowledged a whole answer, wants no more of it, or takes too long. What is written waits in a
/// buffer of many megabytes: if places were free as soon as it is there, all answers would go out at once, each slowly,
/// whatever the engine thinks should go first.
async fn arrival(send: &mut SendStream) {
    if send.finish().is_ok() {
        // Whether it arrived is the connection's concern, as after any write.
        let _ended = timeout(ARRIVAL_MAX, send.stopped()).await;
    }
}

/// Ends a stream whose answer is not whole.
const ABANDONED: quinn::VarInt = quinn::VarInt::from_u32(1);

struct Upload<'a> {
    node: &'a Arc<Node>,
    peer: &'a Peer,
    request: RequestId,
    run: &'a RunRequest,
}

impl Upload<'_> {
    /// How many births were answered, of those `left`; `None` if the stream is over.
    async fn carry_out(&self, command: ServeCommand, left: u64, send: &mut SendStream) -> Option<u64> {
        match command {
            ServeCommand::Serve(births) => {
                let answered = births.len();
                let sent = self.serve(births, send).await;
                let is_bulk = self.run.urgency == wire::Urgency::Normal;
                if is_bulk && answered >= left && sent.is_some() {
                    arrival(send).await;
                }
                let bytes = sent.unwrap_or(0);
                Traffic::add(&self.peer.traffic.chunks_up, bytes);
                self.node.hub.input(Input::Served { peer: self.peer.id, request: self.request, bytes }).await;
                sent.map(|_| answered)
            }
            ServeCommand::Defer { births, holder } => {
                let mut frame = AnswerFrames::default();
                births.iter().for_each(|birth| frame.push(&Answer::Deferred { birth, holder }));
                frame.write(send).await.map(|()| births.len())
            }
            ServeCommand::NotHeld(births) => {
                let mut frame = AnswerFrames::default();
                births.iter().for_each(|birth| frame.push(&Answer::NotHeld { birth }));
                frame.write(send).await.map(|()| births.len())
            }
            ServeCommand::Refuse(why) => {
                let why = match why {
                    Refusal::Busy => wire::Refusal::Busy,
                    Refusal::NotAllowed => wire::Refusal::NotAllowed,
                    Refusal::Unreasonable => wire::Refusal::Unreasonable,
                };
                let mut frame = AnswerFrames::default();
                frame.push(&Answer::Refused { why });
                frame.write(send).await.map(|()| u64::MAX)
            }
            ServeCommand::Abandon => None,
        }
    }

    /// Encoded bytes of the chunks sent.
    async fn serve(&self, births: BirthSet, send: &mut SendStream) -> Option<u64> {
        let place = Arc::clone(&self.node.coding).acquire_owned().await.ok()?;
        let node = Arc::clone(self.node);
        let (lineage, asked) = (self.run.lineage, self.run.chunks.clone());
        let collected = tokio::task::spawn_blocking(move || {
            let collected = collect(&node, lineage, &births, &asked);
            drop(place);
            collected
        });
        let frames = match collected.await.ok()? {
            Ok(frames) => frames,
            Err(error) => {
                self.node.note_store_trouble(&error);
                return None;
            }
        };
        let bytes = frames.chunk_bytes;
        timeout(WRITE_TIMEOUT, frames.write(send)).await.ok()??;
        Some(bytes)
    }
}

type Answer<'read> = RunAnswer<&'read [u8]>;

/// Answers on their way into frames, each with its length before it.
#[derive(Debug, Default)]
struct AnswerFrames {
    frames: Vec<Vec<u8>>,
    /// Bytes that a new frame has room for at once; it grows where they are too few.
    room: usize,
    /// Encoded bytes of the chunks among them.
    chunk_bytes: u64,
}

/// A frame that has reached this length takes no more answers.
const FRAME_BYTES_FULL: usize = 128 << 10;
const _: () = assert!(FRAME_BYTES_FULL + pageswarm_checkpoint::CHUNK_BYTES_MAX + 64 < wire::FRAME_BYTES_MAX);
/// Bytes of a frame's length.
const PREFIX: usize = 4;

impl AnswerFrames {
    /// Frames with room for that many pages.
    fn for_chunks(chunks: u64) -> Self {
        let room = usize::try_from(chunks).unwrap_or(usize::MAX).saturating_mul(PAGE_BYTES + 32);
        Self { room: room.min(FRAME_BYTES_FULL + PAGE_BYTES + 32), ..Self::default() }
    }

    fn push<Bytes: AsRef<[u8]>>(&mut self, answer: &RunAnswer<Bytes>) {
        if self.frames.last().is_none_or(|frame| frame.len() >= FRAME_BYTES_FULL) {
            let mut frame = Vec::with_capacity(self.room);
            frame.resize(PREFIX, 0);
            self.frames.push(frame);
        }
        let length = |bytes: &Bytes| bytes.as_ref().len() as u64;
        self.chunk_bytes += match answer {
            RunAnswer::Chunk { chunk, .. } => length(&chunk.bytes),
            RunAnswer::Steps { steps, .. } => steps.iter().map(|step| length(&step.bytes)).sum(),
            _ => 0,
        };
        if let Some(frame) = self.frames.last_mut() {
            answer.encode_to(frame);
        }
    }

    async fn write(self, send: &mut SendStream) -> Option<()> {
        for mut frame in self.frames {
            let length = u32::try_from(frame.len() - PREFIX).expect("frames are bounded far below 4 GiB");
            frame[..PREFIX].copy_from_slice(&length.to_le_bytes());
            send.write_chunk(frame.into()).await.ok()?;
        }
        Some(())
    }
}

fn births_of(run: &RunRequest) -> BirthSet {
    let mut births = BirthSet::new();
    for (birth, _) in &run.chunks {
        births.insert(*birth);
    }
    births
}

/// The chunks in a form that the asker can use.
fn collect(
    node: &Node,
    id: LineageId,
    births: &BirthSet,
    asked: &[(Birth, Option<ChunkRef>)],
) -> Result<AnswerFrames, CollectError> {
    let mut answers = AnswerFrames::for_chunks(births.len());
    let Some(lineage) = node.lineages.get(&id) else {
        return Ok(answers);
    };
    let serve: Vec<(Birth, Option<ChunkRef>)> =
        asked.iter().filter(|(birth, _)| births.contains(*birth)).copied().collect();
    let numbers: Vec<Birth> = serve.iter().map(|(birth, _)| *birth).collect();
    let bases: Vec<ChunkRef> = serve.iter().filter_map(|(_, base)| *base).collect();
    let mut bases = node.lineages.hashes_of(&lineage, &bases)?.into_iter();
    let mut items = Vec::with_capacity(serve.len());
    for ((birth, base), hash) in serve.into_iter().zip(node.lineages.hashes(id, &numbers)?) {
        let base = base.and_then(|base| Some((base, bases.next().flatten()?)));
        match hash {
            Some(hash) => items.push(Item { birth, hash, base }),
            None => answers.push(&Answer::NotHeld { birth }),
        }
    }
    // What is in memory, with the asker's version of it, is encoded from there; the rest goes out as it is stored, or is read to
    // be encoded where that is worth it.
    let in_memory = |item: &Item| item.base.is_some_and(|(_, base)| node.recent.has_all(&[item.hash, base]));
    let (mut recode, items): (Vec<Item>, Vec<Item>) = items.into_iter().partition(in_memory);
    let wanted: Vec<StepsWanted> = items
        .iter()
        .map(|item| StepsWanted { hash: item.hash, from: item.base.map(|(_, base)| base) })
        .collect();
    let effort = node.effort.effort();
    node.store.read_steps(&wanted, effort, |at, read| {
        let Item { birth, base, .. } = items[at];
        match read {
            StepsRead::Held { from, steps } if steps.len() <= wire::STEPS_MAX => {
                let base = base.filter(|_| from).map(|(base, _)| base);
                answers.push(&in_steps(birth, base, steps));
            }
            StepsRead::Held { .. } | StepsRead::Decode => recode.push(items[at]),
            StepsRead::NotHeld => answers.push(&Answer::NotHeld { birth }),
        }
    })?;
    encode_again(node, effort, &recode, &mut answers)?;
    Ok(answers)
}

/// A chunk as it is stored; what is stored whole is no step.
fn in_steps<'read>(birth: Birth, base: Option<ChunkRef>, steps: &[Step<&'read [u8]>]) -> Answer<'read> {
    if let [step] = steps {
        let chunk = step.clone().rename_base(|()| base);
        return chunk.map_or(Answer::NotHeld { birth }, |chunk| Answer::Chunk { birth, chunk });
    }
    Answer::Steps { birth, base, steps: steps.to_vec() }
}

#[derive(Clone, Copy)]
struct Item {
    birth: Birth,
    hash: ChunkHash,
    base: Option<(ChunkRef, ChunkHash)>,
}

/// Chunks that are encoded for the asker: from memory, or because the form in which they are stored is or may be too long.
fn encode_again(
    node: &Node,
    effort: Effort,
    items: &[Item],
    answers: &mut AnswerFrames,
) -> Result<(), ReadError> {
    let names = items.iter().flat_map(|item| [Some(item.hash), item.base.map(|(_, hash)| hash)]).flatten();
    let decoded = node.recent.read(&node.store, names.collect())?;
    let mut encoder = Encoder::new(effort);
    for item in items {
        let Some(bytes) = decoded.get(&item.hash).map(SharedBytes::verified) else {
            answers.push(&Answer::NotHeld { birth: item.birth });
            continue;
        };
        let base = item.base.and_then(|(base, hash)| Some((base, decoded.get(&hash)?.verified().bytes())));
        let chunk: EncodedChunk<ChunkRef> = encoder.encode(bytes.bytes(), base);
        answers.push(&RunAnswer::Chunk { birth: item.birth, chunk });
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
