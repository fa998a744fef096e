//! Deltas and keyframes: what a checkpoint changed against the one before, and a whole map in one object.
//!
//! Both are metadata, fetched whole and checked against the hash in a signed head before they are decoded.

use std::collections::BTreeMap;

use crate::codec::{FormatError, Put, Take, length_u64};
use crate::encoding::CHUNK_BYTES_MAX;
use crate::ids::{Birth, CheckpointIndex, ChunkHash, ChunkRef, PageNumber};
use crate::map::{PageMap, Slot};

const DELTA_VERSION: u8 = 1;
const KEYFRAME_VERSION: u8 = 1;
/// The most chunks that one blob may have; at 16 KiB on average that is 4 GiB.
pub const BLOB_CHUNKS_MAX: usize = 1 << 18;
/// Blobs one checkpoint may have.
const BLOBS_MAX: usize = 64;

/// What a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobKind {
    /// Canonical CPU state, in the state root.
    Cpu,
    /// Canonical state of the guest's devices, in the state root.
    Devices,
    /// The recording host's KVM state; outside the state root.
    KvmAttachment,
    /// The interval record of the interval that ended with this checkpoint.
    IntervalRecord,
    /// The trace of one simulated interval, in a lineage of artefacts; outside the state root.
    Trace,
}

/// A chunk that a delta brings into a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkSource {
    /// One that was born before.
    Same(ChunkRef),
    /// A new one; births are given out in the order in which a delta lists its new chunks.
    New {
        /// Hash of the decoded bytes.
        hash: ChunkHash,
        /// Length of the publisher's encoding, in bytes.
        encoded_len: u32,
    },
}

/// What became of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageChange {
    /// It is all zeros now.
    Zero,
    /// It is this chunk now.
    Chunk(ChunkSource),
}

/// A blob as a delta states it: always whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobDelta {
    /// What it is.
    pub kind: BlobKind,
    /// Its chunks in order, each with its decoded length.
    pub chunks: Vec<(ChunkSource, u32)>,
}

/// What checkpoint k changed against k-1.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Delta {
    /// Births of the lineage before this delta; its first new chunk gets this number.
    pub births_before: u64,
    /// Changed pages, ascending.
    pub pages: Vec<(PageNumber, PageChange)>,
    /// The blobs that changed, by kind.
    pub blobs: Vec<BlobDelta>,
}

/// A blob as a map holds it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Blob {
    /// Its chunks in order: where born, hash, decoded length in bytes.
    pub chunks: Vec<(ChunkRef, ChunkHash, u32)>,
}

/// Everything checkpoint k consists of, by name: the result of applying deltas up to k.
#[derive(Clone, Debug)]
pub struct CheckpointMap {
    /// The RAM.
    pub ram: PageMap,
    /// The blobs.
    pub blobs: BTreeMap<BlobKind, Blob>,
    /// Births of the lineage up to and with this checkpoint.
    pub births: u64,
}

/// Why a delta cannot be applied to a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// It continues another number of births than the map has.
    #[error("delta starts at birth {delta}, the map ends at {map}")]
    Births {
        /// The delta's.
        delta: u64,
        /// The map's.
        map: u64,
    },
    /// A page number beyond the RAM.
    #[error("delta changes page {page} of a RAM of {pages} pages")]
    PageBeyondRam {
        /// The page.
        page: PageNumber,
        /// Pages in the RAM.
        pages: u32,
    },
    /// A chunk that no known ancestor bore.
    #[error("delta names chunk {birth} of generation {generation}, whose hash is not known here")]
    UnknownChunk {
        /// The ancestor, counted upwards.
        generation: u16,
        /// The birth there.
        birth: Birth,
    },
}

impl BlobKind {
    const ALL: [Self; 5] = [Self::Cpu, Self::Devices, Self::KvmAttachment, Self::IntervalRecord, Self::Trace];

    const fn tag(self) -> u8 {
        match self {
            Self::Cpu => 1,
            Self::Devices => 2,
            Self::KvmAttachment => 3,
            Self::IntervalRecord => 4,
            Self::Trace => 5,
        }
    }

    fn take(take: &mut Take<'_>) -> Result<Self, FormatError> {
        let at = take.position();
        let tag = take.byte()?;
        Self::ALL
            .into_iter()
            .find(|kind| kind.tag() == tag)
            .ok_or(FormatError::Unexpected { at, what: "blob kind" })
    }
}

impl Delta {
    /// New chunks in the order of their births: hash and encoded length.
    pub fn new_chunks(&self) -> impl Iterator<Item = (ChunkHash, u32)> + '_ {
        let pages = self.pages.iter().filter_map(|(_, change)| match change {
            PageChange::Chunk(source) => Some(source),
            PageChange::Zero => None,
        });
        let blobs = self.blobs.iter().flat_map(|blob| blob.chunks.iter().map(|(source, _)| source));
        pages.chain(blobs).filter_map(|source| match source {
            ChunkSource::New { hash, encoded_len } => Some((*hash, *encoded_len)),
            ChunkSource::Same(_) => None,
        })
    }

    /// The bytes described in docs/format.md.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![DELTA_VERSION];
        out.put_varint(self.births_before);
        out.put_varint(length_u64(self.pages.len()));
        let mut next = 0;
        for (page, change) in &self.pages {
            let gap = u64::from(page.0 - next) << 2;
            next = page.0.wrapping_add(1);
            match change {
                PageChange::Zero => out.put_varint(gap),
                PageChange::Chunk(source) => put_source(&mut out, gap, source),
            }
        }
        out.put_varint(length_u64(self.blobs.len()));
        for blob in &self.blobs {
            out.push(blob.kind.tag());
            out.put_varint(length_u64(blob.chunks.len()));
            for (source, decoded_len) in &blob.chunks {
                put_source(&mut out, u64::from(*decoded_len) << 2, source);
            }
        }
        out
    }

    /// Reads a delta of a RAM of `pages` pages.
    ///
    /// # Errors
    ///
    /// [`FormatError`] for anything that [`Delta::encode`] does not write.
    pub fn decode(bytes: &[u8], pages: u32) -> Result<Self, FormatError> {
        let mut take = Take::new(bytes);
        let version = take.byte()?;
        take.require(version == DELTA_VERSION, "delta version")?;
        let births_before = take.varint()?;
        let count = take.count(usize::try_from(pages).unwrap_or(usize::MAX))?;
        let mut changes = Vec::with_capacity(count);
        let mut next = 0_u64;
        for _ in 0..count {
            let coded = take.varint()?;
            let page = next + (coded >> 2);
            take.require(page < u64::from(pages), "page beyond the RAM")?;
            next = page + 1;
            let change = match coded & 3 {
                0 => PageChange::Zero,
                kind => PageChange::Chunk(take_source(&mut take, kind)?),
            };
            let page = u32::try_from(page).expect("below the number of pages");
            changes.push((PageNumber(page), change));
        }
        let mut blobs = Vec::new();
        for _ in 0..take.count(BLOBS_MAX)? {
            let kind = BlobKind::take(&mut take)?;
            take.require(blobs.last().is_none_or(|last: &BlobDelta| last.kind < kind), "order of blobs")?;
            blobs.push(BlobDelta { kind, chunks: take_blob_chunks(&mut take)? });
        }
        take.finish()?;
        let delta = Self { births_before, pages: changes, blobs };
        let news = length_u64(delta.new_chunks().count());
        if births_before.checked_add(news).is_none() {
            return Err(FormatError::Unexpected { at: 1, what: "number of births" });
        }
        Ok(delta)
    }
}

fn take_blob_chunks(take: &mut Take<'_>) -> Result<Vec<(ChunkSource, u32)>, FormatError> {
    let count = take.count(BLOB_CHUNKS_MAX)?;
    let mut chunks = Vec::with_capacity(count);
    for _ in 0..count {
        let coded = take.varint()?;
        let length = coded >> 2;
        take.require(length <= length_u64(CHUNK_BYTES_MAX), "length of a blob's chunk")?;
        let source = take_source(take, coded & 3)?;
        chunks.push((source, u32::try_from(length).expect("at most 64 KiB")));
    }
    Ok(chunks)
}

const KIND_OWN: u64 = 1;
const KIND_NEW: u64 = 2;
const KIND_ANCESTOR: u64 = 3;

/// `coded` has its two low bits free for the kind.
fn put_source(out: &mut Vec<u8>, coded: u64, source: &ChunkSource) {
    match source {
        ChunkSource::Same(chunk) if chunk.generation.0 == 0 => {
            out.put_varint(coded | KIND_OWN);
            out.put_varint(chunk.birth.0);
        }
        ChunkSource::Same(chunk) => {
            out.put_varint(coded | KIND_ANCESTOR);
            out.put_chunk_ref(*chunk);
        }
        ChunkSource::New { hash, encoded_len } => {
            out.put_varint(coded | KIND_NEW);
            out.extend_from_slice(hash.as_bytes());
            out.put_varint(u64::from(*encoded_len));
        }
    }
}

fn take_source(take: &mut Take<'_>, kind: u64) -> Result<ChunkSource, FormatError> {
    match kind {
        KIND_OWN => Ok(ChunkSource::Same(ChunkRef::own(Birth(take.varint()?)))),
        KIND_NEW => {
            let hash = ChunkHash(take.array()?);
            let encoded_len = take.varint_u32()?;
            take.require(length_u64(CHUNK_BYTES_MAX) >= u64::from(encoded_len), "length of a chunk")?;
            Ok(ChunkSource::New { hash, encoded_len })
        }
        KIND_ANCESTOR => {
            let chunk = take.chunk_ref()?;
            take.require(chunk.generation.0 > 0, "own chunk coded as an ancestor's")?;
            Ok(ChunkSource::Same(chunk))
        }
        _ => Err(FormatError::Unexpected { at: take.position(), what: "kind of change" }),
    }
}

impl CheckpointMap {
    /// A VM before its first checkpoint: zero RAM of `pages` pages, no blobs, no births.
    #[must_use]
    pub fn zero(pages: u32) -> Self {
        Self { ram: PageMap::zero(pages), blobs: BTreeMap::new(), births: 0 }
    }

    /// The map a branch starts from: everything named one generation further up.
    #[must_use]
    pub fn branched(&self) -> Self {
        let up = |chunk: ChunkRef| ChunkRef {
            generation: crate::ids::Generation(chunk.generation.0.saturating_add(1)),
            ..chunk
        };
        let pages: Vec<_> = self
            .ram
            .chunks()
            .map(|(page, source, hash)| (page, Slot::Chunk { source: up(source), hash }))
            .collect();
        let mut blobs = self.blobs.clone();
        for (source, _, _) in blobs.values_mut().flat_map(|blob| &mut blob.chunks) {
            *source = up(*source);
        }
        Self { ram: PageMap::zero(self.ram.pages()).with(&pages), blobs, births: 0 }
    }

    /// The next checkpoint's map. `hash_of` knows the hashes of chunks born before.
    ///
    /// # Errors
    ///
    /// [`ApplyError`] if the delta does not continue this map.
    pub fn apply(
        &self,
        delta: &Delta,
        hash_of: impl Fn(ChunkRef) -> Option<ChunkHash>,
    ) -> Result<Self, ApplyError> {
        if delta.births_before != self.births {
            return Err(ApplyError::Births { delta: delta.births_before, map: self.births });
        }
        let pages = self.ram.pages();
        if let Some((page, _)) = delta.pages.last().filter(|(page, _)| page.0 >= pages) {
            return Err(ApplyError::PageBeyondRam { page: *page, pages });
        }
        let fresh: Vec<ChunkHash> = delta.new_chunks().map(|(hash, _)| hash).collect();
        let mut births = self.births;
        // A chunk may be named by the very delta that bears it.
        let own = |chunk: ChunkRef| {
            let at = chunk.birth.0.checked_sub(self.births).filter(|_| chunk.generation.0 == 0)?;
            fresh.get(usize::try_from(at).ok()?).copied()
        };
        let mut resolve = |source: &ChunkSource| match source {
            ChunkSource::Same(chunk) => own(*chunk)
                .or_else(|| hash_of(*chunk))
                .map(|hash| (*chunk, hash))
                .ok_or(ApplyError::UnknownChunk { generation: chunk.generation.0, birth: chunk.birth }),
            ChunkSource::New { hash, .. } => {
                births += 1;
                Ok((ChunkRef::own(Birth(births - 1)), *hash))
            }
        };
        let mut changes = Vec::with_capacity(delta.pages.len());
        for (page, change) in &delta.pages {
            let slot = match change {
                PageChange::Zero => Slot::Zero,
                PageChange::Chunk(source) => {
                    let (source, hash) = resolve(source)?;
                    Slot::Chunk { source, hash }
                }
            };
            changes.push((*page, slot));
        }
        let mut blobs = self.blobs.clone();
        for blob in &delta.blobs {
            let mut chunks = Vec::with_capacity(blob.chunks.len());
            for (source, decoded_len) in &blob.chunks {
                let (source, hash) = resolve(source)?;
                chunks.push((source, hash, *decoded_len));
            }
            blobs.insert(blob.kind, Blob { chunks });
        }
        Ok(Self { ram: self.ram.with(&changes), blobs, births })
    }

    /// Every chunk the checkpoint consists of, pages first; a chunk that occurs twice is named twice.
    pub fn chunks(&self) -> impl Iterator<Item = (ChunkRef, ChunkHash)> + '_ {
        let pages = self.ram.chunks().map(|(_, source, hash)| (source, hash));
        pages.chain(self.blobs.values().flat_map(|blob| blob.chunks.iter().map(|(s, h, _)| (*s, *h))))
    }

    /// The whole map as one object, for those who join late.
    #[must_use]
    pub fn encode_keyframe(&self, index: CheckpointIndex) -> Vec<u8> {
        let mut out = vec![KEYFRAME_VERSION];
        out.put_varint(index.0);
        out.put_varint(self.births);
        out.put_varint(u64::from(self.ram.pages()));
        let pages: Vec<_> = self.ram.chunks().collect();
        out.put_varint(length_u64(pages.len()));
        let mut next = 0;
        for (page, source, hash) in pages {
            out.put_varint(u64::from(page.0 - next));
            next = page.0.wrapping_add(1);
            out.put_chunk_ref(source);
            out.extend_from_slice(hash.as_bytes());
        }
        out.put_varint(length_u64(self.blobs.len()));
        for (kind, blob) in &self.blobs {
            out.push(kind.tag());
            out.put_varint(length_u64(blob.chunks.len()));
            for (source, hash, decoded_len) in &blob.chunks {
                out.put_chunk_ref(*source);
                out.extend_from_slice(hash.as_bytes());
                out.put_varint(u64::from(*decoded_len));
            }
        }
        out
    }

    /// Reads a keyframe of a RAM of `pages` pages.
    ///
    /// # Errors
    ///
    /// [`FormatError`] for anything that [`CheckpointMap::encode_keyframe`] does not write.
    pub fn decode_keyframe(bytes: &[u8], pages: u32) -> Result<(CheckpointIndex, Self), FormatError> {
        let mut take = Take::new(bytes);
        let version = take.byte()?;
        take.require(version == KEYFRAME_VERSION, "keyframe version")?;
        let index = CheckpointIndex(take.varint()?);
        let births = take.varint()?;
        let stated = take.varint()?;
        take.require(stated == u64::from(pages), "size of the RAM")?;
        let count = take.count(usize::try_from(pages).unwrap_or(usize::MAX))?;
        let mut slots = Vec::with_capacity(count);
        let mut next = 0_u64;
        for _ in 0..count {
            let page = take.varint()?.saturating_add(next);
            take.require(page < u64::from(pages), "page beyond the RAM")?;
            next = page + 1;
            let slot = Slot::Chunk { source: take.chunk_ref()?, hash: ChunkHash(take.array()?) };
            slots.push((PageNumber(u32::try_from(page).expect("below the number of pages")), slot));
        }
        let mut blobs = BTreeMap::new();
        for _ in 0..take.count(BLOBS_MAX)? {
            let kind = BlobKind::take(&mut take)?;
            take.require(blobs.last_key_value().is_none_or(|(last, _)| *last < kind), "order of blobs")?;
            let count = take.count(BLOB_CHUNKS_MAX)?;
            let mut chunks = Vec::with_capacity(count);
            for _ in 0..count {
                let (source, hash) = (take.chunk_ref()?, ChunkHash(take.array()?));
                let decoded_len = take.varint_u32()?;
                take.require(length_u64(CHUNK_BYTES_MAX) >= u64::from(decoded_len), "length of a chunk")?;
                chunks.push((source, hash, decoded_len));
            }
            blobs.insert(kind, Blob { chunks });
        }
        take.finish()?;
        Ok((index, Self { ram: PageMap::zero(pages).with(&slots), blobs, births }))
    }
}
