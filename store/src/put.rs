//! Taking chunks in: once each, verified, and never at the end of a long chain of patches.

use std::borrow::Cow;
use std::collections::HashSet;

use pageswarm_checkpoint::{ChunkHash, EncodedChunk, Encoder, Encoding};

use crate::chain::Chains;
use crate::chunk::VerifiedChunk;
use crate::fault::{IndexError, WriteError};
use crate::index::{Form, Key};
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
    /// A patch stays a patch if its base is held, or came earlier in the batch, with fewer than
    /// [`CHAIN_DEPTH_MAX`] patches below it; else it is stored without base.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: disk full, quota reached, or an I/O failure.
    pub fn put_chunks(&self, batch: &[VerifiedChunk]) -> Result<PutReport, WriteError> {
        let mut intake = self.intake();
        let fresh = self.not_held(batch)?;
        let wanted = fresh.iter().map(|chunk| (HEADER_BYTES + 32 + chunk.encoded().bytes.len()) as u64).sum();
        self.check_quota(&intake, wanted)?;
        let mut chains = Chains::default();
        chains.resolve(&self.index, fresh.iter().filter_map(|chunk| base_of(chunk.encoded())).collect())?;
        let reencoded = self.write(&mut intake, |batch| {
            let mut reencoded = 0;
            let mut encoder = Encoder::new();
            for chunk in &fresh {
                let encoded = storable(&chains, chunk, &mut encoder);
                reencoded += u64::from(matches!(encoded, Cow::Owned(_)));
                push_chunk(batch, &mut chains, chunk.hash(), &encoded)?;
            }
            Ok(reencoded)
        })?;
        let stored = fresh.len() as u64;
        let duplicates = batch.len() as u64 - stored;
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
        let keys: Vec<Vec<u8>> = hashes.iter().map(|hash| Key::Chunk(*hash).encode()).collect();
        Ok(self.index.look_up(&keys, |_| ())?.iter().map(Option::is_some).collect())
    }

    /// The chunks of the batch that are not held, each once, in order.
    fn not_held<'batch>(
        &self,
        batch: &'batch [VerifiedChunk],
    ) -> Result<Vec<&'batch VerifiedChunk>, IndexError> {
        let hashes: Vec<ChunkHash> = batch.iter().map(VerifiedChunk::hash).collect();
        let held = self.contains_many(&hashes)?;
        let mut seen = HashSet::with_capacity(batch.len());
        let fresh = batch.iter().zip(held).filter(|(chunk, held)| !held && seen.insert(chunk.hash()));
        Ok(fresh.map(|(chunk, _)| chunk).collect())
    }
}

/// The form in which a chunk is stored: as it came, or without a base that would make it unreadable or deep.
fn storable<'chunk>(
    chains: &Chains,
    chunk: &'chunk VerifiedChunk,
    encoder: &mut Encoder<'_>,
) -> Cow<'chunk, EncodedChunk<ChunkHash>> {
    let base_is_good = |base| {
        let location = chains.location(base)?;
        let depth = chains.depth(location).ok()?;
        (depth < CHAIN_DEPTH_MAX).then_some(())
    };
    match base_of(chunk.encoded()) {
        Some(base) if base_is_good(base).is_none() => {
            Cow::Owned(encoder.encode(chunk.decoded().bytes(), None))
        }
        _ => Cow::Borrowed(chunk.encoded()),
    }
}

fn push_chunk(
    batch: &mut Batch<'_>,
    chains: &mut Chains,
    hash: ChunkHash,
    encoded: &EncodedChunk<ChunkHash>,
) -> Result<(), WriteError> {
    let base = base_of(encoded);
    let parts = [base.as_ref().map_or(&[][..], |base| base.as_bytes()), &encoded.bytes];
    let form = Form::of(&encoded.encoding) as u8;
    let header = RecordHeader::for_payload(RecordKind::Chunk, form, hash.0, encoded.decoded_len, &parts);
    let location = batch.push_chunk(&header, &parts)?;
    chains.insert(hash, location);
    Ok(())
}

fn base_of(encoded: &EncodedChunk<ChunkHash>) -> Option<ChunkHash> {
    match encoded.encoding {
        Encoding::Patch { base } => Some(base),
        Encoding::Raw | Encoding::Zstd => None,
    }
}
