//! From a captured checkpoint to a durable, announced one: hash, deduplicate, encode, store, sign.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pageswarm_checkpoint::{
    ApplyError, Birth, BlobDelta, BlobKind, CheckpointIndex, CheckpointMap, ChunkHash, ChunkRef, ChunkSource,
    Delta, Encoder, Encoding, Head, IntervalRecord, ObjectHash, ObjectName, PageChange, PageNumber, Slot,
    blob, state_root,
};
use pageswarm_store::{CommitError, IndexError, NewCheckpoint, SharedBytes, VerifiedChunk, WriteError};
use pageswarm_swarm::{BirthSet, Input};
use pageswarm_vmm::{Captured, SharedMemory};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::events::What;
use crate::gossip::GossipCommand;
use crate::limits::KEYFRAME_EVERY;
use crate::lineages::{Lineage, kind};
use crate::node::Node;

/// Pages encoded before they are put into the store together.
const BATCH_PAGES: usize = 512;

/// Births kept to find duplicates: at most about 150 MB.
const RECENT_BIRTHS: usize = 2 << 20;

/// Why a checkpoint was not published. The lineage is as before.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The store cannot be written.
    #[error("store")]
    Write(#[from] WriteError),
    /// The store's index cannot be read.
    #[error("store index")]
    Index(#[from] IndexError),
    /// The checkpoint was not acknowledged.
    #[error("checkpoint was not acknowledged")]
    Commit(#[from] CommitError),
    /// The delta does not apply to the map it was made for.
    #[error("delta does not apply")]
    Apply(#[from] ApplyError),
}

/// What one checkpoint was and cost. Times in microseconds, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFigures {
    /// Which checkpoint.
    pub index: u64,
    /// How long the guest stood still.
    pub downtime_us: u64,
    /// Copying while the guest ran.
    pub precopy_us: u64,
    /// From the boundary before to this one.
    pub interval_us: u64,
    /// How much of the interval was waited for this pipeline.
    pub lengthened_us: u64,
    /// Pages per second that the workload asks for.
    pub rate_set: u64,
    /// Pages per second that the guest was given to dirty.
    pub rate_achieved: u64,
    /// Pages that the tracker named.
    pub dirty_pages: u64,
    /// Pages that turned out not to differ.
    pub unchanged_pages: u64,
    /// Pages that are zero now.
    pub zero_pages: u64,
    /// Pages whose content the lineage had before.
    pub duplicate_pages: u64,
    /// Pages with new content.
    pub new_pages: u64,
    /// New pages that are kept as a patch.
    pub patched_pages: u64,
    /// Encoded bytes of new chunks.
    pub new_bytes: u64,
    /// Encoded bytes of those that are patches.
    pub patched_bytes: u64,
    /// Bytes of the delta.
    pub delta_bytes: u64,
    /// From the capture to the announcement.
    pub publish_us: u64,
    /// Length of the interval's event log in bytes.
    pub event_log_bytes: u64,
    /// State root.
    pub state_root: String,
    /// Milliseconds since 1970.
    pub taken_unix_ms: u64,
}

/// Publishes one lineage.
#[derive(Debug)]
pub struct Publisher {
    node: Arc<Node>,
    lineage: Lineage,
    map: CheckpointMap,
    /// What each page was in the last checkpoint, as far as it passed through here: bases of patches.
    shadow: Vec<Option<SharedBytes>>,
    parent: ObjectHash,
    keyframe: Option<(CheckpointIndex, ObjectName)>,
    next: CheckpointIndex,
    recent: RecentBirths,
    /// Pages of the coming checkpoint that had to leave the staging area early.
    early: BTreeMap<PageNumber, Vec<u8>>,
}

/// The births of chunks of this lineage, the latest of them: what a page can turn out to be a duplicate of. A
/// duplicate of something older is born again, which costs its delta entry; the chunk itself is stored once.
#[derive(Debug, Default)]
struct RecentBirths {
    younger: HashMap<ChunkHash, Birth>,
    older: HashMap<ChunkHash, Birth>,
}

#[derive(Default)]
struct Draft {
    changes: BTreeMap<PageNumber, PageChange>,
    fresh: Vec<PageNumber>,
    /// Captured pages that differ and are not zero.
    changed: BTreeMap<PageNumber, SharedBytes>,
    zeroed: Vec<PageNumber>,
    figures: CheckpointFigures,
}

impl Publisher {
    /// Starts a lineage whose genesis was signed and opened. `map` is the branch point's, or all zero.
    #[must_use]
    pub fn new(node: Arc<Node>, lineage: Lineage, map: CheckpointMap) -> Self {
        let pages = usize::try_from(lineage.genesis.pages).expect("a u32 fits usize here");
        let shadow = vec![None; pages];
        let parent = lineage.genesis_hash;
        Self {
            node,
            lineage,
            map,
            shadow,
            parent,
            keyframe: None,
            next: CheckpointIndex(0),
            recent: RecentBirths::default(),
            early: BTreeMap::new(),
        }
    }

    /// Takes pages that must leave the staging area before their checkpoint is complete.
    pub fn take_early(&mut self, pages: &[(PageNumber, u32)], staging: &SharedMemory) {
        for (page, slot) in pages {
            self.early.insert(*page, staging.page(slot_index(*slot)).to_vec());
        }
    }

    /// Publishes a checkpoint: on return it is durable and its head on the way.
    ///
    /// # Errors
    ///
    /// [`PublishError`].
    pub fn publish(
        &mut self,
        captured: &Captured,
        staging: &SharedMemory,
    ) -> Result<CheckpointFigures, PublishError> {
        let start = Instant::now();
        let mut draft = Draft { figures: figures_of(captured), ..Draft::default() };
        let early = std::mem::take(&mut self.early);
        let mut pages: BTreeMap<PageNumber, &[u8]> =
            early.iter().map(|(page, bytes)| (*page, bytes.as_slice())).collect();
        for (page, slot) in &captured.last.pages {
            pages.insert(*page, staging.page(slot_index(*slot)).as_slice());
        }
        draft.figures.dirty_pages = pages.len() as u64;
        self.sort_out(&pages, &mut draft)?;
        let births_before = self.map.births;
        let new = self.store_new(&mut draft)?;
        let (blobs, blob_chunks) = self.store_blobs(captured, &pages, births_before + new.len() as u64)?;
        let delta = Delta { births_before, pages: draft.changes.into_iter().collect(), blobs };
        drop(pages);
        for page in draft.zeroed {
            self.shadow[slot_index(page.0)] = None;
        }
        for (page, bytes) in draft.changed {
            self.shadow[slot_index(page.0)] = Some(bytes);
        }
        let chunks: Vec<ChunkHash> = new.into_iter().chain(blob_chunks).collect();
        let mut figures = draft.figures;
        self.commit(&delta, chunks, captured, &mut figures)?;
        figures.publish_us = micros(start.elapsed());
        Ok(figures)
    }

    /// Decides for each captured page: unchanged, zero, known content, or new.
    fn sort_out(&self, pages: &BTreeMap<PageNumber, &[u8]>, draft: &mut Draft) -> Result<(), PublishError> {
        let mut hashed = Vec::with_capacity(pages.len());
        for (page, bytes) in pages {
            let before = self.shadow[slot_index(page.0)].as_ref();
            if before.is_some_and(|old| old.verified().bytes() == *bytes) {
                draft.figures.unchanged_pages += 1;
            } else if is_zero(bytes) {
                if self.map.ram.get(*page) == Some(Slot::Zero) {
                    draft.figures.unchanged_pages += 1;
                } else {
                    draft.figures.zero_pages += 1;
                    draft.changes.insert(*page, PageChange::Zero);
                    draft.zeroed.push(*page);
                }
            } else {
                let bytes = SharedBytes::hashed((*bytes).into());
                match self.map.ram.get(*page) {
                    Some(slot) if slot.hash() == bytes.hash() => draft.figures.unchanged_pages += 1,
                    _ => hashed.push((*page, bytes.hash())),
                }
                draft.changed.insert(*page, bytes);
            }
        }
        let hashes: Vec<ChunkHash> = hashed.iter().map(|(_, hash)| *hash).collect();
        let held = self.node.store.contains_many(&hashes)?;
        let mut fresh: HashMap<ChunkHash, Birth> = HashMap::new();
        let mut next = self.map.births;
        for ((page, hash), held) in hashed.into_iter().zip(held) {
            let known = if held { self.recent.find(&hash) } else { None };
            let before = known.or_else(|| fresh.get(&hash).copied());
            let source = match before {
                Some(birth) => {
                    draft.figures.duplicate_pages += 1;
                    ChunkSource::Same(ChunkRef::own(birth))
                }
                None => {
                    draft.figures.new_pages += 1;
                    fresh.insert(hash, Birth(next));
                    next += 1;
                    draft.fresh.push(page);
                    ChunkSource::New { hash, encoded_len: 0 }
                }
            };
            draft.changes.insert(page, PageChange::Chunk(source));
        }
        Ok(())
    }

    /// Encodes and stores the new pages; their hashes in the order of their births.
    fn store_new(&self, draft: &mut Draft) -> Result<Vec<ChunkHash>, PublishError> {
        let mut hashes = Vec::with_capacity(draft.fresh.len());
        for batch in draft.fresh.chunks(BATCH_PAGES) {
            let mut encoder = Encoder::new();
            let mut chunks = Vec::with_capacity(batch.len());
            for page in batch {
                let base = self.shadow[slot_index(page.0)].as_ref().map(SharedBytes::verified);
                let chunk = VerifiedChunk::encode(&mut encoder, draft.changed[page].clone(), base);
                let length = chunk.encoded().bytes.len() as u64;
                draft.figures.new_bytes += length;
                if matches!(chunk.encoded().encoding, Encoding::Patch { .. }) {
                    draft.figures.patched_pages += 1;
                    draft.figures.patched_bytes += length;
                }
                let encoded_len = u32::try_from(length).expect("a chunk is at most 64 KiB");
                let source = ChunkSource::New { hash: chunk.hash(), encoded_len };
                draft.changes.insert(*page, PageChange::Chunk(source));
                hashes.push(chunk.hash());
                chunks.push(chunk);
            }
            self.node.store.put_chunks(&chunks)?;
            self.node.recent.add(chunks.iter().map(|chunk| chunk.shared().clone()));
        }
        Ok(hashes)
    }

    /// Cuts and stores the blobs; new chunks are born from `next` on.
    fn store_blobs(
        &self,
        captured: &Captured,
        pages: &BTreeMap<PageNumber, &[u8]>,
        next: u64,
    ) -> Result<(Vec<BlobDelta>, Vec<ChunkHash>), PublishError> {
        let mut blobs = vec![
            (BlobKind::Cpu, captured.state.cpu.clone()),
            (BlobKind::Devices, captured.state.devices.clone()),
            (BlobKind::KvmAttachment, captured.state.attachment.clone()),
        ];
        if let Some(interval) = self.next.0.checked_sub(1) {
            let record = IntervalRecord {
                lineage: self.lineage.id,
                interval: CheckpointIndex(interval),
                event_log: captured.events.clone(),
                written: pages.keys().copied().collect(),
            };
            blobs.push((BlobKind::IntervalRecord, record.sign(&self.node.key)));
        }
        let mut fresh: Vec<ChunkHash> = Vec::new();
        let mut deltas = Vec::new();
        let mut encoder = Encoder::new();
        for (kind, bytes) in &blobs {
            let mut chunks = Vec::new();
            for piece in blob::cut(bytes) {
                let chunk = VerifiedChunk::encode(&mut encoder, SharedBytes::hashed(piece.into()), None);
                let (hash, length) = (chunk.hash(), u32::try_from(piece.len()).expect("at most 64 KiB"));
                let known = self.recent.find(&hash);
                let again = fresh.iter().position(|other| *other == hash).map(|at| Birth(next + at as u64));
                let source = match known.or(again) {
                    Some(birth) => ChunkSource::Same(ChunkRef::own(birth)),
                    None => {
                        let encoded_len = u32::try_from(chunk.encoded().bytes.len()).expect("at most 64 KiB");
                        fresh.push(hash);
                        ChunkSource::New { hash, encoded_len }
                    }
                };
                self.node.store.put_chunks(&[chunk])?;
                chunks.push((source, length));
            }
            deltas.push(BlobDelta { kind: *kind, chunks });
        }
        Ok((deltas, fresh))
    }

    /// Makes the checkpoint durable, then announces it. Durable first: no two heads ever share an index.
    fn commit(
        &mut self,
        delta: &Delta,
        chunks: Vec<ChunkHash>,
        captured: &Captured,
        figures: &mut CheckpointFigures,
    ) -> Result<(), PublishError> {
        let (node, id, index) = (&self.node, self.lineage.id, self.next);
        let map = self.map.apply(delta, |chunk| node.lineages.hash_of(&self.lineage, chunk))?;
        let delta_bytes = delta.encode();
        figures.delta_bytes = delta_bytes.len() as u64;
        let delta_name = ObjectName {
            hash: node.store.put_object(kind::DELTA, &delta_bytes)?,
            length: delta_bytes.len() as u64,
        };
        if index.0 > 0 && index.0 % KEYFRAME_EVERY == 0 {
            let bytes = map.encode_keyframe(index);
            let hash = node.store.put_object(kind::KEYFRAME, &bytes)?;
            self.keyframe = Some((index, ObjectName { hash, length: bytes.len() as u64 }));
        }
        let head = Head {
            lineage: id,
            index,
            parent: self.parent,
            state_root: state_root(&map.ram, [&captured.state.cpu, &captured.state.devices], None),
            delta: delta_name,
            keyframe: self.keyframe,
            births: map.births,
            taken_unix_ms: clock::unix_ms(),
        };
        figures.state_root = head.state_root.to_string();
        figures.taken_unix_ms = head.taken_unix_ms;
        let record = head.sign(&node.key);
        let hash = node.store.put_object(kind::HEAD, &record)?;
        let objects = [Some(delta_name.hash), self.keyframe.map(|(_, name)| name.hash)];
        let objects = objects.into_iter().flatten().collect();
        let fresh: Arc<[ChunkHash]> = chunks.as_slice().into();
        node.store.commit_checkpoint(&NewCheckpoint { lineage: id, index, head: hash, objects, chunks })?;
        node.lineages.note_applied(&head, hash, map.clone(), Arc::clone(&fresh));
        self.announce(&head, &record, delta);
        self.recent.add(delta.births_before, &fresh);
        self.map = map;
        self.parent = hash;
        self.next = index.next();
        Ok(())
    }

    fn announce(&self, head: &Head, record: &[u8], delta: &Delta) {
        let (node, lineage) = (&self.node, self.lineage.id);
        node.lineages.note_held(&lineage, head.index);
        let lengths: Vec<u32> = delta.new_chunks().map(|(_, length)| length).collect();
        if let Some(last) = (lengths.len() as u64).checked_sub(1) {
            let births = BirthSet::range(Birth(delta.births_before), Birth(delta.births_before + last));
            node.hub.input_blocking(Input::Lengths { lineage, first: Birth(delta.births_before), lengths });
            node.hub.input_blocking(Input::LocalHas { lineage, births });
        }
        node.gossip_try(GossipCommand::Head(record.to_vec()));
    }

    /// Notes in the node's events that a checkpoint was taken.
    pub fn note(&self, figures: &CheckpointFigures) {
        self.node.events.add(What::CheckpointTaken {
            lineage: self.lineage.id.to_string(),
            index: figures.index,
            downtime_us: figures.downtime_us,
        });
    }
}

impl RecentBirths {
    fn find(&self, hash: &ChunkHash) -> Option<Birth> {
        self.younger.get(hash).or_else(|| self.older.get(hash)).copied()
    }

    fn add(&mut self, first: u64, hashes: &[ChunkHash]) {
        if self.younger.len() + hashes.len() > RECENT_BIRTHS / 2 {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.extend(hashes.iter().copied().zip((first..).map(Birth)));
    }
}

fn slot_index(number: u32) -> usize {
    usize::try_from(number).expect("a u32 fits usize here")
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn figures_of(captured: &Captured) -> CheckpointFigures {
    let figures = &captured.figures;
    CheckpointFigures {
        index: captured.last.index.0,
        downtime_us: figures.pause_ns / 1000,
        precopy_us: figures.precopy_ns / 1000,
        interval_us: figures.interval_ns / 1000,
        lengthened_us: figures.lengthened_ns / 1000,
        rate_set: figures.pages_per_second_set,
        rate_achieved: figures.pages_per_second_achieved(),
        event_log_bytes: captured.events.len() as u64,
        ..CheckpointFigures::default()
    }
}
