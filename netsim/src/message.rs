//! What travels between nodes, and how many bytes it takes.

use pageswarm_checkpoint::NodeId;
use pageswarm_swarm::{BirthSet, Patience, Refusal, RequestId, Urgency, encoded_set_bytes};

/// Headers of a message: frame, type, lineage, request.
const OVERHEAD_BYTES: usize = 48;

/// One small message; chunks travel as slices of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Cancel { request: RequestId },
    Deferred { request: RequestId, births: BirthSet, holder: NodeId },
    Have { births: BirthSet },
    Lack { births: BirthSet },
    NotHeld { request: RequestId, births: BirthSet },
    Refused { request: RequestId, why: Refusal },
    Request { request: RequestId, births: BirthSet, urgency: Urgency, patience: Patience },
}

impl Message {
    /// Bytes on the wire.
    pub(crate) fn bytes(&self) -> u64 {
        let body = match self {
            Self::Cancel { .. } | Self::Refused { .. } => 0,
            Self::Deferred { births, .. } => 32 + encoded_set_bytes(births),
            Self::Have { births }
            | Self::Lack { births }
            | Self::NotHeld { births, .. }
            | Self::Request { births, .. } => encoded_set_bytes(births),
        };
        (OVERHEAD_BYTES + body) as u64
    }
}

/// Bytes on the wire of a slice with this many bytes of chunks.
pub(crate) fn chunks_bytes(bytes: u64) -> u64 {
    bytes + OVERHEAD_BYTES as u64
}
