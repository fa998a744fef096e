//! Pages of a column, taken apart within limits: which rows it speaks in, and what it says.

use crate::limits::TRACE_PAGE_BYTES_MAX;
use crate::trace::thrift::{Field, Thrift, ThriftError};
use zstd_safe::DCtx;

const DATA_PAGE: i64 = 0;
const PLAIN: i64 = 0;
const LEVELS: i64 = 3;
const BYTE_STREAM_SPLIT: i64 = 9;

/// Why a page cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// Its header is malformed.
    #[error("header")]
    Header(#[from] ThriftError),
    /// It is of a kind that no trace has, or larger or longer than any.
    #[error("is not a page of a trace")]
    Kind,
    /// Fewer bytes than its header says.
    #[error("is cut short")]
    Short,
    /// What was compressed is something else than its header says.
    #[error("does not decompress to what its header says")]
    Compression,
    /// Levels or numbers are more or fewer than its header says.
    #[error("has another number of levels or of numbers than its header says")]
    Count,
}

/// A column's rows, as they come from its pages.
#[derive(Debug, Default)]
pub(crate) struct Spoken {
    /// Where it speaks.
    pub(crate) levels: Vec<bool>,
    /// What it says there.
    pub(crate) numbers: Vec<u64>,
}

/// What is kept between pages.
pub(crate) struct Pages {
    context: DCtx<'static>,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pages").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Header {
    kind: i64,
    decoded_bytes: i64,
    encoded_bytes: i64,
    rows: i64,
    encoding: i64,
    levels: i64,
}

impl Pages {
    pub(crate) fn new() -> Self {
        Self { context: DCtx::create(), bytes: Vec::new() }
    }

    /// Bytes of the largest page so far.
    #[cfg(test)]
    pub(crate) fn bytes_held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Reads pages from the front of `bytes` until `spoken` has `rows` rows, and gives back what is left.
    pub(crate) fn read<'a>(
        &mut self,
        mut bytes: &'a [u8],
        rows: usize,
        spoken: &mut Spoken,
    ) -> Result<&'a [u8], PageError> {
        spoken.levels.clear();
        spoken.numbers.clear();
        while spoken.levels.len() < rows {
            bytes = self.page(bytes, rows - spoken.levels.len(), spoken)?;
        }
        Ok(bytes)
    }

    fn page<'a>(
        &mut self,
        bytes: &'a [u8],
        rows_max: usize,
        spoken: &mut Spoken,
    ) -> Result<&'a [u8], PageError> {
        let mut thrift = Thrift::new(bytes);
        let header = Header::parse(&mut thrift)?;
        let decoded = limited(header.decoded_bytes, TRACE_PAGE_BYTES_MAX)?;
        let rows = limited(header.rows, rows_max)?;
        if header.kind != DATA_PAGE || header.levels != LEVELS || rows == 0 {
            return Err(PageError::Kind);
        }
        let encoded = usize::try_from(header.encoded_bytes).map_err(|_| PageError::Kind)?;
        let (page, left) = thrift.left().split_at_checked(encoded).ok_or(PageError::Short)?;
        self.bytes.resize(decoded, 0);
        let done = self.context.decompress(self.bytes.as_mut_slice(), page);
        if done != Ok(decoded) {
            return Err(PageError::Compression);
        }
        let (length, rest) = self.bytes.split_first_chunk().ok_or(PageError::Count)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (levels, numbers) = rest.split_at_checked(length).ok_or(PageError::Count)?;
        let present = take_levels(levels, rows, &mut spoken.levels)?;
        take_numbers(numbers, header.encoding, present, &mut spoken.numbers)?;
        Ok(left)
    }
}

fn limited(number: i64, most: usize) -> Result<usize, PageError> {
    usize::try_from(number).ok().filter(|number| *number <= most).ok_or(PageError::Kind)
}

impl Header {
    /// `PageHeader`.
    fn parse(thrift: &mut Thrift<'_>) -> Result<Self, ThriftError> {
        let (mut last, mut header) = (0, Self { kind: -1, encoding: -1, levels: -1, ..Self::default() });
        while let Some(field) = thrift.field(&mut last)? {
            match field.id {
                1 => header.kind = thrift.number(field)?,
                2 => header.decoded_bytes = thrift.number(field)?,
                3 => header.encoded_bytes = thrift.number(field)?,
                5 => header.data_page(thrift, field)?,
                _ => thrift.skip(field)?,
            }
        }
        Ok(header)
    }

    /// `DataPageHeader`.
    fn data_page(&mut self, thrift: &mut Thrift<'_>, field: Field) -> Result<(), ThriftError> {
        field.structure()?;
        let mut last = 0;
        while let Some(field) = thrift.field(&mut last)? {
            match field.id {
                1 => self.rows = thrift.number(field)?,
                2 => self.encoding = thrift.number(field)?,
                3 => self.levels = thrift.number(field)?,
                _ => thrift.skip(field)?,
            }
        }
        Ok(())
    }
}

/// Levels of one bit: runs of one level, and stretches of eight levels a byte, lowest bit first. Gives how many are 1.
fn take_levels(bytes: &[u8], rows: usize, levels: &mut Vec<bool>) -> Result<usize, PageError> {
    let mut thrift = Thrift::new(bytes);
    let (mut missing, mut present) = (rows, 0);
    while missing > 0 {
        let head = thrift.varint()?;
        let length = usize::try_from(head >> 1).map_err(|_| PageError::Count)?;
        if length == 0 {
            return Err(PageError::Count);
        }
        if head & 1 == 0 {
            let (&[level], left) = thrift.left().split_first_chunk().ok_or(PageError::Count)?;
            if length > missing || level > 1 {
                return Err(PageError::Count);
            }
            levels.resize(levels.len() + length, level == 1);
            missing -= length;
            present += length * usize::from(level);
            thrift = Thrift::new(left);
        } else {
            let (packed, left) = thrift.left().split_at_checked(length).ok_or(PageError::Count)?;
            for &byte in packed {
                let eight = missing.min(8);
                levels.extend((0..eight).map(|bit| byte >> bit & 1 == 1));
                let counted = if eight == 8 { byte } else { byte & ((1 << eight) - 1) };
                present += counted.count_ones() as usize;
                missing -= eight;
            }
            thrift = Thrift::new(left);
        }
    }
    if thrift.left().is_empty() { Ok(present) } else { Err(PageError::Count) }
}

/// Numbers of 64 bits, one after the other or byte by byte.
fn take_numbers(
    bytes: &[u8],
    encoding: i64,
    present: usize,
    numbers: &mut Vec<u64>,
) -> Result<(), PageError> {
    if bytes.len() != present * 8 {
        return Err(PageError::Count);
    }
    match encoding {
        PLAIN => numbers.extend(bytes.as_chunks().0.iter().map(|number| u64::from_le_bytes(*number))),
        BYTE_STREAM_SPLIT => {
            let mut streams = [&bytes[..0]; 8];
            let mut left = bytes;
            for stream in &mut streams {
                (*stream, left) = left.split_at(present);
            }
            let whole = |row: usize| u64::from_le_bytes(streams.map(|stream| stream[row]));
            numbers.extend((0..present).map(whole));
        }
        _ => return Err(PageError::Kind),
    }
    Ok(())
}
