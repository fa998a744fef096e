//! `pageswarm checkpoint`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;

use super::{NodeArgs, print, status::short, values};
use crate::api::client::Client;
use crate::api::views::{
    CheckpointDetailView, CheckpointRequest, CheckpointView, FetchView, ImportRequest, ImportView,
    RebuildView, StatusView,
};
use crate::exit::{ExitCode, Failure};

/// `pageswarm checkpoint`.
#[derive(Debug, Subcommand)]
pub enum CheckpointCommand {
    /// List the checkpoints that a node knows.
    Ls(ListArgs),
    /// Show one checkpoint.
    Show(ShowArgs),
    /// Fetch a checkpoint, read all of it back, check it, and write its RAM image if asked.
    Get(GetArgs),
    /// Publish a RAM image that was made elsewhere, such as a hypervisor's snapshot, as a checkpoint.
    Import(ImportArgs),
}

/// Names a checkpoint.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckpointName {
    /// The lineage, or the first digits of its name if no other starts so.
    pub lineage: String,
    /// The checkpoint's index.
    pub index: u64,
}

/// What to list.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The lineage; all if not given.
    pub lineage: Option<String>,
}

/// What to show.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The checkpoint.
    #[command(flatten)]
    pub name: CheckpointName,
}

/// What to fetch.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The checkpoint.
    #[command(flatten)]
    pub name: CheckpointName,
    /// File for the RAM image.
    #[arg(long, short)]
    pub output: Option<PathBuf>,
    /// File for the device state; of an imported checkpoint, what was imported with it.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// How long to wait for the checkpoint.
    #[arg(long, value_parser = values::duration, default_value = "1m")]
    pub patience: Duration,
}

/// What to import.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// File with the RAM image, page after page.
    #[arg(long)]
    pub memory: PathBuf,
    /// File with everything but RAM; it is kept and given out as it is.
    #[arg(long)]
    pub state: Option<PathBuf>,
    /// Lineage to continue: the one that this node imported last. Without it a new one begins.
    #[arg(long)]
    pub lineage: Option<String>,
}

/// Carries out the command.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(command: CheckpointCommand) -> Result<(), Failure> {
    match command {
        CheckpointCommand::Ls(args) => list(args).await,
        CheckpointCommand::Show(args) => show(args).await,
        CheckpointCommand::Get(args) => get(args).await,
        CheckpointCommand::Import(args) => import(args).await,
    }
}

/// The whole name of the lineage whose name starts with `start`.
///
/// # Errors
///
/// [`Failure`] if none or several do.
pub async fn resolve(client: &Client, start: &str) -> Result<String, Failure> {
    let status: StatusView = client.get("/api/v1/status").await?;
    let mut found =
        status.lineages.into_iter().map(|view| view.lineage).filter(|name| name.starts_with(start));
    match (found.next(), found.next()) {
        (Some(name), None) => Ok(name),
        (None, _) => {
            Err(Failure::new(ExitCode::NotFound, format!("no lineage known here starts with {start}")))
        }
        (Some(_), Some(_)) => Err(Failure::new(
            ExitCode::Usage,
            format!("several lineages start with {start}: give more digits"),
        )),
    }
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node.dir);
    let lineages = match &args.lineage {
        Some(start) => vec![resolve(&client, start).await?],
        None => {
            let status: StatusView = client.get("/api/v1/status").await?;
            status.lineages.into_iter().map(|view| view.lineage).collect()
        }
    };
    let mut all: Vec<CheckpointView> = Vec::new();
    for lineage in lineages {
        all.extend(
            client.get::<Vec<CheckpointView>>(&format!("/api/v1/lineages/{lineage}/checkpoints")).await?,
        );
    }
    if args.node.json {
        return print::json(&all);
    }
    let heading = ["lineage", "checkpoint", "state root", "delta", "births"].map(str::to_owned).to_vec();
    let rows = all.iter().map(|view| {
        vec![
            short(&view.lineage),
            view.index.to_string(),
            short(&view.state_root),
            print::bytes(view.delta_bytes),
            view.births.to_string(),
        ]
    });
    print::line(&print::table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>()))
}

async fn show(args: ShowArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node.dir);
    let lineage = resolve(&client, &args.name.lineage).await?;
    let path = format!("/api/v1/lineages/{lineage}/checkpoints/{}", args.name.index);
    let view: CheckpointDetailView = client.get(&path).await?;
    if args.node.json {
        return print::json(&view);
    }
    print::line(&format!("checkpoint {} of lineage {}", view.head.index, view.head.lineage))?;
    print::line(&format!("state root    {}", view.head.state_root))?;
    print::line(&format!(
        "pages         {} filled, {} changed in its interval",
        view.filled_pages, view.changed_pages
    ))?;
    print::line(&format!("delta         {}", print::bytes(view.head.delta_bytes)))?;
    print::line(&format!("lacking here  {} chunks", view.lacked_chunks))
}

async fn get(args: GetArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node.dir);
    let lineage = resolve(&client, &args.name.lineage).await?;
    let request = CheckpointRequest {
        lineage,
        index: args.name.index,
        patience_ms: u64::try_from(args.patience.as_millis()).ok(),
        output: args.output.as_deref().map(absolute).transpose()?,
        state_output: args.state.as_deref().map(absolute).transpose()?,
        by_faults: false,
    };
    let fetched: FetchView = client.post("/api/v1/checkpoints/fetch", &request).await?;
    let rebuilt: RebuildView = client.post("/api/v1/checkpoints/rebuild", &request).await?;
    if args.node.json {
        return print::json(&(fetched, rebuilt));
    }
    print::line(&format!(
        "checkpoint {} is here: {} chunks fetched in {} ms, {} were held; all read back and hashed in {} ms, state root {}",
        args.name.index,
        fetched.lacked_chunks,
        fetched.took_ms,
        fetched.held_chunks,
        rebuilt.took_ms,
        rebuilt.state_root
    ))
}

async fn import(args: ImportArgs) -> Result<(), Failure> {
    let client = Client::new(&args.node.dir);
    let lineage = match &args.lineage {
        Some(start) => Some(resolve(&client, start).await?),
        None => None,
    };
    let state = args.state.as_deref().map(absolute).transpose()?;
    let request = ImportRequest { memory: absolute(&args.memory)?, state, lineage };
    let view: ImportView = client.post("/api/v1/checkpoints/import", &request).await?;
    if args.node.json {
        return print::json(&view);
    }
    print::line(&format!(
        "checkpoint {} of lineage {}: {} new pages of {}, {} duplicate, {} unchanged; state root {}",
        view.index,
        view.lineage,
        view.new_pages,
        print::bytes(view.new_bytes),
        view.duplicate_pages,
        view.unchanged_pages,
        view.state_root
    ))
}

/// A path as the node sees it, which has another working directory.
fn absolute(path: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(path)
        .map_err(|error| Failure::new(ExitCode::Usage, format!("{}: {error}", path.display())))?;
    Ok(path.to_string_lossy().into_owned())
}
