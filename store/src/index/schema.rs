//! The index's keys: a table's byte, then the name. Numbers are big-endian, so that keys sort as numbers do.

use pageswarm_checkpoint::{CheckpointIndex, ChunkHash, LineageId, ObjectHash};

use crate::pack::PackNumber;

/// The first byte of a key. The numbers are on disk.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// One entry: totals of all tables, as of the last settled batch.
    Totals = 1,
    /// Pack number to the length that is synced and indexed (u64).
    Packs = 2,
    /// Chunk hash to [`super::Location`].
    Chunks = 16,
    /// Object hash to [`super::Location`].
    Objects = 17,
    /// Lineage and checkpoint to the head's hash. Never changes.
    Heads = 48,
    /// Lineage and checkpoint to the commit record's payload. Never changes.
    Commits = 49,
    /// A note's key to its value.
    Notes = 64,
}

/// A key, before it is bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key<'key> {
    Totals,
    Pack(PackNumber),
    Chunk(ChunkHash),
    Object(ObjectHash),
    Head(LineageId, CheckpointIndex),
    Commit(LineageId, CheckpointIndex),
    Note(&'key [u8]),
}

/// Bytes of a key of [`Table::Chunks`].
pub(super) const CHUNK_KEY_BYTES: usize = 33;

/// A chunk's key, without an allocation.
pub(super) fn chunk_key(hash: &ChunkHash) -> [u8; CHUNK_KEY_BYTES] {
    let mut key = [Table::Chunks as u8; CHUNK_KEY_BYTES];
    key[1..].copy_from_slice(&hash.0);
    key
}

impl Key<'_> {
    /// The key's bytes.
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Totals => vec![Table::Totals as u8],
            Self::Pack(number) => join(Table::Packs, &[&number.0.to_be_bytes()]),
            Self::Chunk(hash) => chunk_key(&hash).to_vec(),
            Self::Object(hash) => join(Table::Objects, &[hash.as_bytes()]),
            Self::Head(lineage, index) => join(Table::Heads, &[lineage.as_bytes(), &index.0.to_be_bytes()]),
            Self::Commit(lineage, index) => {
                join(Table::Commits, &[lineage.as_bytes(), &index.0.to_be_bytes()])
            }
            Self::Note(key) => join(Table::Notes, &[key]),
        }
    }

    /// The checkpoint that a key of [`Table::Heads`] or [`Table::Commits`] names.
    pub(crate) fn checkpoint_of(key: &[u8]) -> Option<(LineageId, CheckpointIndex)> {
        let (index, _) = key.get(33..)?.split_first_chunk::<8>()?;
        Some((lineage_of(key)?, CheckpointIndex(u64::from_be_bytes(*index))))
    }

    /// The chunk that a key of [`Table::Chunks`] names.
    pub(crate) fn chunk_of(key: &[u8]) -> Option<ChunkHash> {
        key.get(1..)?.try_into().ok().map(ChunkHash)
    }

    /// The object that a key of [`Table::Objects`] names.
    pub(crate) fn object_of(key: &[u8]) -> Option<ObjectHash> {
        key.get(1..)?.try_into().ok().map(ObjectHash)
    }
}

/// The lineage after a key's table byte.
pub(crate) fn lineage_of(key: &[u8]) -> Option<LineageId> {
    key.get(1..33)?.try_into().ok().map(LineageId)
}

fn join(table: Table, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.push(table as u8);
    parts.iter().for_each(|part| key.extend_from_slice(part));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_and_read_back() {
        let lineage = LineageId([5; 32]);
        let [low, high] = [255, 256].map(|index| Key::Head(lineage, CheckpointIndex(index)).encode());
        assert!(low < high);
        assert_eq!(Key::checkpoint_of(&high), Some((lineage, CheckpointIndex(256))));
        let hash = ChunkHash([6; 32]);
        assert_eq!(Key::chunk_of(&Key::Chunk(hash).encode()), Some(hash));
        assert_eq!(Key::chunk_of(b"short"), None);
        assert_eq!(Key::checkpoint_of(&[48; 40]), None);
    }
}
