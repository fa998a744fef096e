//! What the API says and hears, version 1: separate from the types inside, so that these can change.
//!
//! Sizes are bytes, times say their unit, hashes and names are hexadecimal text.

use serde::{Deserialize, Serialize};

pub use crate::publish::CheckpointFigures;

/// A failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorView {
    /// The exit code that the command line ends with.
    pub exit_code: u8,
    /// What was wrong and what to do.
    pub message: String,
}

/// A node at a glance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusView {
    /// Version of the program.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// The swarm's name.
    pub swarm: String,
    /// The node's role.
    pub role: String,
    /// End of its certificate, in seconds since 1970.
    pub member_until_unix_s: u64,
    /// Address of its data plane.
    pub data_address: String,
    /// TCP port of its gossip.
    pub gossip_port: u16,
    /// UDP receive buffer as the kernel granted it.
    pub receive_buffer_bytes: u64,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Connected members.
    pub peers: Vec<PeerView>,
    /// Its store.
    pub store: StoreView,
    /// Chunks received and sent.
    pub transfer: TransferView,
    /// Lineages it follows.
    pub lineages: Vec<LineageView>,
    /// The highest rates of chunks that its own links had lately.
    pub link: LinkView,
    /// The latest spread of each lineage of which any connected node lacked something.
    #[serde(default)]
    pub spreads: Vec<SpreadView>,
    /// Its running VMs: how each is driven, and what of its checkpoints waits.
    #[serde(default)]
    pub vms: Vec<DriveView>,
}

/// What a node's links can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkView {
    /// Bytes of chunks a second that it can send; none if nothing was sent.
    pub up_bytes_per_s: Option<u64>,
    /// Whether that is the limit it was given; else it is the most that was seen.
    pub up_is_configured: bool,
    /// Bytes of chunks a second that it can receive, as seen; none if nothing was received.
    pub down_bytes_per_s: Option<u64>,
}

/// The spread of a lineage against the bound of the links.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpreadView {
    /// The lineage.
    pub lineage: String,
    /// Whether some node still lacks something.
    pub goes_on: bool,
    /// Encoded bytes of what at least one node lacked.
    pub union_bytes: u64,
    /// Encoded bytes that nodes lacked, a chunk counted for each of them.
    pub lacked_bytes: u64,
    /// Of these, bytes still missing.
    pub missing_bytes: u64,
    /// How many times less the writer could send than one server that serves each node, in thousandths.
    pub gain_permille: u64,
    /// Milliseconds in which at least one node lacked something.
    pub busy_ms: u64,
    /// The least that the links need for all of it, in milliseconds; none if too few rates are known.
    pub bound_ms: Option<u64>,
    /// The least that the links need for what is missing, in milliseconds.
    pub left_ms: u64,
    /// The time of the spread over its bound, in thousandths; while it goes on, the best that it can come to.
    pub over_bound_permille: Option<u64>,
    /// The link that binds.
    pub binds: Option<BindingView>,
    /// The nodes heard of.
    pub nodes: Vec<SpreadNodeView>,
}

/// A link that binds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingView {
    /// `writer-up`, `node-down` or `swarm-up`.
    pub link: String,
    /// Whose it is, unless it is all uplinks together.
    pub node: Option<String>,
    /// Its rate.
    pub bytes_per_s: u64,
    /// Whether the rate is a limit that was given; else it is the most that was seen.
    pub is_configured: bool,
}

/// One node in a spread.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpreadNodeView {
    /// Its name.
    pub node: String,
    /// Encoded bytes that it lacked.
    pub lacked_bytes: u64,
    /// Of these, bytes still missing.
    pub missing_bytes: u64,
    /// Its links.
    pub link: LinkView,
}

/// A connected member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerView {
    /// Its name.
    pub node: String,
    /// Its data plane.
    pub address: String,
    /// Its role.
    pub role: String,
    /// Where it is, as zone/rack/host; empty if it does not say.
    pub place: String,
    /// Round trip in microseconds.
    pub rtt_us: u64,
    /// Packets of the data plane sent to it in this connection.
    #[serde(default)]
    pub sent_packets: u64,
    /// Of them, those that counted as lost.
    #[serde(default)]
    pub lost_packets: u64,
    /// Bytes of the largest packet that goes to it, without the headers of IP and UDP.
    #[serde(default)]
    pub packet_bytes: u16,
    /// Encoded chunk bytes received from it.
    pub chunks_down_bytes: u64,
    /// Encoded chunk bytes sent to it.
    pub chunks_up_bytes: u64,
    /// Metadata bytes received from it.
    pub objects_down_bytes: u64,
    /// Metadata bytes sent to it.
    pub objects_up_bytes: u64,
    /// Estimated rate at which it sends, in bytes per second.
    pub rate_bytes_per_s: u64,
    /// Chunks of the lineages that both follow which it is known to hold.
    pub held_chunks: u64,
}

/// A store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StoreView {
    /// Chunks held.
    pub chunks: u64,
    /// Their decoded bytes.
    pub decoded_bytes: u64,
    /// Their bytes in packs.
    pub stored_bytes: u64,
    /// Bytes of all packs.
    pub pack_bytes: u64,
    /// Chunks offered that were held already.
    pub duplicates: u64,
    /// Chunks found bad since the node started.
    pub bad_chunks: u64,
    /// Bytes that packs may have, if limited.
    pub quota_bytes: Option<u64>,
}

/// Chunks received and sent since the node started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TransferView {
    /// Encoded bytes from writers of lineages.
    pub from_writer_bytes: u64,
    /// Encoded bytes from other members.
    pub from_peers_bytes: u64,
    /// Encoded bytes that were held already when they came.
    pub duplicate_bytes: u64,
    /// Encoded bytes sent.
    pub served_bytes: u64,
    /// Metadata bytes received.
    pub objects_down_bytes: u64,
    /// Metadata bytes sent.
    pub objects_up_bytes: u64,
    /// Chunks that arrived with wrong bytes.
    pub corrupt_chunks: u64,
    /// Chunks that a writer said another node has.
    pub deferred_chunks: u64,
    /// Requests given up for silence.
    pub timed_out_requests: u64,
    /// Records refused.
    pub refused_records: u64,
    /// Checkpoints fetched whole.
    pub checkpoints_fetched: u64,
    /// Page faults of guests that were answered with what was not here.
    pub faults_fetched: u64,
    /// Median time that such a page took, in microseconds.
    pub fault_fetch_p50_us: Option<u64>,
    /// 99th percentile of that time.
    pub fault_fetch_p99_us: Option<u64>,
}

/// A lineage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LineageView {
    /// Its name.
    pub lineage: String,
    /// Who writes it.
    pub writer: String,
    /// Whether that is this node.
    pub own: bool,
    /// Pages of guest RAM.
    pub pages: u32,
    /// The interval it started with, in milliseconds.
    pub interval_ms: u32,
    /// The checkpoint that it branches from.
    pub parent: Option<BranchView>,
    /// The latest checkpoint known here.
    pub latest: Option<u64>,
    /// The latest checkpoint wholly held here.
    pub held: Option<u64>,
    /// Chunks born in it.
    pub births: u64,
}

/// A branch point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BranchView {
    /// The lineage continued.
    pub lineage: String,
    /// The checkpoint continued.
    pub index: u64,
    /// Its state root.
    pub state_root: String,
}

/// A checkpoint, as its head describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckpointView {
    /// Its lineage.
    pub lineage: String,
    /// Its index.
    pub index: u64,
    /// Its state root.
    pub state_root: String,
    /// Bytes of its delta.
    pub delta_bytes: u64,
    /// Chunks born up to it.
    pub births: u64,
    /// When it was taken, in milliseconds since 1970.
    pub taken_unix_ms: u64,
    /// The checkpoint that its latest keyframe describes.
    pub keyframe: Option<u64>,
}

/// One checkpoint in detail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckpointDetailView {
    /// The head.
    #[serde(flatten)]
    pub head: CheckpointView,
    /// Pages that it changed.
    pub changed_pages: u64,
    /// Pages of it that are not zero.
    pub filled_pages: u64,
    /// Chunks of it that are not here.
    pub lacked_chunks: u64,
}

/// Names a checkpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CheckpointRequest {
    /// The lineage, whole.
    pub lineage: String,
    /// The checkpoint.
    pub index: u64,
    /// How long to wait for what is not here yet, in milliseconds; one minute if not given.
    #[serde(default)]
    pub patience_ms: Option<u64>,
    /// Whether a guest's memory is filled through page faults although an image of it is here.
    #[serde(default)]
    pub by_faults: bool,
    /// Where the RAM image goes, if one is asked for.
    #[serde(default)]
    pub output: Option<String>,
    /// Where the device state goes, if it is asked for.
    #[serde(default)]
    pub state_output: Option<String>,
}

/// What to import as a checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportRequest {
    /// File with the RAM image, page after page.
    pub memory: String,
    /// File with everything but RAM; none if there is nothing.
    #[serde(default)]
    pub state: Option<String>,
    /// The lineage to continue, whole; none begins a new one.
    #[serde(default)]
    pub lineage: Option<String>,
}

/// An imported checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportView {
    /// The lineage.
    pub lineage: String,
    /// The checkpoint.
    pub index: u64,
    /// Its state root.
    pub state_root: String,
    /// Pages that are as in the checkpoint before.
    pub unchanged_pages: u64,
    /// Pages that are zero now and were not.
    pub zero_pages: u64,
    /// Pages whose content the lineage had before.
    pub duplicate_pages: u64,
    /// Pages with new content.
    pub new_pages: u64,
    /// Encoded bytes of new chunks.
    pub new_bytes: u64,
    /// From the image in memory to the announcement, in microseconds.
    pub publish_us: u64,
}

/// A fetched checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FetchView {
    /// Chunks that were not here.
    pub lacked_chunks: u64,
    /// Chunks that were.
    pub held_chunks: u64,
    /// Milliseconds it took, without the wait for the announcement.
    pub took_ms: u64,
}

/// A rebuilt checkpoint: its bytes were read back and hashed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RebuildView {
    /// Root computed from the bytes read back; equal to the head's.
    pub state_root: String,
    /// Pages that are not zero.
    pub filled_pages: u64,
    /// Milliseconds it took.
    pub took_ms: u64,
}

/// What a resumed guest found when it checked all of its memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SelfCheckView {
    /// Whether it found itself whole and went on from the checkpoint.
    pub holds: bool,
    /// Pages dirtied up to the checkpoint.
    pub counter_before: u64,
    /// Pages dirtied up to the end of the check.
    pub counter_after: u64,
    /// Whole passes completed since it was resumed.
    pub whole_passes: u32,
    /// A page with a wrong byte.
    pub wrong_page: Option<u32>,
    /// Why the VM ended by itself.
    pub died: Option<String>,
    /// Milliseconds from the wish to resume to the guest's first sign of life.
    pub first_report_ms: Option<u64>,
    /// Milliseconds it took.
    pub took_ms: u64,
    /// Page faults answered; none for a guest that started from an image.
    pub faults: Option<u64>,
    /// Median time of a fault in microseconds.
    pub fault_p50_us: Option<u64>,
    /// 99th percentile of the time of a fault in microseconds.
    pub fault_p99_us: Option<u64>,
}

/// What to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRequest {
    /// The workload's name.
    pub workload: String,
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// Milliseconds from checkpoint to checkpoint.
    pub interval_ms: u64,
    /// `pre-copy`, `incremental-stop-and-copy` or `stop-and-copy`.
    pub strategy: String,
    /// Ends the VM after so many checkpoints.
    pub checkpoints: Option<u64>,
    /// Seeds the guest.
    pub seed: u64,
    /// Checkpoints at which RAM is written to a file besides.
    #[serde(default)]
    pub witness: Vec<u64>,
    /// Where to.
    #[serde(default)]
    pub witness_directory: Option<String>,
    /// `lengthen`, `pause`, `drop-distribution` or `keep-pace`: what is done when checkpoints are not taken as fast as they are made;
    /// `lengthen` if not given.
    #[serde(default)]
    pub when_behind: Option<String>,
    /// The checkpoint to continue, as a branch; none boots the workload.
    #[serde(default)]
    pub resume: Option<CheckpointRequest>,
}

/// A VM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmView {
    /// Its number on this node.
    pub vm: u64,
    /// The process that runs it.
    pub process_id: u32,
    /// What runs its guest: `kvm` or `interpreter`.
    #[serde(default)]
    pub processor: String,
    /// The lineage it writes.
    pub lineage: Option<String>,
    /// Pages that its guest dirtied.
    pub counter: u64,
    /// Self-check passes that its guest completed.
    pub passes: u32,
    /// A page in which its guest found a wrong byte.
    pub wrong_page: Option<u32>,
    /// Why it ended, if it did.
    pub ended: Option<String>,
    /// Whether that was a failure.
    pub failed: bool,
    /// How it is driven, and what of its checkpoints waits.
    pub drive: DriveView,
    /// Figures of its checkpoints, from the index asked for on.
    pub checkpoints: Vec<CheckpointFigures>,
}

/// How a VM is driven, and what of its checkpoints waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveView {
    /// The VM's number on this node.
    pub vm: u64,
    /// What is done when it is behind: `lengthen`, `pause`, `drop-distribution` or `keep-pace`.
    pub when_behind: String,
    /// The interval that was set, in milliseconds.
    pub interval_set_ms: u64,
    /// The interval now.
    pub interval_ms: u64,
    /// Whether more waits than may.
    pub is_behind: bool,
    /// Whether the guest is made to stand still for it.
    pub is_paused: bool,
    /// Whether checkpoints are recorded without being announced or offered.
    pub is_withholding: bool,
    /// Bytes of captured pages that were not stored yet.
    pub to_store_bytes: u64,
    /// Milliseconds since the oldest of them was captured.
    pub to_store_ms: u64,
    /// Encoded bytes that followers lack, or will once they ask for the latest checkpoint, and only this node holds.
    pub to_send_bytes: u64,
    /// Milliseconds that this node's uplink needs for that.
    pub to_send_ms: u64,
    /// From which wait on, in milliseconds, the VM counts as behind.
    pub behind_from_ms: u64,
}

/// What ticket to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TicketRequest {
    /// The role of who joins with it.
    pub role: String,
    /// Seconds until the ticket expires.
    pub open_for_s: u64,
    /// Seconds for which the certificate is valid.
    pub member_for_s: u64,
}

/// A ticket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TicketView {
    /// Its text.
    pub ticket: String,
}

/// Whom to throw out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RevocationRequest {
    /// The member.
    pub node: String,
}

/// What a node ever lacked of a lineage, wanted, and received.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LackedView {
    /// Births, as ascending pairs of first and length.
    pub ranges: Vec<(u64, u64)>,
    /// Encoded bytes in which each of these births came, in the same order; 0 for one that has not come.
    pub bytes: Vec<u32>,
}

/// Encoded bytes of a lineage's chunks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LineageBytesView {
    /// Of all that were born, in the writer's form.
    pub born_bytes: u64,
    /// Of all that this node ever lacked and received, in the form in which they came.
    pub lacked_bytes: u64,
}
