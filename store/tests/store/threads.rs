//! Goal: one store serves many threads. Method: writers and readers at once, on the same chunks.

use std::thread;

use pageswarm_store::{ChunkRead, Store, StoreOptions, VerifiedChunk};

use crate::checkpoints::{assert_complete, write_checkpoint};
use crate::pages::plain_pages;

#[test]
fn writers_and_readers_at_once_see_whole_chunks_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let chunks = plain_pages(500_000..500_800);
    let hashes: Vec<_> = chunks.iter().map(VerifiedChunk::hash).collect();
    let stored: u64 = thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    chunks.chunks(20).map(|part| store.put_chunks(part).unwrap().stored).sum::<u64>()
                })
            })
            .collect();
        let committer =
            scope.spawn(|| (0..4).for_each(|index| write_checkpoint(&store, index, || {}).unwrap()));
        let reader = scope.spawn(|| {
            let mut held = 0;
            while held < hashes.len() {
                held = 0;
                let check = |position: usize, read: ChunkRead<'_>| match read {
                    ChunkRead::Held(chunk) => {
                        assert_eq!(chunk.bytes(), chunks[position].decoded().bytes());
                        held += 1;
                    }
                    ChunkRead::NotHeld => {}
                    ChunkRead::Bad(bad) => panic!("{bad}"),
                };
                store.read_chunks(&hashes, check).unwrap();
            }
        });
        let stored = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        committer.join().unwrap();
        reader.join().unwrap();
        stored
    });
    assert_eq!(stored, 800);
    (0..4).for_each(|index| assert_complete(&store, index));
}
