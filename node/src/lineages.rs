//! The lineages this node follows: their records, births and maps, as far as it has learnt them.
//!
//! Everything here was checked: signatures, the chain of heads, the hash of each delta. What is not here can be
//! fetched again, so nothing but heads is forced to disk.

mod births;
mod held;
mod maps;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::wire::ObjectRequest;
use pageswarm_checkpoint::{
    ApplyError, Birth, BlobKind, CheckpointIndex, CheckpointMap, ChunkHash, ChunkRef, Delta, Genesis, Head,
    LineageId, NodeId, ObjectHash, RecordError, object_hash,
};
use pageswarm_store::{CommitError, IndexError, ObjectKind, ReadError, Store, WriteError};
use pageswarm_swarm::BirthSet;
use tokio::sync::Notify;

use crate::limits::{ARTEFACT_LINEAGES_MAX, ARTEFACT_LINEAGES_PER_WORKER_MAX, LINEAGES_MAX};

pub use held::Survey;
pub use maps::MapError;

/// Kinds of metadata objects in the store.
pub mod kind {
    use super::ObjectKind;

    /// A genesis record.
    pub const GENESIS: ObjectKind = ObjectKind(1);
    /// A head.
    pub const HEAD: ObjectKind = ObjectKind(2);
    /// A delta.
    pub const DELTA: ObjectKind = ObjectKind(3);
    /// A keyframe.
    pub const KEYFRAME: ObjectKind = ObjectKind(4);
}

/// Why a lineage's record is not taken.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// Its writer did not sign it.
    #[error("record")]
    Record(#[from] RecordError),
    /// No more lineages can be followed.
    #[error("{what}: a node follows {most} at most")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// A checkpoint of artefacts is not one file, or one of a machine has one.
    #[error("checkpoint {index} of lineage {} has what its kind of lineage does not have", lineage.short())]
    OtherKind {
        /// Whose.
        lineage: LineageId,
        /// Which.
        index: CheckpointIndex,
    },
    /// The lineage is not known here.
    #[error("lineage {} is not known here", .0.short())]
    Unknown(LineageId),
    /// The head does not follow the one before it.
    #[error("head {index} of lineage {} does not continue head {}", lineage.short(), index.0.wrapping_sub(1))]
    BrokenChain {
        /// Whose.
        lineage: LineageId,
        /// Which head.
        index: CheckpointIndex,
    },
    /// The delta's bytes are not the ones that the head names.
    #[error("delta {index} of lineage {} is not the one its head names", lineage.short())]
    WrongDelta {
        /// Whose.
        lineage: LineageId,
        /// Which delta.
        index: CheckpointIndex,
    },
    /// The delta cannot be read.
    #[error("delta is malformed")]
    Delta(#[from] pageswarm_checkpoint::codec::FormatError),
    /// The delta does not apply.
    #[error("delta does not apply")]
    Apply(#[from] ApplyError),
    /// The head is refused by the store.
    #[error("head is refused")]
    Commit(#[from] CommitError),
    /// The store cannot be written.
    #[error("store")]
    Write(#[from] WriteError),
    /// The store's index cannot be read.
    #[error("store index")]
    Index(#[from] IndexError),
    /// The store cannot be read.
    #[error("store")]
    Read(#[from] ReadError),
    /// A map.
    #[error("map")]
    Map(#[from] Box<MapError>),
}

/// One lineage, as known here.
#[derive(Debug, Clone)]
pub struct Lineage {
    /// Its id.
    pub id: LineageId,
    /// Its first record.
    pub genesis: Genesis,
    /// Hash of the genesis record's bytes, which head 0 names as its parent.
    pub genesis_hash: ObjectHash,
    /// Parent, grandparent and so on: generation 1 is first.
    pub ancestors: Vec<LineageId>,
    /// The latest checkpoint whose delta was applied, with its head and the hash of the head's record.
    pub applied: Option<(Head, ObjectHash)>,
    /// The latest head heard of.
    pub target: Option<CheckpointIndex>,
    /// Births up to `applied`.
    pub births: u64,
    /// The latest checkpoint that was found wholly held here. What of it turns out bad later counts as not held and is
    /// fetched again by whoever wants it.
    pub held: Option<CheckpointIndex>,
}

/// What applying a delta brought.
#[derive(Debug)]
pub struct Applied {
    /// The lineage.
    pub lineage: LineageId,
    /// The head.
    pub head: Head,
    /// The first new birth.
    pub first: Birth,
    /// Encoded lengths of the new births.
    pub lengths: Vec<u32>,
}

/// All lineages that this node follows.
#[derive(Debug)]
pub struct Lineages {
    store: Arc<Store>,
    state: Mutex<State>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    lineages: BTreeMap<LineageId, Lineage>,
    pending: BTreeMap<LineageId, BTreeMap<CheckpointIndex, Vec<u8>>>,
    maps: maps::Maps,
    births: births::Births,
    bases: BTreeMap<LineageId, BTreeMap<Birth, Birth>>,
    lacked: BTreeMap<LineageId, BirthSet>,
    /// Of own lineages whose latest checkpoints nobody is told of: the head that was announced last, if one was.
    withheld: BTreeMap<LineageId, Option<ObjectHash>>,
    /// Lineages for which there was no room, and until when they are not looked at again.
    refused: BTreeMap<LineageId, Instant>,
    /// Encoded bytes in which each birth came here, by birth.
    received: BTreeMap<LineageId, Vec<u32>>,
}

/// How long a lineage is not looked at for which there was no room.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Heads ahead of what was applied that are kept for one lineage; others are asked for when their turn comes.
const PENDING_MAX: usize = 256;

impl Lineages {
    /// What the store knows.
    ///
    /// # Errors
    ///
    /// [`LineageError`] if the store cannot be read or contradicts itself.
    pub fn load(store: Arc<Store>) -> Result<Self, LineageError> {
        let lineages = Self { store, state: Mutex::default(), changed: Arc::default() };
        let notes = lineages.store.notes(GENESIS_NOTES, LINEAGES_MAX)?;
        let mut records: Vec<Vec<u8>> = notes.into_iter().map(|note| note.value).collect();
        // A branch can be opened once its parent is.
        while !records.is_empty() {
            let before = records.len();
            let mut waiting = Vec::new();
            for record in records {
                if lineages.open_known(&record)?.is_none() {
                    waiting.push(record);
                }
            }
            records = waiting;
            if records.len() == before {
                break;
            }
        }
        Ok(lineages)
    }

    /// Whether another lineage can be followed, beside `others` that are about to be: workers' lineages of artefacts
    /// have a part of the places only.
    ///
    /// # Errors
    ///
    /// [`LineageError::TooMany`].
    pub fn check_room_for(&self, genesis: &Genesis, others: usize) -> Result<(), LineageError> {
        let state = self.lock();
        let artefacts = || state.lineages.values().filter(|known| known.genesis.is_of_artefacts());
        let of_writer = || artefacts().filter(|known| known.genesis.writer == genesis.writer);
        let check = |what, count: usize, most: usize| match count < most {
            true => Ok(()),
            false => Err(LineageError::TooMany { what, most }),
        };
        if genesis.is_of_artefacts() {
            let (all, one) = (ARTEFACT_LINEAGES_MAX, ARTEFACT_LINEAGES_PER_WORKER_MAX);
            check("too many lineages of artefacts of one worker", of_writer().count(), one)?;
            check("too many lineages of artefacts", artefacts().count(), all)?;
        }
        check("too many lineages", state.lineages.len() + others, LINEAGES_MAX)
    }

    /// Notes that there is no room for a lineage: it is not looked at again for a while.
    pub fn refuse(&self, id: LineageId) {
        let mut state = self.lock();
        let now = Instant::now();
        state.refused.retain(|_, until| *until > now);
        if state.refused.len() < LINEAGES_MAX {
            state.refused.insert(id, now + REFUSED_FOR);
        }
    }

    /// Whether that was noted lately.
    #[must_use]
    pub fn is_refused(&self, id: &LineageId) -> bool {
        self.lock().refused.get(id).is_some_and(|until| *until > Instant::now())
    }

    /// Starts following a lineage whose genesis record and writer certificate were checked. `None` if its parent
    /// is not known yet.
    ///
    /// # Errors
    ///
    /// [`LineageError`].
    pub fn open(&self, genesis: &[u8], writer_certificate: &[u8]) -> Result<Option<Lineage>, LineageError> {
        let (_, id) = Genesis::open(genesis)?;
        if let Some(known) = self.get(&id) {
            return Ok(Some(known));
        }
        self.store.put_note(&note(CERTIFICATE_NOTES, &id), Some(writer_certificate))?;
        self.store.put_note(&note(GENESIS_NOTES, &id), Some(genesis))?;
        self.open_known(genesis)
    }

    fn open_known(&self, record: &[u8]) -> Result<Option<Lineage>, LineageError> {
        let (genesis, id) = Genesis::open(record)?;
        let ancestors = match &genesis.parent {
            None => Vec::new(),
            Some(parent) => {
                let Some(known) = self.get(&parent.lineage) else {
                    return Ok(None);
                };
                std::iter::once(parent.lineage).chain(known.ancestors).collect()
            }
        };
        let mut lineage = Lineage {
            id,
            genesis,
            genesis_hash: object_hash(record),
            ancestors,
            applied: None,
            target: None,
            births: 0,
            held: None,
        };
        let mut from = CheckpointIndex(0);
        'heads: loop {
            let heads = self.store.heads(id, from, 4096)?;
            let Some((last, _)) = heads.last() else { break };
            let next = last.next();
            for (index, hash) in heads {
                // What follows a head that is damaged or out of order is learnt again.
                let Some((_, record)) = self.store.object(hash)?.filter(|_| index == from) else {
                    break 'heads;
                };
                let head = Head::open(&record, &lineage.genesis.writer)?;
                self.lock().births.push(id, index, head.births, None);
                lineage.births = head.births;
                lineage.target = Some(index);
                lineage.applied = Some((head, hash));
                from = index.next();
            }
            from = next;
        }
        self.lock().lineages.insert(id, lineage.clone());
        self.changed.notify_waiters();
        Ok(Some(lineage))
    }

    /// The lineage, if it is followed.
    #[must_use]
    pub fn get(&self, id: &LineageId) -> Option<Lineage> {
        self.lock().lineages.get(id).cloned()
    }

    /// Names of all lineages followed.
    #[must_use]
    pub fn ids(&self) -> Vec<LineageId> {
        self.lock().lineages.keys().copied().collect()
    }

    /// All lineages followed.
    #[must_use]
    pub fn all(&self) -> Vec<Lineage> {
        self.lock().lineages.values().cloned().collect()
    }

    /// Keeps the lineage's heads after the one applied now from those who connect.
    pub fn withhold(&self, id: &LineageId) {
        let mut state = self.lock();
        let announced = state.lineages.get(id).and_then(|lineage| Some(lineage.applied.as_ref()?.1));
        state.withheld.entry(*id).or_insert(announced);
    }

    /// Ends [`Self::withhold`].
    pub fn end_withholding(&self, id: &LineageId) {
        self.lock().withheld.remove(id);
    }

    /// The record of each lineage's latest applied head that others are told of.
    #[must_use]
    pub fn latest_heads(&self) -> Vec<Vec<u8>> {
        let hashes: Vec<ObjectHash> = {
            let state = self.lock();
            let latest = |lineage: &Lineage| match state.withheld.get(&lineage.id) {
                Some(announced) => *announced,
                None => Some(lineage.applied.as_ref()?.1),
            };
            state.lineages.values().filter_map(latest).collect()
        };
        let object = |hash| self.store.object(hash).ok().flatten();
        hashes.into_iter().filter_map(object).map(|(_, record)| record).collect()
    }

    /// Completes at the next change of any lineage. Take it before looking, so that no change is missed.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let changed = Arc::clone(&self.changed);
        let mut waiting = Box::pin(changed.notified_owned());
        waiting.as_mut().enable();
        waiting
    }

    /// Notes a head whose signature holds; true if it is news.
    ///
    /// # Errors
    ///
    /// [`LineageError`]: unknown lineage, wrong signature, or another head of the same index is held.
    pub fn offer_head(&self, record: &[u8]) -> Result<bool, LineageError> {
        let id = Head::peek(record)?.lineage;
        let writer = self.get(&id).ok_or(LineageError::Unknown(id))?.genesis.writer;
        let head = Head::open(record, &writer)?;
        let hash = object_hash(record);
        if let Some(held) = self.store.head(id, head.index)? {
            if held != hash {
                let equivocation =
                    CommitError::Equivocation { lineage: id, index: head.index, held, offered: hash };
                return Err(equivocation.into());
            }
            return Ok(false);
        }
        let mut state = self.lock();
        let state = &mut *state;
        let Some(lineage) = state.lineages.get_mut(&id) else {
            return Ok(false);
        };
        let pending = state.pending.entry(id).or_default();
        if let Some(other) = pending.get(&head.index).filter(|other| other.as_slice() != record) {
            let (held, index) = (object_hash(other), head.index);
            return Err(CommitError::Equivocation { lineage: id, index, held, offered: hash }.into());
        }
        if pending.len() < PENDING_MAX {
            pending.insert(head.index, record.to_vec());
        }
        let news = lineage.target.is_none_or(|target| target < head.index);
        if news {
            lineage.target = Some(head.index);
        }
        self.changed.notify_waiters();
        Ok(news)
    }

    /// The checkpoint to learn next, if the lineage is behind, with its head's record if that is here.
    #[must_use]
    pub fn next_to_learn(&self, id: &LineageId) -> Option<(CheckpointIndex, Option<Vec<u8>>)> {
        let state = self.lock();
        let lineage = state.lineages.get(id)?;
        let next = lineage.applied.as_ref().map_or(CheckpointIndex(0), |(head, _)| head.index.next());
        if lineage.target.is_none_or(|target| target < next) {
            return None;
        }
        let record = state.pending.get(id).and_then(|pending| pending.get(&next));
        Some((next, record.cloned()))
    }

    /// The head, if the writer signed it and it continues what was applied.
    ///
    /// # Errors
    ///
    /// [`LineageError`].
    pub fn check_next_head(&self, id: &LineageId, record: &[u8]) -> Result<Head, LineageError> {
        let lineage = self.get(id).ok_or(LineageError::Unknown(*id))?;
        let head = Head::open(record, &lineage.genesis.writer)?;
        let (index, parent) = match &lineage.applied {
            Some((last, hash)) => (last.index.next(), *hash),
            None => (CheckpointIndex(0), lineage.genesis_hash),
        };
        if head.lineage != *id || head.index != index || head.parent != parent {
            return Err(LineageError::BrokenChain { lineage: *id, index: head.index });
        }
        Ok(head)
    }

    /// Takes over the next checkpoint's head and delta.
    ///
    /// # Errors
    ///
    /// [`LineageError`]; the lineage is then as before.
    pub fn apply(
        &self,
        id: &LineageId,
        head_record: &[u8],
        delta_bytes: &[u8],
    ) -> Result<Applied, LineageError> {
        let head = self.check_next_head(id, head_record)?;
        let lineage = self.get(id).ok_or(LineageError::Unknown(*id))?;
        let wrong = || LineageError::WrongDelta { lineage: *id, index: head.index };
        if object_hash(delta_bytes) != head.delta.hash {
            return Err(wrong());
        }
        let delta = Delta::decode(delta_bytes, lineage.genesis.pages)?;
        let map = self.latest_map(id).map_err(Box::new)?;
        let map = map.apply(&delta, |chunk| self.hash_of(&lineage, chunk))?;
        if map.births != head.births {
            return Err(wrong());
        }
        let files = map.blobs.keys().filter(|kind| **kind == BlobKind::Trace).count();
        let fits = match lineage.genesis.is_of_artefacts() {
            true => files == 1 && map.blobs.len() == 1,
            false => files == 0,
        };
        if !fits {
            return Err(LineageError::OtherKind { lineage: *id, index: head.index });
        }
        let fresh: Vec<(ChunkHash, u32)> = delta.new_chunks().collect();
        let hashes: Vec<ChunkHash> = fresh.iter().map(|(hash, _)| *hash).collect();
        self.store.put_object(kind::DELTA, delta_bytes)?;
        let hash = self.store.put_object(kind::HEAD, head_record)?;
        self.store.record_head(*id, head.index, hash)?;
        self.note_applied(&head, hash, map, hashes.into());
        let lengths = fresh.iter().map(|(_, length)| *length).collect();
        Ok(Applied { lineage: *id, head, first: Birth(delta.births_before), lengths })
    }

    /// Moves the lineage on to a checkpoint whose head and delta are in the store; `fresh` are its new chunks.
    pub fn note_applied(&self, head: &Head, hash: ObjectHash, map: CheckpointMap, fresh: Arc<[ChunkHash]>) {
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(pending) = state.pending.get_mut(&head.lineage) {
            pending.retain(|index, _| *index > head.index);
        }
        state.maps.insert_latest(head.lineage, head.index, map);
        state.births.push(head.lineage, head.index, head.births, Some(fresh));
        if let Some(lineage) = state.lineages.get_mut(&head.lineage) {
            lineage.births = head.births;
            lineage.target = lineage.target.max(Some(head.index));
            lineage.applied = Some((head.clone(), hash));
        }
        self.changed.notify_waiters();
    }

    /// Notes that a checkpoint is wholly held here: later ones are fetched as patches on its pages.
    pub fn note_held(&self, id: &LineageId, index: CheckpointIndex) {
        let mut state = self.lock();
        if let Some(lineage) = state.lineages.get_mut(id) {
            lineage.held = lineage.held.max(Some(index));
        }
        state.bases.remove(id);
    }

    /// The hash of a chunk named from within a lineage.
    #[must_use]
    pub fn hash_of(&self, lineage: &Lineage, chunk: ChunkRef) -> Option<ChunkHash> {
        let id = lineage_of(lineage, chunk)?;
        self.hashes(id, &[chunk.birth]).ok()?.into_iter().next()?
    }

    /// A metadata object, if it is held.
    ///
    /// # Errors
    ///
    /// [`LineageError`] if the store fails.
    pub fn object(&self, request: &ObjectRequest) -> Result<Option<Vec<u8>>, LineageError> {
        let hash = match request {
            ObjectRequest::Genesis(id) => return Ok(self.store.note(&note(GENESIS_NOTES, id))?),
            ObjectRequest::WriterCertificate(id) => {
                return Ok(self.store.note(&note(CERTIFICATE_NOTES, id))?);
            }
            // Workers write those, not the lineage's writer.
            ObjectRequest::Results { .. } => None,
            ObjectRequest::Head(id, index) => self.store.head(*id, *index)?,
            ObjectRequest::Delta(id, index) => self.head(id, *index)?.map(|head| head.delta.hash),
            ObjectRequest::Keyframe(id, index) => self
                .head(id, *index)?
                .and_then(|head| head.keyframe)
                .filter(|(at, _)| at == index)
                .map(|(_, name)| name.hash),
        };
        let Some(hash) = hash else { return Ok(None) };
        Ok(self.store.object(hash)?.map(|(_, bytes)| bytes))
    }

    /// Whether the object is not held yet, but known to exist.
    #[must_use]
    pub fn expects(&self, request: &ObjectRequest) -> bool {
        let index = match request {
            ObjectRequest::Head(_, index)
            | ObjectRequest::Delta(_, index)
            | ObjectRequest::Keyframe(_, index) => *index,
            ObjectRequest::Genesis(_)
            | ObjectRequest::WriterCertificate(_)
            | ObjectRequest::Results { .. } => return false,
        };
        self.get(&request.lineage()).is_some_and(|lineage| {
            let applied = lineage.applied.map(|(head, _)| head.index);
            // One ahead of what is known is expected too: the head may just be on its way here.
            applied < Some(index) && lineage.target.map_or(CheckpointIndex(0), CheckpointIndex::next) >= index
        })
    }

    /// The head of a checkpoint, if it is held.
    ///
    /// # Errors
    ///
    /// [`LineageError`] if the store fails.
    pub fn head(&self, id: &LineageId, index: CheckpointIndex) -> Result<Option<Head>, LineageError> {
        let Some(hash) = self.store.head(*id, index)? else {
            return Ok(None);
        };
        let Some((_, record)) = self.store.object(hash)? else {
            return Ok(None);
        };
        Ok(Some(Head::peek(&record)?))
    }

    /// Who writes the lineage.
    #[must_use]
    pub fn writer(&self, id: &LineageId) -> Option<NodeId> {
        self.lock().lineages.get(id).map(|lineage| lineage.genesis.writer)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lineage in which `chunk`, named from within `lineage`, was born.
#[must_use]
pub fn lineage_of(lineage: &Lineage, chunk: ChunkRef) -> Option<LineageId> {
    match usize::from(chunk.generation.0).checked_sub(1) {
        None => Some(lineage.id),
        Some(up) => lineage.ancestors.get(up).copied(),
    }
}

const GENESIS_NOTES: &[u8] = b"genesis/";
const CERTIFICATE_NOTES: &[u8] = b"writer/";

fn note(prefix: &[u8], id: &LineageId) -> Vec<u8> {
    [prefix, id.as_bytes()].concat()
}
