//! What travels between nodes, and how many bytes it takes.

use pageswarm_checkpoint::{Birth, NodeId};
use pageswarm_swarm::{BirthSet, Patience, Refusal, RequestId, Urgency, encoded_set_bytes};

/// Headers of a message: frame, type, lineage, request.
const OVERHEAD_BYTES: usize = 48;

/// The bytes of a chunk, reduced to what tells right from wrong ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content(pub(crate) u64);

/// One message.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Cancel {
        request: RequestId,
    },
    /// A slice of an answer; the last one ends it.
    Chunks {
        request: RequestId,
        chunks: Vec<(Birth, Content)>,
        bytes: u64,
        is_last: bool,
    },
    Deferred {
        request: RequestId,
        births: BirthSet,
        holder: NodeId,
    },
    Have {
        births: BirthSet,
    },
    Lack {
        births: BirthSet,
    },
    NotHeld {
        request: RequestId,
        births: BirthSet,
    },
    Refused {
        request: RequestId,
        why: Refusal,
    },
    Request {
        request: RequestId,
        births: BirthSet,
        urgency: Urgency,
        patience: Patience,
    },
}

impl Message {
    /// Bytes on the wire.
    pub(crate) fn bytes(&self) -> u64 {
        let body = match self {
            Self::Cancel { .. } | Self::Refused { .. } => 0,
            Self::Chunks { bytes, .. } => return bytes + OVERHEAD_BYTES as u64,
            Self::Deferred { births, .. } => 32 + encoded_set_bytes(births),
            Self::Have { births }
            | Self::Lack { births }
            | Self::NotHeld { births, .. }
            | Self::Request { births, .. } => encoded_set_bytes(births),
        };
        (OVERHEAD_BYTES + body) as u64
    }
}
