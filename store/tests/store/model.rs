//! Goal: the store is a map. Method: random operations on it and on plain maps, compared after each and after every
//! way of opening it again.

use std::collections::BTreeMap;

use pageswarm_checkpoint::{CheckpointIndex, ChunkHash, LineageId, ObjectHash};
use pageswarm_store::{
    ChunkRead, CommitError, NewCheckpoint, ObjectKind, Store, StoreOptions, VerifiedChunk,
};
use proptest::prelude::*;

use crate::pages::{noise, patch, plain, stepped_page};

const FAMILIES: u64 = 3;
const STEPS: usize = 8;

#[derive(Clone, Debug)]
enum Operation {
    /// Pages by family and step, each a patch on the step before if `patched`.
    PutChunks {
        pages: Vec<(u64, usize)>,
        patched: bool,
    },
    PutObject {
        seed: u64,
    },
    RecordHead {
        lineage: u8,
        index: u64,
        seed: u64,
    },
    Commit {
        lineage: u8,
        index: u64,
        seed: u64,
        pages: Vec<(u64, usize)>,
    },
    PutNote {
        key: u8,
        value: Option<u8>,
    },
    Sync,
    Reopen,
    Reindex,
}

#[derive(Debug, Default)]
struct Model {
    chunks: BTreeMap<ChunkHash, Vec<u8>>,
    objects: BTreeMap<ObjectHash, Vec<u8>>,
    heads: BTreeMap<(LineageId, CheckpointIndex), ObjectHash>,
    commits: BTreeMap<(LineageId, CheckpointIndex), u64>,
    notes: BTreeMap<Vec<u8>, Vec<u8>>,
}

fn a_page() -> impl Strategy<Value = (u64, usize)> {
    (0..FAMILIES, 0..STEPS)
}

fn pages() -> impl Strategy<Value = Vec<(u64, usize)>> {
    proptest::collection::vec(a_page(), 0..12)
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => (pages(), any::<bool>()).prop_map(|(pages, patched)| Operation::PutChunks { pages, patched }),
        2 => (0..6_u64).prop_map(|seed| Operation::PutObject { seed }),
        1 => (0..2_u8, 0..4_u64, 0..6_u64)
            .prop_map(|(lineage, index, seed)| Operation::RecordHead { lineage, index, seed }),
        3 => (0..2_u8, 0..4_u64, 0..6_u64, pages())
            .prop_map(|(lineage, index, seed, pages)| Operation::Commit { lineage, index, seed, pages }),
        2 => (0..4_u8, any::<Option<u8>>()).prop_map(|(key, value)| Operation::PutNote { key, value }),
        1 => Just(Operation::Sync),
        2 => Just(Operation::Reopen),
        1 => Just(Operation::Reindex),
    ]
}

fn chunk(page: (u64, usize), patched: bool) -> VerifiedChunk {
    let (family, step) = page;
    let bytes = stepped_page(family, step);
    match step.checked_sub(1).filter(|_| patched) {
        Some(before) => patch(&bytes, &stepped_page(family, before)),
        None => plain(&bytes),
    }
}

fn page_hash((family, step): (u64, usize)) -> ChunkHash {
    pageswarm_checkpoint::chunk_hash(&stepped_page(family, step))
}

fn object_bytes(seed: u64) -> Vec<u8> {
    noise(seed, 200)
}

fn object_hash(seed: u64) -> ObjectHash {
    ObjectHash(*blake3::hash(&object_bytes(seed)).as_bytes())
}

impl Model {
    fn apply(&mut self, store: &Store, operation: &Operation) {
        match operation {
            Operation::PutChunks { pages, patched } => self.put_chunks(store, pages, *patched),
            Operation::PutObject { seed } => {
                assert_eq!(
                    store.put_object(ObjectKind(1), &object_bytes(*seed)).unwrap(),
                    object_hash(*seed)
                );
                self.objects.insert(object_hash(*seed), object_bytes(*seed));
            }
            Operation::RecordHead { lineage, index, seed } => {
                let (lineage, index) = (LineageId([*lineage; 32]), CheckpointIndex(*index));
                let held = *self.heads.get(&(lineage, index)).unwrap_or(&object_hash(*seed));
                match store.record_head(lineage, index, object_hash(*seed)) {
                    Ok(()) => assert_eq!(held, object_hash(*seed)),
                    Err(CommitError::Equivocation { .. }) => assert_ne!(held, object_hash(*seed)),
                    Err(error) => panic!("{error}"),
                }
                self.heads.insert((lineage, index), held);
            }
            Operation::Commit { lineage, index, seed, pages } => {
                self.commit(store, LineageId([*lineage; 32]), CheckpointIndex(*index), *seed, pages);
            }
            Operation::PutNote { key, value } => {
                store.put_note(&[*key], value.as_ref().map(std::slice::from_ref)).unwrap();
                self.notes.remove(&vec![*key]);
                self.notes.extend(value.map(|value| (vec![*key], vec![value])));
            }
            Operation::Sync => store.sync().unwrap(),
            Operation::Reopen | Operation::Reindex => unreachable!("needs the store itself"),
        }
    }

    fn put_chunks(&mut self, store: &Store, pages: &[(u64, usize)], patched: bool) {
        let chunks: Vec<VerifiedChunk> = pages.iter().map(|page| chunk(*page, patched)).collect();
        let before = self.chunks.len();
        for chunk in &chunks {
            self.chunks.insert(chunk.hash(), chunk.decoded().bytes().to_vec());
        }
        let report = store.put_chunks(&chunks).unwrap();
        assert_eq!(report.stored, (self.chunks.len() - before) as u64);
        assert_eq!(report.stored + report.duplicates, chunks.len() as u64);
    }

    fn commit(
        &mut self,
        store: &Store,
        lineage: LineageId,
        index: CheckpointIndex,
        seed: u64,
        pages: &[(u64, usize)],
    ) {
        let chunks: Vec<ChunkHash> = pages.iter().map(|page| page_hash(*page)).collect();
        let head = object_hash(seed);
        let checkpoint = NewCheckpoint { lineage, index, head, objects: vec![], chunks: chunks.clone() };
        let outcome = store.commit_checkpoint(&checkpoint);
        let key = (lineage, index);
        if self.heads.get(&key).is_some_and(|held| *held != head) {
            assert!(matches!(outcome, Err(CommitError::Equivocation { .. })));
        } else if self.commits.contains_key(&key) {
            outcome.unwrap();
        } else if !self.objects.contains_key(&head) {
            assert!(matches!(outcome, Err(CommitError::ObjectMissing(missing)) if missing == head));
        } else if chunks.iter().any(|hash| !self.chunks.contains_key(hash)) {
            assert!(matches!(outcome, Err(CommitError::ChunksMissing { .. })));
        } else {
            outcome.unwrap();
            self.heads.insert(key, head);
            self.commits.insert(key, chunks.len() as u64);
        }
    }

    fn compare(&self, store: &Store) {
        self.compare_chunks(store);
        for (hash, bytes) in &self.objects {
            assert_eq!(&store.object(*hash).unwrap().unwrap().1, bytes);
        }
        for lineage in [0_u8, 1].map(|byte| LineageId([byte; 32])) {
            self.compare_lineage(store, lineage);
        }
        let notes = store.notes(b"", usize::MAX).unwrap();
        let notes: BTreeMap<_, _> = notes.into_iter().map(|note| (note.key, note.value)).collect();
        assert_eq!(notes, self.notes);
        let stats = store.stats().unwrap();
        assert_eq!((stats.chunks, stats.objects), (self.chunks.len() as u64, self.objects.len() as u64));
        assert_eq!(stats.chunk_bytes_decoded, self.chunks.len() as u64 * 4096);
        assert_eq!(stats.bad_chunks, 0);
    }

    fn compare_chunks(&self, store: &Store) {
        let all: Vec<(u64, usize)> =
            (0..FAMILIES).flat_map(|family| (0..STEPS).map(move |step| (family, step))).collect();
        let hashes: Vec<ChunkHash> = all.iter().map(|page| page_hash(*page)).collect();
        let mut visits = vec![0; hashes.len()];
        store
            .read_chunks(&hashes, |position, read| {
                visits[position] += 1;
                match (self.chunks.get(&hashes[position]), read) {
                    (Some(bytes), ChunkRead::Held(chunk)) => assert_eq!(chunk.bytes(), bytes),
                    (None, ChunkRead::NotHeld) => {}
                    (expected, read) => panic!("{expected:?} is read as {read:?}"),
                }
            })
            .unwrap();
        assert!(visits.iter().all(|visits| *visits == 1));
        let held: Vec<bool> = hashes.iter().map(|hash| self.chunks.contains_key(hash)).collect();
        assert_eq!(store.contains_many(&hashes).unwrap(), held);
    }

    fn compare_lineage(&self, store: &Store, lineage: LineageId) {
        let heads: Vec<_> = self
            .heads
            .iter()
            .filter(|((owner, _), _)| *owner == lineage)
            .map(|((_, index), head)| (*index, *head))
            .collect();
        assert_eq!(store.heads(lineage, CheckpointIndex(0), usize::MAX).unwrap(), heads);
        let commits: Vec<_> = self.commits.iter().filter(|((owner, _), _)| *owner == lineage).collect();
        let listed = store.checkpoints(lineage, CheckpointIndex(0), usize::MAX).unwrap();
        assert_eq!(listed.len(), commits.len());
        for (found, ((_, index), count)) in listed.iter().zip(&commits) {
            assert_eq!((found.index, found.chunk_count), (*index, **count));
        }
        let last = commits.last().map(|((_, index), _)| *index);
        assert_eq!(store.latest(lineage).unwrap().map(|found| found.index), last);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_plain_maps(operations in proptest::collection::vec(operation(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        let mut store = Some(Store::open(dir.path(), StoreOptions::default()).unwrap());
        for operation in &operations {
            match operation {
                Operation::Reopen | Operation::Reindex => {
                    store.take().unwrap().close().unwrap();
                    let reopened = match operation {
                        Operation::Reopen => Store::open(dir.path(), StoreOptions::default()),
                        _ => Store::reindex(dir.path(), StoreOptions::default()),
                    };
                    let reopened = reopened.unwrap();
                    prop_assert_eq!(reopened.open_report().damaged_count, 0);
                    prop_assert_eq!(reopened.open_report().torn_bytes, 0);
                    store = Some(reopened);
                }
                _ => model.apply(store.as_ref().unwrap(), operation),
            }
            model.compare(store.as_ref().unwrap());
        }
    }
}
