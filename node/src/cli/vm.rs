//! `pageswarm vm` and `pageswarm restore`.

use std::time::Duration;

use clap::Subcommand;
use pageswarm_machine::Workload;
use pageswarm_vmm::Strategy;

use super::checkpoint::{self, CheckpointName};
use super::{NodeArgs, print, status::short, values};
use crate::api::client::Client;
use crate::api::views::{CheckpointRequest, DriveView, RunRequest, VmView};
use crate::exit::Failure;
use crate::machines::WhenBehind;

/// `pageswarm vm`.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Boot a workload guest; its checkpoints become a new lineage.
    Run(RunArgs),
    /// List the VMs of a node.
    Ls(VmListArgs),
    /// Show one VM and its latest checkpoints.
    Show(VmArgs),
    /// End a VM.
    Stop(VmArgs),
}

/// How a VM runs.
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// RAM, such as 256MiB.
    #[arg(long, value_parser = values::ram_size, default_value = "256MiB")]
    pub memory: u64,
    /// How it is recorded.
    #[command(flatten)]
    pub recording: RecordingArgs,
    /// Seeds all that the guest does.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// How a VM is recorded.
#[derive(Debug, clap::Args)]
pub struct RecordingArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// What the guest does, or did when it was recorded: kernel-build (22,000 dirty pages/s in runs), specjbb (53,000,
    /// scattered), or sorting, b-tree or strings (1,000 jobs/s on 16 pages each).
    #[arg(long, default_value = "specjbb")]
    pub workload: Workload,
    /// From checkpoint to checkpoint.
    #[arg(long, value_parser = values::interval, default_value = "500ms")]
    pub interval: Duration,
    /// End after so many checkpoints; never if not given.
    #[arg(long)]
    pub checkpoints: Option<u64>,
    /// pre-copy, incremental-stop-and-copy or stop-and-copy.
    #[arg(long, default_value_t = Strategy::PreCopy)]
    pub strategy: Strategy,
    /// When checkpoints are not stored, or not sent to followers, as fast as they are made: lengthen the interval until
    /// they are; pause the VM meanwhile; drop-distribution: record on, but do not announce or offer checkpoints until
    /// the next one has room; or keep-pace: go on as set.
    #[arg(long, value_name = "WAY", default_value = "lengthen")]
    pub when_behind: WhenBehind,
}

/// Which checkpoint to resume, and how it goes on: with the checkpoint's memory and program.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// The checkpoint.
    #[command(flatten)]
    pub name: CheckpointName,
    /// How long its CPU and devices may take to come.
    #[arg(long, value_parser = values::duration, default_value = "1m")]
    pub patience: Duration,
    /// How the branch is recorded.
    #[command(flatten)]
    pub recording: RecordingArgs,
}

/// Which node.
#[derive(Debug, clap::Args)]
pub struct VmListArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Which VM.
#[derive(Debug, clap::Args)]
pub struct VmArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Its number, as `vm ls` lists it.
    pub vm: u64,
}

/// Carries out the command.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(command: VmCommand) -> Result<(), Failure> {
    match command {
        VmCommand::Run(args) => {
            let RunArgs { memory: ram_bytes, recording, seed } = args;
            start(&recording, RunRequest { ram_bytes, seed, ..request(&recording) }).await
        }
        VmCommand::Ls(args) => {
            let views: Vec<VmView> = Client::new(&args.node.dir).get("/api/v1/vms").await?;
            if args.node.json { print::json(&views) } else { print::line(&print::table(&rows(&views))) }
        }
        VmCommand::Show(args) => {
            let view: VmView = Client::new(&args.node.dir).get(&format!("/api/v1/vms/{}", args.vm)).await?;
            if args.node.json { print::json(&view) } else { show(&view) }
        }
        VmCommand::Stop(args) => {
            let path = format!("/api/v1/vms/{}/stop", args.vm);
            Client::new(&args.node.dir).post_only(&path).await?;
            print::line(&format!("vm {} was stopped", args.vm))
        }
    }
}

/// Resumes a checkpoint as a branch.
///
/// # Errors
///
/// [`Failure`].
pub async fn restore(args: RestoreArgs) -> Result<(), Failure> {
    let client = Client::new(&args.recording.node.dir);
    let lineage = checkpoint::resolve(&client, &args.name.lineage).await?;
    let resume = CheckpointRequest {
        lineage,
        index: args.name.index,
        patience_ms: u64::try_from(args.patience.as_millis()).ok(),
        ..CheckpointRequest::default()
    };
    // Memory and seed are the checkpoint's.
    start(&args.recording, RunRequest { resume: Some(resume), ..request(&args.recording) }).await
}

/// All but what is booted or resumed.
fn request(recording: &RecordingArgs) -> RunRequest {
    RunRequest {
        workload: recording.workload.name().to_owned(),
        ram_bytes: 0,
        interval_ms: u64::try_from(recording.interval.as_millis()).unwrap_or(u64::MAX),
        strategy: recording.strategy.name().to_owned(),
        checkpoints: recording.checkpoints,
        seed: 0,
        witness: Vec::new(),
        witness_directory: None,
        when_behind: Some(recording.when_behind.name().to_owned()),
        resume: None,
    }
}

async fn start(recording: &RecordingArgs, request: RunRequest) -> Result<(), Failure> {
    let view: VmView = Client::new(&recording.node.dir).post("/api/v1/vms", &request).await?;
    if recording.node.json {
        return print::json(&view);
    }
    print::line(&format!("vm {} writes lineage {}", view.vm, view.lineage.unwrap_or_default()))
}

fn rows(views: &[VmView]) -> Vec<Vec<String>> {
    let heading = ["vm", "lineage", "pages dirtied", "self-checks", "interval", "waiting", "state"]
        .map(str::to_owned)
        .to_vec();
    let rows = views.iter().map(|view| {
        vec![
            view.vm.to_string(),
            view.lineage.as_deref().map_or_else(String::new, short),
            view.counter.to_string(),
            view.passes.to_string(),
            format!("{} ms", view.drive.interval_ms),
            waiting(&view.drive),
            view.ended.clone().unwrap_or_else(|| state(&view.drive).to_owned()),
        ]
    });
    std::iter::once(heading).chain(rows).collect()
}

/// What of a VM's checkpoints waits, in bytes and milliseconds.
fn waiting(drive: &DriveView) -> String {
    let bytes = drive.to_store_bytes.saturating_add(drive.to_send_bytes);
    format!("{}, {} ms", print::bytes(bytes), drive.to_store_ms.max(drive.to_send_ms))
}

/// What a VM that has not ended does.
fn state(drive: &DriveView) -> &'static str {
    match drive {
        DriveView { is_paused: true, .. } => "paused: behind",
        DriveView { is_withholding: true, .. } => "runs, not announced: behind",
        DriveView { is_behind: true, .. } => "runs, interval lengthened: behind",
        _ => "runs",
    }
}

/// One line for each running VM: what of its checkpoints waits, and what is done about it.
///
/// # Errors
///
/// [`Failure`] if standard output is closed.
pub fn print_drives(drives: &[DriveView]) -> Result<(), Failure> {
    drives.iter().try_for_each(|drive| {
        print::line(&format!(
            "vm {} {}, every {} ms; waiting: {}",
            drive.vm,
            state(drive),
            drive.interval_ms,
            waiting(drive)
        ))
    })
}

fn show(view: &VmView) -> Result<(), Failure> {
    print::line(&print::table(&rows(std::slice::from_ref(view))))?;
    let heading = ["checkpoint", "downtime", "dirty", "new", "duplicate", "zero", "new bytes"];
    let mut table = vec![heading.map(str::to_owned).to_vec()];
    for figures in view.checkpoints.iter().rev().take(20).rev() {
        table.push(vec![
            figures.index.to_string(),
            print::milliseconds(figures.downtime_us),
            figures.dirty_pages.to_string(),
            figures.new_pages.to_string(),
            figures.duplicate_pages.to_string(),
            figures.zero_pages.to_string(),
            print::bytes(figures.new_bytes),
        ]);
    }
    print::line(&print::table(&table))
}
