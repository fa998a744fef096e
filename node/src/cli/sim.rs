//! `pageswarm sim`.

use std::time::Duration;

use clap::Subcommand;
use pageswarm_checkpoint::wire::JOBS_MAX;

use super::checkpoint::resolve;
use super::{NodeArgs, print, values};
use crate::api::client::Client;
use crate::api::simulations::{MemoryUseView, SimulationRequest, SimulationView};
use crate::api::views::CheckpointRequest;
use crate::api::work::{StandingsView, WorkRequest, WorkView, WorkerView};
use crate::exit::{ExitCode, Failure};
use crate::simulate::{Restore, Tracing};

/// `pageswarm sim`.
#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// Fetch a checkpoint, simulate the interval that follows it, and prove that its end is the next checkpoint.
    Run(RunArgs),
    /// Simulate a lineage's intervals with others: take leases of the swarm, publish signed results.
    Work(WorkArgs),
    /// Look into recorded intervals: redundancy, working sets, writes, double fetches.
    Analyze(Box<super::analyze::AnalyzeArgs>),
    /// Serve recorded intervals to gdb, forwards and backwards.
    Debug(super::debug::DebugArgs),
    /// Compare the simulator with this host's processor, on random programs or a given one.
    Lockstep(super::lockstep::LockstepArgs),
    /// Say how much faster simulating in parallel can be, from figures that were measured.
    Model(super::model::ModelArgs),
    /// Show where a lineage's intervals stand, and what each worker found.
    Status(StatusArgs),
}

/// What to work on.
#[derive(Debug, clap::Args)]
pub struct WorkArgs {
    /// Which node; its role must be worker at least.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The lineage, or the first digits of its name if no other starts so.
    pub lineage: String,
    /// Simulations at a time; each takes the RAM of its guest, and that of the next one is fetched meanwhile.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=JOBS_MAX))]
    pub jobs: u64,
    /// End once every interval recorded so far has a result. Without it, wait for more until interrupted.
    #[arg(long)]
    pub until_done: bool,
    /// How simulations get the RAM that they begin with. All of it comes while the interval before is simulated.
    #[arg(long, value_enum, default_value_t = Restore::Full)]
    pub restore: Restore,
    /// Traces.
    #[command(flatten)]
    pub trace: TraceArgs,
}

/// Whether traces are taken and offered.
#[derive(Clone, Debug, clap::Args)]
pub struct TraceArgs {
    /// Trace every access to memory, keep the trace in the store, name it in the result and offer it to the swarm:
    /// `trace ls` lists and `trace get` fetches it.
    #[arg(long)]
    pub trace: bool,
    /// Leave out of traces what was read and written: they are an order of magnitude smaller.
    #[arg(long, requires = "trace")]
    pub without_values: bool,
    /// End the work when an interval's trace would be larger, such as 4GiB.
    #[arg(long, value_name = "BYTES", value_parser = values::size, default_value = "1GiB", requires = "trace")]
    pub trace_size_max: u64,
}

impl TraceArgs {
    fn tracing(&self) -> Option<Tracing> {
        self.trace.then_some(Tracing { values: !self.without_values, bytes_max: self.trace_size_max })
    }
}

/// Whose intervals.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The lineage, or the first digits of its name if no other starts so.
    pub lineage: String,
}

/// What to simulate.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The lineage, or the first digits of its name if no other starts so.
    pub lineage: String,
    /// The interval, by the index of the checkpoint that it begins with.
    #[arg(value_parser = clap::value_parser!(u64).range(..u64::MAX))]
    pub interval: u64,
    /// How many intervals from there on, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// How long to wait for what each interval needs.
    #[arg(long, value_parser = values::duration, default_value = "1m")]
    pub patience: Duration,
    /// Publish what comes of it as this node's signed result; its role must be worker at least.
    #[arg(long)]
    pub publish: bool,
    /// How the simulation gets the RAM that it begins with.
    #[arg(long, value_enum, default_value_t)]
    pub restore: Restore,
    /// Traces; with `--publish` only.
    #[command(flatten)]
    pub trace: TraceArgs,
}

/// Carries out the command.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(command: SimCommand) -> Result<(), Failure> {
    match command {
        SimCommand::Run(args) => run_intervals(args).await,
        SimCommand::Work(args) => work(args).await,
        SimCommand::Status(args) => status(args).await,
        SimCommand::Analyze(args) => super::analyze::run(*args).await,
        SimCommand::Debug(args) => super::debug::run(args).await,
        SimCommand::Lockstep(args) => blocking(move || super::lockstep::run(&args)).await,
        SimCommand::Model(args) => super::model::run(&args),
    }
}

async fn run_intervals(args: RunArgs) -> Result<(), Failure> {
    if args.trace.trace && !args.publish {
        return Err(Failure::new(
            ExitCode::Usage,
            "--trace offers the trace with the result: add --publish, or write a file of your own with `trace record`",
        ));
    }
    let client = Client::new(&args.node.dir);
    let lineage = resolve(&client, &args.lineage).await?;
    let mut views: Vec<SimulationView> = Vec::new();
    let mut failed = None;
    for index in (0..args.count).map(|number| args.interval.saturating_add(number)) {
        let of = CheckpointRequest {
            lineage: lineage.clone(),
            index,
            patience_ms: u64::try_from(args.patience.as_millis()).ok(),
            ..CheckpointRequest::default()
        };
        let tracing = args.trace.tracing();
        let request = SimulationRequest { of, publish: args.publish, restore: args.restore, tracing };
        let view = match client.post::<SimulationView>("/api/v1/simulations", &request).await {
            Ok(view) => view,
            Err(failure) => {
                failed = Some(failure);
                break;
            }
        };
        if !args.node.json {
            print::line(&sentence(&view))?;
        }
        views.push(view);
    }
    if args.node.json {
        print::json(&views)?;
    }
    failed.map_or(Ok(()), Err)
}

fn sentence(view: &SimulationView) -> String {
    format!(
        "interval {}: exact, state root {}; {} instructions in {} ms ({:.0} million a second), {} reads, {} writes, \
         {} pages changed; {} chunks lacking, {} ms until the rest was here, {} ms of checks{}{}",
        view.interval,
        view.state_root,
        view.instructions,
        view.simulation_ms,
        view.instructions as f64 / 1e3 / view.simulation_ms.max(1) as f64,
        view.reads,
        view.writes,
        view.changed_pages,
        view.lacked_chunks,
        view.fetch_ms,
        view.read_back_ms,
        view.memory.as_ref().map_or_else(String::new, memory_use),
        view.trace_bytes.map_or_else(String::new, |bytes| format!("; trace of {bytes} bytes offered"))
    )
}

fn memory_use(used: &MemoryUseView) -> String {
    format!(
        "; {} pages expected, {} touched, {} of them expected, {} awaited for {} ms",
        used.expected_pages, used.touched_pages, used.hit_pages, used.awaited_pages, used.waited_ms
    )
}

async fn work(args: WorkArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node.dir);
    let lineage = resolve(&client, &args.lineage).await?;
    let request = WorkRequest {
        lineage,
        jobs: args.jobs,
        until_done: args.until_done,
        restore: args.restore,
        tracing: args.trace.tracing(),
    };
    let view: WorkView = client.post("/api/v1/work", &request).await?;
    if args.node.json {
        return print::json(&view);
    }
    for published in &view.published {
        let after = published.lease_to_start_ms.map_or_else(String::new, |ms| {
            format!(
                ", first instruction {ms} ms after its lease ({} ms idle)",
                published.idle_ms.unwrap_or(0)
            )
        });
        print::line(&format!(
            "interval {}: {}, {} instructions in {} ms{after}{}",
            published.interval,
            published.outcome,
            published.instructions,
            published.simulation_ms,
            published.trace_bytes.map_or_else(String::new, |bytes| format!(", trace of {bytes} bytes"))
        ))?;
    }
    print::line(&format!("{} results published, {} leases given back", view.published.len(), view.given_back))
}

async fn status(args: StatusArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node.dir);
    let lineage = resolve(&client, &args.lineage).await?;
    let view: StandingsView = client.get(&format!("/api/v1/lineages/{lineage}/simulations")).await?;
    if args.node.json {
        return print::json(&view);
    }
    print::line(&standings(&view))
}

fn standings(view: &StandingsView) -> String {
    let leases = if view.is_host {
        format!(
            "{} leases, {} expired, {} given twice",
            view.leases.len(),
            view.leases_expired,
            view.leases_hedged
        )
    } else {
        "leases are known to the node that hosts them".to_owned()
    };
    let mut rows = vec![
        ["worker", "results", "exact", "different", "failed", "leased", "instructions", "ms", ""]
            .map(str::to_owned)
            .to_vec(),
    ];
    let leased =
        |worker: &WorkerView| view.leases.iter().filter(|lease| lease.worker == worker.worker).count();
    for worker in &view.workers {
        rows.push(vec![
            worker.worker.chars().take(10).collect(),
            worker.results.to_string(),
            worker.exact.to_string(),
            worker.different.to_string(),
            worker.failed.to_string(),
            leased(worker).to_string(),
            worker.instructions.to_string(),
            worker.simulation_ms.to_string(),
            if worker.is_distrusted { "LIED".to_owned() } else { String::new() },
        ]);
    }
    format!(
        "{} intervals: {} open, {} exact, {} confirmed, {} unconfirmed, {} different, {} failed, {} disagreed; \
         {leases}\n\n{}",
        view.intervals,
        view.open,
        view.exact,
        view.confirmed,
        view.unconfirmed,
        view.different,
        view.failed,
        view.disagreed,
        print::table(&rows)
    )
}

/// Runs what takes a processor's time beside the runtime.
///
/// # Errors
///
/// As `work`.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| {
        Failure::new(ExitCode::Failed, format!("broke off, a fault of this program: {error}"))
    })?
}
