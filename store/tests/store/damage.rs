//! Goal: whatever rots on the disk is noticed, named, and never given out. Method: flip and cut real files.

use std::fs;
use std::path::{Path, PathBuf};

use pageswarm_checkpoint::{CheckpointIndex, ChunkHash, ObjectHash};
use pageswarm_store::limits::CHAIN_DEPTH_MAX;
use pageswarm_store::{
    BadCause, ChunkRead, IndexError, ObjectKind, PackNumber, ReadError, Store, StoreOptions, VerifiedChunk,
};

use crate::checkpoints::{assert_complete, write_checkpoint};
use crate::pages::{LINEAGE, page, patch, plain, plain_pages, stepped_page};

const PACK_HEADER_BYTES: u64 = 64;
const RECORD_HEADER_BYTES: u64 = 56;
const RECORD_BYTES: u64 = RECORD_HEADER_BYTES + 4096;

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default()).unwrap()
}

fn pack_path(dir: &Path) -> PathBuf {
    dir.join("packs/0000000001.pack")
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[usize::try_from(offset).unwrap()] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// A closed store with ten incompressible pages, one record after the other.
fn ten_pages(dir: &Path) -> Vec<VerifiedChunk> {
    let chunks = plain_pages(0..10);
    let store = open(dir);
    store.put_chunks(&chunks).unwrap();
    store.close().unwrap();
    chunks
}

fn hashes(chunks: &[VerifiedChunk]) -> Vec<ChunkHash> {
    chunks.iter().map(VerifiedChunk::hash).collect()
}

/// Reads all chunks; the positions of the bad ones. Good ones must be right.
fn bad_positions(store: &Store, chunks: &[VerifiedChunk]) -> Vec<(usize, BadCause)> {
    let mut bad = vec![];
    store
        .read_chunks(&hashes(chunks), |position, read| match read {
            ChunkRead::Held(chunk) => assert_eq!(chunk.bytes(), chunks[position].decoded().bytes()),
            ChunkRead::NotHeld => panic!("chunk {position} is not held"),
            ChunkRead::Bad(found) => bad.push((position, found.cause.clone())),
        })
        .unwrap();
    bad
}

#[test]
fn a_flipped_byte_of_a_payload_is_named_and_the_chunk_can_be_put_again() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = ten_pages(dir.path());
    let offset = PACK_HEADER_BYTES + 3 * RECORD_BYTES;
    flip(&pack_path(dir.path()), offset + RECORD_HEADER_BYTES + 1000);
    let store = open(dir.path());
    assert_eq!(bad_positions(&store, &chunks), [(3, BadCause::Payload)]);
    let reported = store.take_bad_chunks();
    assert_eq!(reported.len(), 1);
    let place = reported[0].place.unwrap();
    assert_eq!((reported[0].hash, place.pack, place.offset), (chunks[3].hash(), PackNumber(1), offset));
    assert!(reported[0].to_string().contains(&format!("at offset {offset} of pack 1")), "{}", reported[0]);
    assert_eq!(store.contains_many(&hashes(&chunks[2..5])).unwrap(), [true, false, true]);
    assert!(store.read_chunk(chunks[3].hash()).unwrap().is_none());
    assert_eq!(store.put_chunks(&chunks).unwrap().stored, 1);
    assert_eq!(bad_positions(&store, &chunks), []);
    store.close().unwrap();
    // The packs now have both records; the index made from them has the good one.
    let store = Store::reindex(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(bad_positions(&store, &chunks), []);
    assert_eq!(store.open_report().damaged_count, 1);
}

#[test]
fn a_flipped_byte_of_a_record_header_is_named_wherever_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = ten_pages(dir.path());
    let offset = PACK_HEADER_BYTES + 5 * RECORD_BYTES;
    for at in 0..RECORD_HEADER_BYTES {
        flip(&pack_path(dir.path()), offset + at);
        let store = open(dir.path());
        assert_eq!(bad_positions(&store, &chunks), [(5, BadCause::Header)], "byte {at}");
        store.put_chunks(&chunks[5..6]).unwrap();
        store.close().unwrap();
        // Undo, and forget that the chunk was put again.
        flip(&pack_path(dir.path()), offset + at);
        let pack = fs::OpenOptions::new().write(true).open(pack_path(dir.path())).unwrap();
        pack.set_len(PACK_HEADER_BYTES + 10 * RECORD_BYTES).unwrap();
        drop(Store::reindex(dir.path(), StoreOptions::default()).unwrap());
    }
}

#[test]
fn a_damaged_header_costs_a_rebuilt_index_one_record_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = ten_pages(dir.path());
    let offset = PACK_HEADER_BYTES + 5 * RECORD_BYTES;
    flip(&pack_path(dir.path()), offset + 13);
    let store = Store::reindex(dir.path(), StoreOptions::default()).unwrap();
    let held = store.contains_many(&hashes(&chunks)).unwrap();
    assert_eq!(held.iter().filter(|held| **held).count(), 9);
    assert!(!held[5]);
    let [region] = store.open_report().damaged[..] else { panic!("{:?}", store.open_report()) };
    assert_eq!((region.place.offset, region.bytes), (offset, RECORD_BYTES));
}

#[test]
fn a_page_that_contains_a_record_does_not_become_one() {
    // A stranger's page: the whole record of a head, as another store has written it.
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.record_head(LINEAGE, CheckpointIndex(0), ObjectHash([6; 32])).unwrap();
    store.close().unwrap();
    let pack = fs::read(pack_path(dir.path())).unwrap();
    let record = &pack[usize::try_from(PACK_HEADER_BYTES).unwrap()..];
    let mut bytes = page(77);
    bytes[8..8 + record.len()].copy_from_slice(record);
    let other = tempfile::tempdir().unwrap();
    let store = open(other.path());
    let carrier = plain(&bytes);
    store.put_chunks(std::slice::from_ref(&carrier)).unwrap();
    store.put_chunks(&plain_pages(20..22)).unwrap();
    store.close().unwrap();
    flip(&pack_path(other.path()), PACK_HEADER_BYTES);
    let store = Store::reindex(other.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.stats().unwrap().chunks, 2);
    assert_eq!(store.open_report().damaged.len(), 1);
    assert_eq!(store.contains_many(&[carrier.hash()]).unwrap(), [false]);
    assert_eq!(store.lineages().unwrap(), []);
}

#[test]
fn a_lost_base_makes_its_dependants_bad_and_all_can_be_put_again() {
    let dir = tempfile::tempdir().unwrap();
    // The longest chain there is: a page and all that may be based on it.
    let versions: Vec<Vec<u8>> = (0..=CHAIN_DEPTH_MAX).map(|steps| stepped_page(1, steps)).collect();
    let mut chunks = vec![plain(&versions[0])];
    chunks.extend((1..versions.len()).map(|step| patch(&versions[step], &versions[step - 1])));
    let store = open(dir.path());
    assert_eq!(store.put_chunks(&chunks).unwrap().reencoded, 0);
    store.close().unwrap();
    flip(&pack_path(dir.path()), PACK_HEADER_BYTES + RECORD_HEADER_BYTES + 5);
    let store = open(dir.path());
    let bad = bad_positions(&store, &chunks);
    assert_eq!(bad.len(), chunks.len());
    assert_eq!(bad[0], (0, BadCause::Payload));
    let last = CHAIN_DEPTH_MAX;
    assert_eq!(bad[last], (last, BadCause::BaseLost { base: chunks[last - 1].hash() }));
    assert_eq!(store.put_chunks(&chunks).unwrap().stored, chunks.len() as u64);
    assert_eq!(bad_positions(&store, &chunks), []);
}

#[test]
fn a_pack_cut_short_loses_what_was_cut_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = ten_pages(dir.path());
    let length = fs::metadata(pack_path(dir.path())).unwrap().len();
    let cut = PACK_HEADER_BYTES + 7 * RECORD_BYTES + 100;
    fs::OpenOptions::new().write(true).open(pack_path(dir.path())).unwrap().set_len(cut).unwrap();
    let store = open(dir.path());
    let [short] = store.open_report().short_packs[..] else { panic!("{:?}", store.open_report()) };
    assert_eq!((short.pack, short.bytes, short.bytes_known), (PackNumber(1), cut, length));
    assert_eq!(store.open_report().chunks_lost, 3);
    let held = store.contains_many(&hashes(&chunks)).unwrap();
    assert_eq!(held, [[true; 7].as_slice(), &[false; 3]].concat());
    assert_eq!(store.put_chunks(&chunks).unwrap().stored, 3);
    assert_eq!(bad_positions(&store, &chunks), []);
    assert_eq!(store.stats().unwrap().chunks, 10);
    store.close().unwrap();
    assert_eq!(bad_positions(&open(dir.path()), &chunks), []);
}

#[test]
fn a_pack_that_vanishes_while_open_or_closed_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    ten_pages(dir.path());
    fs::remove_file(pack_path(dir.path())).unwrap();
    let store = open(dir.path());
    assert_eq!(store.open_report().chunks_lost, 10);
    assert_eq!(store.stats().unwrap().chunks, 0);
    // Its number is not used again.
    store.put_chunks(&plain_pages(0..1)).unwrap();
    assert!(dir.path().join("packs/0000000002.pack").exists());
}

#[test]
fn a_torn_tail_is_cut_off_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let chunks = ten_pages(dir.path());
    let whole = fs::read(pack_path(dir.path())).unwrap();
    let torn = [&whole[..], &whole[usize::try_from(PACK_HEADER_BYTES).unwrap()..][..3000]].concat();
    fs::write(pack_path(dir.path()), &torn).unwrap();
    let store = open(dir.path());
    assert_eq!(store.open_report().torn_bytes, 3000);
    assert_eq!(bad_positions(&store, &chunks), []);
    drop(store);
    assert_eq!(fs::read(pack_path(dir.path())).unwrap(), whole);
    fs::write(pack_path(dir.path()), &torn).unwrap();
    let store = open(dir.path());
    store.put_chunks(&plain_pages(50..51)).unwrap();
    store.close().unwrap();
    let store = Store::reindex(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.open_report().damaged_count, 0);
    assert_eq!(store.stats().unwrap().chunks, 11);
}

#[test]
fn a_damaged_object_is_named_and_can_be_put_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let delta = page(5);
    let hash = store.put_object(ObjectKind(3), &delta).unwrap();
    store.close().unwrap();
    flip(&pack_path(dir.path()), PACK_HEADER_BYTES + RECORD_HEADER_BYTES + 9);
    let store = open(dir.path());
    let error = store.object(hash).unwrap_err();
    assert!(matches!(error, ReadError::BadObject { hash: named, .. } if named == hash), "{error}");
    assert!(store.object(hash).unwrap().is_none());
    assert_eq!(store.put_object(ObjectKind(3), &delta).unwrap(), hash);
    assert_eq!(store.object(hash).unwrap().unwrap(), (ObjectKind(3), delta));
}

#[test]
fn a_damaged_write_ahead_log_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (0..3).for_each(|index| write_checkpoint(&store, index, || {}).unwrap());
    store.close().unwrap();
    let log = index_file(dir.path(), "log");
    flip(&log, fs::metadata(&log).unwrap().len() / 2);
    let store = open(dir.path());
    assert!(store.open_report().records_recovered > 0);
    (0..3).for_each(|index| assert_complete(&store, index));
}

#[test]
fn a_damaged_index_table_is_noticed_and_packs_rebuild_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    (0..3).for_each(|index| write_checkpoint(&store, index, || {}).unwrap());
    let before = store.stats().unwrap();
    store.close().unwrap();
    // Opening replays the log into a table.
    open(dir.path()).close().unwrap();
    let table = index_file(dir.path(), "sst");
    flip(&table, fs::metadata(&table).unwrap().len() / 3);
    let mut store = open(dir.path());
    if !store.open_report().index_rebuilt {
        // Opening did not read the block that is damaged; whoever reads it first leaves a mark.
        let error = store.verify().unwrap_err();
        assert!(matches!(error, ReadError::Index(IndexError::Damaged(_))), "{error}");
        drop(store);
        store = open(dir.path());
        assert!(store.open_report().index_rebuilt);
    }
    (0..3).for_each(|index| assert_complete(&store, index));
    let after = store.stats().unwrap();
    assert_eq!((after.chunks, after.chunk_bytes_stored), (before.chunks, before.chunk_bytes_stored));
    assert_eq!(store.verify().unwrap().chunks_good, before.chunks);
    store.close().unwrap();
    assert!(!open(dir.path()).open_report().index_rebuilt, "once is enough");
}

fn index_file(dir: &Path, extension: &str) -> PathBuf {
    let files = fs::read_dir(dir.join("index")).unwrap().map(|entry| entry.unwrap().path());
    let matching = files.filter(|path| path.extension().is_some_and(|found| found == extension));
    matching.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}
