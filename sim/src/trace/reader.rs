//! Reading a trace, row group by row group. Every byte of the file may be wrong: what is read was either covered by a
//! digest in the sealed directory or is checked by itself, lengths are compared with limits before anything is
//! allocated, and at most one row group is in memory.
//!
//! The seal finds accidents. It does not say who wrote the file: for that, compare the whole file's digest.

use crate::limits::{TRACE_FOOTER_BYTES_MAX, TRACE_GROUP_ROWS};
use crate::observe::{Access, AccessKind};
use crate::trace::arrangement::{Arrangement, Column, Side};
use crate::trace::footer;
use crate::trace::header::{self, Group, HeaderError, TraceHeader};
use crate::trace::page::{PageError, Pages, Spoken};
use crate::trace::thrift::ThriftError;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::RangeInclusive;

const MAGIC: [u8; 4] = *b"PAR1";

/// Why a file is not a trace that can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read at all.
    #[error("cannot be read")]
    Input(#[from] io::Error),
    /// It does not begin and end as Parquet files do.
    #[error("is no Parquet file, or was not finished")]
    NotParquet,
    /// The footer is larger than the file or than any trace's.
    #[error("claims a footer of {bytes} bytes")]
    FooterSize {
        /// The claim.
        bytes: u32,
    },
    /// The footer.
    #[error("footer")]
    Footer(#[from] ThriftError),
    /// The texts in it.
    #[error("footer")]
    Header(#[from] HeaderError),
    /// Numbers of rows or bytes in footer and directory are not the same.
    #[error("footer and directory of row groups contradict each other")]
    Contradiction,
    /// A row group is not what was written.
    #[error("row group {group} is damaged")]
    Damaged {
        /// Its number, from 0.
        group: usize,
    },
    /// A page.
    #[error("row group {group}, column {}", column.name())]
    Page {
        /// Its number, from 0.
        group: usize,
        /// Which column.
        column: ColumnName,
        /// What about it.
        #[source]
        cause: PageError,
    },
    /// Columns do not fit each other.
    #[error("row group {group}: columns do not fit each other")]
    Columns {
        /// Its number, from 0.
        group: usize,
    },
}

/// A column, in an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnName(Column);

impl ColumnName {
    /// Its name in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0.name()
    }
}

/// An opened trace. Holds at most 80 MiB.
#[derive(Debug)]
pub struct Trace<R> {
    file: R,
    header: TraceHeader,
    groups: Vec<Group>,
    arrangement: Arrangement,
    pages: Pages,
    columns: Vec<Spoken>,
    bytes: Vec<u8>,
    rows: Vec<Access>,
}

impl<R: Read + Seek> Trace<R> {
    /// Reads footer and directory of a trace.
    ///
    /// # Errors
    /// When the file is not a whole trace of this version.
    pub fn open(mut file: R) -> Result<Self, ReadError> {
        let length = file.seek(SeekFrom::End(0))?;
        let mut ends = ([0; 4], [0; 4], [0; 4]);
        if length < 12 {
            return Err(ReadError::NotParquet);
        }
        file.seek(SeekFrom::Start(0))?;
        file.read_exact(&mut ends.0)?;
        file.seek(SeekFrom::Start(length - 8))?;
        file.read_exact(&mut ends.1)?;
        file.read_exact(&mut ends.2)?;
        if (ends.0, ends.2) != (MAGIC, MAGIC) {
            return Err(ReadError::NotParquet);
        }
        let bytes = u32::from_le_bytes(ends.1);
        if bytes > TRACE_FOOTER_BYTES_MAX || u64::from(bytes) > length - 12 {
            return Err(ReadError::FooterSize { bytes });
        }
        let start = length - 8 - u64::from(bytes);
        let mut text = vec![0; bytes as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut text)?;
        let footer = footer::parse(&text)?;
        let (header, groups) = header::parse(&footer.entries)?;
        let counted = groups.iter().map(|group| group.rows as u64);
        let data: u64 = groups.iter().map(|group| group.bytes).sum();
        if !counted.eq(footer.group_rows.iter().map(|rows| rows.cast_unsigned()))
            || footer.rows.cast_unsigned() != header.accesses
            || MAGIC.len() as u64 + data != start
        {
            return Err(ReadError::Contradiction);
        }
        let columns = Column::of(header.values).iter().map(|_| Spoken::default()).collect();
        Ok(Self {
            file,
            arrangement: Arrangement::new(header.values),
            header,
            groups,
            pages: Pages::new(),
            columns,
            bytes: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// What the trace says about itself.
    #[must_use]
    pub const fn header(&self) -> &TraceHeader {
        &self.header
    }

    /// Row groups, of at most 262,144 accesses each.
    #[must_use]
    pub const fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Calls `see` with all accesses by instructions whose numbers are in `instructions`, in order. Row groups with
    /// none of them are not read.
    ///
    /// # Errors
    /// When the file cannot be read or is not what was written, and what `see` returns. It may have been called before
    /// for row groups that were in order.
    pub fn visit<E: From<ReadError>>(
        &mut self,
        instructions: &RangeInclusive<u64>,
        mut see: impl FnMut(&Access) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut start = MAGIC.len() as u64;
        for number in 0..self.groups.len() {
            let (bytes, (least, greatest)) = (self.groups[number].bytes, self.groups[number].instructions);
            if least <= *instructions.end() && greatest >= *instructions.start() {
                self.load(number, start)?;
                let wanted = self.rows.iter().filter(|access| instructions.contains(&access.instruction));
                wanted.into_iter().try_for_each(&mut see)?;
            }
            start += bytes;
        }
        Ok(())
    }

    /// Loads the rows of a group that begins at `start`.
    fn load(&mut self, number: usize, start: u64) -> Result<(), ReadError> {
        let group = &self.groups[number];
        let damaged = ReadError::Damaged { group: number };
        self.bytes.resize(usize::try_from(group.bytes).unwrap_or(0), 0);
        self.file.seek(SeekFrom::Start(start))?;
        self.file.read_exact(&mut self.bytes)?;
        if *blake3::hash(&self.bytes).as_bytes() != group.digest {
            return Err(damaged);
        }
        let mut left = self.bytes.as_slice();
        for (&column, spoken) in Column::of(self.header.values).iter().zip(&mut self.columns) {
            let read = self.pages.read(left, group.rows, spoken);
            left = read.map_err(|cause| {
                let column = ColumnName(column);
                ReadError::Page { group: number, column, cause }
            })?;
        }
        let columns = ReadError::Columns { group: number };
        if !left.is_empty() {
            return Err(columns);
        }
        self.arrangement.restart();
        self.rows.clear();
        self.rows.reserve_exact(TRACE_GROUP_ROWS);
        let mut told = Told { columns: &self.columns, row: 0, places: [0; Column::ALL.len()] };
        let mut range = (u64::MAX, 0);
        for _ in 0..group.rows {
            let Ok(access) = self.arrangement.pass(&mut told, &NOTHING) else {
                return Err(columns);
            };
            range = (access.instruction.min(range.0), access.instruction.max(range.1));
            told.row += 1;
            self.rows.push(access);
        }
        if range == group.instructions && told.is_all_told() { Ok(()) } else { Err(columns) }
    }
}

/// What is given where a reader has nothing to give.
const NOTHING: Access = Access {
    instruction: 0,
    rip: 0,
    virtual_address: 0,
    physical_address: 0,
    size: 0,
    kind: AccessKind::Read,
    value: 0,
};

/// The columns of a row group, read row by row.
struct Told<'a> {
    columns: &'a [Spoken],
    row: usize,
    places: [usize; Column::ALL.len()],
}

/// Columns do not say what they must.
struct Silent;

impl Told<'_> {
    fn is_all_told(&self) -> bool {
        self.columns.iter().zip(&self.places).all(|(column, place)| column.numbers.len() == *place)
    }
}

impl Side for Told<'_> {
    type Error = Silent;

    #[inline(always)]
    fn settle(&mut self, column: Column, predicted: Option<u64>, _given: u64) -> Result<u64, Silent> {
        let place = &mut self.places[column as usize];
        let Spoken { levels, numbers } = &self.columns[column as usize];
        if !levels[self.row] {
            return predicted.ok_or(Silent);
        }
        let number = numbers[*place];
        *place += 1;
        // One way to write a trace: what is as predicted is not said.
        if predicted == Some(number) { Err(Silent) } else { Ok(number) }
    }

    fn impossible_shape(&mut self) -> Silent {
        Silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Observer as _;
    use crate::trace::{TraceOptions, TraceSubject, TraceWriter, Values};
    use pageswarm_checkpoint::{CheckpointIndex, LineageId, StateRoot};
    use pageswarm_machine::content::Random;
    use std::io::Cursor;

    fn written(values: Values) -> Vec<u8> {
        let subject = TraceSubject {
            lineage: LineageId([1; 32]),
            interval: CheckpointIndex(5),
            input_root: StateRoot([2; 32]),
        };
        let options = TraceOptions { values, bytes_max: u64::MAX };
        let mut writer = TraceWriter::new(Vec::new(), subject, options).expect("a vector takes all");
        for number in 0..700 {
            let kind = if number % 3 == 0 { AccessKind::Write } else { AccessKind::Read };
            let virtual_address = number * number % 4096;
            let value = u128::from(number % 20);
            writer.access(Access {
                instruction: number * 2,
                rip: 0x1000 + number % 7,
                virtual_address,
                physical_address: virtual_address,
                size: 8,
                kind,
                value,
            });
        }
        writer.finish(StateRoot([3; 32])).expect("a vector takes all").output
    }

    /// Goal: bytes that a digest covers, but that their writer chose to do harm, end in an error or in accesses, never in
    /// a panic. Method: change some bytes of a row group and make the directory agree.
    #[test]
    fn a_row_group_that_was_made_to_do_harm_is_refused() {
        let mut random = Random::new(7, 7);
        let (mut refused, mut read) = (0, 0);
        for values in [Values::Kept, Values::Omitted] {
            let file = written(values);
            for _ in 0..6000 {
                let mut trace = Trace::open(Cursor::new(file.clone())).expect("a whole trace");
                let end = 4 + usize::try_from(trace.groups[0].bytes).expect("a short group");
                for _ in 0..=random.draw() % 3 {
                    let place = usize::try_from(random.draw() % (end as u64 - 4)).expect("short") + 4;
                    trace.file.get_mut()[place] = random.draw().to_le_bytes()[0];
                }
                trace.groups[0].digest = *blake3::hash(&trace.file.get_ref()[4..end]).as_bytes();
                match trace.load(0, 4) {
                    Ok(()) => read += 1,
                    Err(_) => refused += 1,
                }
                assert!(trace.pages.bytes_held() <= crate::limits::TRACE_PAGE_BYTES_MAX);
            }
        }
        assert!(refused > 6000, "{refused} refused, {read} read");
    }

    /// The same for a footer: nothing in it leads to a panic or to more memory than limits allow.
    #[test]
    fn a_footer_that_was_made_to_do_harm_is_refused() {
        let file = written(Values::Kept);
        let length = file.len();
        let size = file[length - 8..].first_chunk().map_or(0, |size| u32::from_le_bytes(*size)) as usize;
        let footer = &file[length - 8 - size..length - 8];
        let mut random = Random::new(8, 8);
        for _ in 0..20_000 {
            let mut bytes = footer.to_vec();
            for _ in 0..=random.draw() % 4 {
                let place = usize::try_from(random.draw() % size as u64).expect("short");
                bytes[place] = random.draw().to_le_bytes()[0];
            }
            bytes.truncate(size - usize::try_from(random.draw() % 3).expect("short"));
            if let Ok(parsed) = footer::parse(&bytes) {
                let fits = header::parse(&parsed.entries).is_ok();
                assert!(!fits || parsed.entries == footer::parse(footer).expect("whole").entries);
            }
        }
    }
}
