//! Checkpoints to store, each made from its index, and the check that all of one is there.

use pageswarm_checkpoint::{CheckpointIndex, ChunkHash, ObjectHash};
use pageswarm_store::{
    ChunkRead, CommitError, IndexError, NewCheckpoint, ObjectKind, Store, VerifiedChunk, WriteError,
};

use crate::pages::{LINEAGE, noise, page, patch, plain};

/// Chunks of one checkpoint.
pub(crate) const CHECKPOINT_PAGES: u64 = 200;

/// The chunks that checkpoint `index` adds: half of them patches on the checkpoint before.
pub(crate) fn checkpoint_chunks(index: u64) -> Vec<VerifiedChunk> {
    let first = index * CHECKPOINT_PAGES;
    (first..first + CHECKPOINT_PAGES)
        .map(|seed| {
            if seed % 2 == 0 || index == 0 {
                return plain(&page(seed));
            }
            let base = page(seed - CHECKPOINT_PAGES - 1);
            let mut bytes = base.clone();
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            patch(&bytes, &base)
        })
        .collect()
}

pub(crate) fn delta_bytes(index: u64) -> Vec<u8> {
    noise(index + 1_000_000, 700)
}

pub(crate) fn head_bytes(index: u64) -> Vec<u8> {
    noise(index + 2_000_000, 300)
}

/// Puts and acknowledges checkpoint `index`; `progress` is told after each part.
pub(crate) fn write_checkpoint(
    store: &Store,
    index: u64,
    mut progress: impl FnMut(),
) -> Result<(), CommitError> {
    let chunks = checkpoint_chunks(index);
    for part in chunks.chunks(50) {
        store.put_chunks(part)?;
        progress();
    }
    let delta = store.put_object(ObjectKind(1), &delta_bytes(index))?;
    let head = store.put_object(ObjectKind(2), &head_bytes(index))?;
    progress();
    store.commit_checkpoint(&NewCheckpoint {
        lineage: LINEAGE,
        index: CheckpointIndex(index),
        head,
        objects: vec![delta],
        chunks: chunks.iter().map(VerifiedChunk::hash).collect(),
    })
}

/// Checks that checkpoint `index` is acknowledged and that every byte of it is there.
pub(crate) fn assert_complete(store: &Store, index: u64) {
    let committed = store.checkpoint(LINEAGE, CheckpointIndex(index)).unwrap();
    let committed = committed.unwrap_or_else(|| panic!("checkpoint {index} is not there"));
    let hash_of = |bytes: &[u8]| ObjectHash(*blake3::hash(bytes).as_bytes());
    assert_eq!(committed.head, hash_of(&head_bytes(index)));
    assert_eq!(committed.objects, [hash_of(&delta_bytes(index))]);
    assert_eq!(store.object(committed.head).unwrap().unwrap(), (ObjectKind(2), head_bytes(index)));
    assert_eq!(store.object(committed.objects[0]).unwrap().unwrap(), (ObjectKind(1), delta_bytes(index)));
    let chunks = checkpoint_chunks(index);
    let hashes: Vec<ChunkHash> = chunks.iter().map(VerifiedChunk::hash).collect();
    let mut seen = 0;
    store
        .read_chunks(&hashes, |position, read| match read {
            ChunkRead::Held(chunk) => {
                assert_eq!(chunk.bytes(), chunks[position].decoded().bytes());
                seen += 1;
            }
            other => panic!("chunk {position} of checkpoint {index}: {other:?}"),
        })
        .unwrap();
    assert_eq!(seen, hashes.len());
}

/// Whether a failure is that the disk is full, of packs or of the index.
pub(crate) fn is_disk_full(error: &WriteError) -> bool {
    matches!(error, WriteError::DiskFull | WriteError::Index(IndexError::DiskFull))
}
