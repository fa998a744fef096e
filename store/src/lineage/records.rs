//! The payloads of head and commit records, and their index entries.
//!
//! Head: checkpoint index (u64), head's hash. Commit: checkpoint index (u64), head's hash, number of chunks (u64),
//! digest of their hashes (32 bytes), number of objects (u32), the objects' hashes. The record's name is the
//! lineage.

use pageswarm_checkpoint::{CheckpointIndex, LineageId, ObjectHash};

use super::{CommittedCheckpoint, NewCheckpoint};
use crate::index::{Entry, Key};

pub(super) fn head_payload(index: CheckpointIndex, head: ObjectHash) -> Vec<u8> {
    [&index.0.to_le_bytes()[..], head.as_bytes()].concat()
}

/// The index entry of a head record; `None` if the payload is none.
pub(crate) fn entry_of_head(lineage: LineageId, payload: &[u8]) -> Option<Entry> {
    let (index, head) = payload.split_first_chunk::<8>()?;
    let index = CheckpointIndex(u64::from_le_bytes(*index));
    (head.len() == 32).then(|| Entry::Other(Key::Head(lineage, index).encode(), Some(head.to_vec())))
}

pub(super) fn commit_payload(checkpoint: &NewCheckpoint) -> Vec<u8> {
    let mut digest = blake3::Hasher::new();
    for chunk in &checkpoint.chunks {
        digest.update(chunk.as_bytes());
    }
    let count = u32::try_from(checkpoint.objects.len()).expect("bounded by COMMIT_OBJECTS_MAX");
    let mut payload = head_payload(checkpoint.index, checkpoint.head);
    payload.extend_from_slice(&(checkpoint.chunks.len() as u64).to_le_bytes());
    payload.extend_from_slice(digest.finalize().as_bytes());
    payload.extend_from_slice(&count.to_le_bytes());
    checkpoint.objects.iter().for_each(|object| payload.extend_from_slice(object.as_bytes()));
    payload
}

/// A commit record's payload, read.
pub(super) fn committed(lineage: LineageId, payload: &[u8]) -> Option<CommittedCheckpoint> {
    let (index, rest) = payload.split_first_chunk::<8>()?;
    let (head, rest) = rest.split_first_chunk::<32>()?;
    let (chunk_count, rest) = rest.split_first_chunk::<8>()?;
    let (chunks_digest, rest) = rest.split_first_chunk::<32>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let (objects, tail) = rest.as_chunks::<32>();
    let whole = tail.is_empty() && u32::try_from(objects.len()) == Ok(u32::from_le_bytes(*count));
    whole.then(|| CommittedCheckpoint {
        lineage,
        index: CheckpointIndex(u64::from_le_bytes(*index)),
        head: ObjectHash(*head),
        objects: objects.iter().copied().map(ObjectHash).collect(),
        chunk_count: u64::from_le_bytes(*chunk_count),
        chunks_digest: *chunks_digest,
    })
}

/// The index entries of a commit record: the commit and the head it implies; `None` if the payload is none.
pub(crate) fn entries_of_commit(lineage: LineageId, payload: &[u8]) -> Option<[Entry; 2]> {
    let checkpoint = committed(lineage, payload)?;
    let head = Key::Head(lineage, checkpoint.index).encode();
    let commit = Key::Commit(lineage, checkpoint.index).encode();
    Some([Entry::Other(head, Some(checkpoint.head.0.to_vec())), Entry::Other(commit, Some(payload.to_vec()))])
}

#[cfg(test)]
mod tests {
    use pageswarm_checkpoint::ChunkHash;

    use super::*;

    #[test]
    fn commits_read_back_and_cut_ones_do_not() {
        let checkpoint = NewCheckpoint {
            lineage: LineageId([1; 32]),
            index: CheckpointIndex(2),
            head: ObjectHash([3; 32]),
            objects: vec![ObjectHash([4; 32]), ObjectHash([5; 32])],
            chunks: vec![ChunkHash([6; 32])],
        };
        let payload = commit_payload(&checkpoint);
        let read = committed(checkpoint.lineage, &payload).unwrap();
        assert_eq!((read.index, read.head, read.chunk_count), (checkpoint.index, checkpoint.head, 1));
        assert_eq!(read.objects, checkpoint.objects);
        assert_eq!(read.chunks_digest, *blake3::hash(&[6; 32]).as_bytes());
        for length in 0..payload.len() {
            assert_eq!(committed(checkpoint.lineage, &payload[..length]), None);
        }
    }
}
