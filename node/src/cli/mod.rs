//! The command line: its grammar, and one module for each group of commands.

pub mod analyze;
pub mod checkpoint;
pub mod debug;
pub mod demo;
pub mod lockstep;
pub mod model;
pub mod node_run;
pub mod print;
pub mod recorded;
pub mod sim;
pub mod status;
pub mod swarm;
pub mod trace;
pub mod values;
pub mod vm;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::exit::Failure;

/// Checkpoints of virtual machines, spread between nodes so that no server is the bottleneck.
///
/// Start with `pageswarm demo`. Exit codes are listed in docs/exit-codes.md.
#[derive(Debug, Parser)]
#[command(name = "pageswarm", version, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the main job on this machine: a VM, a swarm of nodes, every checkpoint rebuilt and proven.
    Demo(demo::DemoArgs),
    /// Run a node.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Show a running node: members, lineages, store, transfer.
    Status(status::StatusArgs),
    /// Run virtual machines whose checkpoints are published.
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// List, show and fetch checkpoints.
    #[command(subcommand)]
    Checkpoint(checkpoint::CheckpointCommand),
    /// Resume a checkpoint on this node; what it does from there is a branch of its lineage.
    Restore(vm::RestoreArgs),
    /// Simulate intervals between checkpoints.
    #[command(subcommand)]
    Sim(sim::SimCommand),
    /// Trace every access to memory of an interval, and ask about it.
    #[command(subcommand)]
    Trace(trace::TraceCommand),
    /// Invite nodes into the swarm, and throw them out.
    #[command(subcommand)]
    Swarm(swarm::SwarmCommand),
    /// The process of one virtual machine; started by a node with a socket as standard input.
    #[command(name = "vm-process", hide = true)]
    VmProcess,
}

/// `pageswarm node`.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Run a node until it is told to end.
    Run(Box<node_run::NodeRunArgs>),
}

/// Which node a command talks to.
#[derive(Clone, Debug, clap::Args)]
pub struct NodeArgs {
    /// Directory of the node.
    #[arg(long, env = "PAGESWARM_DIR", default_value = "pageswarm-node")]
    pub dir: PathBuf,
    /// Print JSON instead of text for people.
    #[arg(long)]
    pub json: bool,
}

/// Carries out a command.
///
/// # Errors
///
/// [`Failure`] with the exit code.
pub async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Demo(args) => demo::run(args).await,
        Command::Node(NodeCommand::Run(args)) => node_run::run(*args).await,
        Command::Status(args) => status::run(args).await,
        Command::Vm(command) => vm::run(command).await,
        Command::Checkpoint(command) => checkpoint::run(command).await,
        Command::Restore(args) => vm::restore(args).await,
        Command::Sim(command) => sim::run(command).await,
        Command::Trace(command) => trace::run(command).await,
        Command::Swarm(command) => swarm::run(command).await,
        Command::VmProcess => {
            Err(Failure::new(crate::exit::ExitCode::Usage, "vm-process is started by a node"))
        }
    }
}

/// Completes when this process is told to end.
pub(crate) async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => {
            if let Err(error) = interrupted {
                tracing::warn!(%error, "cannot wait for SIGINT");
                std::future::pending::<()>().await;
            }
        }
    }
}
