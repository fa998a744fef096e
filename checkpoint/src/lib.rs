//! What a checkpoint is: pages, page maps, deltas, heads, encodings, wire and disk formats. No I/O.
//!
//! - [`ids`]: the names and quantities everything else is expressed in
//! - [`codec`]: the primitive values every format is made of
//! - [`encoding`]: the forms in which a chunk is stored and sent
//! - [`diff`]: one of them, what changed between two versions of a page
//! - [`hash`]: the names of chunks
//! - [`map`]: which chunk each page is, with a Merkle root and proofs
//! - [`delta`]: what a checkpoint changed, and keyframes
//! - [`record`]: genesis, heads, interval records and the state root
//! - [`result`]: signed results of simulations
//! - [`membership`]: certificates, revocations, tickets
//! - [`wire`]: what nodes say to each other
//! - [`blob`]: byte streams that are not RAM, cut into chunks
//!
//! docs/format.md describes every byte.

#![forbid(unsafe_code)]

pub mod blob;
pub mod codec;
pub mod delta;
pub mod diff;
pub mod encoding;
pub mod hash;
pub mod ids;
pub mod map;
pub mod membership;
pub mod record;
pub mod result;
pub mod wire;

#[cfg(test)]
mod noise;

pub use delta::{ApplyError, Blob, BlobDelta, BlobKind, CheckpointMap, ChunkSource, Delta, PageChange};
pub use encoding::{CHUNK_BYTES_MAX, DecodeError, Decoder, Effort, EncodedChunk, Encoder, Encoding};
pub use hash::{ChunkMap, chunk_hash, chunk_hashes};
pub use ids::{
    Birth, CheckpointIndex, ChunkHash, ChunkRef, Generation, LineageId, NodeId, ObjectHash, PAGE_BYTES,
    PageNumber, ParseNameError, StateRoot,
};
pub use map::{PageMap, PageProof, Slot, zero_page_hash};
pub use record::{
    BranchPoint, Genesis, Head, IntervalRecord, ObjectName, RecordError, node_id, object_hash, state_root,
};
pub use result::{
    AnnouncedResult, ArtefactPlace, Outcome, SimulationFailure, SimulationResult, SimulatorBuild, Trace, Work,
};
