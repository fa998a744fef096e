//! Reading a pack from an offset to its end, record by record, and finding the next record after damage.

use std::fs::File;
use std::io;

use super::Salt;
use super::files::read_up_to;
use super::record::{HEADER_BYTES, MAGIC, RecordHeader};

/// Bytes read at once; a longer record makes the window grow to it.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// What a scan came upon.
#[derive(Debug)]
pub(crate) enum ScanEvent<'scan> {
    /// A record whose two checksums are right.
    Record { offset: u64, header: RecordHeader, payload: &'scan [u8] },
    /// Bytes that belong to no such record.
    Damage { offset: u64, bytes: u64 },
}

/// A position in a pack, with a window of the file around it.
#[derive(Debug)]
pub(crate) struct Scanner<'file> {
    file: &'file File,
    salt: Salt,
    at: u64,
    end: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'file> Scanner<'file> {
    /// Scans `file` from `at`, where a record is expected, up to `end`.
    pub(crate) fn new(file: &'file File, salt: Salt, at: u64, end: u64) -> Self {
        Self { file, salt, at, end, window: vec![], window_start: at }
    }

    /// The next record or damaged region; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<ScanEvent<'_>>> {
        let offset = self.at;
        if offset >= self.end {
            return Ok(None);
        }
        let Some(header) = self.header_at(offset)? else {
            return self.skip_damage(offset).map(Some);
        };
        let record_bytes = HEADER_BYTES + header.payload_bytes();
        self.fill(offset, record_bytes)?;
        let start = self.position(offset);
        let length = record_bytes.min(self.window.len() - start);
        self.at = offset + as_u64(length);
        let payload = &self.window[start + HEADER_BYTES..start + length];
        if length < record_bytes || crc32fast::hash(payload) != header.payload_crc {
            return Ok(Some(ScanEvent::Damage { offset, bytes: as_u64(length) }));
        }
        Ok(Some(ScanEvent::Record { offset, header, payload }))
    }

    /// Moves to the next header that is one.
    fn skip_damage(&mut self, offset: u64) -> io::Result<ScanEvent<'_>> {
        let mut candidate = offset + 1;
        while let Some(found) = self.find_magic(candidate)? {
            if self.header_at(found)?.is_some() {
                self.at = found;
                return Ok(ScanEvent::Damage { offset, bytes: found - offset });
            }
            candidate = found + 1;
        }
        self.at = self.end;
        Ok(ScanEvent::Damage { offset, bytes: self.end - offset })
    }

    fn find_magic(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut from = from;
        while from + as_u64(HEADER_BYTES) <= self.end {
            self.fill(from, HEADER_BYTES)?;
            let searched = &self.window[self.position(from)..];
            if let Some(at) = searched.windows(MAGIC.len()).position(|bytes| bytes == MAGIC) {
                return Ok(Some(from + as_u64(at)));
            }
            if searched.len() < HEADER_BYTES {
                break;
            }
            // The magic may straddle the windows' border.
            from += as_u64(searched.len() - (MAGIC.len() - 1));
        }
        Ok(None)
    }

    fn header_at(&mut self, offset: u64) -> io::Result<Option<RecordHeader>> {
        self.fill(offset, HEADER_BYTES)?;
        let bytes = self.window[self.position(offset)..].first_chunk();
        Ok(bytes.and_then(|bytes| RecordHeader::decode(bytes, self.salt).ok()))
    }

    /// Makes `length` bytes from `offset` available, or as many as there are.
    fn fill(&mut self, offset: u64, length: usize) -> io::Result<()> {
        let left = usize::try_from(self.end - offset).unwrap_or(usize::MAX);
        let wanted = offset + as_u64(length.min(left));
        if offset >= self.window_start && wanted <= self.window_start + as_u64(self.window.len()) {
            return Ok(());
        }
        self.window.resize(length.max(WINDOW_BYTES).min(left), 0);
        self.window_start = offset;
        let filled = read_up_to(self.file, &mut self.window, offset)?;
        self.window.truncate(filled);
        Ok(())
    }

    /// Where `offset` is in the window that [`Self::fill`] made.
    fn position(&self, offset: u64) -> usize {
        usize::try_from(offset - self.window_start).map_or(self.window.len(), |at| at.min(self.window.len()))
    }
}

fn as_u64(length: usize) -> u64 {
    u64::try_from(length).expect("lengths fit in 64 bits")
}
