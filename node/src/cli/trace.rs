//! `pageswarm trace`: every access to memory of an interval, as a file.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek as _, Write as _};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Subcommand, ValueEnum};
use pageswarm_checkpoint::LineageId;
use pageswarm_sim::trace::query::{self, Cell, PageOrder, Row, Space, Writers};
use pageswarm_sim::trace::{Trace, TraceOptions, TraceSubject, TraceWriter, Values, export};
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use super::checkpoint::resolve;
use super::recorded::{self, IntervalArgs, Recorded};
use super::sim::blocking;
use super::{NodeArgs, print, values};
use crate::api::client::Client;
use crate::api::error::code_of;
use crate::api::traces::{FetchedTraceView, TraceRequest, TraceView};
use crate::exit::{ExitCode, Failure};
use crate::recording::Recording;
use crate::report;

/// `pageswarm trace`.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Simulate an interval and write its accesses to a file; written only if its end is the next checkpoint.
    Record(RecordArgs),
    /// List the traces that workers offer of a lineage's intervals.
    Ls(LsArgs),
    /// Fetch a trace that a worker offers from whoever has its chunks, and write it to a file.
    Get(GetArgs),
    /// Write a trace as plain Parquet for DuckDB, Polars and others: one row an access, one column a field.
    Export(ExportArgs),
    /// Say what a trace is of.
    Show(ShowArgs),
    /// Ask a trace.
    Query(QueryArgs),
}

/// What to trace.
#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// Whose interval.
    #[command(flatten)]
    pub of: IntervalArgs,
    /// The interval, by the index of the checkpoint that it begins with.
    #[arg(value_parser = clap::value_parser!(u64).range(..u64::MAX))]
    pub interval: u64,
    /// The file to write.
    pub output: PathBuf,
    /// Leave out what was read and written: the file is an order of magnitude smaller.
    #[arg(long)]
    pub without_values: bool,
    /// Give up when the file would be larger, such as 10GiB.
    #[arg(long, value_name = "BYTES", value_parser = values::size, default_value = "16GiB")]
    pub size_max: u64,
}

/// Whose traces.
#[derive(Debug, clap::Args)]
pub struct LsArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The lineage, or the first digits of its name if no other starts so.
    pub lineage: String,
}

/// What to fetch.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// Whose interval.
    #[command(flatten)]
    pub of: IntervalArgs,
    /// The interval, by the index of the checkpoint that it begins with.
    #[arg(value_parser = clap::value_parser!(u64).range(..u64::MAX))]
    pub interval: u64,
    /// The file to write.
    pub output: PathBuf,
    /// The worker whose trace it is to be, by its whole name; any, if none is named.
    #[arg(long)]
    pub worker: Option<String>,
}

/// What to export.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The trace.
    pub trace: PathBuf,
    /// The file to write.
    pub output: PathBuf,
    /// Only accesses by these instructions, counted from the interval's start, such as 1000..2000.
    #[arg(long, value_name = "RANGE", value_parser = values::range)]
    pub instructions: Option<Range<u64>>,
}

/// Which trace.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// The trace.
    pub trace: PathBuf,
    /// Print JSON instead of text for people.
    #[arg(long)]
    pub json: bool,
}

/// What to ask.
#[derive(Debug, clap::Args)]
pub struct QueryArgs {
    /// The trace.
    pub trace: PathBuf,
    /// The question.
    #[arg(value_enum)]
    pub question: Question,
    /// Only accesses by these instructions, counted from the interval's start, such as 1000..2000.
    #[arg(long, value_name = "RANGE", value_parser = values::range)]
    pub instructions: Option<Range<u64>>,
    /// Rows at most; of writers the last ones.
    #[arg(long, default_value_t = 20)]
    pub top: usize,
    /// The virtual addresses whose writers are asked for, such as 0x100000..0x100008.
    #[arg(long, value_name = "RANGE", value_parser = values::range, conflicts_with = "physical")]
    pub addresses: Option<Range<u64>>,
    /// The same, guest-physical.
    #[arg(long, value_name = "RANGE", value_parser = values::range)]
    pub physical: Option<Range<u64>>,
    /// Print JSON instead of text for people.
    #[arg(long)]
    pub json: bool,
}

/// A question to a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Question {
    /// Which instructions access memory most often.
    Instructions,
    /// Which pages are accessed most often.
    Pages,
    /// Which pages are written most often.
    WrittenPages,
    /// When and by whom each page was touched first.
    FirstTouches,
    /// Who wrote to an address.
    Writers,
}

/// Carries out the command.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(command: TraceCommand) -> Result<(), Failure> {
    match command {
        TraceCommand::Record(args) => record(args).await,
        TraceCommand::Ls(args) => list(args).await,
        TraceCommand::Get(args) => get(args).await,
        TraceCommand::Export(args) => blocking(move || export_plain(&args)).await,
        TraceCommand::Show(args) => blocking(move || show(&args)).await,
        TraceCommand::Query(args) => blocking(move || ask(&args)).await,
    }
}

async fn list(args: LsArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node.dir);
    let lineage = resolve(&client, &args.lineage).await?;
    let views: Vec<TraceView> = client.get(&format!("/api/v1/lineages/{lineage}/traces")).await?;
    if args.node.json {
        return print::json(&views);
    }
    let mut rows =
        vec![["interval", "worker", "options", "bytes", "BLAKE3", "artefacts"].map(str::to_owned).to_vec()];
    let short = |name: &str| name.chars().take(10).collect::<String>();
    rows.extend(views.iter().map(|view| {
        vec![
            view.interval.to_string(),
            short(&view.worker),
            view.options.clone(),
            view.bytes.to_string(),
            short(&view.digest),
            format!("{} {}", short(&view.artefacts), view.index),
        ]
    }));
    print::line(print::table(&rows).trim_end())
}

async fn get(args: GetArgs) -> Result<(), Failure> {
    let client = Client::new(&args.of.node.dir);
    let lineage = resolve(&client, &args.of.lineage).await?;
    let request = TraceRequest {
        lineage,
        interval: args.interval,
        output: std::path::absolute(&args.output).map_err(|error| failed(&error))?,
        worker: args.worker,
        patience_ms: u64::try_from(args.of.patience.as_millis()).ok(),
    };
    let view: FetchedTraceView = client.post("/api/v1/traces/fetch", &request).await?;
    if args.of.node.json {
        return print::json(&view);
    }
    print::line(&format!(
        "interval {}: {} of worker {}, {} bytes, BLAKE3 {}; {} chunks were lacking, {} ms to fetch",
        view.trace.interval,
        view.trace.options,
        view.trace.worker,
        view.trace.bytes,
        view.trace.digest,
        view.lacked_chunks,
        view.fetch_ms
    ))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::new(code_of(error), report::chain(error))
}

fn open(path: &Path) -> Result<Trace<BufReader<File>>, Failure> {
    let name =
        |failure: Failure| Failure::new(failure.code, format!("{}: {}", path.display(), failure.message));
    let file = File::open(path).map_err(|error| name(failed(&error)))?;
    Trace::open(BufReader::new(file)).map_err(|error| name(failed(&error)))
}

/// A file beside `output` that takes its place when it is whole.
fn partial(output: &Path) -> Result<NamedTempFile, Failure> {
    let directory = output.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = NamedTempFile::with_prefix_in(".trace-", directory);
    made.map_err(|error| Failure::new(code_of(&error), format!("{}: {error}", directory.display())))
}

fn keep(file: NamedTempFile, output: &Path) -> Result<(), Failure> {
    file.as_file().sync_all().map_err(|error| failed(&error))?;
    let kept = file.persist(output);
    kept.map(drop).map_err(|error| {
        Failure::new(code_of(&error.error), format!("{}: {}", output.display(), error.error))
    })
}

async fn record(args: RecordArgs) -> Result<(), Failure> {
    let recorded = Recorded::open(&args.of).await?;
    let lineage: LineageId = recorded
        .lineage()
        .parse()
        .map_err(|_| Failure::new(ExitCode::Failed, "the node gave a lineage's name that is none"))?;
    let (recording, ram) = recorded.get(args.interval).await?;
    // An end by signal or a closed terminal leaves no thread behind that writes on.
    let abandoned = Arc::new(AtomicBool::new(false));
    let _guard = Abandon(Arc::clone(&abandoned));
    blocking(move || trace(&args, lineage, &recording, ram, &abandoned)).await
}

struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn trace(
    args: &RecordArgs,
    lineage: LineageId,
    recording: &Recording,
    ram: Vec<u8>,
    abandoned: &AtomicBool,
) -> Result<(), Failure> {
    let file = partial(&args.output)?;
    let subject = TraceSubject { lineage, interval: recording.interval, input_root: recording.start_root };
    let values = if args.without_values { Values::Omitted } else { Values::Kept };
    let options = TraceOptions { values, bytes_max: args.size_max };
    let writer = TraceWriter::new(BufWriter::new(file), subject, options).map_err(|error| failed(&error))?;
    let full = writer.failure_flag();
    let go_on = || !full.load(Ordering::Relaxed) && !abandoned.load(Ordering::Relaxed);
    let replayed = recorded::simulate(recording, ram, writer, go_on);
    let replayed = replayed.map_err(|failure| match full.load(Ordering::Relaxed) {
        true => no_room("the trace could not be written to its end", args.size_max),
        false => failure,
    })?;
    let instructions = replayed.instructions;
    let finished = replayed.observer.finish(recording.end_root);
    let finished = finished.map_err(|error| match failed(&error) {
        Failure { code: ExitCode::DiskFull, message } => no_room(&message, args.size_max),
        failure => failure,
    })?;
    let mut output = finished.output;
    output.flush().map_err(|error| failed(&error))?;
    let file = output.into_inner().map_err(|error| failed(error.error()))?;
    keep(file, &args.output)?;
    let (accesses, bytes) = (finished.accesses, finished.bytes);
    if args.of.node.json {
        return print::json(&json!({
            "interval": recording.interval.0, "instructions": instructions, "accesses": accesses, "bytes": bytes,
            "digest": hex::encode(finished.digest.0), "state_root": recording.end_root.to_string(),
        }));
    }
    print::line(&format!(
        "interval {}: exact, {instructions} instructions, {accesses} accesses in {bytes} bytes ({:.2} an access), \
         BLAKE3 {}",
        recording.interval,
        bytes as f64 / accesses.max(1) as f64,
        hex::encode(finished.digest.0)
    ))
}

fn no_room(what: &str, size_max: u64) -> Failure {
    let message = format!("{what}: give it room, or a larger --size-max than {size_max} bytes");
    Failure::new(ExitCode::DiskFull, message)
}

fn closed(range: Option<&Range<u64>>) -> RangeInclusive<u64> {
    range.map_or(query::ALL_INSTRUCTIONS, |range| range.start..=range.end - 1)
}

fn export_plain(args: &ExportArgs) -> Result<(), Failure> {
    let mut trace = open(&args.trace)?;
    let file = partial(&args.output)?;
    let exported = export(&mut trace, &closed(args.instructions.as_ref()), BufWriter::new(file));
    let exported = exported.map_err(|error| failed(&error))?;
    let mut file = exported.output.into_inner().map_err(|error| failed(error.error()))?;
    let bytes = file.stream_position().map_err(|error| failed(&error))?;
    keep(file, &args.output)?;
    print::line(&format!("{} accesses in {bytes} bytes", exported.accesses))
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let trace = open(&args.trace)?;
    let header = trace.header();
    let has_values = header.values == Values::Kept;
    if args.json {
        return print::json(&json!({
            "lineage": header.subject.lineage.to_string(), "interval": header.subject.interval.0,
            "input_root": header.subject.input_root.to_string(), "end_root": header.end_root.to_string(),
            "simulator": header.simulator, "has_values": has_values, "accesses": header.accesses,
        }));
    }
    print::line(&format!(
        "interval {} of lineage {}\nfrom state root {}\nto state root   {}\n{} accesses{}, written by {}",
        header.subject.interval,
        header.subject.lineage,
        header.subject.input_root,
        header.end_root,
        header.accesses,
        if has_values { " with values" } else { "" },
        header.simulator
    ))
}

fn ask(args: &QueryArgs) -> Result<(), Failure> {
    let mut trace = open(&args.trace)?;
    let (range, top) = (closed(args.instructions.as_ref()), args.top);
    let wrong = |error: query::QueryError| failed(&error);
    match args.question {
        Question::Instructions => {
            answer(args, &query::accesses_per_rip(&mut trace, &range, top).map_err(wrong)?)
        }
        Question::Pages => {
            answer(args, &query::pages(&mut trace, &range, PageOrder::Accesses, top).map_err(wrong)?)
        }
        Question::WrittenPages => {
            answer(args, &query::pages(&mut trace, &range, PageOrder::Writes, top).map_err(wrong)?)
        }
        Question::FirstTouches => {
            let rows = query::first_touches(&mut trace, &range).map_err(wrong)?;
            answer(args, &rows[..top.min(rows.len())])
        }
        Question::Writers => {
            let addresses = match (&args.addresses, &args.physical) {
                (Some(addresses), _) => (Space::Virtual, addresses),
                (None, Some(addresses)) => (Space::Physical, addresses),
                (None, None) => {
                    let message = "whose writers? give --addresses or --physical, such as 0x100000..0x100008";
                    return Err(Failure::new(ExitCode::Usage, message));
                }
            };
            answer(args, &query::writers(&mut trace, &range, addresses, Writers::Last(top)).map_err(wrong)?)
        }
    }
}

fn answer<R: Row>(args: &QueryArgs, rows: &[R]) -> Result<(), Failure> {
    if args.json {
        let object = |row: &R| -> Map<String, Value> {
            R::COLUMNS.iter().zip(row.cells()).map(|(name, cell)| ((*name).to_owned(), value(cell))).collect()
        };
        return print::json(&rows.iter().map(object).collect::<Vec<_>>());
    }
    let mut table = vec![R::COLUMNS.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
    table.extend(rows.iter().map(|row| row.cells().iter().map(Cell::to_string).collect()));
    print::line(print::table(&table).trim_end())
}

/// Numbers stay numbers where JSON's readers keep them exact; addresses and bytes are text.
fn value(cell: Cell) -> Value {
    match cell {
        Cell::Count(number) => number.into(),
        Cell::Unknown => Value::Null,
        Cell::Address(_) | Cell::Bytes(_) | Cell::Word(_) => cell.to_string().into(),
    }
}
