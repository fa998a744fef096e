//! One node's part of the demo: its checkpoints, fetched, read back, resumed, and some compared byte for byte.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::api::client::Client;
use crate::api::simulations::SimulationView;
use crate::api::views::{CheckpointRequest, FetchView, RebuildView, SelfCheckView};

/// What a node is to do.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) lineage: String,
    pub(super) checkpoints: u64,
    pub(super) nodes: u64,
    pub(super) witness: BTreeSet<u64>,
    pub(super) witness_directory: PathBuf,
    pub(super) patience: Duration,
    /// Whether the interval after each checkpoint is simulated.
    pub(super) simulate: Simulate,
}

/// Which intervals are simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Simulate {
    All,
    None,
}

/// What became of one checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Followed {
    /// Which.
    pub index: u64,
    /// The node that took it.
    pub node: u64,
    /// Chunks that the node lacked.
    pub lacked_chunks: u64,
    /// Chunks that it had.
    pub held_chunks: u64,
    /// Milliseconds that the fetch took.
    pub fetch_ms: u64,
    /// Milliseconds that reading back and hashing took.
    pub rebuild_ms: u64,
    /// State root computed from the bytes read back.
    pub state_root: Option<String>,
    /// What the resumed guest found.
    pub self_check: Option<SelfCheckView>,
    /// Whether the RAM image equals the publisher's, byte for byte; none if it was not compared.
    pub bytes_equal: Option<bool>,
    /// The interval that follows it, simulated to the end; none for the last checkpoint, or if none was to be.
    pub simulation: Option<SimulationView>,
    /// What went wrong.
    pub failure: Option<String>,
    /// Milliseconds from the node's start on the checkpoint to its end.
    pub took_ms: u64,
}

/// Takes every checkpoint of node `number`, and tells of each when it is done with it. Ends early if nobody listens.
pub(super) async fn follow(client: Client, number: u64, plan: Plan, told: mpsc::Sender<Followed>) {
    let mut index = number;
    while index < plan.checkpoints {
        let start = Instant::now();
        let mut checkpoint = Followed {
            index,
            node: number,
            lacked_chunks: 0,
            held_chunks: 0,
            fetch_ms: 0,
            rebuild_ms: 0,
            state_root: None,
            self_check: None,
            bytes_equal: None,
            simulation: None,
            failure: None,
            took_ms: 0,
        };
        if let Err(why) = take(&client, &plan, &mut checkpoint).await {
            checkpoint.failure = Some(why);
        }
        checkpoint.took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        if told.send(checkpoint).await.is_err() {
            return;
        }
        index += plan.nodes;
    }
}

async fn take(client: &Client, plan: &Plan, checkpoint: &mut Followed) -> Result<(), String> {
    let told = |failure: crate::exit::Failure| failure.message;
    let request = CheckpointRequest {
        lineage: plan.lineage.clone(),
        index: checkpoint.index,
        patience_ms: u64::try_from(plan.patience.as_millis()).ok(),
        ..CheckpointRequest::default()
    };
    let fetched: FetchView = client.post("/api/v1/checkpoints/fetch", &request).await.map_err(told)?;
    checkpoint.lacked_chunks = fetched.lacked_chunks;
    checkpoint.held_chunks = fetched.held_chunks;
    checkpoint.fetch_ms = fetched.took_ms;
    let compared = plan.witness.contains(&checkpoint.index);
    let image = plan.witness_directory.join(format!("{}.node", checkpoint.index));
    let output = compared.then(|| image.to_string_lossy().into_owned());
    let rebuild = CheckpointRequest { output, ..request.clone() };
    let rebuilt: RebuildView = client.post("/api/v1/checkpoints/rebuild", &rebuild).await.map_err(told)?;
    checkpoint.rebuild_ms = rebuilt.took_ms;
    checkpoint.state_root = Some(rebuilt.state_root);
    if compared {
        let witness = plan.witness_directory.join(format!("{}.ram", checkpoint.index));
        checkpoint.bytes_equal = Some(compare(&witness, &image).await?);
    }
    // Those that are compared are resumed page by page, the others from the image that was just proven.
    let resume = CheckpointRequest { by_faults: compared, ..request.clone() };
    let check: SelfCheckView = client.post("/api/v1/checkpoints/self-check", &resume).await.map_err(told)?;
    checkpoint.self_check = Some(check);
    if plan.simulate == Simulate::All && checkpoint.index + 1 < plan.checkpoints {
        checkpoint.simulation = Some(client.post("/api/v1/simulations", &request).await.map_err(told)?);
    }
    Ok(())
}

/// Lets another program compare: one that has no code of this one. Both files are removed if equal.
async fn compare(witness: &Path, image: &Path) -> Result<bool, String> {
    let mut command = comparer();
    let output = command.arg(witness).arg(image).output().await;
    let output = output.map_err(|error| format!("cannot run {command:?}: {error}"))?;
    match output.status.code() {
        Some(0) => {
            for path in [witness, image] {
                tokio::fs::remove_file(path).await.map_err(|error| format!("{}: {error}", path.display()))?;
            }
            Ok(true)
        }
        Some(1) => {
            tracing::error!(difference = %String::from_utf8_lossy(&output.stdout).trim(), "images differ");
            Ok(false)
        }
        _ => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("images could not be compared ({}): {}", output.status, said.trim()))
        }
    }
}

/// The program that is built beside this one, which reads past the page cache; where this one was installed alone,
/// `cmp` of diffutils.
fn comparer() -> Command {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("pageswarm-compare"));
    if let Some(program) = beside.filter(|program| program.is_file()) {
        return Command::new(program);
    }
    let mut cmp = Command::new("cmp");
    cmp.arg("--");
    cmp
}
