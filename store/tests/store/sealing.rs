//! Goal: packs are sealed at their limit and the next one goes on. Method: write more than one pack holds.

use std::fs;

use pageswarm_checkpoint::CHUNK_BYTES_MAX;
use pageswarm_store::limits::PACK_BYTES_SEALED;
use pageswarm_store::{ChunkRead, Store, StoreOptions, VerifiedChunk};

use crate::checkpoints::{assert_complete, write_checkpoint};
use crate::pages::{noise, plain};

#[test]
fn a_full_pack_is_sealed_and_the_next_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    write_checkpoint(&store, 0, || {}).unwrap();
    let count = PACK_BYTES_SEALED / CHUNK_BYTES_MAX as u64;
    let mut hashes = vec![];
    for first in (0..count).step_by(100) {
        let chunks: Vec<VerifiedChunk> =
            (first..count.min(first + 100)).map(|seed| plain(&noise(seed, CHUNK_BYTES_MAX))).collect();
        hashes.extend(chunks.iter().map(VerifiedChunk::hash));
        store.put_chunks(&chunks).unwrap();
    }
    write_checkpoint(&store, 1, || {}).unwrap();
    let sealed = fs::metadata(dir.path().join("packs/0000000001.pack")).unwrap().len();
    assert!((PACK_BYTES_SEALED..PACK_BYTES_SEALED + 70_000).contains(&sealed), "{sealed}");
    let check = |store: &Store| {
        let mut held = 0;
        store
            .read_chunks(&hashes, |_, read| {
                held += u64::from(matches!(read, ChunkRead::Held(_)));
            })
            .unwrap();
        assert_eq!(held, count);
        (0..2).for_each(|index| assert_complete(store, index));
        store.stats().unwrap()
    };
    let stats = check(&store);
    assert_eq!(stats.packs, 2);
    store.close().unwrap();
    let store = Store::reindex(dir.path(), StoreOptions::default()).unwrap();
    let again = check(&store);
    assert_eq!((again.packs, again.pack_bytes, again.chunks), (2, stats.pack_bytes, stats.chunks));
    assert_eq!(store.open_report().damaged_count, 0);
}
