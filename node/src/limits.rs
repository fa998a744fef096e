//! Every limit of the node in one place: what a peer, a disk or a user can make it hold or wait for.

use std::time::Duration;

use pageswarm_checkpoint::result::{ANNOUNCED_BYTES_MAX, RESULTS_LISTED_MAX};
use pageswarm_checkpoint::wire;

/// Inputs that may wait for the engine.
pub const ENGINE_QUEUE: usize = 4096;
/// Control messages that may wait for one peer; a peer that reads slower is disconnected.
pub const CONTROL_QUEUE: usize = 1024;
/// Members one node is connected with at most; `--peers-max` may say fewer.
pub const PEERS_MAX: usize = 256;
/// Of a node's places for connections, the share up to which it looks for members by itself, in 1/4; the others are for
/// those who have something that the other side wants.
pub const PEERS_SOUGHT_QUARTERS: usize = 3;
/// How long a member that has no place for this node is not dialed, unless it has what is wanted here.
pub const PARTED_FOR: Duration = Duration::from_secs(60);
/// How long nobody waits for a connection with a member for which somebody waited.
pub const AWAITED_AGAIN: Duration = Duration::from_secs(30);
/// How long a worker and the host of its leases are not parted after either said something of them: longer than either
/// says nothing.
pub const LEASED_FOR: Duration = Duration::from_secs(15);
/// Connections that have not said hello yet.
pub const STRANGERS_MAX: usize = 64;
/// Connections to each of the API's servers at a time.
pub const HTTP_CONNECTIONS_MAX: usize = 256;
/// Of these, streams of events, which do not end by themselves.
pub const EVENT_STREAMS_MAX: usize = 64;
/// How old a connection over TCP may become; whoever is still there connects again.
pub const HTTP_AGE_MAX: Duration = Duration::from_secs(600);
/// How long an HTTP client may take for the head of a request, and may be silent between two.
pub const HTTP_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams a peer may have open at a time.
pub const STREAMS_PER_PEER_MAX: u32 = 256;
/// How long a connection may take to say hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// After which the next address of a ticket is tried too (RFC 8305, section 8).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How long an admin may take to answer an invitation.
pub const INVITATION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a metadata object, deltas apart, may take to arrive.
pub const OBJECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a node that expects an object soon lets a request for it wait.
pub const OBJECT_PATIENCE: Duration = Duration::from_millis(1500);
/// How long a delta may stop coming, or a node that waits for it say nothing, before it is asked of another one.
pub const DELTA_SILENCE: Duration = Duration::from_secs(8);
/// The least rate at which an object must come, beyond [`OBJECT_TIMEOUT`].
const OBJECT_BYTES_PER_S_MIN: u64 = 256 << 10;

/// How long a delta of that many bytes may take to arrive from one node, and an answer to be read, with the time for which
/// the one that is asked may wait for it.
#[must_use]
pub const fn object_timeout(bytes: u64) -> Duration {
    let more = Duration::from_secs(bytes / OBJECT_BYTES_PER_S_MIN);
    OBJECT_TIMEOUT.saturating_add(OBJECT_PATIENCE).saturating_add(more)
}

const _: () = assert!(DELTA_SILENCE.as_millis() > OBJECT_PATIENCE.as_millis(), "whoever waits answers first");
/// The longest metadata object: a keyframe of 16 GiB of RAM takes about half of it.
pub const OBJECT_BYTES_MAX: u64 = 256 << 20;
/// The longest answer to one run, all frames together.
pub const RUN_ANSWER_BYTES_MAX: usize = 8 << 20;
/// How long one run may take from request to last byte before the stream is given up.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(60);
/// Runs decoded or encoded at a time.
pub const CODING_THREADS: usize = 2;
/// Intervals simulated at a time; each takes the RAM of its guest.
pub const SIMULATIONS: usize = 2;
/// How long the host of a lease table may take to answer, its own waiting included.
pub const LEASE_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one worker that wait for the host of lease tables: as many as it has lanes, and those that it forgot.
pub const LEASE_ASKS_PER_WORKER_MAX: usize = 128;
/// Signed results of simulations that a node keeps, those of all workers and lineages together.
pub const RESULTS_MAX: usize = 1 << 20;
/// How many results a worker's log for a lineage may have beyond the intervals that are known to be recorded, and how far
/// beyond them an interval may lie: what was recorded since the latest news.
pub const RESULTS_BEYOND: u64 = 1024;
/// Lists of results that may wait to be taken in; more are dropped and come with what is announced next.
pub const RESULT_QUEUE: usize = 64;
/// Workers' logs whose missing results are fetched, or wait to be.
pub const RESULT_LOGS_LACKING_MAX: usize = 1024;
/// Workers' logs that are fetched at a time.
pub const RESULT_LOGS_FETCHED: usize = 4;
/// How long a peer may take to send missing results.
pub const RESULT_LIST_TIMEOUT: Duration = Duration::from_secs(4);
/// Workers whose results a node keeps for one lineage.
pub const RESULT_WORKERS_MAX: usize = 1024;
/// The longest list of results that a peer may answer with.
pub const RESULT_LIST_BYTES_MAX: u64 = (RESULTS_LISTED_MAX * ANNOUNCED_BYTES_MAX + 16) as u64;
/// RAM of a guest that is simulated, in bytes: as much as a VM of a node may have.
pub const SIMULATED_RAM_BYTES_MAX: u64 = 8 << 30;
/// Pages that a simulation is expected to touch and that are read together, when it touches the first of them.
pub const EXPECTED_READ_PAGES: usize = 64;
/// Pages that a simulation asks for when it misses one, that one among them.
pub const MISSED_PAGES_MIN: u32 = 2;
/// The same at most, when misses follow each other. Fewer than are read in order.
pub const MISSED_PAGES_MAX: u32 = 24;
/// Simulated intervals of which a node remembers what they touched: a bit a page, at most 256 KiB each.
pub const TOUCHED_SETS_MAX: usize = 64;
/// How long the simulation of one interval may take.
pub const SIMULATION_TIMEOUT: Duration = Duration::from_secs(600);
/// How long an image is kept that nobody asks for.
pub const IMAGE_IDLE: Duration = Duration::from_secs(60);
/// Pages that become a hole of an image's file if they are all zero: fewer cost more as a hole than as bytes.
pub const HOLE_PAGES: usize = 64;
/// The longest blob that is read back: the event log is most of the longest.
pub const BLOB_BYTES_MAX: u64 = 128 << 20;
/// Checkpoint maps kept for one lineage besides the latest.
pub const MAPS_CACHED: usize = 12;
/// Lineages of which a member's need is remembered, the latest it told of: with 16 bytes a range, 8 KiB each.
pub const NEEDS_PER_PEER_MAX: usize = 16;
/// Lineages a node follows.
pub const LINEAGES_MAX: usize = 1024;
/// Of these, lineages of artefacts: those of workers leave room for those of machines.
pub const ARTEFACT_LINEAGES_MAX: usize = 512;
/// Of these, lineages of one worker.
pub const ARTEFACT_LINEAGES_PER_WORKER_MAX: usize = 64;
/// How long a page fault of a guest may take before its VM is stopped.
pub const FAULT_TIMEOUT: Duration = Duration::from_secs(15);
/// A keyframe is published with every checkpoint whose index divides by this.
pub const KEYFRAME_EVERY: u64 = 32;
/// Invitations that may be open at a time.
pub const INVITATIONS_MAX: usize = 10_000;
/// Addresses that a ticket carries; more are not read.
pub const TICKET_ADDRESSES_MAX: usize = 16;
/// Addresses announced by mDNS that are remembered, those of other programs included.
pub const ANNOUNCEMENTS_MAX: usize = 1024;
/// RAM of an imported image, in bytes: as much as a VM of this node may have.
pub const IMPORT_RAM_BYTES_MAX: u64 = 8 << 30;
/// What is imported besides RAM, in bytes.
pub const IMPORT_STATE_BYTES_MAX: u64 = 64 << 20;
/// Events kept for those who connect to the API's event stream late.
pub const EVENTS_KEPT: usize = 256;

const _: () = assert!(
    RUN_ANSWER_BYTES_MAX as u64 >= pageswarm_swarm::limits::RUN_BIRTHS_MAX * (4096 + 64),
    "a run of raw pages fits its answer"
);
const _: () =
    assert!(RUN_ANSWER_BYTES_MAX > wire::FRAME_BYTES_MAX, "an answer has room for its largest frame");
const _: () = assert!(
    INVITATION_TIMEOUT.as_secs() < HELLO_TIMEOUT.as_secs(),
    "a second connection with the admin is still open when the first has not answered an invitation"
);
const _: () = assert!(
    RESULTS_LISTED_MAX * ANNOUNCED_BYTES_MAX + 16 < wire::FRAME_BYTES_MAX,
    "a list of results fits a control message"
);
const _: () = assert!(
    LEASE_ASKS_PER_WORKER_MAX as u64 >= 2 * wire::JOBS_MAX,
    "every lane of a worker can ask, and once more when its first request was lost"
);
const _: () = assert!(
    LEASE_ANSWER_TIMEOUT.as_millis() > 2 * crate::leases::ASK_PATIENCE.as_millis(),
    "a host that lets a request wait is not taken for one that is gone"
);
