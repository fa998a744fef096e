//! The store itself: opening, the one writer behind a lock, syncing, counting.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pageswarm_checkpoint::ChunkHash;

use crate::bad::{BadChunk, BadChunks, Place};
use crate::directory::StoreDirectory;
use crate::fault::{OpenError, ReadError, WriteError};
use crate::index::{Durability, Entry, Index, Key, Location, Pending};
use crate::limits::{PENDING_ENTRIES_MAX, UNSYNCED_BYTES_MAX};
use crate::pack::{Appender, PackFiles, RecordHeader, RecordKind};
use crate::read::ReadBuffers;
use crate::recover::{self, OpenReport};
use crate::stats::{Stats, Totals};

/// How a store is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// Bytes that all packs may have together; `None` is as many as the disk has.
    pub quota_bytes: Option<u64>,
}

/// A store, open and locked. All of it can be used from any thread.
#[derive(Debug)]
pub struct Store {
    // Fields are dropped in this order: the lock goes last.
    pub(crate) index: Index,
    pub(crate) packs: PackFiles,
    pub(crate) buffers: ReadBuffers,
    intake: Mutex<Intake>,
    bad: Mutex<BadChunks>,
    options: StoreOptions,
    report: OpenReport,
    _directory: StoreDirectory,
}

/// What only one thread at a time may touch.
#[derive(Debug)]
pub(crate) struct Intake {
    appender: Appender,
    pub(crate) totals: Totals,
    pub(crate) duplicates: u64,
    pub(crate) reencoded: u64,
}

/// Records on their way into packs, and the index entries they will have.
#[derive(Debug)]
pub(crate) struct Batch<'store> {
    packs: &'store PackFiles,
    appender: &'store mut Appender,
    pub(crate) entries: Vec<Entry>,
    pub(crate) totals: Totals,
}

impl Store {
    /// Opens the store in `dir`, creating it if there is none, and takes in what the last run wrote to packs and
    /// did not get to index.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: locked, newer, no store, no permission, or disk full. An index that is damaged, or was found to be
    /// when it was open before, is made anew.
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        match Self::recovered(StoreDirectory::open(dir)?, options) {
            // The index is a cache of what the packs say.
            Err(OpenError::Index(error)) if error.is_damage() => {
                let mut store = Self::reindex(dir, options)?;
                store.report.index_rebuilt = true;
                Ok(store)
            }
            opened => opened,
        }
    }

    /// Opens the store in `dir` with an index made anew from packs alone.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn reindex(dir: &Path, options: StoreOptions) -> Result<Self, OpenError> {
        let directory = StoreDirectory::open(dir)?;
        directory.discard_index()?;
        Self::recovered(directory, options)
    }

    fn recovered(directory: StoreDirectory, options: StoreOptions) -> Result<Self, OpenError> {
        let index = Index::open(&directory.index())?;
        let packs = PackFiles::new(directory.packs());
        let recovered = recover::recover(&index, &packs)?;
        let intake = Intake {
            appender: Appender::new(recovered.active, recovered.next, recovered.pack_totals),
            totals: recovered.totals,
            duplicates: 0,
            reencoded: 0,
        };
        Ok(Self {
            index,
            packs,
            buffers: ReadBuffers::default(),
            intake: Mutex::new(intake),
            bad: Mutex::default(),
            options,
            report: recovered.report,
            _directory: directory,
        })
    }

    /// What opening found.
    #[must_use]
    pub const fn open_report(&self) -> &OpenReport {
        &self.report
    }

    /// Makes everything put so far durable.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; what was acknowledged before is kept.
    pub fn sync(&self) -> Result<(), WriteError> {
        self.settle(&mut self.intake(), Durability::Now)
    }

    /// Syncs and closes. Dropping does the same and has no way to tell of a failure.
    ///
    /// # Errors
    ///
    /// As [`Store::sync`].
    pub fn close(self) -> Result<(), WriteError> {
        self.sync()
    }

    /// What the store holds.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the index or the directory of packs cannot be asked.
    pub fn stats(&self) -> Result<Stats, ReadError> {
        let index_bytes = self.index.bytes()?;
        let intake = self.intake();
        let totals = intake.totals;
        Ok(Stats {
            chunks: totals.chunks,
            chunk_bytes_decoded: totals.chunk_bytes_decoded,
            chunk_bytes_stored: totals.chunk_bytes_stored,
            objects: totals.objects,
            object_bytes_stored: totals.object_bytes_stored,
            packs: intake.appender.totals().packs,
            pack_bytes: intake.appender.totals().bytes,
            index_bytes,
            duplicates: intake.duplicates,
            reencoded: intake.reencoded,
            bad_chunks: self.bad_chunks().total(),
            quota_bytes: self.options.quota_bytes,
        })
    }

    /// The chunks found bad since the last call, oldest first. Each counts as not held.
    #[must_use]
    pub fn take_bad_chunks(&self) -> Vec<BadChunk> {
        self.bad_chunks().take()
    }

    pub(crate) fn bad_chunks(&self) -> MutexGuard<'_, BadChunks> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer. Its state changes only after what it describes has happened, so a panic elsewhere in a holder
    /// leaves nothing half done.
    pub(crate) fn intake(&self) -> MutexGuard<'_, Intake> {
        self.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what does not fit in the quota.
    pub(crate) fn check_quota(&self, intake: &Intake, wanted_bytes: u64) -> Result<(), WriteError> {
        let used_bytes = intake.appender.totals().bytes;
        match self.options.quota_bytes {
            Some(quota_bytes)
                if wanted_bytes > 0 && used_bytes.saturating_add(wanted_bytes) > quota_bytes =>
            {
                Err(WriteError::QuotaReached { used_bytes, quota_bytes, wanted_bytes })
            }
            _ => Ok(()),
        }
    }

    /// Writes the records that `fill` pushes and lets readers see them: all or none.
    pub(crate) fn write<T>(
        &self,
        intake: &mut Intake,
        fill: impl FnOnce(&mut Batch<'_>) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        // Before, not after: as long as settling fails nothing more may pile up.
        if self.index.staged_entries() >= PENDING_ENTRIES_MAX
            || intake.appender.unsynced_bytes() >= UNSYNCED_BYTES_MAX
        {
            self.settle(intake, Durability::Later)?;
        }
        let totals = intake.totals;
        let appender = &mut intake.appender;
        let mark = appender.mark();
        let mut batch = Batch { packs: &self.packs, appender, entries: vec![], totals };
        let filled = fill(&mut batch).and_then(|filled| batch.appender.finish().map(|()| filled));
        let Batch { entries, totals, .. } = batch;
        match filled {
            Ok(filled) => {
                self.index.stage(entries);
                intake.totals = totals;
                Ok(filled)
            }
            Err(error) => {
                intake.appender.abandon(mark);
                Err(error)
            }
        }
    }

    /// Syncs packs, then the index: the order that an acknowledgement rests on.
    pub(crate) fn settle(&self, intake: &mut Intake, durability: Durability) -> Result<(), WriteError> {
        intake.appender.sync()?;
        let mut more: Vec<Pending> = intake
            .appender
            .synced_lengths()
            .map(|(number, length)| (Key::Pack(number).encode(), Some(length.to_le_bytes().to_vec())))
            .collect();
        more.push((Key::Totals.encode(), Some(intake.totals.encode())));
        self.index.settle(more, durability)?;
        intake.appender.forget_lengths();
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Nobody is told here; whoever needs to know calls `close`. What is lost was never acknowledged.
        let _synced = self.sync();
    }
}

impl Batch<'_> {
    /// Adds a record; its place holds once the batch is written.
    pub(crate) fn push(&mut self, header: &RecordHeader, parts: &[&[u8]]) -> Result<Place, WriteError> {
        self.appender.push(self.packs, header, parts)
    }

    /// Adds a chunk's record and its entry.
    pub(crate) fn push_chunk(&mut self, header: &RecordHeader, parts: &[&[u8]]) -> Result<(), WriteError> {
        let place = self.push(header, parts)?;
        let base_first = parts.first().copied().unwrap_or_default();
        let location = Location::of_record(place, header, base_first)
            .expect("the payload of a patch starts with its base");
        debug_assert_eq!(header.kind, RecordKind::Chunk);
        self.totals.add_chunk(&location);
        self.entries.push(Entry::Chunk(ChunkHash(header.name), location));
        Ok(())
    }
}
