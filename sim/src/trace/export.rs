//! Exporting a trace: the same accesses in a plain Parquet file, one column for each thing, for programs that know
//! nothing of the arrangement.

use crate::limits::TRACE_GROUP_ROWS;
use crate::observe::{Access, AccessKind};
use crate::trace::arrangement::halves;
use crate::trace::header::{SIMULATOR, TraceHeader, Values};
use crate::trace::reader::{ReadError, Trace};
use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType, ZstdLevel};
use parquet::data_type::{BoolType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use std::io::{Read, Seek, Write};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What was exported.
#[derive(Debug)]
pub struct Exported<W> {
    /// Where it was written to, flushed.
    pub output: W,
    /// Accesses written.
    pub accesses: u64,
}

/// Why nothing whole was exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The trace.
    #[error("trace")]
    Read(#[from] ReadError),
    /// The output failed, or the Parquet writer.
    #[error("plain file cannot be written")]
    Parquet(#[from] ParquetError),
}

/// Writes the accesses by instructions whose numbers are in `instructions` as a plain Parquet file: `instruction`,
/// `rip`, `virtual_address`, `physical_address` (64 bits without sign), `size` (8 bits without sign), `is_write`
/// (boolean), and of a trace with values `value` and `value_high` (64 bits without sign: the first and the other eight
/// bytes, little-endian). At most one row group of either file is in memory.
///
/// # Errors
/// When the trace cannot be read or the output not written.
pub fn export<R: Read + Seek, W: Write + Send>(
    trace: &mut Trace<R>,
    instructions: &RangeInclusive<u64>,
    output: W,
) -> Result<Exported<W>, ExportError> {
    let header = trace.header().clone();
    let properties = WriterProperties::builder()
        .set_created_by(SIMULATOR.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_max_row_group_row_count(None)
        .build();
    let schema = Arc::new(schema(header.values)?);
    let mut file = SerializedFileWriter::new(output, schema, Arc::new(properties))?;
    let mut pending: Vec<Access> = Vec::with_capacity(TRACE_GROUP_ROWS);
    let mut accesses = 0;
    trace.visit(instructions, |access| {
        pending.push(*access);
        accesses += 1;
        if pending.len() == TRACE_GROUP_ROWS {
            write_group(&mut file, &pending, header.values)?;
            pending.clear();
        }
        Ok::<_, ExportError>(())
    })?;
    if !pending.is_empty() {
        write_group(&mut file, &pending, header.values)?;
    }
    for (key, text) in origin(&header) {
        file.append_key_value_metadata(KeyValue::new(key.to_owned(), text));
    }
    let mut output = file.into_inner()?;
    output.flush().map_err(ParquetError::from)?;
    Ok(Exported { output, accesses })
}

/// Where an exported file comes from. It has no seal: it is no trace.
fn origin(header: &TraceHeader) -> [(&'static str, String); 5] {
    [
        ("pageswarm.lineage", header.subject.lineage.to_string()),
        ("pageswarm.interval", header.subject.interval.to_string()),
        ("pageswarm.input_root", header.subject.input_root.to_string()),
        ("pageswarm.end_root", header.end_root.to_string()),
        ("pageswarm.simulator", header.simulator.clone()),
    ]
}

fn schema(values: Values) -> Result<Type, ParquetError> {
    let field = |name: &str, kind: PhysicalType, meaning: Option<LogicalType>| {
        Type::primitive_type_builder(name, kind)
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type(meaning)
            .build()
            .map(Arc::new)
    };
    let number = |name| field(name, PhysicalType::INT64, Some(LogicalType::integer(64, false)));
    let mut fields = vec![
        number("instruction")?,
        number("rip")?,
        number("virtual_address")?,
        number("physical_address")?,
        field("size", PhysicalType::INT32, Some(LogicalType::integer(8, false)))?,
        field("is_write", PhysicalType::BOOLEAN, None)?,
    ];
    if values == Values::Kept {
        fields.extend([number("value")?, number("value_high")?]);
    }
    Type::group_type_builder("accesses").with_fields(fields).build()
}

fn write_group<W: Write + Send>(
    file: &mut SerializedFileWriter<W>,
    rows: &[Access],
    values: Values,
) -> Result<(), ParquetError> {
    let mut group = file.next_row_group()?;
    let numbers: [fn(&Access) -> i64; 4] = [
        |access| access.instruction.cast_signed(),
        |access| access.rip.cast_signed(),
        |access| access.virtual_address.cast_signed(),
        |access| access.physical_address.cast_signed(),
    ];
    for number in numbers {
        write_column::<Int64Type, _>(&mut group, rows, number)?;
    }
    write_column::<Int32Type, _>(&mut group, rows, |access| i32::from(access.size))?;
    write_column::<BoolType, _>(&mut group, rows, |access| access.kind == AccessKind::Write)?;
    if values == Values::Kept {
        write_column::<Int64Type, _>(&mut group, rows, |access| halves(access.value)[0].cast_signed())?;
        write_column::<Int64Type, _>(&mut group, rows, |access| halves(access.value)[1].cast_signed())?;
    }
    group.close()?;
    Ok(())
}

fn write_column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[Access],
    what: fn(&Access) -> T::T,
) -> Result<(), ParquetError> {
    let column: Vec<T::T> = rows.iter().map(what).collect();
    let mut writer = group.next_column()?.expect("the schema has as many columns");
    writer.typed::<T>().write_batch(&column, None, None)?;
    writer.close()
}
