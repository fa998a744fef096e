//! The index: RocksDB, behind a map of entries that wait for their pack's sync.
//!
//! A look-up asks the waiting entries first, then RocksDB. [`Index::settle`] moves the former into the latter,
//! after its caller has synced the packs they name. Locations of chunks are by far the most entries and have a
//! table of their own in memory, which also keeps the latest settled ones.

mod location;
mod recent;
mod schema;
mod tuning;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use pageswarm_checkpoint::ChunkHash;
use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, WriteBatch, WriteOptions};

pub(crate) use location::{Form, Location};
use schema::CHUNK_KEY_BYTES;
pub(crate) use schema::{Key, Table, lineage_of};

use crate::chain::Located;
use crate::fault::IndexError;
use recent::RecentLocations;

/// A file beside RocksDB's: something in the index was found damaged, so it is made anew when it is opened next.
const DAMAGED: &str = "found-damaged";
/// Keys asked of RocksDB in one call.
const LOOKUP_KEYS_MAX: usize = 4096;

/// What is to be written to the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Where a chunk is.
    Chunk(ChunkHash, Location),
    /// A key of any other table, and its value or its removal.
    Other(Vec<u8>, Option<Vec<u8>>),
}

/// A key, and its value or its removal.
pub(crate) type Pending = (Vec<u8>, Option<Vec<u8>>);

/// A key and its value.
pub(crate) type Pair = (Vec<u8>, Vec<u8>);

/// Whether an index write must be on the disk before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Before it returns: something is about to be acknowledged.
    Now,
    /// Some time: packs say it too.
    Later,
}

/// Names to places, lineages and notes.
#[derive(Debug)]
pub(crate) struct Index {
    db: DB,
    dir: PathBuf,
    memory: RwLock<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    chunks: RecentLocations,
    /// Entries of other tables that wait for their pack's sync.
    others: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Index {
    pub(crate) fn open(dir: &Path) -> Result<Self, IndexError> {
        if dir.join(DAMAGED).exists() {
            return Err(IndexError::FoundDamaged);
        }
        let db = tuning::open(dir)?;
        let first = db.iterator(IteratorMode::From(&[Table::Chunks as u8], Direction::Forward)).next();
        let is_new = match first {
            None => true,
            Some(Ok((key, _))) => key.first() != Some(&(Table::Chunks as u8)),
            // Whoever asks for what is there finds out.
            Some(Err(_)) => false,
        };
        let memory = Memory { chunks: RecentLocations::new(is_new), others: BTreeMap::new() };
        Ok(Self { db, dir: dir.to_owned(), memory: RwLock::new(memory) })
    }

    /// What to say of an entry that has a shape no entry has.
    pub(crate) fn entry_damaged(&self) -> IndexError {
        self.mark_damaged();
        IndexError::EntryDamaged
    }

    fn noted(&self, error: rocksdb::Error) -> IndexError {
        let error = IndexError::from(error);
        if matches!(error, IndexError::Damaged(_)) {
            self.mark_damaged();
        }
        error
    }

    fn mark_damaged(&self) {
        // Without the mark the damage is found again, by whoever meets it.
        let _unmarked = std::fs::write(self.dir.join(DAMAGED), b"");
    }

    /// The entries of chunks, in order.
    pub(crate) fn locate(&self, hashes: &[ChunkHash]) -> Result<Vec<Located>, IndexError> {
        let mut found = vec![Located::NotHeld; hashes.len()];
        let mut asked: Vec<(ChunkHash, usize)> = vec![];
        {
            let memory = self.read();
            for (position, hash) in hashes.iter().enumerate() {
                match memory.chunks.get(hash) {
                    Some(location) => found[position] = Located::At(*location),
                    None if memory.chunks.is_all() => {}
                    None => asked.push((*hash, position)),
                }
            }
        }
        // In key order neighbours share a block of a table, also across calls.
        asked.sort_unstable();
        let decode = |value: &[u8]| Location::decode(value).map_or(Located::Damaged, Located::At);
        let mut keys: Vec<[u8; CHUNK_KEY_BYTES]> = Vec::with_capacity(asked.len().min(LOOKUP_KEYS_MAX));
        for asked in asked.chunks(LOOKUP_KEYS_MAX) {
            keys.clear();
            keys.extend(asked.iter().map(|(hash, _)| schema::chunk_key(hash)));
            let values = self.db.batched_multi_get_cf(self.family(), &keys, true);
            for ((_, position), value) in asked.iter().zip(values) {
                let value = value.map_err(|error| self.noted(error))?;
                found[*position] = value.map_or(Located::NotHeld, |value| decode(&value));
            }
        }
        Ok(found)
    }

    /// Which of the chunks are in memory: everything that was staged since the last [`Self::settle`], and more.
    pub(crate) fn is_recent(&self, hashes: &[ChunkHash]) -> Vec<bool> {
        let memory = self.read();
        hashes.iter().map(|hash| memory.chunks.get(hash).is_some()).collect()
    }

    /// What `decode` makes of each key's value, in order; `None` where there is none. Not for chunks.
    pub(crate) fn look_up<K: AsRef<[u8]>, V>(
        &self,
        keys: &[K],
        decode: impl Fn(&[u8]) -> V,
    ) -> Result<Vec<Option<V>>, IndexError> {
        let mut found: Vec<Option<V>> = Vec::with_capacity(keys.len());
        let mut asked = vec![];
        {
            let memory = self.read();
            for (position, key) in keys.iter().enumerate() {
                let entry = memory.others.get(key.as_ref());
                if entry.is_none() {
                    asked.push(position);
                }
                found.push(entry.and_then(Option::as_deref).map(&decode));
            }
        }
        asked.sort_unstable_by_key(|&position| keys[position].as_ref());
        for positions in asked.chunks(LOOKUP_KEYS_MAX) {
            let batch = positions.iter().map(|&position| keys[position].as_ref());
            let values = self.db.batched_multi_get_cf(self.family(), batch, true);
            for (&position, value) in positions.iter().zip(values) {
                found[position] = value.map_err(|error| self.noted(error))?.map(|value| decode(&value));
            }
        }
        Ok(found)
    }

    /// One key's value.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.look_up(&[key], <[u8]>::to_vec)?.pop().flatten())
    }

    /// Adds entries that readers see at once and that RocksDB gets with the next [`Self::settle`].
    pub(crate) fn stage(&self, entries: Vec<Entry>) {
        let mut memory = self.write();
        for entry in entries {
            match entry {
                Entry::Chunk(hash, location) => memory.chunks.stage(hash, location),
                Entry::Other(key, value) => {
                    memory.others.insert(key, value);
                }
            }
        }
    }

    /// Entries staged since the last [`Self::settle`].
    pub(crate) fn staged_entries(&self) -> usize {
        let memory = self.read();
        memory.chunks.waiting_len() + memory.others.len()
    }

    /// Writes all staged entries and `more` as one atomic batch. The caller has synced what they name, and stages
    /// nothing meanwhile.
    pub(crate) fn settle(&self, more: Vec<Pending>, durability: Durability) -> Result<(), IndexError> {
        let mut batch = WriteBatch::default();
        {
            let memory = self.read();
            for (hash, location) in memory.chunks.waiting_sorted() {
                batch.put(schema::chunk_key(hash), location.encode());
            }
            for (key, value) in &memory.others {
                add(&mut batch, key, value.as_deref());
            }
        }
        for (key, value) in &more {
            add(&mut batch, key, value.as_deref());
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Now);
        self.db.write_opt(batch, &options).map_err(|error| self.noted(error))?;
        let mut memory = self.write();
        memory.chunks.settle();
        memory.others.clear();
        Ok(())
    }

    /// Removes entries, waiting or not.
    pub(crate) fn remove(&self, keys: &[Vec<u8>]) -> Result<(), IndexError> {
        let mut batch = WriteBatch::default();
        for key in keys {
            add(&mut batch, key, None);
        }
        self.db.write(batch).map_err(|error| self.noted(error))?;
        let mut memory = self.write();
        for key in keys {
            memory.others.remove(key);
            if let Some(hash) = Key::chunk_of(key).filter(|_| key[0] == Table::Chunks as u8) {
                memory.chunks.remove(&hash);
            }
        }
        Ok(())
    }

    /// Visits settled entries in key order from `from`, within one table, until `visit` says to stop.
    pub(crate) fn walk(
        &self,
        from: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Walk,
    ) -> Result<(), IndexError> {
        let table = from.first().copied();
        for entry in self.db.iterator(IteratorMode::From(from, Direction::Forward)) {
            let (key, value) = entry.map_err(|error| self.noted(error))?;
            if key.first().copied() != table || visit(&key, &value) == Walk::Stop {
                break;
            }
        }
        Ok(())
    }

    /// The last settled entry at or before `from`.
    pub(crate) fn last_before(&self, from: &[u8]) -> Result<Option<Pair>, IndexError> {
        let mut entries = self.db.iterator(IteratorMode::From(from, Direction::Reverse));
        let entry = entries.next().transpose().map_err(|error| self.noted(error))?;
        Ok(entry.map(|(key, value)| (key.into_vec(), value.into_vec())))
    }

    /// Bytes of the index's table files.
    pub(crate) fn bytes(&self) -> Result<u64, IndexError> {
        Ok(self.db.property_int_value(rocksdb::properties::LIVE_SST_FILES_SIZE)?.unwrap_or(0))
    }

    fn read(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what memory has besides RocksDB, so that a test sees what RocksDB has.
    #[cfg(test)]
    pub(crate) fn forget_settled(&self) {
        self.write().chunks.forget_settled();
    }

    fn family(&self) -> &ColumnFamily {
        self.db.cf_handle("default").expect("the default family was opened by name")
    }
}

/// Whether a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Walk {
    On,
    Stop,
}

fn add(batch: &mut WriteBatch, key: &[u8], value: Option<&[u8]>) {
    match value {
        Some(value) => batch.put(key, value),
        None => batch.delete(key),
    }
}
