//! Goal: heads and checkpoints are what one writer said, once. Method: say it twice, and otherwise.

use pageswarm_checkpoint::{CheckpointIndex, ChunkHash, LineageId, ObjectHash};
use pageswarm_store::{CommitError, NewCheckpoint, ObjectKind, Store, StoreOptions};

use crate::checkpoints::write_checkpoint;
use crate::pages::{LINEAGE, plain_pages};

const OTHER: LineageId = LineageId([9; 32]);

fn hash(byte: u8) -> ChunkHash {
    ChunkHash([byte; 32])
}

#[test]
fn a_second_head_of_a_checkpoint_is_equivocation() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let (first, second) = (ObjectHash([1; 32]), ObjectHash([2; 32]));
    store.record_head(LINEAGE, CheckpointIndex(4), first).unwrap();
    store.record_head(LINEAGE, CheckpointIndex(4), first).unwrap();
    let error = store.record_head(LINEAGE, CheckpointIndex(4), second).unwrap_err();
    assert!(
        matches!(error, CommitError::Equivocation { index: CheckpointIndex(4), held, offered, .. }
            if held == first && offered == second),
        "{error}"
    );
    let head = store.put_object(ObjectKind(2), b"another head").unwrap();
    let mut checkpoint =
        NewCheckpoint { lineage: LINEAGE, index: CheckpointIndex(4), head, objects: vec![], chunks: vec![] };
    assert!(matches!(store.commit_checkpoint(&checkpoint), Err(CommitError::Equivocation { .. })));
    assert!(store.latest(LINEAGE).unwrap().is_none());
    checkpoint.index = CheckpointIndex(5);
    store.commit_checkpoint(&checkpoint).unwrap();
    store.commit_checkpoint(&checkpoint).unwrap();
    let heads = store.heads(LINEAGE, CheckpointIndex(0), 10).unwrap();
    assert_eq!(heads, [(CheckpointIndex(4), first), (CheckpointIndex(5), head)]);
    assert_eq!(store.heads(LINEAGE, CheckpointIndex(5), 10).unwrap(), heads[1..]);
    assert_eq!(store.head(OTHER, CheckpointIndex(4)).unwrap(), None);
}

#[test]
fn what_a_checkpoint_relies_on_must_be_held() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let head = store.put_object(ObjectKind(2), b"head").unwrap();
    let chunks = plain_pages(0..1);
    store.put_chunks(&chunks).unwrap();
    let mut checkpoint = NewCheckpoint {
        lineage: LINEAGE,
        index: CheckpointIndex(0),
        head,
        objects: vec![ObjectHash([1; 32])],
        chunks: vec![],
    };
    let error = store.commit_checkpoint(&checkpoint).unwrap_err();
    assert!(
        matches!(error, CommitError::ObjectMissing(missing) if missing == ObjectHash([1; 32])),
        "{error}"
    );
    checkpoint.objects.clear();
    checkpoint.chunks = vec![chunks[0].hash(), hash(8), hash(9)];
    let error = store.commit_checkpoint(&checkpoint).unwrap_err();
    assert!(matches!(error, CommitError::ChunksMissing { count: 2, first } if first == hash(8)), "{error}");
    assert!(store.checkpoint(LINEAGE, CheckpointIndex(0)).unwrap().is_none());
    checkpoint.chunks.truncate(1);
    store.commit_checkpoint(&checkpoint).unwrap();
}

#[test]
fn lineages_and_their_latest_checkpoints_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.lineages().unwrap(), []);
    for byte in [3, 1, 255, 2] {
        for index in [0, 300, 7] {
            store.record_head(LineageId([byte; 32]), CheckpointIndex(index), ObjectHash([byte; 32])).unwrap();
        }
    }
    let listed: Vec<u8> = store.lineages().unwrap().iter().map(|lineage| lineage.0[0]).collect();
    assert_eq!(listed, [1, 2, 3, 255]);
    (0..3).for_each(|index| write_checkpoint(&store, index, || {}).unwrap());
    assert_eq!(store.latest(LINEAGE).unwrap().unwrap().index, CheckpointIndex(2));
    assert!(store.latest(LineageId([3; 32])).unwrap().is_none());
    let listed: Vec<u64> = store
        .checkpoints(LINEAGE, CheckpointIndex(1), 10)
        .unwrap()
        .iter()
        .map(|found| found.index.0)
        .collect();
    assert_eq!(listed, [1, 2]);
}
