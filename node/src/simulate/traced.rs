//! Simulating with a trace of every access to memory, in a file of the node's directory.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use pageswarm_checkpoint::LineageId;
use pageswarm_sim::Memory;
use pageswarm_sim::trace::{TraceOptions, TraceSubject, TraceWriter, Values};
use serde::{Deserialize, Serialize};

use super::{SimulateError, Simulated, run};
use crate::recording::Recording;

/// That a trace is taken, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracing {
    /// Whether with what was read and written.
    pub values: bool,
    /// Bytes after which the trace is given up, and with it the simulation.
    pub bytes_max: u64,
}

/// A trace that was taken of a simulation whose end is its checkpoint.
#[derive(Debug)]
pub struct TakenTrace {
    /// The file, written to its end. It has no name, so that nothing is left of it, however this process ends.
    pub file: File,
    /// BLAKE3-256 of it.
    pub digest: [u8; 32],
    /// Its length.
    pub bytes: u64,
    /// Accesses in it.
    pub accesses: u64,
}

impl Tracing {
    /// What a result names as the options of its simulation.
    #[must_use]
    pub const fn options(self) -> &'static [u8] {
        if self.values { b"trace with values" } else { b"trace without values" }
    }
}

/// Simulates an interval in `memory` and writes its accesses to a new file in `directory`.
pub(super) fn run_traced<M: Memory>(
    (lineage, recording): (LineageId, &Recording),
    memory: M,
    (tracing, directory): (Tracing, &Path),
    stop: &AtomicBool,
) -> Result<(Simulated, M, TakenTrace), SimulateError> {
    let file = tempfile::tempfile_in(directory).map_err(SimulateError::TraceFile)?;
    let subject = TraceSubject { lineage, interval: recording.interval, input_root: recording.start_root };
    let values = if tracing.values { Values::Kept } else { Values::Omitted };
    let options = TraceOptions { values, bytes_max: tracing.bytes_max };
    let writer = TraceWriter::new(BufWriter::new(file), subject, options)?;
    let full = writer.failure_flag();
    let ran =
        run(recording, memory, writer, || !stop.load(Ordering::Relaxed) && !full.load(Ordering::Relaxed));
    let (simulated, memory, writer) = ran.map_err(|error| {
        // The writer went with the simulation: what it says of itself is lost.
        let is_cut = full.load(Ordering::Relaxed);
        if is_cut { SimulateError::TraceCut { bytes_max: tracing.bytes_max } } else { error }
    })?;
    let finished = writer.finish(recording.end_root)?;
    let mut output = finished.output;
    output.flush().map_err(SimulateError::TraceFile)?;
    let file = output.into_inner().map_err(|error| SimulateError::TraceFile(error.into_error()))?;
    let taken =
        TakenTrace { file, digest: finished.digest.0, bytes: finished.bytes, accesses: finished.accesses };
    Ok((simulated, memory, taken))
}
