//! What must hold for every decoder and any bytes: no panic, bounded memory, and one encoding for one value.
//!
//! Used twice: by the fuzz targets, and by the test that replays the corpus.

use std::io::Cursor;

use ed25519_dalek::SigningKey;
use pageswarm_checkpoint::codec::Take;
use pageswarm_checkpoint::membership::{Certificate, Revocations, Ticket};
use pageswarm_checkpoint::wire::{Control, LeaseAnswer, ObjectAnswer, Opening, RunAnswer};
use pageswarm_checkpoint::{
    AnnouncedResult, Birth, CHUNK_BYTES_MAX, CheckpointMap, Decoder, Delta, EncodedChunk, Encoding, Genesis,
    Head, IntervalRecord, NodeId, SimulationResult, node_id, record,
};
use pageswarm_machine::{CpuState, Devices, EventLog};
use pageswarm_sim::trace::{ReadError, Trace};
use pageswarm_swarm::SetLimits;

/// Pages of the RAM that deltas and keyframes are decoded for.
pub(crate) const PAGES: u32 = 16_384;
/// The base of every patch.
pub(crate) const BASE: [u8; 4096] = [0x5a; 4096];
const SIGNATURE_BYTES: usize = 64;
const SET_LIMITS: SetLimits = SetLimits { births: 1 << 20, ranges: 1 << 12 };

/// The key that records are signed with here, so that decoding gets past the signature.
pub(crate) fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// Checks `bytes` with the decoder that a fuzz target is named after; true if they decode.
///
/// # Panics
///
/// If a promise does not hold, or there is no such target.
pub(crate) fn check(target: &str, bytes: &[u8]) -> bool {
    match target {
        "opening" => again(bytes, Opening::decode(bytes).ok().map(|value| value.encode())),
        "control" => again(bytes, Control::decode(bytes).ok().map(|value| value.encode())),
        "run_answer" => again(bytes, RunAnswer::decode_frame(bytes).ok().map(answers_again)),
        "object_answer" => again(bytes, ObjectAnswer::decode(bytes).ok().map(|value| value.encode())),
        "delta" => again(bytes, Delta::decode(bytes, PAGES).ok().map(|value| value.encode())),
        "keyframe" => {
            let decoded = CheckpointMap::decode_keyframe(bytes, PAGES).ok();
            again(bytes, decoded.map(|(index, map)| map.encode_keyframe(index)))
        }
        "genesis" => genesis(bytes),
        "head" => head(bytes),
        "interval_record" => interval_record(bytes),
        "result" => result(bytes),
        "announced_result" => again(bytes, AnnouncedResult::decode(bytes).ok().map(|value| value.encode())),
        "result_list" => again(bytes, result_list(bytes)),
        "lease_answer" => again(bytes, LeaseAnswer::decode(bytes).ok().map(|value| value.encode())),
        "certificate" => certificate(bytes),
        "revocations" => revocations(bytes),
        "ticket" => ticket(bytes),
        "chunk" => chunk(bytes),
        "event_log" => again(bytes, EventLog::decode(bytes).ok().map(|value| value.encode())),
        "cpu_state" => again(bytes, CpuState::decode(bytes).ok().map(|value| value.encode())),
        "devices" => again(bytes, Devices::decode(bytes).ok().map(|value| value.encode())),
        "birth_set" => birth_set(bytes),
        "trace" => trace(bytes),
        _ => panic!("there is no decoder {target}"),
    }
}

/// What was decoded is encoded as it was.
fn again(bytes: &[u8], encoded: Option<Vec<u8>>) -> bool {
    if let Some(encoded) = &encoded {
        assert_eq!(encoded, bytes, "one value has two encodings");
    }
    encoded.is_some()
}

fn unsigned(record: &[u8]) -> &[u8] {
    &record[..record.len().saturating_sub(SIGNATURE_BYTES)]
}

// Whoever signed it: signatures are made of the fields alone.

fn genesis(bytes: &[u8]) -> bool {
    let opened = Genesis::open(bytes).ok();
    again(unsigned(bytes), opened.map(|(genesis, _)| unsigned(&genesis.sign(&key()).0).to_vec()))
}

fn head(bytes: &[u8]) -> bool {
    let head = Head::peek(bytes).ok();
    again(unsigned(bytes), head.map(|head| unsigned(&head.sign(&key())).to_vec()))
}

/// As a peer answers with the results of one worker.
fn result_list(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut take = Take::new(bytes);
    let list = AnnouncedResult::take_list(&mut take).ok()?;
    take.finish().ok()?;
    let mut encoded = Vec::new();
    AnnouncedResult::put_list(&list, &mut encoded);
    Some(encoded)
}

/// `fields` are without a signature: the right one is put behind them.
fn interval_record(fields: &[u8]) -> bool {
    let record = record::sign(b"pageswarm interval record 1", fields.to_vec(), &key());
    let opened = IntervalRecord::open(&record, &node_id(&key())).ok();
    again(&record, opened.map(|value| value.sign(&key())))
}

/// `fields` are without the version, the worker and the signature, so that the signature can be its own.
fn result(fields: &[u8]) -> bool {
    let NodeId(worker) = node_id(&key());
    let fields = [&[1][..], &worker, fields].concat();
    let record = record::sign(b"pageswarm simulation result 1", fields, &key());
    let opened = SimulationResult::open(&record).ok();
    again(&record, opened.map(|value| value.sign(&key())))
}

fn certificate(fields: &[u8]) -> bool {
    let record = record::sign(b"pageswarm certificate 1", fields.to_vec(), &key());
    let opened = Certificate::open(&record, &node_id(&key())).ok();
    again(&record, opened.map(|value| value.sign(&key())))
}

fn revocations(fields: &[u8]) -> bool {
    let record = record::sign(b"pageswarm revocations 1", fields.to_vec(), &key());
    let opened = Revocations::open(&record, &node_id(&key())).ok();
    again(&record, opened.map(|value| value.sign(&key())))
}

fn ticket(bytes: &[u8]) -> bool {
    let parsed = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Ticket>().ok());
    if let Some(ticket) = &parsed {
        assert_eq!(
            ticket.to_string().parse().as_ref(),
            Ok(ticket),
            "a ticket does not survive being printed"
        );
    }
    parsed.is_some()
}

fn answers_again(answers: Vec<RunAnswer<&[u8]>>) -> Vec<u8> {
    let mut frame = Vec::new();
    answers.iter().for_each(|answer| answer.encode_to(&mut frame));
    frame
}

/// What is whole has the accesses that it says, no more and no fewer.
fn trace(bytes: &[u8]) -> bool {
    let Ok(mut trace) = Trace::open(Cursor::new(bytes)) else {
        return false;
    };
    let (mut seen, stated) = (0_u64, trace.header().accesses);
    let visited: Result<(), ReadError> = trace.visit(&(0..=u64::MAX), |_| {
        seen += 1;
        Ok(())
    });
    assert!(seen <= stated && (visited.is_err() || seen == stated), "{seen} accesses of {stated}");
    visited.is_ok()
}

/// One byte for the encoding, three for the decoded length, the rest is encoded.
fn chunk(bytes: &[u8]) -> bool {
    let Some((&[kind, low, middle, high], encoded)) = bytes.split_first_chunk() else {
        return false;
    };
    let encoding = match kind % 4 {
        0 => Encoding::Raw,
        1 => Encoding::Zstd,
        2 => Encoding::Patch { base: Birth(0) },
        _ => Encoding::Diff { base: Birth(0) },
    };
    let decoded_len = u32::from_le_bytes([low, middle, high, 0]);
    let chunk = EncodedChunk { encoding, decoded_len, bytes: encoded.to_vec() };
    let mut out = vec![1, 2, 3];
    let decoded = Decoder::new().decode(&chunk, Some(&BASE), &mut out);
    match decoded {
        Ok(()) => {
            let decoded = out.len() - 3;
            assert!(decoded == decoded_len as usize && decoded <= CHUNK_BYTES_MAX);
        }
        Err(_) => assert_eq!(out, [1, 2, 3], "a failed chunk leaves bytes behind"),
    }
    decoded.is_ok()
}

fn birth_set(bytes: &[u8]) -> bool {
    let Ok(set) = pageswarm_swarm::decode_set(&mut &*bytes, SET_LIMITS) else {
        return false;
    };
    assert!(set.len() <= SET_LIMITS.births && set.ranges().count() as u64 <= SET_LIMITS.ranges);
    let mut encoded = Vec::new();
    pageswarm_swarm::encode_set(&set, &mut encoded);
    assert_eq!(encoded.len(), pageswarm_swarm::encoded_set_bytes(&set));
    assert_eq!(pageswarm_swarm::decode_set(&mut encoded.as_slice(), SET_LIMITS), Ok(set));
    true
}
