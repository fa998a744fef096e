//! Goal: deltas and keyframes carry a VM's history exactly, at the promised size, and survive any bytes.
//! Method: a random history on a flat array of page contents is the model; maps built from encoded deltas are
//! compared with it, and a map from a keyframe with the map it came from.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use pageswarm_checkpoint::{
    Birth, BlobDelta, BlobKind, CheckpointIndex, CheckpointMap, ChunkHash, ChunkRef, ChunkSource, Delta,
    PageChange, PageNumber, chunk_hash,
};
use proptest::prelude::*;

const PAGES: u32 = 300;

#[derive(Default)]
struct Publisher {
    births: BTreeMap<ChunkHash, Birth>,
    order: Vec<ChunkHash>,
}

impl Publisher {
    fn source(&mut self, content: u64) -> ChunkSource {
        let hash = chunk_hash(&content.to_le_bytes());
        if let Some(birth) = self.births.get(&hash) {
            return ChunkSource::Same(ChunkRef::own(*birth));
        }
        let birth = Birth(u64::try_from(self.order.len()).unwrap());
        self.births.insert(hash, birth);
        self.order.push(hash);
        ChunkSource::New { hash, encoded_len: 4000 }
    }

    fn delta(&mut self, changes: &BTreeMap<u32, Option<u64>>) -> Delta {
        let births_before = u64::try_from(self.order.len()).unwrap();
        let pages = changes
            .iter()
            .map(|(page, content)| {
                let change =
                    content.map_or(PageChange::Zero, |content| PageChange::Chunk(self.source(content)));
                (PageNumber(*page), change)
            })
            .collect();
        let blobs =
            vec![BlobDelta { kind: BlobKind::Cpu, chunks: vec![(self.source(births_before + 10_000), 8)] }];
        Delta { births_before, pages, blobs }
    }

    fn hash_of(&self, chunk: ChunkRef) -> Option<ChunkHash> {
        assert_eq!(chunk.generation.0, 0);
        self.order.get(usize::try_from(chunk.birth.0).ok()?).copied()
    }
}

fn history() -> impl Strategy<Value = Vec<BTreeMap<u32, Option<u64>>>> {
    let step = proptest::collection::btree_map(0..PAGES, proptest::option::weighted(0.8, 0_u64..60), 0..60);
    proptest::collection::vec(step, 1..8)
}

proptest! {
    #[test]
    fn maps_built_from_encoded_deltas_equal_the_history(history in history()) {
        let mut publisher = Publisher::default();
        let mut model: BTreeMap<u32, u64> = BTreeMap::new();
        let mut map = CheckpointMap::zero(PAGES);
        for (index, changes) in history.iter().enumerate() {
            for (page, content) in changes {
                match content {
                    Some(content) => model.insert(*page, *content),
                    None => model.remove(page),
                };
            }
            let delta = publisher.delta(changes);
            let decoded = Delta::decode(&delta.encode(), PAGES).unwrap();
            prop_assert_eq!(&decoded, &delta);
            // A receiver knows the hashes of earlier deltas only.
            let known = |chunk: ChunkRef| (chunk.birth.0 < delta.births_before).then(|| publisher.hash_of(chunk)).flatten();
            map = map.apply(&decoded, known).unwrap();
            let pages: BTreeMap<u32, ChunkHash> = map.ram.chunks().map(|(page, _, hash)| (page.0, hash)).collect();
            let expected: BTreeMap<u32, ChunkHash> =
                model.iter().map(|(page, content)| (*page, chunk_hash(&content.to_le_bytes()))).collect();
            prop_assert_eq!(pages, expected);
            for (chunk, hash) in map.chunks() {
                prop_assert_eq!(publisher.hash_of(chunk), Some(hash));
            }
            let index = CheckpointIndex(u64::try_from(index).unwrap());
            let (index_read, from_keyframe) =
                CheckpointMap::decode_keyframe(&map.encode_keyframe(index), PAGES).unwrap();
            prop_assert_eq!(index_read, index);
            prop_assert_eq!(from_keyframe.ram.root(), map.ram.root());
            prop_assert_eq!(&from_keyframe.blobs, &map.blobs);
            prop_assert_eq!(from_keyframe.births, map.births);
        }
    }

    #[test]
    fn a_branch_names_the_same_chunks_one_generation_up(history in history()) {
        let mut publisher = Publisher::default();
        let mut map = CheckpointMap::zero(PAGES);
        for changes in &history {
            let delta = publisher.delta(changes);
            map = map.apply(&delta, |chunk| publisher.hash_of(chunk)).unwrap();
        }
        let branch = map.branched();
        prop_assert_eq!(branch.ram.root(), map.ram.root());
        prop_assert_eq!(branch.births, 0);
        for ((up, hash), (own, same)) in branch.chunks().zip(map.chunks()) {
            prop_assert_eq!((up.generation.0, up.birth, hash), (1, own.birth, same));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut versioned = vec![1];
        versioned.extend(&bytes);
        for bytes in [&bytes, &versioned] {
            if let Ok(delta) = Delta::decode(bytes, PAGES) {
                prop_assert_eq!(&delta.encode(), bytes);
            }
            if let Ok((index, map)) = CheckpointMap::decode_keyframe(bytes, PAGES) {
                prop_assert_eq!(&map.encode_keyframe(index), bytes);
            }
        }
    }

    #[test]
    fn a_cut_or_changed_delta_is_refused_or_still_canonical(
        history in history(), cut in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let bytes = Publisher::default().delta(&history[0]).encode();
        let at = cut.index(bytes.len());
        prop_assert!(Delta::decode(&bytes[..at], PAGES).is_err());
        let mut changed = bytes;
        changed[at] = value;
        if let Ok(delta) = Delta::decode(&changed, PAGES) {
            prop_assert_eq!(delta.encode(), changed);
        }
    }
}

#[test]
fn a_scattered_delta_takes_at_most_36_bytes_a_page() {
    let mut publisher = Publisher::default();
    let changes = (0..25_600_u32).map(|i| (i * 2 + (i % 2), Some(u64::from(i)))).collect();
    let delta = publisher.delta(&changes);
    let bytes = delta.encode().len();
    assert!(bytes <= 36 * 25_600 + 64, "{bytes} bytes for 25600 pages");
}

#[test]
fn a_delta_that_does_not_continue_the_map_is_refused() {
    let delta = Delta { births_before: 3, ..Delta::default() };
    assert!(CheckpointMap::zero(PAGES).apply(&delta, |_| None).is_err());
    let unknown = Delta {
        pages: vec![(PageNumber(1), PageChange::Chunk(ChunkSource::Same(ChunkRef::own(Birth(9)))))],
        ..Delta::default()
    };
    assert!(CheckpointMap::zero(PAGES).apply(&unknown, |_| None).is_err());
}
