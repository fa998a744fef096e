//! `pageswarm sim debug`: recorded intervals under gdb.

use std::path::PathBuf;

use pageswarm_checkpoint::CheckpointIndex;
use pageswarm_machine::{Workload, guest};
use pageswarm_sim::debug::{Ended, RecordedInterval, Session, Source, loopback, serve};
use tokio::runtime::Handle;

use super::print;
use super::recorded::{IntervalArgs, Recorded};
use super::sim::blocking;
use crate::api::error::code_of;
use crate::exit::{ExitCode, Failure};
use crate::recording::{Recording, WORK_MAX};
use crate::report;

/// What to debug.
#[derive(Debug, clap::Args)]
pub struct DebugArgs {
    /// Whose intervals.
    #[command(flatten)]
    pub of: IntervalArgs,
    /// The interval to begin in, by the index of the checkpoint that it begins with.
    #[arg(long, value_parser = clap::value_parser!(u64).range(..u64::MAX))]
    pub interval: u64,
    /// TCP port on 127.0.0.1; 0 takes a free one. Whoever reaches it reads all of the guest's memory.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// The guest runs this workload: gdb gets its symbols.
    #[arg(long, value_name = "NAME", conflicts_with = "program")]
    pub workload: Option<Workload>,
    /// The guest runs this ELF file: gdb gets its symbols.
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
}

/// The node's intervals of one lineage.
struct Intervals {
    recorded: Recorded,
    runtime: Handle,
    /// One after the last interval.
    end: u64,
    /// What was asked for last: a session asks for an interval and for its RAM one after the other.
    last: Option<(Recording, Vec<u8>)>,
}

impl Intervals {
    fn get(&mut self, index: CheckpointIndex) -> Result<&(Recording, Vec<u8>), Failure> {
        if self.last.as_ref().is_none_or(|(recording, _)| recording.interval != index) {
            self.last = None;
            let got = self.runtime.block_on(self.recorded.get(index.0))?;
            self.last = Some(got);
        }
        self.last.as_ref().ok_or_else(|| Failure::new(ExitCode::NotFound, "the interval is not there"))
    }
}

impl Source for Intervals {
    type Error = Failure;

    fn has(&self, index: CheckpointIndex) -> bool {
        index.0 < self.end
    }

    fn interval(&mut self, index: CheckpointIndex) -> Result<RecordedInterval, Failure> {
        let (recording, _) = self.get(index)?;
        let Recording { start, events, end, .. } = recording.clone();
        Ok(RecordedInterval { start, events, end, work_max: WORK_MAX })
    }

    fn ram(&mut self, index: CheckpointIndex) -> Result<Vec<u8>, Failure> {
        self.get(index).map(|(_, ram)| ram.clone())
    }
}

/// Carries out the command: serves one debugger after the other until one says that the session is over.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(args: DebugArgs) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(code_of(&error), error.to_string());
    let read = args.program.as_ref().map(std::fs::read).transpose().map_err(failed)?;
    let program = read.or_else(|| args.workload.map(|workload| guest::program(workload).to_vec()));
    let recorded = Recorded::open(&args.of).await?;
    let end = recorded.latest().await?.unwrap_or(0);
    if args.interval >= end {
        let message =
            format!("interval {} is not recorded: the latest checkpoint known here is {end}", args.interval);
        return Err(Failure::new(ExitCode::NotFound, message));
    }
    let intervals = Intervals { recorded, runtime: Handle::current(), end, last: None };
    blocking(move || serve_all(intervals, &args, program.as_deref())).await
}

fn serve_all(intervals: Intervals, args: &DebugArgs, program: Option<&[u8]>) -> Result<(), Failure> {
    let failed =
        |error: &(dyn std::error::Error + 'static)| Failure::new(code_of(error), report::chain(error));
    let mut session =
        Session::open(intervals, CheckpointIndex(args.interval)).map_err(|error| failed(&error))?;
    let listener = loopback(args.port).map_err(|error| failed(&error))?;
    let address = listener.local_addr().map_err(|error| failed(&error))?;
    print::line(&format!("interval {}: gdb -ex \"target remote {address}\"", args.interval))?;
    loop {
        let (stream, _) = listener.accept().map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        match serve(&mut session, stream, program) {
            Ok(Ended::Killed) => return print::line("the debugger ended the session"),
            Ok(Ended::Detached) => {
                print::line("the debugger detached; the next one finds the session where it is")?;
            }
            Err(error) => print::line(&format!("the debugger has gone: {}", report::chain(&error)))?,
        }
    }
}
