//! `pageswarm demo`: a publisher with a VM and a swarm of nodes, as real processes on this machine.
//!
//! Node i takes checkpoints i, i+N, i+2N, ... It fetches each into its own store, reads it back and hashes it, and
//! resumes the guest from it until the guest has checked all of its memory. At ten checkpoints the publisher's VM
//! also writes its RAM to a file, outside the product's path, and `cmp` compares it with what the node rebuilt. With
//! `--simulate` the node then simulates the interval that follows, which must end as the next checkpoint.

mod bounds;
mod cluster;
mod follower;
mod outcome;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pageswarm_machine::Workload;

use super::{print, values};
use crate::api::views::{RunRequest, VmView};
use crate::exit::{ExitCode, Failure};
use cluster::Cluster;
use follower::{Followed, Plan, Simulate};
use outcome::Outcome;

/// Checkpoints that are also compared byte for byte.
const WITNESSES: u64 = 10;

/// What to show.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Nodes besides the publisher.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub nodes: u32,
    /// kernel-build (22,000 dirty pages/s in runs) or specjbb (53,000, scattered).
    #[arg(long, default_value = "specjbb")]
    pub workload: Workload,
    /// RAM of the VM.
    #[arg(long, value_parser = values::size, default_value = "256MiB")]
    pub memory: u64,
    /// From checkpoint to checkpoint.
    #[arg(long, value_parser = values::duration, default_value = "500ms")]
    pub interval: Duration,
    /// Checkpoints to take.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub checkpoints: u64,
    /// pre-copy, incremental-stop-and-copy or stop-and-copy.
    #[arg(long, default_value = "pre-copy")]
    pub strategy: String,
    /// Seeds the guest and the choice of checkpoints that are compared byte for byte.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Simulate every interval too: each node the ones that follow its checkpoints, to their ends.
    #[arg(long)]
    pub simulate: bool,
    /// Where the nodes' directories go; a temporary directory, removed at the end, if not given.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// TCP address for the publisher's dashboard.
    #[arg(long)]
    pub http: Option<std::net::SocketAddr>,
    /// Print the outcome as JSON.
    #[arg(long)]
    pub json: bool,
}

/// How long a node waits in each of its steps at least.
const PATIENCE_MIN: Duration = Duration::from_secs(120);
/// What all nodes together get through, a third of what two slow cores do.
const PATIENCE_BYTES_PER_S: u64 = 16 << 20;

/// How long a node waits in each of its steps: all nodes go through all of their checkpoint's RAM at a time.
fn patience(args: &DemoArgs) -> Duration {
    let bytes = args.memory.saturating_mul(u64::from(args.nodes));
    PATIENCE_MIN + args.interval * 4 + Duration::from_secs(bytes / PATIENCE_BYTES_PER_S)
}

/// Runs it.
///
/// # Errors
///
/// [`Failure`]; [`ExitCode::CheckFailed`] if any check did not hold.
pub async fn run(args: DemoArgs) -> Result<(), Failure> {
    check_host()?;
    let mut directory = Directory::make(args.dir.clone())?;
    let judged = judge(&args, &directory).await;
    judged.map_err(|failure| {
        let kept = directory.keep();
        Failure::new(
            failure.code,
            format!("{}\nlogs of the nodes: {}/*/node.log", failure.message, kept.display()),
        )
    })
}

async fn judge(args: &DemoArgs, directory: &Directory) -> Result<(), Failure> {
    let mut cluster = Cluster::start(&directory.path, args).await?;
    let outcome = show(args, &cluster).await;
    cluster.end().await;
    let outcome = outcome?;
    if args.json {
        print::json(&outcome)?;
    } else {
        print::line(&outcome.text())?;
    }
    outcome.verdict().map_err(|why| Failure::new(ExitCode::CheckFailed, why))
}

async fn show(args: &DemoArgs, cluster: &Cluster) -> Result<Outcome, Failure> {
    let witness = witnesses(args.seed, args.checkpoints);
    let request = RunRequest {
        workload: args.workload.name().to_owned(),
        ram_bytes: args.memory,
        interval_ms: u64::try_from(args.interval.as_millis()).unwrap_or(u64::MAX),
        strategy: args.strategy.clone(),
        checkpoints: Some(args.checkpoints),
        seed: args.seed,
        witness: witness.iter().copied().collect(),
        witness_directory: Some(cluster.witness_directory().to_string_lossy().into_owned()),
        // Its figures are those of the interval that was set.
        when_behind: Some("keep-pace".to_owned()),
        resume: None,
    };
    let start = Instant::now();
    let vm: VmView = cluster.publisher().post("/api/v1/vms", &request).await?;
    let lineage =
        vm.lineage.clone().ok_or_else(|| Failure::new(ExitCode::Failed, "the vm has no lineage"))?;
    let plan = Plan {
        lineage: lineage.clone(),
        checkpoints: args.checkpoints,
        nodes: u64::from(args.nodes),
        witness,
        witness_directory: cluster.witness_directory(),
        patience: patience(args),
        simulate: if args.simulate { Simulate::All } else { Simulate::None },
    };
    let followers: Vec<_> = cluster
        .nodes()
        .iter()
        .enumerate()
        .map(|(number, client)| tokio::spawn(follower::follow(client.clone(), number as u64, plan.clone())))
        .collect();
    let progress = tokio::spawn(show_progress(cluster.publisher().clone(), vm.vm, args.clone()));
    let mut followed: Vec<Followed> = Vec::new();
    for follower in followers {
        let outcome = follower.await.map_err(|_| Failure::new(ExitCode::Failed, "a follower broke off"))?;
        followed.extend(outcome);
    }
    progress.abort();
    followed.sort_by_key(|checkpoint| checkpoint.index);
    Outcome::gather(args, cluster, &lineage, vm.vm, followed, start.elapsed()).await
}

/// Says what the VM does, while it does.
async fn show_progress(publisher: crate::api::client::Client, vm: u64, args: DemoArgs) {
    if args.json {
        return;
    }
    let mut told = None;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let from = told.unwrap_or(0);
        let Ok(view) = publisher.get::<VmView>(&format!("/api/v1/vms/{vm}?from={from}")).await else {
            continue;
        };
        let Some(last) = view.checkpoints.last().filter(|last| Some(last.index) != told) else {
            continue;
        };
        told = Some(last.index);
        let line = format!(
            "checkpoint {:>3} of {}: downtime {}, {} dirty pages at {} of {} pages/s, {} new",
            last.index + 1,
            args.checkpoints,
            print::milliseconds(last.downtime_us),
            last.dirty_pages,
            last.rate_achieved,
            last.rate_set,
            print::bytes(last.new_bytes)
        );
        if print::line(&line).is_err() {
            return;
        }
    }
}

/// Distinct checkpoints chosen by the seed.
fn witnesses(seed: u64, checkpoints: u64) -> BTreeSet<u64> {
    let mut chosen = BTreeSet::new();
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"pageswarm demo witnesses").update(&seed.to_le_bytes());
    let mut draws = hasher.finalize_xof();
    while (chosen.len() as u64) < WITNESSES.min(checkpoints) {
        let mut draw = [0; 8];
        draws.fill(&mut draw);
        chosen.insert(u64::from_le_bytes(draw) % checkpoints);
    }
    chosen
}

/// Says early what this machine lacks.
fn check_host() -> Result<(), Failure> {
    let open = |path: &str| std::fs::OpenOptions::new().read(true).write(true).open(path);
    if let Err(error) = open("/dev/kvm") {
        let message = if error.kind() == std::io::ErrorKind::NotFound {
            "there is no /dev/kvm: load kvm_intel or kvm_amd, or enable nested virtualisation for this machine"
        } else {
            "/dev/kvm may not be opened: add this user to the kvm group, or pass the device into the container"
        };
        return Err(Failure::new(ExitCode::NoKvm, message));
    }
    Ok(())
}

/// A directory for the demo, removed at the end if the demo made it.
struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    fn make(given: Option<PathBuf>) -> Result<Self, Failure> {
        let temporary = given.is_none();
        let path = given
            .unwrap_or_else(|| std::env::temp_dir().join(format!("pageswarm-demo-{}", std::process::id())));
        let made = std::fs::create_dir_all(&path).and_then(|()| std::path::absolute(&path));
        let path = made.map_err(|error| {
            Failure::new(ExitCode::Failed, format!("cannot use {}: {error}", path.display()))
        })?;
        Ok(Self { path, temporary })
    }

    /// Leaves it for whoever wants to know what happened.
    fn keep(&mut self) -> &std::path::Path {
        self.temporary = false;
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "demo directory stays");
        }
    }
}
