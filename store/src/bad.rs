//! Bad chunks: what was found wrong, where, and the bounded memory of it.

use std::collections::VecDeque;
use std::fmt;
use std::io;

use pageswarm_checkpoint::{ChunkHash, DecodeError};

use crate::limits::FAULTS_KEPT_MAX;
use crate::pack::PackNumber;

/// Where a record starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The pack.
    pub pack: PackNumber,
    /// Bytes from its start.
    pub offset: u64,
}

/// A stored chunk that cannot be given out. It has left the index: it counts as not held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chunk {hash} at {} is bad: {cause}", DisplayPlace(*place))]
pub struct BadChunk {
    /// The chunk's name.
    pub hash: ChunkHash,
    /// Its record; `None` if the index entry itself cannot be read.
    pub place: Option<Place>,
    /// What is wrong.
    pub cause: BadCause,
}

/// What is wrong with a stored chunk or object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCause {
    /// The index entry has a shape that no entry has.
    #[error("its index entry is damaged")]
    IndexEntry,
    /// The pack's file is gone.
    #[error("the pack is missing")]
    PackMissing,
    /// Both copies of the pack's header are damaged.
    #[error("the pack's header is damaged")]
    PackHeader,
    /// The pack ends before the record does.
    #[error("the pack ends before it")]
    Truncated,
    /// The disk refuses to read it.
    #[error("the disk cannot read it ({kind})")]
    Unreadable {
        /// The system's reason.
        kind: io::ErrorKind,
    },
    /// The record's header fails its checksum.
    #[error("its header is damaged")]
    Header,
    /// The record is whole, but is not what the index says.
    #[error("the record there is another one")]
    OtherRecord,
    /// The payload fails its checksum.
    #[error("its payload fails its checksum")]
    Payload,
    /// The payload cannot be decoded.
    #[error("it cannot be decoded")]
    Undecodable(#[source] DecodeError),
    /// What it decodes to has another hash.
    #[error("it decodes to other bytes")]
    WrongHash,
    /// Its base is not held, or is bad too.
    #[error("its base {base} is not readable")]
    BaseLost {
        /// The base.
        base: ChunkHash,
    },
    /// Its bases form a cycle or too long a chain.
    #[error("its chain of bases does not end")]
    EndlessChain,
}

/// The latest bad chunks, and how many there were.
#[derive(Debug, Default)]
pub(crate) struct BadChunks {
    kept: VecDeque<BadChunk>,
    total: u64,
}

impl BadChunks {
    /// Remembers one; beyond the limit the oldest is forgotten, the count stays.
    pub(crate) fn remember(&mut self, bad: BadChunk) {
        self.total += 1;
        if self.kept.len() == FAULTS_KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(bad);
    }

    pub(crate) fn take(&mut self) -> Vec<BadChunk> {
        std::mem::take(&mut self.kept).into()
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

struct DisplayPlace(Option<Place>);

impl fmt::Display for DisplayPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(place) => place.fmt(f),
            None => f.write_str("an unknown place"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offset {} of pack {}", self.offset, self.pack)
    }
}
