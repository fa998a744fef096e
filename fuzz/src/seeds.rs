//! The first inputs of every fuzz target, made by the real encoders.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use pageswarm_checkpoint::membership::{Certificate, Revocations, Role, Ticket};
use pageswarm_checkpoint::wire::{
    BirthRange, Control, Hello, LeaseAnswer, LeaseRefusal, LeaseRequest, LeaseWish, LinkRate, Need, NeedTime,
    ObjectAnswer, ObjectRequest, Opening, Patience, PeerAddress, Place, Refusal, RunAnswer, RunRequest,
    Urgency,
};
use pageswarm_checkpoint::{
    AnnouncedResult, ArtefactPlace, Birth, Blob, BlobDelta, BlobKind, BranchPoint, CheckpointIndex,
    CheckpointMap, ChunkHash, ChunkRef, ChunkSource, Delta, Effort, EncodedChunk, Encoder, Encoding,
    Generation, Genesis, Head, IntervalRecord, LineageId, NodeId, ObjectHash, ObjectName, Outcome,
    PageChange, PageMap, PageNumber, SimulationFailure, SimulationResult, SimulatorBuild, Slot, StateRoot,
    Trace, Work, node_id,
};
use pageswarm_machine::event::{Event, EventSize};
use pageswarm_machine::{CpuState, Devices, EventLog};
use pageswarm_sim::trace::{TraceOptions, TraceSubject, TraceWriter, Values};
use pageswarm_sim::{Access, AccessKind, Observer as _};
use pageswarm_swarm::BirthSet;

use super::decoders::{BASE, PAGES, key};

/// An input: its target, its name, its bytes.
pub(crate) type Seed = (&'static str, &'static str, Vec<u8>);

const LINEAGE: LineageId = LineageId([0x11; 32]);
const ANCESTOR: ChunkRef = ChunkRef { generation: Generation(2), birth: Birth(40) };

/// All of them, the same every time.
pub(crate) fn all() -> Vec<Seed> {
    [
        streams(),
        lease_answers(),
        control(),
        answers(),
        metadata(),
        records(),
        results(),
        membership(),
        chunks(),
        guest(),
        traces(),
    ]
    .concat()
}

fn streams() -> Vec<Seed> {
    let run = RunRequest {
        lineage: LINEAGE,
        urgency: Urgency::Fault,
        patience: Patience::Insist,
        chunks: vec![
            (Birth(3), None),
            (Birth(4), Some(ChunkRef::own(Birth(1)))),
            (Birth(900), Some(ANCESTOR)),
        ],
    };
    let object = ObjectRequest::Keyframe(LINEAGE, CheckpointIndex(32));
    let results = ObjectRequest::Results { lineage: LINEAGE, worker: NodeId([3; 32]), from: 256 };
    let lacks = vec![(CheckpointIndex(4), 0), (CheckpointIndex(5), 70_000)];
    let intervals = vec![CheckpointIndex(4), CheckpointIndex(300)];
    vec![
        ("opening", "control", Opening::Control.encode()),
        ("opening", "run", Opening::Run(run).encode()),
        ("opening", "object", Opening::Object(object).encode()),
        ("opening", "genesis", Opening::Object(ObjectRequest::Genesis(LINEAGE)).encode()),
        ("opening", "join", Opening::Join { invitation: [9; 16] }.encode()),
        ("opening", "renew", Opening::Renew.encode()),
        ("opening", "results", Opening::Object(results).encode()),
        ("opening", "lease_ask", lease(LeaseWish::Ask { jobs: 2, lacks }).encode()),
        ("opening", "lease_renew", lease(LeaseWish::Renew(intervals)).encode()),
        ("opening", "lease_give_back", lease(LeaseWish::GiveBack(CheckpointIndex(300))).encode()),
    ]
}

fn lease(wish: LeaseWish) -> Opening {
    Opening::Lease(LeaseRequest { lineage: LINEAGE, wish })
}

fn lease_answers() -> Vec<Seed> {
    let intervals = vec![CheckpointIndex(4), CheckpointIndex(300)];
    let granted = LeaseAnswer::Granted { interval: CheckpointIndex(7), term_ms: 30_000 };
    vec![
        ("lease_answer", "granted", granted.encode()),
        ("lease_answer", "candidates", LeaseAnswer::Candidates(intervals).encode()),
        ("lease_answer", "idle", LeaseAnswer::Idle { finished: true }.encode()),
        ("lease_answer", "noted", LeaseAnswer::Noted.encode()),
        ("lease_answer", "refused", LeaseAnswer::Refused(LeaseRefusal::Distrusted).encode()),
    ]
}

fn results() -> Vec<Seed> {
    let work = Work { instructions: 1_000_000, reads: 300_000, writes: 100_000, changed_pages: 900 };
    let ended = SimulationResult {
        worker: node_id(&key()),
        lineage: LINEAGE,
        number: 3,
        parent: ObjectHash([1; 32]),
        interval: CheckpointIndex(130),
        input_root: StateRoot([2; 32]),
        simulator: SimulatorBuild([3; 32]),
        options: Vec::new(),
        outcome: Outcome::Ended { end_root: StateRoot([4; 32]), work },
        simulation_ms: 900,
        finished_unix_ms: 1_800_000_000_000,
        trace: None,
    };
    let place = Some(ArtefactPlace { lineage: LINEAGE, index: CheckpointIndex(300) });
    let traced = SimulationResult {
        options: b"trace with values".to_vec(),
        trace: Some(Trace { digest: [5; 32], bytes: 70_000, place }),
        ..ended.clone()
    };
    let failed = SimulationResult {
        outcome: Outcome::Failed(SimulationFailure::NotReplayed),
        trace: Some(Trace { digest: [5; 32], bytes: 3, place: None }),
        ..ended.clone()
    };
    let named = |result: SimulationResult| fields(result.sign(&key())).split_off(33);
    let announced = |result: &SimulationResult| AnnouncedResult {
        certificate: vec![0xc0; 150],
        record: result.clone().sign(&key()),
    };
    let mut list = Vec::new();
    AnnouncedResult::put_list(&[announced(&ended), announced(&traced)], &mut list);
    vec![
        ("announced_result", "traced", announced(&traced).encode()),
        ("result_list", "two", list),
        ("result_list", "none", vec![0]),
        ("result", "ended", named(ended)),
        ("result", "traced", named(traced)),
        ("result", "failed", named(failed)),
    ]
}

fn need(births: Option<Vec<BirthRange>>) -> Need {
    let rate = NonZeroU64::MIN.saturating_add(999_999);
    Need {
        lineage: LINEAGE,
        up: LinkRate::Configured(rate),
        down: LinkRate::Measured(rate),
        lacked_bytes: 32_768,
        born_bytes: 30_000,
        missing_bytes: 4096,
        times: vec![
            NeedTime { started_ms_ago: 900, ended_ms_ago: 500 },
            NeedTime { started_ms_ago: 300, ended_ms_ago: 0 },
        ],
        births,
    }
}

fn control() -> Vec<Seed> {
    let births = vec![BirthRange { first: Birth(0), length: 7 }, BirthRange { first: Birth(100), length: 1 }];
    let hello = Hello { certificate: vec![1; 90], data_port: 7420, gossip_port: 7421, session: [2; 8] };
    let announced = AnnouncedResult { certificate: vec![1; 140], record: vec![2; 300] };
    let peer = PeerAddress { node: NodeId([3; 32]), address: "10.0.0.7:7420".to_owned() };
    let place = Place { zone: Some("eu-1".to_owned()), rack: Some("r07".to_owned()), host: None };
    vec![
        ("control", "hello", Control::Hello(hello).encode()),
        ("control", "place", Control::Place(place).encode()),
        ("control", "peers", Control::Peers(vec![peer]).encode()),
        ("control", "heads", Control::Heads(vec![vec![5; 200], vec![6; 240]]).encode()),
        ("control", "follow", Control::Follow(LINEAGE).encode()),
        ("control", "have", Control::Have { lineage: LINEAGE, births: births.clone() }.encode()),
        ("control", "lack", Control::Lack { lineage: LINEAGE, births: births.clone() }.encode()),
        ("control", "need", Control::Need(need(Some(births))).encode()),
        ("control", "need_as_before", Control::Need(need(None)).encode()),
        ("control", "revocations", Control::Revocations(vec![8; 70]).encode()),
        ("control", "results", Control::Results(vec![announced.clone(), announced]).encode()),
    ]
}

fn answers() -> Vec<Seed> {
    let chunk = |encoding| RunAnswer::Chunk {
        birth: Birth(77),
        chunk: EncodedChunk { encoding, decoded_len: 4096, bytes: vec![2; 40] },
    };
    vec![
        ("run_answer", "raw", chunk(Encoding::Raw).encode()),
        ("run_answer", "zstd", chunk(Encoding::Zstd).encode()),
        ("run_answer", "patch", chunk(Encoding::Patch { base: ANCESTOR }).encode()),
        ("run_answer", "diff", chunk(Encoding::Diff { base: ANCESTOR }).encode()),
        ("run_answer", "steps", steps().encode()),
        ("run_answer", "two", [chunk(Encoding::Raw).encode(), chunk(Encoding::Zstd).encode()].concat()),
        ("run_answer", "not_held", RunAnswer::<&[u8]>::NotHeld { birth: Birth(5) }.encode()),
        (
            "run_answer",
            "deferred",
            RunAnswer::<&[u8]>::Deferred { birth: Birth(5), holder: NodeId([4; 32]) }.encode(),
        ),
        ("run_answer", "refused", RunAnswer::<&[u8]>::Refused { why: Refusal::Busy }.encode()),
        ("object_answer", "found", ObjectAnswer::Found { length: 70_000 }.encode()),
        ("object_answer", "not_held", ObjectAnswer::NotHeld.encode()),
        ("object_answer", "refused", ObjectAnswer::Refused { why: "invitation is used".to_owned() }.encode()),
    ]
}

fn steps() -> RunAnswer {
    let step = |encoding| EncodedChunk { encoding, decoded_len: 4096, bytes: vec![2; 20] };
    let steps = vec![step(Encoding::Patch { base: () }), step(Encoding::Diff { base: () })];
    RunAnswer::Steps { birth: Birth(77), base: Some(ANCESTOR), steps }
}

fn metadata() -> Vec<Seed> {
    let new = |byte| ChunkSource::New { hash: ChunkHash([byte; 32]), encoded_len: 600 };
    let delta = Delta {
        births_before: 128,
        pages: vec![
            (PageNumber(0), PageChange::Zero),
            (PageNumber(7), PageChange::Chunk(new(1))),
            (PageNumber(8), PageChange::Chunk(ChunkSource::Same(ChunkRef::own(Birth(128))))),
            (PageNumber(PAGES - 1), PageChange::Chunk(ChunkSource::Same(ANCESTOR))),
        ],
        blobs: vec![
            BlobDelta { kind: BlobKind::Cpu, chunks: vec![(new(2), 593)] },
            BlobDelta { kind: BlobKind::IntervalRecord, chunks: vec![(new(3), 65_536), (new(4), 12)] },
        ],
    };
    let slot = |source, byte| Slot::Chunk { source, hash: ChunkHash([byte; 32]) };
    let pages = [(PageNumber(2), slot(ChunkRef::own(Birth(9)), 1)), (PageNumber(5000), slot(ANCESTOR, 2))];
    let blob = Blob { chunks: vec![(ChunkRef::own(Birth(10)), ChunkHash([3; 32]), 593)] };
    let map = CheckpointMap {
        ram: PageMap::zero(PAGES).with(&pages),
        blobs: BTreeMap::from([(BlobKind::Devices, blob)]),
        births: 11,
    };
    vec![
        ("delta", "empty", Delta::default().encode()),
        ("delta", "every_kind", delta.encode()),
        ("keyframe", "empty", CheckpointMap::zero(PAGES).encode_keyframe(CheckpointIndex(0))),
        ("keyframe", "pages_and_blob", map.encode_keyframe(CheckpointIndex(64))),
    ]
}

fn records() -> Vec<Seed> {
    let genesis =
        Genesis { writer: node_id(&key()), nonce: [5; 16], pages: 65_536, interval_ms: 500, parent: None };
    let parent = BranchPoint { lineage: LINEAGE, index: CheckpointIndex(12), state_root: StateRoot([6; 32]) };
    let branch = Genesis { parent: Some(parent), ..genesis.clone() };
    let name = |byte| ObjectName { hash: ObjectHash([byte; 32]), length: 70_000 };
    let head = Head {
        lineage: LINEAGE,
        index: CheckpointIndex(33),
        parent: ObjectHash([1; 32]),
        state_root: StateRoot([2; 32]),
        delta: name(3),
        keyframe: Some((CheckpointIndex(32), name(4))),
        births: 400_000,
        taken_unix_ms: 1_800_000_000_000,
    };
    let first = Head { index: CheckpointIndex(0), keyframe: None, births: 0, ..head.clone() };
    let interval = IntervalRecord {
        lineage: LINEAGE,
        interval: CheckpointIndex(32),
        event_log: event_log().encode(),
        written: vec![PageNumber(0), PageNumber(9), PageNumber(u32::MAX)],
    };
    vec![
        ("genesis", "root", genesis.sign(&key()).0),
        ("genesis", "branch", branch.sign(&key()).0),
        ("head", "with_keyframe", head.sign(&key())),
        ("head", "first", first.sign(&key())),
        ("interval_record", "written_pages", fields(interval.sign(&key()))),
    ]
}

fn membership() -> Vec<Seed> {
    let certificate = Certificate {
        swarm: node_id(&key()),
        node: NodeId([3; 32]),
        role: Role::Publisher,
        not_before_unix_s: 1_800_000_000,
        not_after_unix_s: 1_802_592_000,
    };
    let revocations = Revocations { version: 2, nodes: vec![NodeId([1; 32]), NodeId([2; 32])] };
    let ticket = Ticket {
        swarm: node_id(&key()),
        admin: NodeId([8; 32]),
        invitation: [9; 16],
        addresses: vec!["192.0.2.1:7420".to_owned(), "[2001:db8::1]:7420".to_owned()],
    };
    vec![
        ("certificate", "publisher", fields(certificate.sign(&key()))),
        ("revocations", "empty", fields(Revocations::default().sign(&key()))),
        ("revocations", "two", fields(revocations.sign(&key()))),
        ("ticket", "two_addresses", ticket.to_string().into_bytes()),
    ]
}

/// Without the signature, which the checks put back.
fn fields(mut record: Vec<u8>) -> Vec<u8> {
    record.truncate(record.len() - 64);
    record
}

fn chunks() -> Vec<Seed> {
    let mut near_base = BASE;
    near_base[100..108].copy_from_slice(&[1; 8]);
    let diff = Encoder::new(Effort::Fast).encode(&near_base, Some(((), BASE.as_slice())));
    let mut moved = BASE;
    moved.rotate_left(100);
    let mut encoder = Encoder::new(Effort::Small);
    let patch = encoder.encode(&moved, Some(((), BASE.as_slice())));
    let plain = encoder.encode::<()>(&b"abcdefgh".repeat(512), None);
    let raw = encoder.encode::<()>(b"incompressible", None);
    let coded = |chunk: EncodedChunk<()>| {
        let kind = match chunk.encoding {
            Encoding::Raw => 0,
            Encoding::Zstd => 1,
            Encoding::Patch { .. } => 2,
            Encoding::Diff { .. } => 3,
        };
        let length = chunk.decoded_len.to_le_bytes();
        [&[kind, length[0], length[1], length[2]], chunk.bytes.as_slice()].concat()
    };
    let all = [("raw", raw), ("zstd", plain), ("patch", patch), ("diff", diff)];
    all.into_iter().map(|(name, chunk)| ("chunk", name, coded(chunk))).collect()
}

fn event_log() -> EventLog {
    let mut log = EventLog::default();
    let events =
        [(0x510, EventSize::Long, 0x20_0035), (0x510, EventSize::Long, 7), (0x514, EventSize::Byte, 255)];
    for (port, size, value) in events {
        assert_eq!(log.push(Event { port, size, value }), Ok(()));
    }
    log
}

fn guest() -> Vec<Seed> {
    let mut devices = Devices::default();
    let outs: [(u16, u32); 4] = [(0x520, 2), (0x524, 53_000), (0x52c, 77), (0x530, 3)];
    for (port, value) in outs {
        assert!(devices.output(port, &value.to_le_bytes()).is_ok());
    }
    devices.clock_ns = 1_000_000_007;
    let set: BirthSet = [0, 1, 2, 9, 1 << 33].map(Birth).into_iter().collect();
    let mut coded = Vec::new();
    pageswarm_swarm::encode_set(&set, &mut coded);
    vec![
        ("event_log", "three", event_log().encode()),
        ("cpu_state", "start", CpuState::start(0x10_0000).encode()),
        ("devices", "start", Devices::default().encode()),
        ("devices", "stopped", devices.encode()),
        ("birth_set", "ranges", coded),
    ]
}

/// A loop that reads one array and writes another, and what the trace keeps of it with values and without.
pub(crate) fn accesses() -> Vec<Access> {
    let access = |step: u64| Access {
        instruction: 3 * step,
        rip: 0x10_0000 + 7 * (step % 2),
        virtual_address: 0x20_0000 + 0x1000 * (step % 2) + 8 * step,
        physical_address: 0x4_0000 + 0x1000 * (step % 2) + 8 * step,
        size: 8,
        kind: if step.is_multiple_of(2) { AccessKind::Read } else { AccessKind::Write },
        value: u128::from(step * step),
    };
    (0..40).map(access).collect()
}

fn traces() -> Vec<Seed> {
    let trace = |values| {
        let subject = TraceSubject {
            lineage: LINEAGE,
            interval: CheckpointIndex(3),
            input_root: StateRoot([0x33; 32]),
        };
        let options = TraceOptions { values, bytes_max: 1 << 20 };
        let mut writer = TraceWriter::new(Vec::new(), subject, options).expect("memory takes all");
        accesses().into_iter().for_each(|access| writer.access(access));
        writer.finish(StateRoot([0x44; 32])).expect("memory takes all").output
    };
    vec![("trace", "with_values", trace(Values::Kept)), ("trace", "without_values", trace(Values::Omitted))]
}
