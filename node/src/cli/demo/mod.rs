//! `pageswarm demo`: a publisher with a VM and a swarm of nodes, as real processes on this machine.
//!
//! Node i takes checkpoints i, i+N, i+2N, ... It fetches each into its own store, reads it back and hashes it, and
//! resumes the guest from it until the guest has checked all of its memory. At ten checkpoints the publisher's VM
//! also writes its RAM to a file, outside the product's path, and a program of its own compares it with what the node
//! rebuilt; the guests of these get their memory through page faults, the others start from the image that was proven.
//! With `--simulate` the node then simulates the interval that follows, which must end as the next checkpoint.

mod bounds;
mod cluster;
mod follower;
mod outcome;
mod simulated;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pageswarm_machine::Workload;
use pageswarm_vmm::{ProcessorKind, Strategy, VmFailure, probe_kvm, probe_userfaultfd};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{print, signalled, values};
use crate::api::client::Client;
use crate::api::error::code_of;
use crate::api::views::{RunRequest, VmView};
use crate::config::ProcessorChoice;
use crate::exit::{ExitCode, Failure};
use cluster::Cluster;
use follower::{Followed, Plan, Simulate};
use outcome::Outcome;

/// Checkpoints that are also compared byte for byte.
const WITNESSES: u64 = 10;
/// A node lists no more heads of a lineage, and no more figures of a VM.
const CHECKPOINTS_MAX: u64 = 10_000;

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
    #[arg(long, value_parser = values::ram_size, default_value = "256MiB")]
    pub memory: u64,
    /// From checkpoint to checkpoint.
    #[arg(long, value_parser = values::interval, default_value = "500ms")]
    pub interval: Duration,
    /// Checkpoints to take.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=CHECKPOINTS_MAX))]
    pub checkpoints: u64,
    /// pre-copy, incremental-stop-and-copy or stop-and-copy.
    #[arg(long, default_value_t = Strategy::PreCopy)]
    pub strategy: Strategy,
    /// Seeds the guest and the choice of checkpoints that are compared byte for byte.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What runs the guests.
    #[arg(long, value_enum, default_value_t)]
    pub processor: ProcessorChoice,
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
    check_host(&args)?;
    let mut directory = Directory::make(args.dir.clone())?;
    let judged = judge(&args, &directory).await;
    judged.map_err(|unproven| {
        let failure = match unproven {
            Unproven::Failed(failure) => failure,
            // Nothing is to be looked into.
            Unproven::Interrupted => return Failure::new(ExitCode::Failed, "interrupted: all nodes were ended"),
        };
        let kept = directory.keep();
        Failure::new(
            failure.code,
            format!(
                "{}\nthe nodes' directories stay, logs in {}/*/node.log; they are large, so remove them when you are done",
                failure.message,
                kept.display()
            ),
        )
    })
}

/// Why nothing was proven.
enum Unproven {
    Failed(Failure),
    Interrupted,
}

impl From<Failure> for Unproven {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

async fn judge(args: &DemoArgs, directory: &Directory) -> Result<(), Unproven> {
    let mut interrupted = std::pin::pin!(signalled());
    let mut cluster = tokio::select! {
        started = Cluster::start(&directory.path, args) => started?,
        () = &mut interrupted => return Err(Unproven::Interrupted),
    };
    let outcome = tokio::select! {
        outcome = show(args, &cluster) => outcome.map_err(Unproven::from),
        () = &mut interrupted => Err(Unproven::Interrupted),
    };
    cluster.end().await;
    let outcome = outcome?;
    if args.json {
        print::json(&outcome)?;
    } else {
        print::line(&outcome.text())?;
    }
    outcome.verdict().map_err(|why| Failure::new(ExitCode::CheckFailed, why).into())
}

async fn show(args: &DemoArgs, cluster: &Cluster) -> Result<Outcome, Failure> {
    let witness = witnesses(args.seed, args.checkpoints);
    let request = RunRequest {
        workload: args.workload.name().to_owned(),
        ram_bytes: args.memory,
        interval_ms: u64::try_from(args.interval.as_millis()).unwrap_or(u64::MAX),
        strategy: args.strategy.name().to_owned(),
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
    let mut tasks = JoinSet::new();
    let (told, mut hearing) = mpsc::channel(cluster.nodes().len());
    for (number, client) in cluster.nodes().iter().enumerate() {
        tasks.spawn(follower::follow(client.clone(), number as u64, plan.clone(), told.clone()));
    }
    // Once all followers are done nobody is left to tell anything.
    drop(told);
    let mut broken = std::pin::pin!(watch(cluster.publisher(), vm.vm, args));
    let mut followed: Vec<Followed> = Vec::new();
    loop {
        let checkpoint = tokio::select! {
            checkpoint = hearing.recv() => checkpoint,
            why = &mut broken => return Err(Failure::new(ExitCode::Failed, why)),
        };
        let Some(checkpoint) = checkpoint else {
            break;
        };
        followed.push(checkpoint);
        if !args.json {
            // Whoever does not read the progress wants the outcome all the same.
            let _unread = print::line(&finished(&followed, args.checkpoints));
        }
    }
    followed.sort_by_key(|checkpoint| checkpoint.index);
    Outcome::gather(args, cluster, &lineage, vm.vm, followed, start.elapsed()).await
}

/// Says which checkpoint was done last.
fn finished(followed: &[Followed], checkpoints: u64) -> String {
    let (count, last) = (followed.len(), followed.last());
    last.map_or_else(String::new, |last| {
        let is_good =
            last.bytes_equal != Some(false) && last.self_check.as_ref().is_some_and(|check| check.holds);
        let outcome =
            last.failure.as_deref().unwrap_or(if is_good { "rebuilt and resumed" } else { "WRONG" });
        format!(
            "node {}: checkpoint {} {outcome} after {:.1} s ({count} of {checkpoints})",
            last.node,
            last.index,
            last.took_ms as f64 / 1e3
        )
    })
}

/// Says what the VM does, while it does; completes, with the reason, if it fails.
async fn watch(publisher: &Client, vm: u64, args: &DemoArgs) -> String {
    let mut told = None;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let from = told.unwrap_or(0);
        let Ok(view) = publisher.get::<VmView>(&format!("/api/v1/vms/{vm}?from={from}")).await else {
            continue;
        };
        if view.failed {
            return format!(
                "the VM failed: {}",
                view.ended.unwrap_or_else(|| "it does not say why".to_owned())
            );
        }
        if args.json {
            continue;
        }
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
        // Whoever does not read the progress wants the outcome all the same.
        let _unread = print::line(&line);
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
fn check_host(args: &DemoArgs) -> Result<(), Failure> {
    match args.processor.here() {
        ProcessorKind::Kvm => {
            probe_kvm().map_err(|failure| Failure::new(code_of(&failure), failure.to_string()))?;
        }
        ProcessorKind::Interpreter if args.json => {}
        ProcessorKind::Interpreter => print::line(
            "guests run on the interpreter: all is proven as on KVM, at a fraction of the speed. For KVM, load kvm_intel or \
             kvm_amd, or enable nested virtualisation, so that there is a /dev/kvm",
        )?,
    }
    probe_userfaultfd().map_err(|failure| {
        let code = match failure {
            VmFailure::UserfaultfdMissing | VmFailure::UserfaultfdDenied => ExitCode::NoUserfaultfd,
            _ => ExitCode::Failed,
        };
        Failure::new(code, failure.to_string())
    })
}

/// A directory for the demo, removed at the end if the demo made it.
struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    fn make(given: Option<PathBuf>) -> Result<Self, Failure> {
        let temporary = given.is_none();
        let place = given.clone().unwrap_or_else(std::env::temp_dir);
        let made = match given {
            Some(path) => std::fs::create_dir_all(&path).and_then(|()| std::path::absolute(path)),
            // Of a name that nobody knows before, and nobody else may enter.
            None => tempfile::Builder::new().prefix("pageswarm-demo-").tempdir().map(tempfile::TempDir::keep),
        };
        let path = made.map_err(|error| {
            Failure::new(code_of(&error), format!("cannot use {}: {error}", place.display()))
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
        if !self.temporary {
            return;
        }
        // Gigabytes: it takes seconds, and half as long from two threads. What fails here is said below.
        let parts = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        let parts: Vec<PathBuf> = parts.map(|part| part.path()).collect();
        let remove = |parts: &[PathBuf]| {
            parts.iter().for_each(|part| drop(std::fs::remove_dir_all(part)));
        };
        let (some, others) = parts.split_at(parts.len() / 2);
        std::thread::scope(|scope| {
            let _no_thread = std::thread::Builder::new().spawn_scoped(scope, || remove(some));
            remove(others);
        });
        // Also what is no directory, or could not be removed a moment ago.
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "demo directory stays");
        }
    }
}
