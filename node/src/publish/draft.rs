//! A checkpoint on its way: what of it is decided, and what waits to be stored.

use std::sync::mpsc::SyncSender;

use pageswarm_checkpoint::{
    Birth, ChunkHash, ChunkMap, ChunkSource, Effort, Encoder, PageChange, PageNumber,
};
use pageswarm_store::{SharedBytes, VerifiedChunk};

use super::CheckpointFigures;

/// What of a checkpoint is decided so far.
pub(super) struct Draft {
    /// By page number.
    pub(super) changes: Vec<(PageNumber, PageChange)>,
    /// New chunks by birth.
    pub(super) new: Vec<ChunkHash>,
    /// Their births.
    pub(super) born: ChunkMap<Birth>,
    /// Of these, chunks that were not handed over to be stored yet.
    pub(super) waiting: Vec<VerifiedChunk>,
    /// To whoever stores them; none once all are handed over.
    pub(super) queue: Option<SyncSender<Vec<VerifiedChunk>>>,
    /// For chunks without a base.
    encoder: Encoder<'static>,
    pub(super) figures: CheckpointFigures,
}

impl Draft {
    pub(super) fn new(figures: CheckpointFigures, queue: SyncSender<Vec<VerifiedChunk>>) -> Self {
        Self {
            changes: vec![],
            new: vec![],
            born: ChunkMap::default(),
            waiting: vec![],
            queue: Some(queue),
            encoder: Encoder::new(Effort::Small),
            figures,
        }
    }

    /// Hands over what waits. If nobody takes it storing has failed, which whoever stores tells.
    pub(super) fn hand_over(&mut self) {
        let chunks = std::mem::take(&mut self.waiting);
        let _failed = self.queue.as_ref().map(|queue| queue.send(chunks));
    }

    /// A page of new content, encoded on what it was before.
    pub(super) fn add_new(
        &mut self,
        page: PageNumber,
        bytes: SharedBytes,
        before: Option<&SharedBytes>,
        births: u64,
    ) {
        // A guest waits for this thread if it falls behind, so what has a base is encoded fast. What has none is worth
        // more time: all that follows is based on it.
        let chunk = match before {
            Some(before) => {
                VerifiedChunk::encode(&mut Encoder::new(Effort::Fast), bytes, Some(before.verified()))
            }
            None => VerifiedChunk::encode(&mut self.encoder, bytes, None),
        };
        let (hash, length) = (chunk.hash(), chunk.encoded().bytes.len() as u64);
        self.figures.new_pages += 1;
        self.figures.new_bytes += length;
        if chunk.encoded().encoding.base().is_some() {
            self.figures.patched_pages += 1;
            self.figures.patched_bytes += length;
        }
        let encoded_len = u32::try_from(length).expect("a chunk is at most 64 KiB");
        self.changes.push((page, PageChange::Chunk(ChunkSource::New { hash, encoded_len })));
        self.born.insert(hash, Birth(births + self.new.len() as u64));
        self.new.push(hash);
        self.waiting.push(chunk);
    }
}
