//! A Parquet file's footer, as far as a trace needs it: how many rows it claims, and the texts beside them.

use crate::limits::{TRACE_ENTRIES_MAX, TRACE_GROUPS_MAX};
use crate::trace::thrift::{Thrift, ThriftError};
use std::collections::BTreeMap;

/// What a footer says.
#[derive(Debug, Default)]
pub(crate) struct Footer<'a> {
    pub(crate) rows: i64,
    pub(crate) group_rows: Vec<i64>,
    /// Entries that are UTF-8 text, each key once.
    pub(crate) entries: BTreeMap<&'a str, &'a str>,
}

/// Reads `FileMetaData`.
pub(crate) fn parse(bytes: &[u8]) -> Result<Footer<'_>, ThriftError> {
    let (mut thrift, mut last, mut footer) = (Thrift::new(bytes), 0, Footer::default());
    while let Some(field) = thrift.field(&mut last)? {
        match field.id {
            3 => footer.rows = thrift.number(field)?,
            // Each list comes once, so that its limit is the footer's.
            4 if footer.group_rows.is_empty() => {
                let groups = limited(thrift.structures(field)?, TRACE_GROUPS_MAX)?;
                for _ in 0..groups {
                    footer.group_rows.push(group_rows(&mut thrift)?);
                }
            }
            5 if footer.entries.is_empty() => {
                let entries = limited(thrift.structures(field)?, TRACE_ENTRIES_MAX)?;
                for _ in 0..entries {
                    if let Some((key, text)) = entry(&mut thrift)?
                        && footer.entries.insert(key, text).is_some()
                    {
                        return Err(ThriftError::Kind);
                    }
                }
            }
            4 | 5 => return Err(ThriftError::Kind),
            _ => thrift.skip(field)?,
        }
    }
    Ok(footer)
}

fn limited(length: u64, most: usize) -> Result<u64, ThriftError> {
    if length > most as u64 { Err(ThriftError::Number) } else { Ok(length) }
}

/// `num_rows` of a `RowGroup`.
fn group_rows(thrift: &mut Thrift<'_>) -> Result<i64, ThriftError> {
    let (mut last, mut rows) = (0, 0);
    while let Some(field) = thrift.field(&mut last)? {
        match field.id {
            3 => rows = thrift.number(field)?,
            _ => thrift.skip(field)?,
        }
    }
    Ok(rows)
}

/// A `KeyValue`, if both are text.
fn entry<'a>(thrift: &mut Thrift<'a>) -> Result<Option<(&'a str, &'a str)>, ThriftError> {
    let (mut last, mut key, mut text) = (0, None, None);
    while let Some(field) = thrift.field(&mut last)? {
        match field.id {
            1 => key = std::str::from_utf8(thrift.binary(field)?).ok(),
            2 => text = std::str::from_utf8(thrift.binary(field)?).ok(),
            _ => thrift.skip(field)?,
        }
    }
    Ok(key.zip(text))
}
