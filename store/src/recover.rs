//! Opening after whatever happened: what packs have and the index does not is taken in, what the index has and
//! packs lost is dropped, a torn tail is cut off.

use std::collections::BTreeMap;
use std::io;

use pageswarm_checkpoint::{ChunkHash, LineageId, ObjectHash};

use crate::bad::Place;
use crate::chain::Located;
use crate::fault::{IndexError, OpenError, PackError};
use crate::index::{Durability, Entry, Index, Key, Location, Pending, Table, Walk};
use crate::limits::{FAULTS_KEPT_MAX, PACK_BYTES_SEALED, SCAN_BATCH_ENTRIES};
use crate::pack::{
    ActivePack, OpenPack, PACK_HEADER_BYTES, PackFiles, PackNumber, PackTotals, RecordHeader, RecordKind,
    Salt, ScanEvent, Scanner,
};
use crate::stats::Totals;
use crate::{lineage, note};

/// What opening a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether the index was damaged, and made anew from packs alone.
    pub index_rebuilt: bool,
    /// Records that packs had and the index did not.
    pub records_recovered: u64,
    /// Bytes cut off the last pack's end: a write that was interrupted.
    pub torn_bytes: u64,
    /// Regions of packs that hold no record, the first of them.
    pub damaged: Vec<DamagedRegion>,
    /// How many such regions there are.
    pub damaged_count: u64,
    /// Packs that are shorter than the index knows them.
    pub short_packs: Vec<ShortPack>,
    /// Chunks that were in what these packs lost. They count as not held.
    pub chunks_lost: u64,
    /// Objects that were in what these packs lost. They count as not held.
    pub objects_lost: u64,
}

/// Bytes of a pack that hold no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at {place} hold no record")]
pub struct DamagedRegion {
    /// Where they start.
    pub place: Place,
    /// How many.
    pub bytes: u64,
}

/// A pack that was cut, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pack {pack} has {bytes} bytes and had {bytes_known}")]
pub struct ShortPack {
    /// The pack.
    pub pack: PackNumber,
    /// Its length; 0 if there is no such file.
    pub bytes: u64,
    /// Its length when it was last synced.
    pub bytes_known: u64,
}

/// What a store starts with.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) report: OpenReport,
    pub(crate) totals: Totals,
    pub(crate) active: Option<ActivePack>,
    pub(crate) next: PackNumber,
    pub(crate) pack_totals: PackTotals,
}

/// Brings index and packs together.
pub(crate) fn recover(index: &Index, packs: &PackFiles) -> Result<Recovered, OpenError> {
    let mut recovery = Recovery { index, packs, report: OpenReport::default(), totals: read_totals(index)? };
    let known = known_lengths(index)?;
    let mut files = list(packs)?;
    recovery.drop_what_packs_lost(&known, &files)?;
    let last = files.last().map(|(number, _)| *number);
    for (number, length) in &mut files {
        let from = known.get(number).copied().unwrap_or(0);
        if from < *length {
            *length = recovery.take_in(*number, from, *length, Some(*number) == last)?;
        }
    }
    files.retain(|(_, length)| *length > 0);
    let active = match files.last() {
        Some((number, length)) => recovery.active_pack(*number, *length)?,
        None => None,
    };
    Ok(Recovered {
        report: recovery.report,
        totals: recovery.totals,
        active,
        next: next_number(known.keys().next_back().copied().max(last))?,
        pack_totals: PackTotals {
            packs: files.len() as u64,
            bytes: files.iter().map(|(_, length)| length).sum(),
        },
    })
}

struct Recovery<'store> {
    index: &'store Index,
    packs: &'store PackFiles,
    report: OpenReport,
    totals: Totals,
}

impl Recovery<'_> {
    /// Drops the entries of records beyond the end of packs that are shorter than they were.
    fn drop_what_packs_lost(
        &mut self,
        known: &BTreeMap<PackNumber, u64>,
        files: &[(PackNumber, u64)],
    ) -> Result<(), OpenError> {
        let lengths: BTreeMap<PackNumber, u64> = files.iter().copied().collect();
        let length_of = |pack| lengths.get(&pack).copied().unwrap_or(0);
        let shorter = known.iter().filter(|(pack, bytes_known)| length_of(**pack) < **bytes_known);
        self.report.short_packs = shorter
            .map(|(&pack, &bytes_known)| ShortPack { pack, bytes: length_of(pack), bytes_known })
            .collect();
        if self.report.short_packs.is_empty() {
            return Ok(());
        }
        let is_lost = |location: &Location| {
            let end = location.place.offset + location.record_bytes();
            known.contains_key(&location.place.pack) && end > length_of(location.place.pack)
        };
        let lost_chunks = self.drop_entries(Table::Chunks, is_lost)?;
        lost_chunks.iter().for_each(|location| self.totals.remove_chunk(location));
        let lost_objects = self.drop_entries(Table::Objects, is_lost)?;
        lost_objects.iter().for_each(|location| self.totals.remove_object(location));
        self.report.chunks_lost = lost_chunks.len() as u64;
        self.report.objects_lost = lost_objects.len() as u64;
        let lengths = self.report.short_packs.iter().map(|short| {
            let length = (short.bytes > 0).then(|| short.bytes.to_le_bytes().to_vec());
            (Key::Pack(short.pack).encode(), length)
        });
        let settled = lengths.chain([self.totals_entry()]).collect();
        Ok(self.index.settle(settled, Durability::Now)?)
    }

    fn drop_entries(
        &self,
        table: Table,
        is_lost: impl Fn(&Location) -> bool,
    ) -> Result<Vec<Location>, IndexError> {
        let mut keys = vec![];
        let mut lost = vec![];
        self.index.walk(&[table as u8], |key, value| {
            if let Some(location) = Location::decode(value).filter(&is_lost) {
                keys.push(key.to_vec());
                lost.push(location);
            }
            Walk::On
        })?;
        self.index.remove(&keys)?;
        Ok(lost)
    }

    /// Indexes what a pack has from `from` on; the pack's length afterwards.
    fn take_in(
        &mut self,
        number: PackNumber,
        from: u64,
        length: u64,
        is_last: bool,
    ) -> Result<u64, OpenError> {
        if length < PACK_HEADER_BYTES && from == 0 {
            // A pack whose creation was interrupted: nothing can be in it.
            std::fs::remove_file(self.packs.path(number))
                .map_err(|source| PackError { pack: number, source })?;
            self.report.torn_bytes += length;
            return Ok(0);
        }
        let pack = self.open(number)?;
        // What the index names must be on the disk, and a killed process leaves it in memory alone.
        pack.file.sync_data().map_err(|source| PackError { pack: number, source })?;
        let Some(salt) = pack.salt else {
            self.note_damage(number, from, length - from);
            self.settle(number, length)?;
            return Ok(length);
        };
        let mut kept = length;
        if let Some(tail) = self.scan(number, &pack, salt, from.max(PACK_HEADER_BYTES)..length)? {
            if is_last {
                pack.file.set_len(tail).map_err(|source| PackError { pack: number, source })?;
                self.report.torn_bytes += length - tail;
                kept = tail;
            } else {
                self.note_damage(number, tail, length - tail);
            }
        }
        self.settle(number, kept)?;
        Ok(kept)
    }

    /// Indexes a range of a pack; where the damage starts that reaches to its end, if any does.
    fn scan(
        &mut self,
        number: PackNumber,
        pack: &OpenPack,
        salt: Salt,
        range: std::ops::Range<u64>,
    ) -> Result<Option<u64>, OpenError> {
        let failed = |source: io::Error| PackError { pack: number, source };
        let end = range.end;
        let mut scanner = Scanner::new(&pack.file, salt, range.start, end);
        let mut tail = None;
        while let Some(event) = scanner.next().map_err(failed)? {
            match event {
                ScanEvent::Damage { offset, bytes } if offset + bytes < end => {
                    self.note_damage(number, offset, bytes);
                }
                ScanEvent::Damage { offset, .. } => tail = Some(offset),
                ScanEvent::Record { offset, header, payload } => {
                    let place = Place { pack: number, offset };
                    if !self.index_record(place, &header, payload)? {
                        self.note_damage(number, offset, u64::from(header.stored_len));
                    }
                    if self.index.staged_entries() >= SCAN_BATCH_ENTRIES {
                        // Should this be interrupted, taking in this record again changes nothing.
                        self.settle(number, offset)?;
                    }
                }
            }
        }
        Ok(tail)
    }

    /// Stages a record's entries; false if its payload is not what its kind has.
    fn index_record(
        &mut self,
        place: Place,
        header: &RecordHeader,
        payload: &[u8],
    ) -> Result<bool, IndexError> {
        let lineage = LineageId(header.name);
        let entries: Option<Vec<Entry>> = match header.kind {
            RecordKind::Chunk | RecordKind::Object => {
                self.located_entry(place, header, payload)?.map(|e| vec![e])
            }
            RecordKind::Head => lineage::entry_of_head(lineage, payload).map(|entry| vec![entry]),
            RecordKind::Commit => lineage::entries_of_commit(lineage, payload).map(Vec::from),
            RecordKind::Note => note::entry_of_record(header.form, payload).map(|entry| vec![entry]),
        };
        let is_known_shape = entries.is_some();
        if let Some(entries) = entries {
            self.index.stage(entries);
            self.report.records_recovered += 1;
        }
        Ok(is_known_shape)
    }

    fn located_entry(
        &mut self,
        place: Place,
        header: &RecordHeader,
        payload: &[u8],
    ) -> Result<Option<Entry>, IndexError> {
        let Some(location) = Location::of_record(place, header, payload) else {
            return Ok(None);
        };
        // A later record replaces an earlier one: it was written because that one turned bad.
        if header.kind == RecordKind::Chunk {
            let hash = ChunkHash(header.name);
            let replaced = self.index.locate(&[hash])?;
            replaced.iter().filter_map(Located::location).for_each(|old| self.totals.remove_chunk(old));
            self.totals.add_chunk(&location);
            return Ok(Some(Entry::Chunk(hash, location)));
        }
        let key = Key::Object(ObjectHash(header.name)).encode();
        let replaced = self.index.get(&key)?.and_then(|value| Location::decode(&value));
        replaced.iter().for_each(|old| self.totals.remove_object(old));
        self.totals.add_object(&location);
        Ok(Some(Entry::Other(key, Some(location.encode()))))
    }

    fn active_pack(&self, number: PackNumber, length: u64) -> Result<Option<ActivePack>, OpenError> {
        if length >= PACK_BYTES_SEALED {
            return Ok(None);
        }
        let pack = self.open(number)?;
        Ok(pack.salt.map(|salt| ActivePack { number, file: pack.file, salt, length, synced: length }))
    }

    fn open(&self, number: PackNumber) -> Result<OpenPack, PackError> {
        self.packs.open(number).map_err(|source| PackError { pack: number, source })
    }

    fn settle(&self, number: PackNumber, length: u64) -> Result<(), IndexError> {
        let length = (Key::Pack(number).encode(), Some(length.to_le_bytes().to_vec()));
        self.index.settle(vec![length, self.totals_entry()], Durability::Now)
    }

    fn totals_entry(&self) -> Pending {
        (Key::Totals.encode(), Some(self.totals.encode()))
    }

    fn note_damage(&mut self, pack: PackNumber, offset: u64, bytes: u64) {
        self.report.damaged_count += 1;
        if self.report.damaged.len() < FAULTS_KEPT_MAX {
            self.report.damaged.push(DamagedRegion { place: Place { pack, offset }, bytes });
        }
    }
}

fn read_totals(index: &Index) -> Result<Totals, IndexError> {
    match index.get(&Key::Totals.encode())? {
        Some(value) => Totals::decode(&value).ok_or(IndexError::EntryDamaged),
        None => Ok(Totals::default()),
    }
}

/// The length of each pack that is synced and indexed.
fn known_lengths(index: &Index) -> Result<BTreeMap<PackNumber, u64>, IndexError> {
    let mut known = BTreeMap::new();
    let mut damaged = false;
    index.walk(&[Table::Packs as u8], |key, value| {
        let number = key.get(1..).and_then(|number| number.try_into().ok()).map(u32::from_be_bytes);
        match (number, value.try_into().map(u64::from_le_bytes)) {
            (Some(number), Ok(length)) => {
                known.insert(PackNumber(number), length);
            }
            _ => damaged = true,
        }
        Walk::On
    })?;
    if damaged { Err(IndexError::EntryDamaged) } else { Ok(known) }
}

fn list(packs: &PackFiles) -> Result<Vec<(PackNumber, u64)>, OpenError> {
    packs.list().map_err(|source| OpenError::List { dir: packs.dir().to_owned(), source })
}

fn next_number(last: Option<PackNumber>) -> Result<PackNumber, OpenError> {
    let number = last.map_or(Some(1), |last| last.0.checked_add(1));
    number.map(PackNumber).ok_or(OpenError::PacksExhausted)
}
