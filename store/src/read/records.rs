//! Reading records from packs: neighbours in one call, each one's header and payload checked.

use std::io;
use std::ops::Range;

use super::buffers::ReadBuffer;
use crate::bad::BadCause;
use crate::fault::{PackError, ReadError};
use crate::index::{Form, Location};
use crate::limits::{RUN_BYTES_MAX, RUN_GAP_BYTES_MAX};
use crate::pack::{HEADER_BYTES, OpenPack, RecordHeader, RecordKind, Salt, read_up_to};
use crate::store::Store;

/// A record's name and where it is.
pub(crate) type Item = ([u8; 32], Location);

/// A record's header and payload, or what is wrong with it.
pub(crate) type RecordRead<'read> = Result<(RecordHeader, &'read [u8]), BadCause>;

impl Store {
    /// Reads the records of `items`, which are in stored order. `visit` gets each item's position, in order.
    pub(crate) fn read_records(
        &self,
        kind: RecordKind,
        items: &[Item],
        mut visit: impl FnMut(usize, RecordRead<'_>),
    ) -> Result<(), ReadError> {
        let mut buffer = self.buffers.take();
        let mut start = 0;
        while start < items.len() {
            let run = start..start + run_length(&items[start..]);
            start = run.end;
            self.read_run(kind, items, run, &mut buffer, &mut visit)?;
        }
        self.buffers.give_back(buffer);
        Ok(())
    }

    fn read_run(
        &self,
        kind: RecordKind,
        items: &[Item],
        run: Range<usize>,
        buffer: &mut ReadBuffer,
        visit: &mut impl FnMut(usize, RecordRead<'_>),
    ) -> Result<(), ReadError> {
        let number = items[run.start].1.place.pack;
        let pack = match self.packs.open(number) {
            Ok(pack) => pack,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                run.for_each(|item| visit(item, Err(BadCause::PackMissing)));
                return Ok(());
            }
            Err(source) => {
                return Err(PackError { pack: number, source }.into());
            }
        };
        let Some(salt) = pack.salt else {
            run.for_each(|item| visit(item, Err(BadCause::PackHeader)));
            return Ok(());
        };
        let bytes = match fill(&pack, &items[run.clone()], buffer) {
            Ok(bytes) => bytes,
            Err(error) => {
                if run.len() > 1 {
                    // One unreadable sector must not condemn its neighbours.
                    for item in run {
                        self.read_run(kind, items, item..item + 1, buffer, visit)?;
                    }
                } else {
                    visit(run.start, Err(BadCause::Unreadable { kind: error.kind() }));
                }
                return Ok(());
            }
        };
        let origin = items[run.start].1.place.offset;
        for item in run {
            visit(item, check(kind, &items[item], bytes, origin, salt));
        }
        Ok(())
    }
}

/// How many items from the first can be read in one call.
fn run_length(items: &[Item]) -> usize {
    let first = items[0].1;
    let mut end = record_end(&first);
    let follows = items[1..].iter().take_while(|(_, location)| {
        let gap = location.place.offset.saturating_sub(end);
        let length = record_end(location).saturating_sub(first.place.offset);
        let fits = usize::try_from(length).is_ok_and(|length| length <= RUN_BYTES_MAX);
        let joins = location.place.pack == first.place.pack && gap <= RUN_GAP_BYTES_MAX && fits;
        end = record_end(location).max(end);
        joins
    });
    1 + follows.count()
}

/// Reads from the first item to the end of the last, or to the end of the pack.
fn fill<'read>(pack: &OpenPack, items: &[Item], buffer: &'read mut ReadBuffer) -> io::Result<&'read [u8]> {
    let origin = items[0].1.place.offset;
    let end = items.iter().map(|(_, location)| record_end(location)).max().unwrap_or(origin);
    let mut wanted = end.saturating_sub(origin);
    // A location may be wrong: no more is allocated than the pack has.
    if wanted > RUN_BYTES_MAX as u64 {
        wanted = wanted.min(pack.file.metadata()?.len().saturating_sub(origin));
    }
    let room = buffer.room(usize::try_from(wanted).unwrap_or(0));
    let length = read_up_to(&pack.file, room, origin)?;
    Ok(&room[..length])
}

/// The record of `item` in `buffer`, which starts at `origin`.
fn check<'read>(
    kind: RecordKind,
    item: &Item,
    buffer: &'read [u8],
    origin: u64,
    salt: Salt,
) -> RecordRead<'read> {
    let (name, location) = item;
    let start = usize::try_from(location.place.offset - origin).unwrap_or(usize::MAX);
    let bytes = buffer.get(start..).ok_or(BadCause::Truncated)?;
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(BadCause::Truncated)?;
    let header = RecordHeader::decode(header, salt).map_err(|_| BadCause::Header)?;
    if !location.is_of(&header, kind, name) {
        return Err(BadCause::OtherRecord);
    }
    let payload = rest.get(..header.payload_bytes()).ok_or(BadCause::Truncated)?;
    if crc32fast::hash(payload) != header.payload_crc {
        return Err(BadCause::Payload);
    }
    let has_base = kind == RecordKind::Chunk && Form::has_base(header.form);
    let base = if has_base { payload.first_chunk::<32>() } else { None };
    let same_base = base == location.base.as_ref().map(|base| base.as_bytes());
    if same_base { Ok((header, payload)) } else { Err(BadCause::OtherRecord) }
}

fn record_end(location: &Location) -> u64 {
    location.place.offset + location.record_bytes()
}
