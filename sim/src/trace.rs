//! Traces: every access of an interval in one Parquet file, written while it is simulated and read row group by row
//! group. docs/format.md describes each column.
//!
//! - `arrangement`: what each column says, given what came before; the writer and the reader share it.
//! - `writer`: an [`Observer`](crate::Observer) that writes a trace.
//! - `reader`: traces as they are found on disk, where every byte may be wrong; `footer`, `page` and `thrift` take the
//!   file apart, within limits.
//! - `export`: the same accesses under plain names, one column for each thing.
//! - [`query`]: answers to the usual questions.
//!
//! The Parquet crate writes. It does not read: its readers allocate what a file claims, and this one must not.

mod arrangement;
mod columns;
mod export;
mod footer;
mod header;
mod page;
pub mod query;
mod reader;
mod thrift;
mod writer;

pub use export::{ExportError, Exported, export};
pub use header::{HeaderError, SIMULATOR, TraceHeader, TraceSubject, Values};
pub use page::PageError;
pub use reader::{ColumnName, ReadError, Trace};
pub use thrift::ThriftError;
pub use writer::{Finished, TraceDigest, TraceOptions, TraceWriter, WriteError};
