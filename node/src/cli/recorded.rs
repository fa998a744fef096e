//! Recorded intervals for commands that simulate in their own process: what they need comes from a node by files.

use std::path::PathBuf;
use std::time::Duration;

use pageswarm_checkpoint::CheckpointIndex;
use pageswarm_sim::{CompleteRam, Observer, Replayed, replay_while};
use tempfile::TempDir;

use super::checkpoint::resolve;
use super::{NodeArgs, values};
use crate::api::client::Client;
use crate::api::error::code_of;
use crate::api::simulations::RecordingView;
use crate::api::views::{CheckpointRequest, StatusView};
use crate::exit::{ExitCode, Failure};
use crate::recording::Recording;
use crate::report;
use crate::simulate::{SimulateError, root_of};

/// Whose intervals, and from which node.
#[derive(Clone, Debug, clap::Args)]
pub struct IntervalArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The lineage, or the first digits of its name if no other starts so.
    pub lineage: String,
    /// How long to wait for what an interval needs.
    #[arg(long, value_parser = values::duration, default_value = "1m")]
    pub patience: Duration,
}

/// Gives intervals of one lineage, one at a time.
#[derive(Debug)]
pub struct Recorded {
    client: Client,
    lineage: String,
    patience: Duration,
    directory: TempDir,
}

impl Recorded {
    /// Finds the lineage.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn open(args: &IntervalArgs) -> Result<Self, Failure> {
        let client = Client::new(&args.node.dir);
        let lineage = resolve(&client, &args.lineage).await?;
        // In the node's directory: it may see another /tmp, or none that it can write to.
        let made = std::path::absolute(&args.node.dir)
            .and_then(|parent| TempDir::with_prefix_in(".recording-", parent));
        let directory = made.map_err(|error| {
            let message = format!("{}: {}", args.node.dir.display(), report::chain(&error));
            Failure::new(code_of(&error), message)
        })?;
        Ok(Self { client, lineage, patience: args.patience, directory })
    }

    /// Its name, whole.
    #[must_use]
    pub fn lineage(&self) -> &str {
        &self.lineage
    }

    /// The latest checkpoint that the node knows of, if there is one.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn latest(&self) -> Result<Option<u64>, Failure> {
        let status: StatusView = self.client.get("/api/v1/status").await?;
        Ok(status.lineages.iter().find(|view| view.lineage == self.lineage).and_then(|view| view.latest))
    }

    /// An interval, and all RAM that it begins with.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn get(&self, interval: u64) -> Result<(Recording, Vec<u8>), Failure> {
        let [ram, state] = ["ram", "state"].map(|name| self.directory.path().join(name));
        let text = |path: &PathBuf| Some(path.to_string_lossy().into_owned());
        let request = CheckpointRequest {
            lineage: self.lineage.clone(),
            index: interval,
            patience_ms: u64::try_from(self.patience.as_millis()).ok(),
            output: text(&ram),
            state_output: text(&state),
            by_faults: false,
        };
        let _written: RecordingView = self.client.post("/api/v1/recordings", &request).await?;
        let failed = |error: &(dyn std::error::Error + 'static)| {
            let message = format!("interval {interval} as the node wrote it: {}", report::chain(error));
            Failure::new(code_of(error), message)
        };
        let take = |path: &PathBuf| std::fs::read(path).map_err(|error| failed(&error));
        let read = (take(&state), take(&ram));
        // Nothing of a guest's memory is left lying about, whatever ends this process later.
        for path in [&state, &ram] {
            std::fs::remove_file(path).map_err(|error| failed(&error))?;
        }
        let (state, bytes) = (read.0?, read.1?);
        let recording = Recording::decode(&state);
        Ok((recording.map_err(|error| failed(&error))?, bytes))
    }
}

/// Simulates an interval under an observer and proves its end.
///
/// # Errors
///
/// [`Failure`], if it cannot be simulated or ends anywhere but at its checkpoint.
pub fn simulate<O: Observer>(
    recording: &Recording,
    ram: Vec<u8>,
    observer: O,
    go_on: impl FnMut() -> bool,
) -> Result<Replayed<CompleteRam, O>, Failure> {
    let replayed = replay_while(&recording.wanted(), CompleteRam::new(ram), observer, go_on)
        .map_err(SimulateError::from)
        .map_err(|error| Failure::new(code_of(&error), report::chain(&error)))?;
    let found = root_of(&recording.start, &replayed);
    if found != recording.end_root {
        let CheckpointIndex(interval) = recording.interval;
        let message = format!(
            "interval {interval} ends with state root {found}, its checkpoint has {}",
            recording.end_root
        );
        return Err(Failure::new(ExitCode::CheckFailed, message));
    }
    Ok(replayed)
}
