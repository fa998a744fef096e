//! What the engine counts; exporting it is the caller's business.

/// Counters since the engine began, and two levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Encoded bytes of chunks from their lineage's writer.
    pub bytes_from_writer: u64,
    /// Encoded bytes of chunks from anyone else.
    pub bytes_from_peers: u64,
    /// Encoded bytes of chunks that were already held when they arrived.
    pub bytes_duplicate: u64,
    /// Encoded bytes sent in answers.
    pub bytes_served: u64,
    /// Chunks that arrived and were not held before.
    pub chunks_arrived: u64,
    /// Chunks that were already held when they arrived.
    pub chunks_duplicate: u64,
    /// Chunks with the wrong bytes.
    pub chunks_corrupt: u64,
    /// Chunks of our requests that were deferred to another holder.
    pub chunks_deferred: u64,
    /// Chunks of our requests that the peer did not hold after all.
    pub chunks_not_held: u64,
    /// Chunks asked of a second peer because the first is slow.
    pub chunks_stolen: u64,
    /// Requests issued.
    pub requests: u64,
    /// Requests with insistence after a deferral.
    pub requests_insisting: u64,
    /// Requests given up because their peer was silent.
    pub requests_timed_out: u64,
    /// Requests of peers that were refused.
    pub refused: u64,
    /// Chunks of peers' requests that we deferred to another holder.
    pub deferred_for_others: u64,
    /// Faults that were answered by an arriving chunk.
    pub faults_done: u64,
    /// Faults asked of a second peer.
    pub faults_hedged: u64,
    /// Announcements sent.
    pub announcements: u64,
    /// Connections asked for.
    pub meetings: u64,
    /// Peers banned.
    pub bans: u64,
    /// Level: encoded bytes asked for and not arrived.
    pub outstanding_bytes: u64,
    /// Level: answers queued or being sent.
    pub uploads: u64,
}

/// What the engine knows of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Encoded bytes received from it.
    pub bytes_down: u64,
    /// Encoded bytes sent to it.
    pub bytes_up: u64,
    /// Encoded bytes asked of it and not arrived.
    pub outstanding_bytes: u64,
    /// Estimated rate at which it sends to us.
    pub bytes_per_s: u64,
    /// Estimated time to its first byte, in microseconds.
    pub latency_us: u64,
    /// Chunks with wrong bytes and silences held against it.
    pub strikes: u64,
    /// Chunks that it is known to hold, of all lineages.
    pub held_births: u64,
    /// Memory that its announced sets take here.
    pub has_memory_bytes: u64,
}
