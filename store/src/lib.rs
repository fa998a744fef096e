//! The deduplicating chunk store of one node: append-only packs of encoded chunks and an index of them.
//!
//! Packs are the truth, the index is a cache of it: every record names itself, so the index can be rebuilt
//! from packs alone. **The index only ever names bytes that were synced before**; what is newer waits in memory
//! and is found again by scanning the packs' tails. An acknowledged checkpoint therefore survives the death of
//! the process and of the machine, and an unacknowledged chunk may be lost but is never wrong.
//!
//! **Every chunk that is given out decoded is hashed then**, and only hashed bytes get in ([`VerifiedChunk`]). A chunk that is
//! found bad leaves the index, so that it counts as not held and can be fetched again.

#![forbid(unsafe_code)]

mod bad;
mod chain;
mod chunk;
mod directory;
mod fault;
mod index;
mod lineage;
mod note;
mod object;
mod pack;
mod put;
mod read;
mod recover;
mod stats;
mod store;
mod verify;

pub mod limits;

#[cfg(test)]
mod noise;

pub use bad::{BadCause, BadChunk, Place};
pub use chunk::{Arrived, SharedBytes, VerifiedBytes, VerifiedChunk, VerifyError};
pub use directory::{DirectoryError, HolderId, STORE_VERSION};
pub use fault::{CommitError, IndexError, OpenError, PackError, ReadError, WriteError};
pub use lineage::{CommittedCheckpoint, NewCheckpoint};
pub use note::Note;
pub use object::ObjectKind;
pub use pack::PackNumber;
pub use put::PutReport;
pub use read::{ChunkRead, Step, StepsRead, StepsWanted};
pub use recover::{DamagedRegion, OpenReport, ShortPack};
pub use stats::Stats;
pub use store::{Store, StoreOptions};
pub use verify::VerifyReport;
