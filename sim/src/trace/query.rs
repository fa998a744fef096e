//! Answers to the usual questions about a trace: which instructions access memory, which pages are touched, where each
//! is touched first, and who wrote what lies at an address. Each is one pass over the trace in bounded memory.
//!
//! Every answer is a list of rows of its own type; [`Row`] gives any of them as cells under column names, for tables.

use crate::limits::{QUERY_KEYS_MAX, QUERY_ROWS_MAX};
use crate::observe::{Access, AccessKind};
use crate::trace::header::Values;
use crate::trace::reader::{ReadError, Trace};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::io::{Read, Seek};
use std::ops::{Range, RangeInclusive};

/// All instructions of an interval.
pub const ALL_INSTRUCTIONS: RangeInclusive<u64> = 0..=u64::MAX;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The trace.
    #[error("trace")]
    Read(#[from] ReadError),
    /// The question is about too many things at once.
    #[error("more than {QUERY_KEYS_MAX} different addresses: ask about fewer instructions at a time")]
    TooManyKeys,
    /// The answer is too long.
    #[error("more than {QUERY_ROWS_MAX} rows: ask about fewer instructions or addresses at a time")]
    TooManyRows,
}

/// How often an instruction accessed memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RipCount {
    /// The instruction's address.
    pub rip: u64,
    /// Its reads.
    pub reads: u64,
    /// Its writes.
    pub writes: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// By what pages are ordered, most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOrder {
    /// Reads and writes.
    Accesses,
    /// Writes; pages that were only read are left out.
    Writes,
}

/// How often a page was accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCount {
    /// Its guest-physical number.
    pub page: u64,
    /// Reads in it.
    pub reads: u64,
    /// Writes in it.
    pub writes: u64,
}

/// The first access to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstTouch {
    /// Its guest-physical number.
    pub page: u64,
    /// The access.
    pub access: Access,
}

/// In which kind of memory an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// As instructions name it.
    Virtual,
    /// Guest-physical.
    Physical,
}

/// Of several writers, which are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// All, in order.
    All,
    /// The last ones, at most so many, in order.
    Last(usize),
}

/// A write to a place that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// The access. Its value is 0 if the trace has none.
    pub access: Access,
    /// Whether it has the value.
    pub values: Values,
}

/// One field of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// A number to count with.
    Count(u64),
    /// An address, shown in hexadecimal.
    Address(u64),
    /// Bytes that were read or written, little-endian, shown in hexadecimal.
    Bytes(u128),
    /// A word.
    Word(&'static str),
    /// The trace does not say.
    Unknown,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(number) => number.fmt(f),
            Self::Address(address) => f.pad(&format!("{address:#x}")),
            Self::Bytes(bytes) => f.pad(&format!("{bytes:#x}")),
            Self::Word(word) => f.pad(word),
            Self::Unknown => f.pad("-"),
        }
    }
}

/// A row of an answer.
pub trait Row {
    /// Names of its cells.
    const COLUMNS: &'static [&'static str];

    /// Its cells, as many as there are names.
    fn cells(&self) -> Vec<Cell>;
}

impl Row for RipCount {
    const COLUMNS: &'static [&'static str] = &["rip", "accesses", "reads", "writes", "bytes"];

    fn cells(&self) -> Vec<Cell> {
        let counts = [self.reads + self.writes, self.reads, self.writes, self.bytes].map(Cell::Count);
        [Cell::Address(self.rip)].into_iter().chain(counts).collect()
    }
}

impl Row for PageCount {
    const COLUMNS: &'static [&'static str] = &["page", "accesses", "reads", "writes"];

    fn cells(&self) -> Vec<Cell> {
        [self.page, self.reads + self.writes, self.reads, self.writes].map(Cell::Count).to_vec()
    }
}

impl Row for FirstTouch {
    const COLUMNS: &'static [&'static str] =
        &["page", "instruction", "rip", "virtual_address", "physical_address", "kind"];

    fn cells(&self) -> Vec<Cell> {
        let Access { instruction, rip, virtual_address, physical_address, kind, .. } = self.access;
        let addresses = [rip, virtual_address, physical_address].map(Cell::Address);
        let start = [Cell::Count(self.page), Cell::Count(instruction)];
        start.into_iter().chain(addresses).chain([word(kind)]).collect()
    }
}

impl Row for Write {
    const COLUMNS: &'static [&'static str] =
        &["instruction", "rip", "virtual_address", "physical_address", "size", "value"];

    fn cells(&self) -> Vec<Cell> {
        let Access { instruction, rip, virtual_address, physical_address, size, value, .. } = self.access;
        let addresses = [rip, virtual_address, physical_address].map(Cell::Address);
        let value = if self.values == Values::Kept { Cell::Bytes(value) } else { Cell::Unknown };
        let end = [Cell::Count(u64::from(size)), value];
        [Cell::Count(instruction)].into_iter().chain(addresses).chain(end).collect()
    }
}

const fn word(kind: AccessKind) -> Cell {
    Cell::Word(match kind {
        AccessKind::Read => "read",
        AccessKind::Write => "write",
    })
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    reads: u64,
    writes: u64,
    bytes: u64,
}

/// Accesses of each key; the keys come back in no order that means anything.
fn count<R: Read + Seek>(
    trace: &mut Trace<R>,
    instructions: &RangeInclusive<u64>,
    key: impl Fn(&Access) -> u64,
) -> Result<HashMap<u64, Counts>, QueryError> {
    let mut counts = HashMap::<u64, Counts>::new();
    trace.visit(instructions, |access| {
        let counted = counts.entry(key(access)).or_default();
        match access.kind {
            AccessKind::Read => counted.reads += 1,
            AccessKind::Write => counted.writes += 1,
        }
        counted.bytes += u64::from(access.size);
        if counts.len() > QUERY_KEYS_MAX { Err(QueryError::TooManyKeys) } else { Ok(()) }
    })?;
    Ok(counts)
}

/// The `top` instructions that access memory most often; of equals the lower address comes first.
///
/// # Errors
/// When the trace cannot be read, or has more than 4 million instructions that access memory.
pub fn accesses_per_rip<R: Read + Seek>(
    trace: &mut Trace<R>,
    instructions: &RangeInclusive<u64>,
    top: usize,
) -> Result<Vec<RipCount>, QueryError> {
    let counts = count(trace, instructions, |access| access.rip)?;
    let row = |(rip, Counts { reads, writes, bytes })| RipCount { rip, reads, writes, bytes };
    let mut rows: Vec<RipCount> = counts.into_iter().map(row).collect();
    rows.sort_unstable_by_key(|row| (Reverse(row.reads + row.writes), row.rip));
    rows.truncate(top.min(QUERY_ROWS_MAX));
    Ok(rows)
}

/// The `top` pages that are accessed or written most often; of equals the lower number comes first.
///
/// # Errors
/// When the trace cannot be read, or touches more than 4 million pages.
pub fn pages<R: Read + Seek>(
    trace: &mut Trace<R>,
    instructions: &RangeInclusive<u64>,
    order: PageOrder,
    top: usize,
) -> Result<Vec<PageCount>, QueryError> {
    let counts = count(trace, instructions, |access| access.physical_address >> 12)?;
    let row = |(page, Counts { reads, writes, .. })| PageCount { page, reads, writes };
    let mut rows: Vec<PageCount> = counts.into_iter().map(row).collect();
    match order {
        PageOrder::Accesses => rows.sort_unstable_by_key(|row| (Reverse(row.reads + row.writes), row.page)),
        PageOrder::Writes => {
            rows.retain(|row| row.writes > 0);
            rows.sort_unstable_by_key(|row| (Reverse(row.writes), row.page));
        }
    }
    rows.truncate(top.min(QUERY_ROWS_MAX));
    Ok(rows)
}

/// The first access to each page, in the order in which they happened.
///
/// # Errors
/// When the trace cannot be read, or touches more than a million pages.
pub fn first_touches<R: Read + Seek>(
    trace: &mut Trace<R>,
    instructions: &RangeInclusive<u64>,
) -> Result<Vec<FirstTouch>, QueryError> {
    let (mut seen, mut rows) = (HashSet::new(), Vec::new());
    trace.visit(instructions, |access| {
        let page = access.physical_address >> 12;
        if seen.insert(page) {
            rows.push(FirstTouch { page, access: *access });
        }
        if rows.len() > QUERY_ROWS_MAX { Err(QueryError::TooManyRows) } else { Ok(()) }
    })?;
    Ok(rows)
}

/// The writes to any byte of `addresses`, in order.
///
/// # Errors
/// When the trace cannot be read, or all writers are asked for and there are more than a million.
pub fn writers<R: Read + Seek>(
    trace: &mut Trace<R>,
    instructions: &RangeInclusive<u64>,
    (space, addresses): (Space, &Range<u64>),
    wanted: Writers,
) -> Result<Vec<Write>, QueryError> {
    let values = trace.header().values;
    let mut rows = VecDeque::new();
    trace.visit(instructions, |access| {
        let start = match space {
            Space::Virtual => access.virtual_address,
            Space::Physical => access.physical_address,
        };
        let is_before = start.saturating_add(u64::from(access.size)) <= addresses.start;
        if access.kind == AccessKind::Read || start >= addresses.end || is_before {
            return Ok(());
        }
        rows.push_back(Write { access: *access, values });
        match wanted {
            Writers::Last(most) if rows.len() > most => drop(rows.pop_front()),
            _ if rows.len() > QUERY_ROWS_MAX => return Err(QueryError::TooManyRows),
            _ => {}
        }
        Ok(())
    })?;
    Ok(rows.into())
}
