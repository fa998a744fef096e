//! Writes the store that `tests/store/fixture.rs` expects into a new directory, for a new version's fixture.

#[path = "../tests/store/pages.rs"]
#[expect(dead_code, reason = "tests use the rest")]
mod pages;

use std::path::PathBuf;

use pageswarm_checkpoint::{CheckpointIndex, ObjectHash};
use pageswarm_store::{NewCheckpoint, ObjectKind, Store, StoreOptions};

use pages::{LINEAGE, in_each_encoding};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from).ok_or("usage: write_fixture DIRECTORY")?;
    let store = Store::open(&dir, StoreOptions::default())?;
    let chunks = in_each_encoding();
    store.put_chunks(&chunks)?;
    let head = store.put_object(ObjectKind(2), b"head")?;
    store.commit_checkpoint(&NewCheckpoint {
        lineage: LINEAGE,
        index: CheckpointIndex(3),
        head,
        objects: vec![],
        chunks: chunks.iter().map(pageswarm_store::VerifiedChunk::hash).collect(),
    })?;
    store.record_head(LINEAGE, CheckpointIndex(4), ObjectHash([4; 32]))?;
    store.put_note(b"pin/a", Some(b"3"))?;
    store.close()?;
    Ok(())
}
