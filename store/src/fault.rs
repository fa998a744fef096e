//! What can go wrong: one enum per public operation, composed of the same few facts.

use std::io;
use std::path::PathBuf;

use pageswarm_checkpoint::{CheckpointIndex, ChunkHash, LineageId, ObjectHash};

use crate::bad::{BadCause, BadChunk, Place};
use crate::directory::DirectoryError;
use crate::pack::PackNumber;

/// The index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// No space left where the index is.
    #[error("disk is full: the index cannot be written; free space on it, or use another directory")]
    DiskFull,
    /// The index is damaged; packs are the truth.
    #[error("index is damaged: it is made anew from the packs when the store is opened next")]
    Damaged(#[source] rocksdb::Error),
    /// An entry has a shape that no entry has.
    #[error("index entry is damaged: the index is made anew from the packs when the store is opened next")]
    EntryDamaged,
    /// The index was found damaged when it was open before.
    #[error("index was found damaged: it has to be made anew from the packs")]
    FoundDamaged,
    /// Anything else RocksDB says.
    #[error("index cannot be used")]
    Unusable(#[source] rocksdb::Error),
}

/// A pack cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("pack {pack} cannot be used")]
pub struct PackError {
    /// The pack.
    pub pack: PackNumber,
    /// The system's reason.
    pub source: io::Error,
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory is locked, foreign, newer, or not accessible.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Its index does not open.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A pack cannot be scanned.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// All pack numbers are used up.
    #[error("pack numbers are used up")]
    PacksExhausted,
    /// The directory of packs cannot be listed.
    #[error("packs in {} cannot be listed", dir.display())]
    List {
        /// The directory.
        dir: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Why nothing, or not all, was taken in. What was acknowledged before is kept.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// No space left where packs are.
    #[error("disk is full: what is acknowledged is kept, nothing more can be stored until space is free")]
    DiskFull,
    /// The batch would exceed the store's quota.
    #[error(
        "store holds {used_bytes} bytes and may hold {quota_bytes}: {wanted_bytes} more do not fit; \
         give it a larger quota"
    )]
    QuotaReached {
        /// Bytes of all packs.
        used_bytes: u64,
        /// The quota.
        quota_bytes: u64,
        /// Bytes that the batch needs.
        wanted_bytes: u64,
    },
    /// A sync failed earlier, so the system may have dropped writes: the store must be opened again.
    #[error("an earlier sync failed: the store takes nothing more until it is opened again")]
    SyncFailedBefore,
    /// All pack numbers are used up.
    #[error("pack numbers are used up")]
    PacksExhausted,
    /// A metadata object or note beyond its limit.
    #[error("{bytes} bytes are beyond the limit of {bytes_max}")]
    TooLong {
        /// The length offered.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Writing a pack failed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Reading or writing the index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl WriteError {
    /// Whether there is no room: on the disk, or in the store's quota.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::DiskFull | Self::QuotaReached { .. } | Self::Index(IndexError::DiskFull) => true,
            Self::Pack(error) => {
                matches!(error.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

/// Why a head or a checkpoint is not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another head of the same lineage and index is held: two heads, one writer.
    #[error("lineage {lineage} has two heads {index}: {held} is held, {offered} is refused")]
    Equivocation {
        /// The lineage.
        lineage: LineageId,
        /// The checkpoint.
        index: CheckpointIndex,
        /// The head held.
        held: ObjectHash,
        /// The head offered.
        offered: ObjectHash,
    },
    /// The checkpoint relies on chunks that are not held.
    #[error("{count} chunks are not held, the first is {first}")]
    ChunksMissing {
        /// How many.
        count: usize,
        /// One of them.
        first: ChunkHash,
    },
    /// The checkpoint relies on an object that is not held.
    #[error("object {0} is not held")]
    ObjectMissing(ObjectHash),
    /// The checkpoint names more objects than one may.
    #[error("{count} objects are beyond the limit of {count_max}")]
    TooManyObjects {
        /// How many.
        count: usize,
        /// The limit.
        count_max: usize,
    },
    /// Writing failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why a read gives nothing. In a batch a bad chunk is no such reason: it is reported in its place.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Reading the index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A pack exists and cannot be opened.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The one chunk asked for is bad; it has left the index.
    #[error(transparent)]
    BadChunk(#[from] BadChunk),
    /// A metadata object is bad; it has left the index.
    #[error("object {hash} at {place} is bad")]
    BadObject {
        /// The object.
        hash: ObjectHash,
        /// Its record.
        place: Place,
        /// What is wrong.
        #[source]
        cause: BadCause,
    },
}

impl IndexError {
    /// Whether the index has to be made anew.
    pub(crate) const fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::EntryDamaged | Self::FoundDamaged)
    }
}

impl From<rocksdb::Error> for IndexError {
    fn from(error: rocksdb::Error) -> Self {
        // RocksDB's binding carries the subcode in its message alone.
        if error.as_ref().contains("No space left on device") || error.as_ref().contains("NoSpace") {
            return Self::DiskFull;
        }
        match error.kind() {
            rocksdb::ErrorKind::Corruption => Self::Damaged(error),
            _ => Self::Unusable(error),
        }
    }
}
