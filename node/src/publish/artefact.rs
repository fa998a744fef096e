//! Publishing a stream of bytes as the blob of a checkpoint without RAM.

use std::io::Read;

use bytes::Bytes;
use pageswarm_checkpoint::delta::BLOB_CHUNKS_MAX;
use pageswarm_checkpoint::{
    ArtefactPlace, Birth, BlobDelta, BlobKind, ChunkHash, ChunkMap, ChunkRef, ChunkSource, Delta, Effort,
    Encoder, blob,
};
use pageswarm_store::{SharedBytes, VerifiedChunk};
use pageswarm_vmm::SavedState;

use super::{CheckpointFigures, PublishError, Publisher};

/// Pieces hashed and stored together: at most 4 MiB.
const PIECES_TOGETHER: usize = 64;

/// What is known of a blob while it is read.
struct Pieces {
    /// The lineage's births before it.
    births: u64,
    chunks: Vec<(ChunkSource, u32)>,
    fresh: Vec<ChunkHash>,
    born: ChunkMap<Birth>,
}

impl Publisher {
    /// Publishes what `bytes` gives as the next checkpoint's only blob: on return it is durable and its head on the way.
    ///
    /// # Errors
    ///
    /// [`PublishError`]; [`PublishError::TooManyPieces`] if it is longer than a blob can be.
    pub fn publish_artefact(
        &mut self,
        kind: BlobKind,
        bytes: impl Read,
    ) -> Result<ArtefactPlace, PublishError> {
        let births = self.map.births;
        let mut pieces = Pieces { births, chunks: vec![], fresh: vec![], born: ChunkMap::default() };
        let mut waiting = Vec::with_capacity(PIECES_TOGETHER);
        for piece in blob::cut_stream(bytes) {
            waiting.push(Bytes::from(piece.map_err(PublishError::Artefact)?));
            if waiting.len() == PIECES_TOGETHER {
                self.store_pieces(std::mem::take(&mut waiting), &mut pieces)?;
            }
        }
        self.store_pieces(waiting, &mut pieces)?;
        let place = ArtefactPlace { lineage: self.lineage.id, index: self.next };
        let blobs = vec![BlobDelta { kind, chunks: pieces.chunks }];
        let delta = Delta { births_before: births, pages: vec![], blobs };
        let mut figures = CheckpointFigures { index: place.index.0, ..CheckpointFigures::default() };
        self.commit(&delta, pieces.fresh, &SavedState::default(), &mut figures)?;
        Ok(place)
    }

    fn store_pieces(&self, pieces: Vec<Bytes>, known: &mut Pieces) -> Result<(), PublishError> {
        if known.chunks.len() + pieces.len() > BLOB_CHUNKS_MAX {
            return Err(PublishError::TooManyPieces);
        }
        let mut encoder = Encoder::new(Effort::Fast);
        let mut fresh = Vec::with_capacity(pieces.len());
        for piece in SharedBytes::hashed_together(pieces) {
            let (hash, bytes) = (piece.hash(), piece.verified().bytes());
            let length = u32::try_from(bytes.len()).expect("a piece is at most 64 KiB");
            let source = match known.born.get(&hash) {
                Some(birth) => ChunkSource::Same(ChunkRef::own(*birth)),
                None => {
                    known.born.insert(hash, Birth(known.births + known.fresh.len() as u64));
                    known.fresh.push(hash);
                    let chunk = VerifiedChunk::encode(&mut encoder, piece, None);
                    let encoded_len = u32::try_from(chunk.encoded().bytes.len()).expect("at most 64 KiB");
                    fresh.push(chunk);
                    ChunkSource::New { hash, encoded_len }
                }
            };
            known.chunks.push((source, length));
        }
        self.node.store.put_chunks(&fresh)?;
        Ok(())
    }
}
