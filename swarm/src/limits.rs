//! Every fixed limit of the engine in one place, with the relations between them proven at compile time.

/// Encoded bytes of the smallest run worth a request while much is missing.
pub const RUN_BYTES_MIN: u64 = 64 << 10;

/// Encoded bytes of the largest run that the picker builds (one chunk may exceed it).
pub const RUN_BYTES_MAX: u64 = 256 << 10;

/// Encoded bytes below which a run is not split further when little is missing.
pub const RUN_BYTES_SPLIT: u64 = 16 << 10;

/// Requests that are kept outstanding, all peers together, however slowly chunks come in: with eight, if all nodes ask
/// at random, no more than one uplink in 3,000 has nothing to send by chance.
pub const REQUESTS_MIN: usize = 8;

/// Requests that are kept outstanding while they ask for a small part of what is missing: answers come late by many
/// milliseconds where processors are busy, and few requests leave the downlink idle meanwhile.
pub const REQUESTS_PLENTY: usize = 24;

/// How many times as many chunks must be missing as are asked for, for more than [`REQUESTS_MIN`]. Nearer to the end it is
/// better to keep the choice of whom to ask for what, and to have little asked of whoever leaves.
pub const MISSING_PER_ASKED: u64 = 16;

/// Births in one run: bounds a request's size on the wire, and the answer's where every chunk comes raw.
pub const RUN_BIRTHS_MAX: u64 = 1536;

/// Encoded bytes that one incoming request may ask for; more is refused.
pub const ASKED_BYTES_MAX: u64 = 4 << 20;

/// Requests of one peer that wait here to be answered; more are refused as busy.
pub const UPLOAD_QUEUE_MAX: usize = 64;

/// Requests that one peer may have outstanding at us or we at it, faults apart.
pub const REQUESTS_PER_PEER_MAX: usize = 32;

/// Peers with chunks that are kept asked for a whole queue time each; more of them share what so many would have.
pub const QUEUE_SOURCES: u32 = 16;

/// Fault requests outstanding at one peer.
pub const FAULT_REQUESTS_PER_PEER_MAX: usize = 16;

/// Faults that travel in one request.
pub const FAULTS_PER_REQUEST_MAX: u64 = 64;

/// Faults that are given to peers at a time, so that one input's work stays small.
pub const FAULTS_AT_ONCE_MAX: usize = 256;

/// Bytes of memory for what one peer says it holds, over all lineages; a set beyond it is ignored.
pub const PEER_HAS_BYTES_MAX: usize = 4 << 20;

/// Connected peers.
pub const PEERS_MAX: usize = 512;

/// Wants open at a time.
pub const WANTS_MAX: usize = 4096;

/// Page faults waiting at a time.
pub const FAULTS_MAX: usize = 16_384;

/// Births whose encoded length is remembered, over all of one lineage (4 bytes each).
pub const LENGTHS_MAX: u64 = 1 << 26;

/// Encoded length assumed for a birth whose length is not known yet.
pub const LENGTH_ASSUMED: u64 = 4096;

/// Deferrals remembered for one peer and lineage before they are merged into the latest.
pub const DEFERRALS_MAX: usize = 64;

/// Chunks with the wrong bytes after which a peer is banned.
pub const CORRUPT_STRIKES_MAX: u32 = 3;

/// Silences in a row, each answered by a longer wait, after which a peer is banned.
pub const SILENT_STRIKES_MAX: u32 = 6;

/// Times a peer may refuse or leave out chunks that it announced, net of chunks it sent.
pub const BROKEN_PROMISES_MAX: u32 = 64;

/// Sets ignored for their size or shape after which a peer is banned.
pub const HOSTILE_SETS_MAX: u32 = 3;

/// Banned peers remembered.
pub const BANNED_MAX: usize = 4096;

/// Nodes that are remembered because a connection with them was asked for.
pub const MET_MAX: usize = 1024;

const _: () = assert!(REQUESTS_MIN < REQUESTS_PLENTY, "plenty is more than the least");
const _: () = assert!(RUN_BYTES_SPLIT < RUN_BYTES_MIN, "splitting must end below the normal size");
const _: () = assert!(RUN_BYTES_MIN < RUN_BYTES_MAX, "a run has room to grow");
const _: () = assert!(
    ASKED_BYTES_MAX >= 2 * RUN_BYTES_MAX,
    "what our own picker builds, plus one long chunk, is never refused by another engine"
);
const _: () = assert!(
    UPLOAD_QUEUE_MAX >= REQUESTS_PER_PEER_MAX + FAULT_REQUESTS_PER_PEER_MAX,
    "a well-behaved peer is never refused as busy"
);
const _: () = assert!(
    RUN_BYTES_MAX / RUN_BIRTHS_MAX <= LENGTH_ASSUMED,
    "for chunks of a typical page's encoded length the byte limit binds before the count"
);
