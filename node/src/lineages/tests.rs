//! Goal: what others write takes no more than its part of the places, and has what its kind of lineage has. Method: a
//! store of its own for each test, and records signed by their writers.

use ed25519_dalek::SigningKey;
use pageswarm_checkpoint::{BlobDelta, ChunkSource, ObjectName, StateRoot, node_id};
use pageswarm_store::StoreOptions;

use super::*;

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn genesis(writer: u8, nonce: u8, pages: u32) -> Genesis {
    let writer = node_id(&key(writer));
    Genesis { writer, nonce: [nonce; 16], pages, interval_ms: 0, parent: None }
}

fn lineages() -> (tempfile::TempDir, Lineages) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store"), StoreOptions { quota_bytes: None }).unwrap();
    (directory, Lineages::load(Arc::new(store)).unwrap())
}

fn open(lineages: &Lineages, writer: u8, genesis: &Genesis) -> Lineage {
    lineages.open(&genesis.sign(&key(writer)).0, b"certificate").unwrap().unwrap()
}

#[test]
fn one_workers_artefacts_leave_room_for_others() {
    let (_directory, lineages) = lineages();
    for nonce in 0..u8::try_from(ARTEFACT_LINEAGES_PER_WORKER_MAX).unwrap() {
        let next = genesis(1, nonce, 0);
        lineages.check_room_for(&next, 0).unwrap();
        open(&lineages, 1, &next);
    }
    let refused = lineages.check_room_for(&genesis(1, 200, 0), 0).unwrap_err();
    assert!(refused.to_string().contains("one worker: a node follows 64"), "{refused}");
    lineages.check_room_for(&genesis(2, 0, 0), 0).unwrap();
    lineages.check_room_for(&genesis(1, 200, 16), 0).unwrap();
}

/// Offers a first checkpoint with blobs of these kinds, and no page, to a lineage of that many pages.
fn offer(pages: u32, kinds: &[BlobKind]) -> Result<Applied, LineageError> {
    let (_directory, lineages) = lineages();
    let lineage = open(&lineages, 1, &genesis(1, 0, pages));
    let fresh = |(kind, number): (&BlobKind, u8)| BlobDelta {
        kind: *kind,
        chunks: vec![(ChunkSource::New { hash: ChunkHash([number; 32]), encoded_len: 9 }, 9)],
    };
    let blobs: Vec<BlobDelta> = kinds.iter().zip(1..).map(fresh).collect();
    let births = blobs.len() as u64;
    let delta = Delta { births_before: 0, pages: vec![], blobs }.encode();
    let head = Head {
        lineage: lineage.id,
        index: CheckpointIndex(0),
        parent: lineage.genesis_hash,
        delta: ObjectName { hash: object_hash(&delta), length: delta.len() as u64 },
        state_root: StateRoot([1; 32]),
        births,
        keyframe: None,
        taken_unix_ms: 1,
    };
    lineages.apply(&lineage.id, &head.sign(&key(1)), &delta)
}

#[test]
fn a_lineage_of_artefacts_has_files_and_one_of_a_machine_has_none() {
    let is_refused = |pages, kinds: &[BlobKind]| match offer(pages, kinds) {
        Ok(_) => false,
        Err(error) => {
            assert!(matches!(error, LineageError::OtherKind { .. }), "{error}");
            true
        }
    };
    assert!(!is_refused(0, &[BlobKind::Trace]));
    assert!(is_refused(0, &[BlobKind::Cpu]));
    assert!(is_refused(0, &[BlobKind::Cpu, BlobKind::Trace]));
    assert!(is_refused(0, &[]));
    assert!(!is_refused(16, &[BlobKind::Cpu]));
    assert!(is_refused(16, &[BlobKind::Cpu, BlobKind::Trace]));
}
