//! Appending: collects records of one batch and writes them to the active pack, sealing it when it is full.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::cached_tail::CachedTail;
use super::write_behind::WriteBehind;
use super::{PACK_HEADER_BYTES, PackFiles, PackNumber, RecordHeader, Salt};
use crate::bad::Place;
use crate::fault::{PackError, WriteError};
use crate::limits::{PACK_BYTES_CACHED, PACK_BYTES_SEALED, WRITE_BEHIND_BYTES, WRITE_BUFFER_BYTES};

/// The pack that is written to.
#[derive(Debug)]
pub(crate) struct ActivePack {
    pub(crate) number: PackNumber,
    pub(crate) file: Arc<File>,
    pub(crate) salt: Salt,
    /// Bytes of whole, written records with the pack's header.
    pub(crate) length: u64,
    /// Of these, bytes known to be on the disk.
    pub(crate) synced: u64,
}

/// All packs of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackTotals {
    pub(crate) packs: u64,
    /// Written bytes, with headers.
    pub(crate) bytes: u64,
}

/// Where a batch starts, to go back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(Option<(PackNumber, u64)>);

/// Appends records; one batch at a time.
#[derive(Debug)]
pub(crate) struct Appender {
    active: Option<ActivePack>,
    next: PackNumber,
    totals: PackTotals,
    buffer: Vec<u8>,
    sealed: Vec<(PackNumber, u64)>,
    /// A sync failed: the kernel may have dropped what was written, so nothing can be promised any more.
    failed: bool,
    write_behind: WriteBehind,
    cached: CachedTail,
    /// The active pack's length when its sync was last begun.
    begun: u64,
}

impl Appender {
    /// Continues `active`, or opens pack `next` with the first record; `totals` is of the packs that exist.
    pub(crate) fn new(active: Option<ActivePack>, next: PackNumber, totals: PackTotals) -> Self {
        Self {
            active,
            next,
            totals,
            buffer: vec![],
            sealed: vec![],
            failed: false,
            write_behind: WriteBehind::start(),
            cached: CachedTail::new(PACK_BYTES_CACHED),
            begun: 0,
        }
    }

    /// Adds a record to the batch; it is readable after [`Self::finish`].
    pub(crate) fn push(
        &mut self,
        packs: &PackFiles,
        header: &RecordHeader,
        parts: &[&[u8]],
    ) -> Result<Place, WriteError> {
        if self.failed {
            return Err(WriteError::SyncFailedBefore);
        }
        let salt = self.room_for_a_record(packs)?;
        let active = self.active.as_ref().expect("a pack with room was opened above");
        let place = Place { pack: active.number, offset: active.length + as_u64(self.buffer.len()) };
        self.buffer.extend_from_slice(&header.encode(salt));
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        if self.buffer.len() >= WRITE_BUFFER_BYTES {
            self.write_buffer()?;
        }
        Ok(place)
    }

    /// Writes what is left of the batch.
    pub(crate) fn finish(&mut self) -> Result<(), WriteError> {
        self.write_buffer()
    }

    /// The end of what is written, before a batch.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.active.as_ref().map(|active| (active.number, active.length)))
    }

    /// Takes a batch back. If it has filled a pack, what it wrote there stays: whole records that nothing names.
    pub(crate) fn abandon(&mut self, mark: Mark) {
        self.buffer.clear();
        let Some(active) = &mut self.active else {
            return;
        };
        if let Some((number, length)) = mark.0
            && number == active.number
        {
            self.totals.bytes -= active.length - length;
            active.length = length;
        }
        // Best effort: the next write starts at the same offset anyway, and a scan drops a torn tail.
        let _shortened = active.file.set_len(active.length);
    }

    /// Packs there are.
    pub(crate) fn totals(&self) -> PackTotals {
        self.totals
    }

    /// Bytes written and not synced.
    pub(crate) fn unsynced_bytes(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.length - active.synced)
    }

    /// Brings everything written to the disk.
    pub(crate) fn sync(&mut self) -> Result<(), WriteError> {
        if self.failed {
            return Err(WriteError::SyncFailedBefore);
        }
        let Some(active) = self.active.as_mut().filter(|active| active.synced < active.length) else {
            return Ok(());
        };
        let synced = active.file.sync_data();
        if self.write_behind.has_failed() {
            self.failed = true;
            return Err(WriteError::SyncFailedBefore);
        }
        if let Err(source) = synced {
            self.failed = true;
            return Err(pack_error(active.number, source));
        }
        active.synced = active.length;
        Ok(())
    }

    /// The synced length of every pack that grew since [`Self::forget_lengths`].
    pub(crate) fn synced_lengths(&self) -> impl Iterator<Item = (PackNumber, u64)> {
        let active = self.active.as_ref().map(|active| (active.number, active.synced));
        self.sealed.iter().copied().chain(active)
    }

    /// The index has taken the lengths of sealed packs.
    pub(crate) fn forget_lengths(&mut self) {
        self.sealed.clear();
    }

    /// The salt of a pack that has room, the active one or a new one.
    fn room_for_a_record(&mut self, packs: &PackFiles) -> Result<Salt, WriteError> {
        let waiting = as_u64(self.buffer.len());
        if let Some(active) = &self.active
            && active.length + waiting < PACK_BYTES_SEALED
        {
            return Ok(active.salt);
        }
        self.write_buffer()?;
        self.sync()?;
        let number = self.next;
        let (file, salt) = packs.create(number).map_err(|source| pack_error(number, source))?;
        self.totals.packs += 1;
        self.totals.bytes += PACK_HEADER_BYTES;
        self.begun = 0;
        self.next = PackNumber(number.0.checked_add(1).ok_or(WriteError::PacksExhausted)?);
        let fresh = ActivePack { number, file, salt, length: PACK_HEADER_BYTES, synced: 0 };
        if let Some(full) = self.active.replace(fresh) {
            self.sealed.push((full.number, full.synced));
        }
        Ok(salt)
    }

    fn write_buffer(&mut self) -> Result<(), WriteError> {
        let Some(active) = self.active.as_mut().filter(|_| !self.buffer.is_empty()) else {
            return Ok(());
        };
        active
            .file
            .write_all_at(&self.buffer, active.length)
            .map_err(|source| pack_error(active.number, source))?;
        let start = active.length;
        active.length += as_u64(self.buffer.len());
        self.cached.note_written(&active.file, start, active.length);
        self.totals.bytes += as_u64(self.buffer.len());
        self.buffer.clear();
        if active.length.saturating_sub(self.begun) >= WRITE_BEHIND_BYTES {
            self.write_behind.begin(&active.file);
            self.begun = active.length;
        }
        Ok(())
    }
}

fn pack_error(pack: PackNumber, source: io::Error) -> WriteError {
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return WriteError::DiskFull;
    }
    WriteError::Pack(PackError { pack, source })
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).expect("lengths fit in 64 bits")
}
