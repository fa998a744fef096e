//! Writing a trace: an observer that arranges what it sees and writes a row group whenever one is full.
//!
//! An observer cannot fail, so the first failure is kept, what follows is not looked at, and [`TraceWriter::finish`]
//! reports it. A file that was not finished has no footer and is no Parquet file.

use crate::limits::{TRACE_GROUP_ROWS, TRACE_GROUPS_MAX, TRACE_PAGE_BYTES_MAX};
use crate::observe::{Access, Observer};
use crate::trace::arrangement::{Arrangement, Column};
use crate::trace::columns::Columns;
use crate::trace::header::{self, Group, SIMULATOR, TraceHeader, TraceSubject, Values};
use pageswarm_checkpoint::StateRoot;
use parquet::basic::{Compression, Encoding, LogicalType, Repetition, Type as PhysicalType, ZstdLevel};
use parquet::data_type::Int64Type;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type};
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Accesses that are collected before they are arranged.
const PENDING: usize = 1024;

/// How to write a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceOptions {
    /// Whether with values.
    pub values: Values,
    /// Bytes after which the file is given up, checked after each row group.
    pub bytes_max: u64,
}

/// BLAKE3-256 of a whole trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceDigest(pub [u8; 32]);

impl fmt::Display for TraceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        blake3::Hash::from_bytes(self.0).to_hex().fmt(f)
    }
}

/// A trace that was written to its end.
#[derive(Debug)]
pub struct Finished<W> {
    /// Where it was written to.
    pub output: W,
    /// Of all its bytes.
    pub digest: TraceDigest,
    /// Its bytes.
    pub bytes: u64,
    /// Accesses in it.
    pub accesses: u64,
}

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output failed, or the Parquet writer.
    #[error("trace cannot be written")]
    Parquet(#[from] ParquetError),
    /// The output failed.
    #[error("trace cannot be written")]
    Output(#[from] io::Error),
    /// More bytes than allowed.
    #[error("trace has more than {bytes_max} bytes after {accesses} accesses")]
    TooLarge {
        /// The limit.
        bytes_max: u64,
        /// Accesses written until then.
        accesses: u64,
    },
    /// More accesses than a trace can have.
    #[error("interval has more accesses than the {most} that a trace can have")]
    TooLong {
        /// The limit.
        most: u64,
    },
}

/// Passes bytes on and digests them.
#[derive(Debug)]
struct Digested<W> {
    output: W,
    bytes: u64,
    file: blake3::Hasher,
    group: blake3::Hasher,
    group_start: u64,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        let done = &bytes[..written];
        self.file.update(done);
        self.group.update(done);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl<W> Digested<W> {
    /// Length and digest of what came since this was called last.
    fn take_group(&mut self) -> (u64, [u8; 32]) {
        let taken = (self.bytes - self.group_start, *self.group.finalize().as_bytes());
        self.group.reset();
        self.group_start = self.bytes;
        taken
    }
}

/// Writes the accesses that it observes. Holds 20 MiB.
#[derive(Debug)]
pub struct TraceWriter<W: Write> {
    pending: Vec<Access>,
    arrangement: Arrangement,
    columns: Columns,
    file: SerializedFileWriter<Digested<W>>,
    groups: Vec<Group>,
    accesses: u64,
    subject: TraceSubject,
    options: TraceOptions,
    failure: Option<WriteError>,
    has_failed: Arc<AtomicBool>,
}

impl<W: Write + Send> TraceWriter<W> {
    /// Begins a trace. `output` gets large writes and needs no buffer.
    ///
    /// # Errors
    /// When the output fails.
    pub fn new(output: W, subject: TraceSubject, options: TraceOptions) -> Result<Self, WriteError> {
        let output = Digested {
            output,
            bytes: 0,
            file: blake3::Hasher::new(),
            group: blake3::Hasher::new(),
            group_start: 0,
        };
        let (schema, properties) = (schema(options.values)?, properties(options.values)?);
        let mut file = SerializedFileWriter::new(output, Arc::new(schema), Arc::new(properties))?;
        file.flush()?;
        file.inner_mut().take_group();
        Ok(Self {
            pending: Vec::with_capacity(PENDING),
            arrangement: Arrangement::new(options.values),
            columns: Columns::new(options.values),
            file,
            groups: Vec::new(),
            accesses: 0,
            subject,
            options,
            failure: None,
            has_failed: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Becomes true when the trace has failed, so that a simulation for its sake need not go on.
    #[must_use]
    pub fn failure_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_failed)
    }

    /// Ends the trace of a simulation that arrived at `end_root`, and flushes the output.
    ///
    /// # Errors
    /// When anything failed since the beginning. The file is then no trace.
    pub fn finish(mut self, end_root: StateRoot) -> Result<Finished<W>, WriteError> {
        self.arrange();
        if self.failure.is_none()
            && let Err(error) = self.write_group()
        {
            self.failure = Some(error);
        }
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let header = TraceHeader {
            subject: self.subject,
            end_root,
            simulator: SIMULATOR.to_owned(),
            values: self.options.values,
            accesses: self.accesses,
        };
        for (key, text) in header::entries(&header, &self.groups) {
            self.file.append_key_value_metadata(KeyValue::new(key.to_owned(), text));
        }
        let mut output = self.file.into_inner()?;
        output.flush()?;
        let digest = TraceDigest(*output.file.finalize().as_bytes());
        Ok(Finished { output: output.output, digest, bytes: output.bytes, accesses: self.accesses })
    }

    /// Arranges what is pending.
    #[cold]
    #[inline(never)]
    fn arrange(&mut self) {
        let mut left = self.pending.as_slice();
        while !left.is_empty() && self.failure.is_none() {
            left = self.columns.fill(&mut self.arrangement, left);
            if self.columns.rows() == TRACE_GROUP_ROWS
                && let Err(error) = write_group(
                    &mut self.file,
                    (&mut self.columns, &mut self.arrangement),
                    &mut self.groups,
                    &mut self.accesses,
                    self.options,
                )
            {
                self.failure = Some(error);
                self.has_failed.store(true, Ordering::Relaxed);
            }
        }
        self.pending.clear();
    }

    fn write_group(&mut self) -> Result<(), WriteError> {
        let filled = (&mut self.columns, &mut self.arrangement);
        write_group(&mut self.file, filled, &mut self.groups, &mut self.accesses, self.options)
    }
}

impl<W: Write + Send> Observer for TraceWriter<W> {
    #[inline(always)]
    fn access(&mut self, access: Access) {
        if self.pending.len() == PENDING {
            self.arrange();
        }
        self.pending.push(access);
    }
}

/// Writes the columns as a row group, if there are rows, and clears them.
fn write_group<W: Write + Send>(
    file: &mut SerializedFileWriter<Digested<W>>,
    (columns, arrangement): (&mut Columns, &mut Arrangement),
    groups: &mut Vec<Group>,
    accesses: &mut u64,
    options: TraceOptions,
) -> Result<(), WriteError> {
    if columns.rows() == 0 {
        return Ok(());
    }
    if groups.len() == TRACE_GROUPS_MAX {
        return Err(WriteError::TooLong { most: (TRACE_GROUPS_MAX * TRACE_GROUP_ROWS) as u64 });
    }
    let mut group = file.next_row_group()?;
    for (levels, numbers) in columns.filled() {
        let mut column = group.next_column()?.expect("the schema has as many columns");
        column.typed::<Int64Type>().write_batch(numbers, Some(levels), None)?;
        column.close()?;
    }
    group.close()?;
    file.flush()?;
    let (bytes, digest) = file.inner_mut().take_group();
    groups.push(Group { rows: columns.rows(), bytes, instructions: columns.instructions(), digest });
    *accesses += columns.rows() as u64;
    columns.clear();
    arrangement.restart();
    let bytes_max = options.bytes_max;
    if file.inner().bytes > bytes_max {
        return Err(WriteError::TooLarge { bytes_max, accesses: *accesses });
    }
    Ok(())
}

fn schema(values: Values) -> Result<Type, ParquetError> {
    let field = |column: &Column| {
        let is_signed = *column == Column::Physical;
        Type::primitive_type_builder(column.name(), PhysicalType::INT64)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(Some(LogicalType::integer(64, is_signed)))
            .build()
            .map(Arc::new)
    };
    let fields = Column::of(values).iter().map(field).collect::<Result<_, _>>()?;
    Type::group_type_builder("trace").with_fields(fields).build()
}

fn properties(values: Values) -> Result<WriterProperties, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_created_by(SIMULATOR.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_data_page_size_limit(TRACE_PAGE_BYTES_MAX)
        .set_data_page_row_count_limit(TRACE_GROUP_ROWS)
        .set_write_batch_size(TRACE_GROUP_ROWS)
        .set_max_row_group_row_count(None);
    for column in Column::of(values) {
        let path = ColumnPath::from(column.name());
        let encoding = if column.is_split() { Encoding::BYTE_STREAM_SPLIT } else { Encoding::PLAIN };
        properties = properties.set_column_encoding(path.clone(), encoding);
        if *column == Column::Value {
            // Nearly all bytes of a trace are in it, and the higher level's longer window finds copies of pages.
            let level = Compression::ZSTD(ZstdLevel::try_new(3)?);
            properties = properties.set_column_compression(path, level);
        }
    }
    Ok(properties.build())
}
