//! Goal: stores of every version stay readable. Method: packs written by that version, kept as files.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use pageswarm_checkpoint::CheckpointIndex;
use pageswarm_store::{ObjectKind, Store, StoreOptions};

use crate::pages::{LINEAGE, in_each_encoding};

#[test]
fn a_store_of_version_1_opens_with_all_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1");
    fs::create_dir(dir.path().join("packs")).unwrap();
    for name in ["VERSION", "packs/0000000001.pack"] {
        fs::copy(fixture.join(name), dir.path().join(name)).unwrap();
    }
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.open_report().records_recovered, 8);
    assert_eq!(store.open_report().damaged_count, 0);
    let chunks = in_each_encoding();
    for chunk in &chunks {
        assert_eq!(store.read_chunk(chunk.hash()).unwrap().unwrap(), chunk.decoded().bytes());
    }
    let forms = chunks.each_ref().map(|chunk| std::mem::discriminant(&chunk.encoded().encoding));
    assert_eq!(HashSet::from(forms).len(), 4, "the fixture has each encoding");
    let committed = store.latest(LINEAGE).unwrap().unwrap();
    assert_eq!((committed.index, committed.chunk_count), (CheckpointIndex(3), 4));
    assert_eq!(store.object(committed.head).unwrap().unwrap(), (ObjectKind(2), b"head".to_vec()));
    assert!(store.head(LINEAGE, CheckpointIndex(4)).unwrap().is_some());
    assert_eq!(store.note(b"pin/a").unwrap().unwrap(), b"3");
}
