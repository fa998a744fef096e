//! What happens to a node, as the engine is told it.

use pageswarm_checkpoint::{Birth, LineageId, NodeId};

use crate::births::BirthSet;
use crate::locality::Labels;
use crate::time::Time;

/// The number of a request, chosen by the asking engine; unique with the asking node for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The number of a want, chosen by whoever wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WantId(pub u64);

/// How soon a request must be answered, most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// A guest stands still until it is answered.
    Fault,
    /// A want with a near deadline.
    Deadline,
    /// Anything else.
    Normal,
}

/// Whether the asker accepts to be sent to another holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Patience {
    /// Answer with a deferral if another node was sent the chunk.
    MayDefer,
    /// Answer with the chunk: a deferral was waited out, or there is no time to wait.
    Insist,
}

/// Why an outgoing request ended before every chunk was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ended {
    /// The peer's queue is full; ask again later.
    Busy,
    /// The connection, the stream or the peer failed.
    Failed,
    /// The peer says that we may not read the lineage.
    NotAllowed,
    /// The answer ended; what has not arrived and was not rejected will not come.
    Served,
}

/// One thing that happened. Late, repeated and contradictory inputs are normal.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A peer asks us for births of a lineage.
    Asked {
        /// Who asks.
        peer: NodeId,
        /// Its number for the request.
        request: RequestId,
        /// The lineage.
        lineage: LineageId,
        /// What it asks for.
        births: BirthSet,
        /// How soon it needs them.
        urgency: Urgency,
        /// Whether it may be sent elsewhere.
        patience: Patience,
    },
    /// A peer no longer wants the answer to its request.
    AskedCancelled {
        /// Who asked.
        peer: NodeId,
        /// Its number for the request.
        request: RequestId,
    },
    /// A chunk arrived with the wrong bytes (its hash or its encoding); it was not stored.
    ChunkCorrupt {
        /// Who sent it.
        peer: NodeId,
        /// Our number for the request.
        request: RequestId,
        /// The lineage.
        lineage: LineageId,
        /// The chunk.
        birth: Birth,
    },
    /// Chunks arrived, were decoded, verified and stored.
    ChunksArrived {
        /// Who sent them.
        peer: NodeId,
        /// Our number for the request.
        request: RequestId,
        /// The lineage.
        lineage: LineageId,
        /// The chunks.
        births: BirthSet,
        /// Their bytes as encoded on the wire.
        bytes: u64,
    },
    /// The peer will not send these now: it sent them to `holder`, who will offer them.
    ChunksDeferred {
        /// Who answered.
        peer: NodeId,
        /// Our number for the request.
        request: RequestId,
        /// The lineage.
        lineage: LineageId,
        /// The deferred chunks.
        births: BirthSet,
        /// Who was sent them.
        holder: NodeId,
    },
    /// The peer does not hold these chunks of a request.
    ChunksNotHeld {
        /// Who answered.
        peer: NodeId,
        /// Our number for the request.
        request: RequestId,
        /// The lineage.
        lineage: LineageId,
        /// The missing chunks.
        births: BirthSet,
    },
    /// Forget the lineage and everything about it.
    Close {
        /// The lineage.
        lineage: LineageId,
    },
    /// A guest or simulator stands still until the chunk is here.
    Fault {
        /// The lineage.
        lineage: LineageId,
        /// The chunk.
        birth: Birth,
    },
    /// The encoded lengths of consecutive births, from a delta.
    Lengths {
        /// The lineage.
        lineage: LineageId,
        /// The first birth.
        first: Birth,
        /// Bytes of `first` and of each birth after it.
        lengths: Vec<u32>,
    },
    /// The store holds these chunks without our having asked: at start, or written by the local VM.
    LocalHas {
        /// The lineage.
        lineage: LineageId,
        /// The chunks.
        births: BirthSet,
    },
    /// The store no longer holds these chunks: evicted, or found bad. What is still wanted is fetched again.
    LocalLost {
        /// The lineage.
        lineage: LineageId,
        /// The chunks.
        births: BirthSet,
    },
    /// Take part in a lineage's swarm.
    Open {
        /// The lineage.
        lineage: LineageId,
        /// Its writer's node, if known: it is asked only for what nobody else holds.
        writer: Option<NodeId>,
    },
    /// The connection to a peer is gone, with all requests in both directions.
    PeerDown {
        /// The peer.
        peer: NodeId,
    },
    /// The peer takes part in the lineage and may read it: it is told what we hold and answered.
    PeerFollows {
        /// The peer.
        peer: NodeId,
        /// The lineage.
        lineage: LineageId,
    },
    /// The peer holds these chunks too.
    PeerHas {
        /// The peer.
        peer: NodeId,
        /// The lineage.
        lineage: LineageId,
        /// The chunks, in addition to those announced before.
        births: BirthSet,
    },
    /// The peer says where it is; unknown until then.
    PeerLabels {
        /// The peer.
        peer: NodeId,
        /// Where it is.
        labels: Labels,
    },
    /// The peer no longer holds these chunks.
    PeerLacks {
        /// The peer.
        peer: NodeId,
        /// The lineage.
        lineage: LineageId,
        /// The chunks.
        births: BirthSet,
    },
    /// The peer left the lineage or may no longer read it.
    PeerUnfollows {
        /// The peer.
        peer: NodeId,
        /// The lineage.
        lineage: LineageId,
    },
    /// A connection to an authenticated peer is open.
    PeerUp {
        /// The peer.
        peer: NodeId,
    },
    /// One of our requests ended.
    RequestEnded {
        /// Who was asked.
        peer: NodeId,
        /// Our number for the request.
        request: RequestId,
        /// How.
        how: Ended,
    },
    /// A [`Serve`](crate::Output::Serve) is done: on its way or there, given up, or abandoned. Until then it has one of the
    /// places for answers; an answer that still waits in a buffer of the driver should have one, for order ends there.
    Served {
        /// Who asked.
        peer: NodeId,
        /// Its number for the request.
        request: RequestId,
        /// Encoded bytes that were sent.
        bytes: u64,
    },
    /// Time passed; sent at or after the time of the last wait.
    Tick,
    /// Nobody waits for the faulted chunk any more.
    Unfault {
        /// The lineage.
        lineage: LineageId,
        /// The chunk.
        birth: Birth,
    },
    /// A want is no longer wanted.
    Unwant {
        /// The want.
        want: WantId,
    },
    /// Chunks are wanted; answered by [`WantComplete`](crate::Output::WantComplete) once all are held.
    Want {
        /// The want; an open one with the same number is replaced.
        want: WantId,
        /// The lineage.
        lineage: LineageId,
        /// The chunks; those already held cost nothing.
        births: BirthSet,
        /// When they should be here.
        deadline: Option<Time>,
    },
}
