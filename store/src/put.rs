//! Taking chunks in: once each, verified, and never at the end of a long chain of patches.

use std::borrow::Cow;

use pageswarm_checkpoint::{ChunkHash, ChunkMap, Effort, EncodedChunk, Encoder};

use crate::chain::{Chains, Located};
use crate::chunk::VerifiedChunk;
use crate::fault::{IndexError, WriteError};
use crate::index::Form;
use crate::limits::CHAIN_DEPTH_MAX;
use crate::pack::{HEADER_BYTES, RecordHeader, RecordKind};
use crate::store::{Batch, Store};

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutReport {
    /// Chunks written.
    pub stored: u64,
    /// Chunks that were held already, or came twice in the batch.
    pub duplicates: u64,
    /// Patches among the written ones that were stored without their base.
    pub reencoded: u64,
}

impl Store {
    /// Takes in the chunks that are not held yet: all of them or, on error, none. They can be read at once and
    /// are durable after the next [`Store::sync`] or [`Store::commit_checkpoint`].
    ///
    /// What has a base keeps it if the base is held, or came earlier in the batch, with fewer than
    /// [`CHAIN_DEPTH_MAX`] bases below it; else it is stored without base.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: disk full, quota reached, or an I/O failure.
    pub fn put_chunks(&self, batch: &[VerifiedChunk]) -> Result<PutReport, WriteError> {
        // Everything that takes time happens before the writer is taken.
        let fresh = self.not_held(batch)?;
        let mut chains = Chains::default();
        chains.resolve(&self.index, fresh.iter().filter_map(|chunk| base_of(&chunk.encoded())).collect())?;
        let storable = storable(chains, &fresh);
        let hashes: Vec<ChunkHash> = fresh.iter().map(|chunk| chunk.hash()).collect();
        let mut intake = self.intake();
        // Another thread may have put the same meanwhile; that is in memory still.
        let held_by_now = self.index.is_recent(&hashes);
        let storable: Vec<_> = hashes
            .iter()
            .zip(&storable)
            .zip(held_by_now)
            .filter(|(_, held)| !held)
            .map(|(new, _)| new)
            .collect();
        let wanted =
            storable.iter().map(|(_, encoded)| (HEADER_BYTES + 32 + encoded.bytes.len()) as u64).sum();
        self.check_quota(&intake, wanted)?;
        self.write(&mut intake, |batch| {
            storable.iter().try_for_each(|(hash, encoded)| push_chunk(batch, **hash, encoded))
        })?;
        let stored = storable.len() as u64;
        let duplicates = batch.len() as u64 - stored;
        let reencoded =
            storable.iter().filter(|(_, encoded)| matches!(encoded.bytes, Cow::Owned(_))).count() as u64;
        intake.duplicates += duplicates;
        intake.reencoded += reencoded;
        Ok(PutReport { stored, duplicates, reencoded })
    }

    /// Whether each chunk is held.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn contains_many(&self, hashes: &[ChunkHash]) -> Result<Vec<bool>, IndexError> {
        Ok(self.index.locate(hashes)?.iter().map(|located| *located != Located::NotHeld).collect())
    }

    /// The chunks of the batch that are not held, each once, in order.
    fn not_held<'batch>(
        &self,
        batch: &'batch [VerifiedChunk],
    ) -> Result<Vec<&'batch VerifiedChunk>, IndexError> {
        let hashes: Vec<ChunkHash> = batch.iter().map(VerifiedChunk::hash).collect();
        let held = self.contains_many(&hashes)?;
        let mut seen: ChunkMap<()> = ChunkMap::default();
        let fresh =
            batch.iter().zip(held).filter(|(chunk, held)| !held && seen.insert(chunk.hash(), ()).is_none());
        Ok(fresh.map(|(chunk, _)| chunk).collect())
    }
}

/// A chunk in the form in which it is stored; its bytes are its own if they were made for that.
type Storable<'chunk> = EncodedChunk<ChunkHash, Cow<'chunk, [u8]>>;

/// The form in which each chunk is stored: as it came, or without a base that would make it unreadable or deep.
fn storable<'chunk>(mut chains: Chains, fresh: &[&'chunk VerifiedChunk]) -> Vec<Storable<'chunk>> {
    let mut encoder = Encoder::new(Effort::Fast);
    let mut storable = Vec::with_capacity(fresh.len());
    for chunk in fresh {
        let is_deep = |base| chains.depth_of(base).is_none_or(|depth| depth >= CHAIN_DEPTH_MAX);
        let EncodedChunk { encoding, decoded_len, bytes } = chunk.encoded();
        let encoded = match encoding.base() {
            Some(base) if is_deep(*base) => {
                let EncodedChunk { encoding, decoded_len, bytes } =
                    encoder.encode(chunk.decoded().bytes(), None);
                Storable { encoding, decoded_len, bytes: Cow::Owned(bytes) }
            }
            _ => Storable { encoding, decoded_len, bytes: Cow::Borrowed(bytes) },
        };
        // Those that follow in the batch may be based on it.
        chains.expect(chunk.hash(), base_of(&encoded));
        storable.push(encoded);
    }
    storable
}

fn push_chunk(batch: &mut Batch<'_>, hash: ChunkHash, encoded: &Storable<'_>) -> Result<(), WriteError> {
    let base = base_of(encoded);
    let parts = [base.as_ref().map_or(&[][..], |base| base.as_bytes()), &encoded.bytes];
    let form = Form::of(&encoded.encoding) as u8;
    let header = RecordHeader::for_payload(RecordKind::Chunk, form, hash.0, encoded.decoded_len, &parts);
    batch.push_chunk(&header, &parts)
}

fn base_of<Bytes>(encoded: &EncodedChunk<ChunkHash, Bytes>) -> Option<ChunkHash> {
    encoded.encoding.base().copied()
}
