//! From a captured checkpoint to a durable, announced one: hash, deduplicate, encode, store, sign.

mod artefact;
mod draft;
mod recent_births;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use bytes::Bytes;
use pageswarm_checkpoint::delta::BLOB_CHUNKS_MAX;
use pageswarm_checkpoint::{
    ApplyError, Birth, BlobDelta, BlobKind, CheckpointIndex, CheckpointMap, ChunkHash, ChunkRef, ChunkSource,
    Delta, Effort, Encoder, Head, IntervalRecord, ObjectHash, ObjectName, PAGE_BYTES, PageChange, PageNumber,
    blob, state_root, zero_page_hash,
};
use pageswarm_store::{CommitError, IndexError, NewCheckpoint, SharedBytes, VerifiedChunk, WriteError};
use pageswarm_swarm::{BirthSet, Input};
use pageswarm_vmm::{Captured, SavedState, SharedMemory};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::events::What;
use crate::gossip::GossipCommand;
use crate::limits::KEYFRAME_EVERY;
use crate::lineages::{Lineage, kind};
use crate::node::Node;
use draft::Draft;
use recent_births::RecentBirths;

/// Pages taken through all steps together: with copies and bases a third of a megabyte, less than a core's cache.
const BATCH_PAGES: usize = 32;
/// Chunks put into the store together.
const STORED_TOGETHER: usize = 512;
/// Batches that may wait to be stored.
const BATCHES_WAITING: usize = 4;
/// How far the publishing threads precede the rest of the node where processors are scarce.
pub const PUBLISHER_PRECEDENCE: u8 = 10;

/// Why a checkpoint was not published. The lineage is as before; its publisher is of no use any more.
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
    /// An artefact cannot be read.
    #[error("artefact cannot be read")]
    Artefact(#[source] std::io::Error),
    /// An artefact is longer than a blob can be.
    #[error("artefact has more pieces than the {BLOB_CHUNKS_MAX} that a blob may have")]
    TooManyPieces,
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
    /// Whether it was recorded without being announced or offered, because the VM was behind.
    #[serde(default)]
    pub withheld: bool,
}

/// Whom a checkpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It is announced and offered.
    Everyone,
    /// It is recorded here, and nobody is told. What of it later checkpoints need is offered with the next that is
    /// announced; the rest of it is offered by nobody as long as this process runs.
    Kept,
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
    /// The record of the latest checkpoint, if nobody was told of it.
    kept: Option<Vec<u8>>,
    /// Births of checkpoints that nobody was told of, as far as none that was announced needs them.
    unoffered: BirthSet,
}

/// What is to become the next checkpoint, wherever it comes from.
struct Taken<'bytes> {
    /// Pages that may have changed, by number.
    pages: Vec<(PageNumber, &'bytes [u8])>,
    /// Everything but RAM.
    state: &'bytes SavedState,
    /// The encoded event log of the interval that ends here.
    events: &'bytes [u8],
    figures: CheckpointFigures,
}

impl Publisher {
    /// Starts a lineage whose genesis was signed and opened, or continues one; `map` is its latest: of one that starts, the
    /// branch point's or all zero.
    #[must_use]
    pub fn new(node: Arc<Node>, lineage: Lineage, map: CheckpointMap) -> Self {
        let pages = usize::try_from(lineage.genesis.pages).expect("a u32 fits usize here");
        let shadow = vec![None; pages];
        let (parent, keyframe, next) = match &lineage.applied {
            None => (lineage.genesis_hash, None, CheckpointIndex(0)),
            Some((head, hash)) => (*hash, head.keyframe, head.index.next()),
        };
        Self {
            node,
            lineage,
            map,
            shadow,
            parent,
            keyframe,
            next,
            recent: RecentBirths::default(),
            early: BTreeMap::new(),
            kept: None,
            unoffered: BirthSet::new(),
        }
    }

    /// Takes pages that must leave the staging area before their checkpoint is complete.
    pub fn take_early(&mut self, pages: &[(PageNumber, u32)], staging: &SharedMemory) {
        for (page, slot) in pages {
            self.early.insert(*page, staging.page(slot_index(*slot)).to_vec());
        }
    }

    /// Publishes a checkpoint: on return it is durable and, if it is for everyone, its head on the way.
    ///
    /// # Errors
    ///
    /// [`PublishError`].
    pub fn publish(
        &mut self,
        captured: &Captured,
        staging: &SharedMemory,
        reach: Reach,
    ) -> Result<CheckpointFigures, PublishError> {
        let early = std::mem::take(&mut self.early);
        let pages = in_order(&early, captured, staging);
        let figures = figures_of(captured);
        self.publish_taken(&Taken { pages, state: &captured.state, events: &captured.events, figures }, reach)
    }

    /// The same for an image of all of RAM, one page after the other, that was made elsewhere.
    ///
    /// # Errors
    ///
    /// [`PublishError`].
    pub fn publish_image(
        &mut self,
        image: &[[u8; PAGE_BYTES]],
        state: &SavedState,
    ) -> Result<CheckpointFigures, PublishError> {
        let numbered = (0..).map(PageNumber).zip(image);
        // A page of zeros that never was anything else has nothing to be named for.
        let is_new = |page: PageNumber, bytes: &[u8; PAGE_BYTES]| {
            self.map.ram.get(page).is_some() || *bytes != [0; PAGE_BYTES]
        };
        let pages = numbered.filter(|(page, bytes)| is_new(*page, bytes));
        let pages = pages.map(|(page, bytes)| (page, bytes.as_slice())).collect();
        let figures = CheckpointFigures { index: self.next.0, ..CheckpointFigures::default() };
        self.publish_taken(&Taken { pages, state, events: &[], figures }, Reach::Everyone)
    }

    fn publish_taken(&mut self, taken: &Taken<'_>, reach: Reach) -> Result<CheckpointFigures, PublishError> {
        let start = Instant::now();
        let Draft { changes, new, mut figures, .. } = self.take_pages(taken)?;
        let stored = start.elapsed();
        let births_before = self.map.births;
        let (blobs, blob_chunks) = self.store_blobs(taken, births_before + new.len() as u64)?;
        let delta = Delta { births_before, pages: changes, blobs };
        let chunks: Vec<ChunkHash> = new.into_iter().chain(blob_chunks).collect();
        figures.withheld = reach == Reach::Kept;
        self.commit(&delta, chunks, taken.state, &mut figures)?;
        figures.publish_us = micros(start.elapsed());
        tracing::debug!(index = figures.index, ?stored, done = ?start.elapsed(), "published");
        Ok(figures)
    }

    /// Decides about all pages, while a second thread stores what is new among them.
    fn take_pages(&mut self, taken: &Taken<'_>) -> Result<Draft, PublishError> {
        let (queue, batches) = mpsc::sync_channel(BATCHES_WAITING);
        let mut draft = Draft::new(taken.figures.clone(), queue);
        draft.figures.dirty_pages = taken.pages.len() as u64;
        let node = Arc::clone(&self.node);
        std::thread::scope(|scope| {
            let storing = scope.spawn(move || store_batches(&node, &batches));
            for batch in taken.pages.chunks(BATCH_PAGES) {
                self.take_batch(batch, &mut draft)?;
            }
            draft.hand_over();
            draft.queue = None;
            storing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok(draft)
        })
    }

    /// Takes some pages through all steps at once, while they are in the processor's cache: compared with what they
    /// were, copied, hashed together, named in the delta, and the new ones encoded.
    fn take_batch(&mut self, pages: &[(PageNumber, &[u8])], draft: &mut Draft) -> Result<(), PublishError> {
        let (mut numbers, mut copies) = (Vec::with_capacity(pages.len()), Vec::with_capacity(pages.len()));
        for (page, bytes) in pages {
            let before = self.shadow[slot_index(page.0)].as_ref();
            if before.is_some_and(|old| old.verified().bytes() == *bytes) {
                draft.figures.unchanged_pages += 1;
            } else {
                numbers.push(*page);
                copies.push(Bytes::copy_from_slice(bytes));
            }
        }
        let hashed = SharedBytes::hashed_together(copies);
        let known = self.known_births(&hashed)?;
        for ((page, bytes), known) in numbers.into_iter().zip(hashed).zip(known) {
            self.take_page(page, bytes, known, draft);
        }
        if draft.waiting.len() >= STORED_TOGETHER {
            draft.hand_over();
        }
        Ok(())
    }

    /// Decides about a page that is not what it was when it last passed through here.
    fn take_page(&mut self, page: PageNumber, bytes: SharedBytes, known: Option<Birth>, draft: &mut Draft) {
        let (hash, slot) = (bytes.hash(), self.map.ram.get(page));
        let shadow = &mut self.shadow[slot_index(page.0)];
        let is_unchanged = slot.is_some_and(|slot| slot.hash() == hash);
        if is_unchanged {
            draft.figures.unchanged_pages += 1;
        }
        if hash == zero_page_hash() {
            // A page of zeros is no chunk, so nothing can be based on it.
            *shadow = None;
            if !is_unchanged {
                draft.figures.zero_pages += 1;
                draft.changes.push((page, PageChange::Zero));
            }
            return;
        }
        if is_unchanged {
            // As it was when it last passed through here, or before this publisher started.
        } else if let Some(birth) = known.or_else(|| draft.born.get(&hash).copied()) {
            draft.figures.duplicate_pages += 1;
            let source = ChunkSource::Same(ChunkRef::own(birth));
            draft.changes.push((page, PageChange::Chunk(source)));
        } else {
            draft.add_new(page, bytes.clone(), shadow.as_ref(), self.map.births);
        }
        *shadow = Some(bytes);
    }

    /// The birth of each content that the lineage has had lately, if its chunk is still held.
    fn known_births(&self, pages: &[SharedBytes]) -> Result<Vec<Option<Birth>>, PublishError> {
        let mut known: Vec<Option<Birth>> = pages.iter().map(|page| self.recent.find(&page.hash())).collect();
        let places: Vec<usize> = (0..known.len()).filter(|place| known[*place].is_some()).collect();
        let hashes: Vec<ChunkHash> = places.iter().map(|place| pages[*place].hash()).collect();
        for (place, held) in places.into_iter().zip(self.node.store.contains_many(&hashes)?) {
            known[place] = known[place].filter(|_| held);
        }
        Ok(known)
    }

    /// Cuts and stores the blobs; new chunks are born from `next` on.
    fn store_blobs(
        &self,
        taken: &Taken<'_>,
        next: u64,
    ) -> Result<(Vec<BlobDelta>, Vec<ChunkHash>), PublishError> {
        let mut blobs = vec![
            (BlobKind::Cpu, taken.state.cpu.clone()),
            (BlobKind::Devices, taken.state.devices.clone()),
            (BlobKind::KvmAttachment, taken.state.attachment.clone()),
        ];
        if let Some(interval) = self.next.0.checked_sub(1) {
            let record = IntervalRecord {
                lineage: self.lineage.id,
                interval: CheckpointIndex(interval),
                event_log: taken.events.to_vec(),
                written: taken.pages.iter().map(|(page, _)| *page).collect(),
            };
            blobs.push((BlobKind::IntervalRecord, record.sign(&self.node.key)));
        }
        let mut fresh: Vec<ChunkHash> = Vec::new();
        let mut deltas = Vec::new();
        let mut encoder = Encoder::new(Effort::Small);
        for (kind, bytes) in &blobs {
            let mut chunks = Vec::new();
            for piece in blob::cut(bytes) {
                let chunk = VerifiedChunk::encode(
                    &mut encoder,
                    SharedBytes::hashed(Bytes::copy_from_slice(piece)),
                    None,
                );
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
        state: &SavedState,
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
            state_root: state_root(&map.ram, [&state.cpu, &state.devices], None),
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
        if figures.withheld {
            // Before it is known here: who connects now is told of the checkpoint before.
            node.lineages.withhold(&id);
        }
        node.lineages.note_applied(&head, hash, map.clone(), Arc::clone(&fresh));
        let reach = if figures.withheld { Reach::Kept } else { Reach::Everyone };
        self.announce(&head, record, delta, &map, reach);
        self.recent.add(delta.births_before, &fresh);
        self.map = map;
        self.parent = hash;
        self.next = index.next();
        Ok(())
    }

    fn announce(&mut self, head: &Head, record: Vec<u8>, delta: &Delta, map: &CheckpointMap, reach: Reach) {
        let (node, lineage) = (Arc::clone(&self.node), self.lineage.id);
        node.lineages.note_held(&lineage, head.index);
        let lengths: Vec<u32> = delta.new_chunks().map(|(_, length)| length).collect();
        let mut births = BirthSet::new();
        if let Some(last) = (lengths.len() as u64).checked_sub(1) {
            births = BirthSet::range(Birth(delta.births_before), Birth(delta.births_before + last));
            node.hub.input_blocking(Input::Lengths { lineage, first: Birth(delta.births_before), lengths });
        }
        match reach {
            Reach::Kept => {
                self.unoffered.add(&births);
                self.kept = Some(record);
            }
            Reach::Everyone => {
                let again = if self.kept.take().is_some() {
                    own_births(map.chunks().map(|(chunk, _)| chunk))
                } else if self.unoffered.is_empty() {
                    BirthSet::new()
                } else {
                    // Content of a checkpoint that was kept can come back in any later one.
                    own_births(named_again(delta))
                };
                births.add(&again.and(&self.unoffered));
                self.offer(births, record);
            }
        }
    }

    /// Announces the latest checkpoint if nobody was told of it: none that follows will be.
    pub fn announce_kept(&mut self) {
        if let Some(record) = self.kept.take() {
            let births = own_births(self.map.chunks().map(|(chunk, _)| chunk)).and(&self.unoffered);
            self.offer(births, record);
        }
    }

    fn offer(&mut self, births: BirthSet, record: Vec<u8>) {
        let (node, lineage) = (&self.node, self.lineage.id);
        self.unoffered.subtract(&births);
        node.lineages.end_withholding(&lineage);
        if !births.is_empty() {
            node.hub.input_blocking(Input::LocalHas { lineage, births });
        }
        node.gossip_try(GossipCommand::Head(record));
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

/// Stores batches until there are no more. At the first error no more are taken.
fn store_batches(node: &Node, batches: &Receiver<Vec<VerifiedChunk>>) -> Result<(), PublishError> {
    pageswarm_vmm::precede(PUBLISHER_PRECEDENCE);
    for chunks in batches {
        node.store.put_chunks(&chunks)?;
        node.recent.add(chunks.into_iter().map(VerifiedChunk::into_shared));
    }
    Ok(())
}

/// Of chunks named in a lineage, the births in that lineage itself.
fn own_births(chunks: impl Iterator<Item = ChunkRef>) -> BirthSet {
    let mut births: Vec<u64> =
        chunks.filter(|chunk| chunk.generation.0 == 0).map(|chunk| chunk.birth.0).collect();
    births.sort_unstable();
    births.into_iter().map(Birth).collect()
}

/// Chunks that a delta names and that were born before it.
fn named_again(delta: &Delta) -> impl Iterator<Item = ChunkRef> {
    let pages = delta.pages.iter().filter_map(|(_, change)| match change {
        PageChange::Chunk(ChunkSource::Same(chunk)) => Some(*chunk),
        _ => None,
    });
    let blobs = delta.blobs.iter().flat_map(|blob| &blob.chunks);
    let pieces = blobs.filter_map(|(source, _)| match source {
        ChunkSource::Same(chunk) => Some(*chunk),
        ChunkSource::New { .. } => None,
    });
    pages.chain(pieces)
}

fn slot_index(number: u32) -> usize {
    usize::try_from(number).expect("a u32 fits usize here")
}

/// The captured pages by number; of a page that left the staging area early and came again, what came last.
fn in_order<'bytes>(
    early: &'bytes BTreeMap<PageNumber, Vec<u8>>,
    captured: &Captured,
    staging: &'bytes SharedMemory,
) -> Vec<(PageNumber, &'bytes [u8])> {
    let late = captured.last.pages.iter();
    let late = late.map(|(page, slot)| (*page, staging.page(slot_index(*slot)).as_slice()));
    let early = early.iter().map(|(page, bytes)| (*page, bytes.as_slice()));
    // The sort is stable: of equal numbers the late one comes first.
    let mut pages: Vec<(PageNumber, &[u8])> = late.chain(early).collect();
    pages.sort_by_key(|(page, _)| *page);
    pages.dedup_by_key(|(page, _)| *page);
    pages
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
