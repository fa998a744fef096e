//! What the engine asks of the node that drives it.

use pageswarm_checkpoint::{Birth, LineageId, NodeId};

use crate::births::BirthSet;
use crate::input::{Patience, RequestId, Urgency, WantId};
use crate::time::Time;

/// Why a peer's request is not answered with chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The peer's queue here is full.
    Busy,
    /// The peer may not read the lineage, or it is not open here.
    NotAllowed,
    /// The request is empty, too long, or its number is in use.
    Unreasonable,
}

/// Why a peer is banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BanReason {
    /// It announced chunks and did not send them, again and again.
    BrokenPromises,
    /// It sent chunks with the wrong bytes.
    CorruptChunks,
    /// Its announcements do not fit the memory that a peer is given.
    HostileSets,
    /// It answered nothing through several ever longer waits.
    Silent,
}

/// Why the engine wants to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wake {
    /// Gained chunks are to be announced.
    Announce,
    /// A want's deadline comes near.
    DeadlineNear,
    /// A deferred chunk may be insisted on.
    Deferral,
    /// A fault is to be asked of a second peer.
    FaultHedge,
    /// Nothing is due; only an input changes anything.
    Idle,
    /// A connection with a writer may be asked for.
    Meet,
    /// A peer that was left alone may be asked again.
    PeerRetry,
    /// A peer with requests outstanding has been silent too long.
    RequestTimeout,
    /// The memory of what was sent to whom ages.
    SentAges,
    /// A serve has taken too long.
    ServeTimeout,
    /// A chunk outstanding at a slow peer may be asked of a faster one.
    Steal,
    /// The upload rate limit lets the next upload start.
    UploadRate,
}

/// Something worth counting, logging or showing; nothing has to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer's chunk had the wrong bytes.
    ChunkCorrupt {
        /// The peer.
        peer: NodeId,
        /// The lineage.
        lineage: LineageId,
        /// The chunk.
        birth: Birth,
    },
    /// A peer's set was too large or too fragmented and was ignored.
    HasIgnored {
        /// The peer.
        peer: NodeId,
        /// The lineage.
        lineage: LineageId,
    },
    /// A peer was silent too long: its requests go elsewhere and it is left alone until then.
    PeerSilent {
        /// The peer.
        peer: NodeId,
        /// When it is asked again.
        until: Time,
    },
    /// Chunks outstanding at a slow peer were asked of a faster one too.
    Stolen {
        /// The slow peer.
        from: NodeId,
        /// The faster one.
        by: NodeId,
        /// How many chunks.
        births: u64,
    },
}

/// One thing to do. Everything before [`Output::Wait`] is to be done in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Stop sending the answer to a peer's request; then report [`Served`](crate::Input::Served).
    AbandonServe {
        /// Who asked.
        peer: NodeId,
        /// Its number for the request.
        request: RequestId,
    },
    /// Tell a peer that we hold these chunks too.
    AnnounceHave {
        /// Whom to tell.
        to: NodeId,
        /// The lineage.
        lineage: LineageId,
        /// Gained since the last announcement (all that we hold, in the first one).
        births: BirthSet,
    },
    /// Tell a peer that we no longer hold these chunks.
    AnnounceLack {
        /// Whom to tell.
        to: NodeId,
        /// The lineage.
        lineage: LineageId,
        /// The chunks.
        births: BirthSet,
    },
    /// Close the connection and refuse it until then; [`PeerDown`](crate::Input::PeerDown) is implied.
    Ban {
        /// The peer.
        peer: NodeId,
        /// Why.
        why: BanReason,
        /// The end of the ban.
        until: Time,
    },
    /// Tell a peer that we no longer want the answer.
    CancelRequest {
        /// Who was asked.
        peer: NodeId,
        /// Our number for the request.
        request: RequestId,
    },
    /// Answer a part of a request with a deferral.
    Defer {
        /// Who asked.
        peer: NodeId,
        /// Its number for the request.
        request: RequestId,
        /// The lineage.
        lineage: LineageId,
        /// The part that is deferred.
        births: BirthSet,
        /// Who was sent them.
        holder: NodeId,
    },
    /// Something happened.
    Event(Event),
    /// A faulted chunk is held now.
    FaultDone {
        /// The lineage.
        lineage: LineageId,
        /// The chunk.
        birth: Birth,
    },
    /// Too many faults are open; this one is not worked on and its guest must be stopped with a reason.
    FaultRefused {
        /// The lineage.
        lineage: LineageId,
        /// The chunk.
        birth: Birth,
    },
    /// Connect with a node that has what is wanted here, if that is possible; an [`Engine`](crate::Engine) that has no room
    /// for it can [spare](crate::Engine::spare_peers) another.
    Meet {
        /// Whom.
        peer: NodeId,
    },
    /// Answer a part of a request with "not held".
    NotHeld {
        /// Who asked.
        peer: NodeId,
        /// Its number for the request.
        request: RequestId,
        /// The lineage.
        lineage: LineageId,
        /// The part that is not held.
        births: BirthSet,
    },
    /// Refuse a whole request.
    Refuse {
        /// Who asked.
        peer: NodeId,
        /// Its number for the request.
        request: RequestId,
        /// Why.
        why: Refusal,
    },
    /// Ask a peer for chunks.
    Request {
        /// Whom to ask.
        peer: NodeId,
        /// Our number for the request.
        request: RequestId,
        /// The lineage.
        lineage: LineageId,
        /// The run.
        births: BirthSet,
        /// How soon it is needed.
        urgency: Urgency,
        /// Whether the peer may send us elsewhere.
        patience: Patience,
    },
    /// Send chunks to a peer, then report [`Served`](crate::Input::Served).
    Serve {
        /// Who asked.
        peer: NodeId,
        /// Its number for the request.
        request: RequestId,
        /// The lineage.
        lineage: LineageId,
        /// The chunks, all held.
        births: BirthSet,
        /// Urgent answers overtake others on the wire.
        urgency: Urgency,
    },
    /// Nothing more to do: call again with an input, or with a tick at `until`.
    Wait {
        /// When to call at the latest; `None`: only an input matters.
        until: Option<Time>,
        /// What for.
        why: Wake,
    },
    /// All chunks of a want are held; the want is closed.
    WantComplete {
        /// The want.
        want: WantId,
    },
    /// Too many wants are open; this one is not worked on.
    WantRefused {
        /// The want.
        want: WantId,
    },
}
