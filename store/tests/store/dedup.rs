//! Goal: a chunk is stored once, in a form that can be read. Method: count what is written.

use pageswarm_checkpoint::{Effort, Encoding};
use pageswarm_store::limits::CHAIN_DEPTH_MAX;
use pageswarm_store::{PutReport, StepsRead, StepsWanted, Store, StoreOptions, VerifiedChunk};

use crate::pages::{in_each_encoding, noise, page, patch, plain, plain_pages, stepped_page};

#[test]
fn what_is_held_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let chunks = plain_pages(0..5);
    let twice = [&chunks[..], &chunks[..]].concat();
    assert_eq!(store.put_chunks(&twice).unwrap(), PutReport { stored: 5, duplicates: 5, reencoded: 0 });
    let bytes = store.stats().unwrap().pack_bytes;
    assert_eq!(store.put_chunks(&chunks).unwrap(), PutReport { stored: 0, duplicates: 5, reencoded: 0 });
    let stats = store.stats().unwrap();
    assert_eq!((stats.pack_bytes, stats.duplicates, stats.chunks), (bytes, 10, 5));
    assert_eq!(stats.chunk_bytes_decoded, 5 * 4096);
}

#[test]
fn chains_end_at_the_limit_and_every_version_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let versions: Vec<Vec<u8>> = (0..12).map(|steps| stepped_page(1, steps)).collect();
    let mut chunks = vec![plain(&versions[0])];
    chunks.extend((1..12).map(|step| patch(&versions[step], &versions[step - 1])));
    let (first, second) = chunks.split_at(7);
    let reencoded = store.put_chunks(first).unwrap().reencoded + store.put_chunks(second).unwrap().reencoded;
    assert_eq!(reencoded, 11 / (CHAIN_DEPTH_MAX as u64 + 1));
    let hashes: Vec<_> = chunks.iter().map(VerifiedChunk::hash).collect();
    let before = std::iter::once(None).chain(hashes.iter().copied().map(Some));
    let wanted: Vec<_> = hashes.iter().zip(before).map(|(&hash, from)| StepsWanted { hash, from }).collect();
    let mut forms = vec![None; hashes.len()];
    store
        .read_steps(&wanted, Effort::Fast, |position, read| match read {
            StepsRead::Held { steps, .. } => forms[position] = steps.last().map(|step| step.encoding),
            other => panic!("{position}: {other:?}"),
        })
        .unwrap();
    let patches = forms.iter().filter(|form| matches!(form, Some(Encoding::Diff { .. }))).count();
    assert_eq!(patches, 12 - 12_usize.div_ceil(CHAIN_DEPTH_MAX + 1), "{forms:?}");
    for (hash, version) in hashes.iter().zip(&versions) {
        assert_eq!(store.read_chunk(*hash).unwrap().as_ref(), Some(version));
    }
}

#[test]
fn a_patch_on_a_base_that_is_not_held_is_stored_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let chunk = patch(&stepped_page(1, 3), &page(1));
    assert!(matches!(chunk.encoded().encoding, Encoding::Diff { .. }));
    assert_eq!(store.put_chunks(std::slice::from_ref(&chunk)).unwrap().reencoded, 1);
    let mut visits = 0;
    let wanted = StepsWanted { hash: chunk.hash(), from: None };
    store
        .read_steps(&[wanted], Effort::Fast, |_, read| {
            let StepsRead::Held { from: false, steps } = read else { panic!("{read:?}") };
            assert!(matches!(steps, [step] if step.encoding.base().is_none()), "{steps:?}");
            visits += 1;
        })
        .unwrap();
    assert_eq!(visits, 1);
    assert_eq!(store.read_chunk(chunk.hash()).unwrap().unwrap(), stepped_page(1, 3));
}

#[test]
fn the_same_chunk_asked_for_many_times_comes_as_often() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let base = page(1);
    let chunk = patch(&stepped_page(1, 1), &base);
    store.put_chunks(&[plain(&base), chunk.clone()]).unwrap();
    let hashes = vec![chunk.hash(); 3000];
    let mut visits = vec![0; hashes.len()];
    store.read_chunks(&hashes, |position, _| visits[position] += 1).unwrap();
    assert!(visits.iter().all(|visits| *visits == 1));
}

#[test]
fn a_chunk_is_given_out_in_steps_from_what_its_reader_has() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let versions: Vec<_> = (0..3).map(|steps| stepped_page(1, steps)).collect();
    let chunks: Vec<_> = (0..3)
        .map(|at| match at {
            0 => plain(&versions[0]),
            _ => patch(&versions[at], &versions[at - 1]),
        })
        .collect();
    store.put_chunks(&chunks).unwrap();
    let names: Vec<_> = chunks.iter().map(VerifiedChunk::hash).collect();
    let count = |from: Option<usize>| {
        let mut count = None;
        let wanted = StepsWanted { hash: names[2], from: from.map(|at| names[at]) };
        store
            .read_steps(&[wanted], Effort::Fast, |_, read| match read {
                StepsRead::Held { from, steps } => count = Some((from, steps.len())),
                other => panic!("{other:?}"),
            })
            .unwrap();
        count.unwrap()
    };
    assert_eq!(count(Some(1)), (true, 1));
    assert_eq!(count(Some(0)), (true, 2));
    // Nothing that the reader has is on the way: a page of noise and two small diffs are longer than the page.
    let wanted = [
        StepsWanted { hash: names[2], from: None },
        StepsWanted { hash: plain(&page(9)).hash(), from: None },
    ];
    let mut reads = [false; 2];
    store
        .read_steps(&wanted, Effort::Fast, |position, read| {
            reads[position] = read == [StepsRead::Decode, StepsRead::NotHeld][position];
        })
        .unwrap();
    assert_eq!(reads, [true; 2]);
}

/// Goal: what is stored raw is left to be encoded as what changed, where time allows, and nothing else is. Method: such a page is
/// asked for with a base that is held, one that is not, one of another length, and none; one that is stored as zstd, with a base
/// that is held. Result: with time to spare the first is to be decoded; in all other cases chunks go out as they are stored.
#[test]
fn what_is_stored_raw_is_left_to_be_encoded_only_if_that_may_be_worth_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let [held, not_held] = [plain(&stepped_page(1, 0)), plain(&page(8))];
    let long = plain(&noise(3, 2 * 4096));
    let raw = plain(&stepped_page(1, 4));
    let [.., zstd, _] = in_each_encoding();
    assert_eq!((raw.encoded().encoding, zstd.encoded().encoding), (Encoding::Raw, Encoding::Zstd));
    store.put_chunks(&[held.clone(), long.clone(), raw.clone(), zstd.clone()]).unwrap();
    let is_decoded = |chunk: &VerifiedChunk, from: Option<&VerifiedChunk>, effort| {
        let mut is_decoded = None;
        let wanted = StepsWanted { hash: chunk.hash(), from: from.map(VerifiedChunk::hash) };
        store
            .read_steps(&[wanted], effort, |_, read| match read {
                StepsRead::Decode => is_decoded = Some(true),
                StepsRead::Held { from: false, steps: [_] } => is_decoded = Some(false),
                other => panic!("{other:?}"),
            })
            .unwrap();
        is_decoded.unwrap()
    };
    assert!(is_decoded(&raw, Some(&held), Effort::Small));
    assert!(!is_decoded(&raw, Some(&held), Effort::Fast));
    assert!(!is_decoded(&raw, Some(&not_held), Effort::Small));
    assert!(!is_decoded(&raw, Some(&long), Effort::Small));
    assert!(!is_decoded(&raw, None, Effort::Small));
    assert!(!is_decoded(&zstd, Some(&held), Effort::Small));
}
