//! Lineages: which head a checkpoint has, and which checkpoints are acknowledged.

mod records;

use pageswarm_checkpoint::{CheckpointIndex, ChunkHash, LineageId, ObjectHash};

use crate::fault::{CommitError, IndexError, WriteError};
use crate::index::{Durability, Key, Table, Walk, lineage_of};
use crate::limits::COMMIT_OBJECTS_MAX;
use crate::pack::{RecordHeader, RecordKind};
use crate::store::Store;

pub(crate) use records::{entries_of_commit, entry_of_head};

/// A checkpoint to acknowledge, with what must be held for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCheckpoint {
    /// The lineage.
    pub lineage: LineageId,
    /// The checkpoint's index in it.
    pub index: CheckpointIndex,
    /// The head's object.
    pub head: ObjectHash,
    /// All other objects it relies on: its delta, the keyframe below it, its interval record.
    pub objects: Vec<ObjectHash>,
    /// Chunks it relies on. Naming the delta's new ones is enough if the checkpoint before was acknowledged.
    pub chunks: Vec<ChunkHash>,
}

/// An acknowledged checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedCheckpoint {
    /// The lineage.
    pub lineage: LineageId,
    /// The checkpoint's index in it.
    pub index: CheckpointIndex,
    /// The head's object.
    pub head: ObjectHash,
    /// The objects it was acknowledged with.
    pub objects: Vec<ObjectHash>,
    /// How many chunks it was acknowledged with.
    pub chunk_count: u64,
    /// BLAKE3-256 of these chunks' hashes, one after the other in the order given.
    pub chunks_digest: [u8; 32],
}

impl Store {
    /// Notes that the head of a checkpoint is `head`, whether or not its object or chunks are held. Durable on
    /// return.
    ///
    /// # Errors
    ///
    /// [`CommitError::Equivocation`] if another head is held; else a failure to write.
    pub fn record_head(
        &self,
        lineage: LineageId,
        index: CheckpointIndex,
        head: ObjectHash,
    ) -> Result<(), CommitError> {
        let mut intake = self.intake();
        if self.head_is_known(lineage, index, head)? {
            return Ok(());
        }
        let payload = records::head_payload(index, head);
        let header = RecordHeader::for_payload(RecordKind::Head, 0, lineage.0, 0, &[&payload]);
        self.write(&mut intake, |batch| {
            batch.push(&header, &[&payload])?;
            batch.entries.extend(entry_of_head(lineage, &payload));
            Ok(())
        })?;
        Ok(self.settle(&mut intake, Durability::Now)?)
    }

    /// Acknowledges a checkpoint: on return it, and everything put before, survives the death of process and
    /// machine. Acknowledging it again with the same head changes nothing.
    ///
    /// # Errors
    ///
    /// [`CommitError`]: something it relies on is not held, another head is, or writing failed. It is not
    /// acknowledged then.
    pub fn commit_checkpoint(&self, checkpoint: &NewCheckpoint) -> Result<(), CommitError> {
        let NewCheckpoint { lineage, index, head, .. } = *checkpoint;
        let mut intake = self.intake();
        self.head_is_known(lineage, index, head)?;
        let committed = self.index.get(&Key::Commit(lineage, index).encode()).map_err(WriteError::from)?;
        if committed.is_none() {
            self.check_held(checkpoint)?;
            let payload = records::commit_payload(checkpoint);
            let header = RecordHeader::for_payload(RecordKind::Commit, 0, lineage.0, 0, &[&payload]);
            self.write(&mut intake, |batch| {
                batch.push(&header, &[&payload])?;
                batch.entries.extend(entries_of_commit(lineage, &payload).into_iter().flatten());
                Ok(())
            })?;
        }
        // Also for one that is known: it may wait for a sync that failed.
        Ok(self.settle(&mut intake, Durability::Now)?)
    }

    /// The head of a checkpoint, if one is known.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn head(&self, lineage: LineageId, index: CheckpointIndex) -> Result<Option<ObjectHash>, IndexError> {
        let value = self.index.get(&Key::Head(lineage, index).encode())?;
        value.map(|value| self.object_hash(&value)).transpose()
    }

    /// A value that is a hash.
    fn object_hash(&self, value: &[u8]) -> Result<ObjectHash, IndexError> {
        value.try_into().map(ObjectHash).map_err(|_| self.index.entry_damaged())
    }

    /// An acknowledged checkpoint.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn checkpoint(
        &self,
        lineage: LineageId,
        index: CheckpointIndex,
    ) -> Result<Option<CommittedCheckpoint>, IndexError> {
        let value = self.index.get(&Key::Commit(lineage, index).encode())?;
        value
            .map(|value| records::committed(lineage, &value).ok_or_else(|| self.index.entry_damaged()))
            .transpose()
    }

    /// The latest acknowledged checkpoint of a lineage.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn latest(&self, lineage: LineageId) -> Result<Option<CommittedCheckpoint>, IndexError> {
        let last = Key::Commit(lineage, CheckpointIndex(u64::MAX)).encode();
        let found = self.index.last_before(&last)?;
        let own = found.filter(|(key, _)| key.first() == last.first() && lineage_of(key) == Some(lineage));
        own.map(|(_, value)| records::committed(lineage, &value).ok_or_else(|| self.index.entry_damaged()))
            .transpose()
    }

    /// Every lineage that has a head, in order.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn lineages(&self) -> Result<Vec<LineageId>, IndexError> {
        let mut lineages = vec![];
        let mut from = vec![Table::Heads as u8];
        loop {
            let mut found = None;
            self.index.walk(&from, |key, _| {
                found = lineage_of(key);
                Walk::Stop
            })?;
            let Some(lineage) = found else {
                return Ok(lineages);
            };
            lineages.push(lineage);
            // The successor of the lineage's last key: no seek per head.
            from = Key::Head(lineage, CheckpointIndex(u64::MAX)).encode();
            from.push(0);
        }
    }

    /// The heads of a lineage from `from` on, in order, at most `count_max`.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn heads(
        &self,
        lineage: LineageId,
        from: CheckpointIndex,
        count_max: usize,
    ) -> Result<Vec<(CheckpointIndex, ObjectHash)>, IndexError> {
        let from = Key::Head(lineage, from).encode();
        self.list(lineage, &from, count_max, |index, value| Ok((index, self.object_hash(value)?)))
    }

    /// The acknowledged checkpoints of a lineage from `from` on, in order, at most `count_max`.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn checkpoints(
        &self,
        lineage: LineageId,
        from: CheckpointIndex,
        count_max: usize,
    ) -> Result<Vec<CommittedCheckpoint>, IndexError> {
        let from = Key::Commit(lineage, from).encode();
        self.list(lineage, &from, count_max, |_, value| {
            records::committed(lineage, value).ok_or_else(|| self.index.entry_damaged())
        })
    }

    fn list<T>(
        &self,
        lineage: LineageId,
        from: &[u8],
        count_max: usize,
        read: impl Fn(CheckpointIndex, &[u8]) -> Result<T, IndexError>,
    ) -> Result<Vec<T>, IndexError> {
        let mut listed: Vec<Result<T, IndexError>> = vec![];
        self.index.walk(from, |key, value| match Key::checkpoint_of(key) {
            Some((owner, index)) if owner == lineage && listed.len() < count_max => {
                listed.push(read(index, value));
                Walk::On
            }
            _ => Walk::Stop,
        })?;
        listed.into_iter().collect()
    }

    /// Whether `head` is the head held; another one is equivocation.
    fn head_is_known(
        &self,
        lineage: LineageId,
        index: CheckpointIndex,
        head: ObjectHash,
    ) -> Result<bool, CommitError> {
        match self.head(lineage, index).map_err(WriteError::from)? {
            Some(held) if held != head => {
                Err(CommitError::Equivocation { lineage, index, held, offered: head })
            }
            held => Ok(held.is_some()),
        }
    }

    fn check_held(&self, checkpoint: &NewCheckpoint) -> Result<(), CommitError> {
        let count = checkpoint.objects.len();
        if count > COMMIT_OBJECTS_MAX {
            return Err(CommitError::TooManyObjects { count, count_max: COMMIT_OBJECTS_MAX });
        }
        let objects: Vec<ObjectHash> =
            std::iter::once(checkpoint.head).chain(checkpoint.objects.clone()).collect();
        let held = self.contains_objects(&objects).map_err(WriteError::from)?;
        if let Some((missing, _)) = objects.iter().zip(held).find(|(_, held)| !held) {
            return Err(CommitError::ObjectMissing(*missing));
        }
        let held = self.contains_many(&checkpoint.chunks).map_err(WriteError::from)?;
        let mut missing = checkpoint.chunks.iter().zip(held).filter(|(_, held)| !held).map(|(hash, _)| *hash);
        match missing.next() {
            Some(first) => Err(CommitError::ChunksMissing { count: 1 + missing.count(), first }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: an entry of a shape that no entry has is noticed, and the index is made anew from the packs, once.

    use super::*;
    use crate::index::{Durability, Key};
    use crate::object::ObjectKind;
    use crate::store::StoreOptions;

    const LINEAGE: LineageId = LineageId([5; 32]);
    const INDEX: CheckpointIndex = CheckpointIndex(0);

    #[test]
    fn a_damaged_entry_of_a_head_or_a_commit_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), StoreOptions::default()).unwrap();
        let store = open();
        let head = store.put_object(ObjectKind(2), b"head").unwrap();
        store.record_head(LINEAGE, INDEX, head).unwrap();
        store
            .commit_checkpoint(&NewCheckpoint {
                lineage: LINEAGE,
                index: INDEX,
                head,
                objects: vec![],
                chunks: vec![],
            })
            .unwrap();
        drop(store);
        for key in [Key::Head(LINEAGE, INDEX), Key::Commit(LINEAGE, INDEX)] {
            let store = open();
            assert!(!store.open_report().index_rebuilt, "once is enough");
            store.index.settle(vec![(key.encode(), Some(vec![7; 3]))], Durability::Now).unwrap();
            let found = [store.head(LINEAGE, INDEX).err(), store.checkpoint(LINEAGE, INDEX).err()];
            assert!(matches!(found.iter().flatten().next(), Some(IndexError::EntryDamaged)), "{found:?}");
            drop(store);
            let store = open();
            assert!(store.open_report().index_rebuilt);
            assert_eq!(store.head(LINEAGE, INDEX).unwrap(), Some(head));
            assert_eq!(store.checkpoint(LINEAGE, INDEX).unwrap().unwrap().head, head);
        }
    }
}
