//! `pageswarm sim`.

use std::time::Duration;

use clap::Subcommand;

use super::checkpoint::resolve;
use super::{NodeArgs, print, values};
use crate::api::client::Client;
use crate::api::simulations::SimulationView;
use crate::api::views::CheckpointRequest;
use crate::exit::Failure;

/// `pageswarm sim`.
#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// Fetch a checkpoint, simulate the interval that follows it, and prove that its end is the next checkpoint.
    Run(RunArgs),
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
}

/// Carries out the command.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(command: SimCommand) -> Result<(), Failure> {
    let SimCommand::Run(args) = command;
    let client = Client::new(&args.node.dir);
    let lineage = resolve(&client, &args.lineage).await?;
    let mut views: Vec<SimulationView> = Vec::new();
    let mut failed = None;
    for index in (0..args.count).map(|number| args.interval.saturating_add(number)) {
        let request = CheckpointRequest {
            lineage: lineage.clone(),
            index,
            patience_ms: u64::try_from(args.patience.as_millis()).ok(),
            ..CheckpointRequest::default()
        };
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
         {} pages changed; {} chunks fetched in {} ms, read back in {} ms",
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
        view.read_back_ms
    )
}
