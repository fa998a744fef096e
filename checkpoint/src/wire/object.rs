//! Asking for a metadata object, and the answer.

use super::{put_text, take_text};
use crate::codec::{FormatError, Put, Take};
use crate::ids::{CheckpointIndex, LineageId, NodeId};

/// Names a metadata object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectRequest {
    /// The genesis record.
    Genesis(LineageId),
    /// The certificate of the lineage's writer.
    WriterCertificate(LineageId),
    /// A head.
    Head(LineageId, CheckpointIndex),
    /// The delta of a checkpoint.
    Delta(LineageId, CheckpointIndex),
    /// The keyframe of a checkpoint.
    Keyframe(LineageId, CheckpointIndex),
    /// A worker's results for a lineage, from a number on: a list of announced results.
    Results {
        /// Whose intervals.
        lineage: LineageId,
        /// Who signed them.
        worker: NodeId,
        /// The first number wanted.
        from: u64,
    },
}

/// The answer to a request for an object, followed by the object's bytes if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectAnswer {
    /// The object follows, so many bytes long.
    Found {
        /// Bytes that follow the frame.
        length: u64,
    },
    /// The answerer does not have it.
    NotHeld,
    /// The answerer does not give it to this peer.
    Refused {
        /// Why, in words.
        why: String,
    },
}

impl ObjectRequest {
    pub(super) fn put(self, out: &mut Vec<u8>) {
        let (tag, lineage, number) = match self {
            Self::Genesis(lineage) => (1, lineage, None),
            Self::WriterCertificate(lineage) => (2, lineage, None),
            Self::Head(lineage, index) => (3, lineage, Some(index.0)),
            Self::Delta(lineage, index) => (4, lineage, Some(index.0)),
            Self::Keyframe(lineage, index) => (5, lineage, Some(index.0)),
            Self::Results { lineage, from, .. } => (6, lineage, Some(from)),
        };
        out.push(tag);
        out.extend_from_slice(lineage.as_bytes());
        if let Self::Results { worker, .. } = self {
            out.extend_from_slice(worker.as_bytes());
        }
        if let Some(number) = number {
            out.put_varint(number);
        }
    }

    pub(super) fn take(take: &mut Take<'_>) -> Result<Self, FormatError> {
        let tag = take.byte()?;
        let lineage = LineageId(take.array()?);
        Ok(match tag {
            1 => Self::Genesis(lineage),
            2 => Self::WriterCertificate(lineage),
            3 => Self::Head(lineage, CheckpointIndex(take.varint()?)),
            4 => Self::Delta(lineage, CheckpointIndex(take.varint()?)),
            5 => Self::Keyframe(lineage, CheckpointIndex(take.varint()?)),
            6 => Self::Results { lineage, worker: NodeId(take.array()?), from: take.varint()? },
            _ => {
                return Err(FormatError::Unexpected { at: 0, what: "kind of object" });
            }
        })
    }

    /// The lineage it belongs to.
    #[must_use]
    pub const fn lineage(&self) -> LineageId {
        match self {
            Self::Genesis(lineage)
            | Self::WriterCertificate(lineage)
            | Self::Head(lineage, _)
            | Self::Delta(lineage, _)
            | Self::Keyframe(lineage, _)
            | Self::Results { lineage, .. } => *lineage,
        }
    }
}

impl ObjectAnswer {
    /// The bytes of the frame, its length excluded.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Found { length } => {
                out.push(1);
                out.put_varint(*length);
            }
            Self::NotHeld => out.push(2),
            Self::Refused { why } => {
                out.push(3);
                put_text(&mut out, why);
            }
        }
        out
    }

    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// [`FormatError`] for anything that [`ObjectAnswer::encode`] does not write.
    pub fn decode(frame: &[u8]) -> Result<Self, FormatError> {
        let mut take = Take::new(frame);
        let answer = match take.byte()? {
            1 => Self::Found { length: take.varint()? },
            2 => Self::NotHeld,
            3 => Self::Refused { why: take_text(&mut take)? },
            _ => {
                return Err(FormatError::Unexpected { at: 0, what: "kind of answer" });
            }
        };
        take.finish()?;
        Ok(answer)
    }
}
