//! The `pageswarm` program run to its end: exit code and words.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Command;

use crate::cluster::PATIENCE;

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output and standard error, one after the other.
    pub text: String,
}

/// The binary under test: beside the directory of the test's own executable.
///
/// # Errors
///
/// If it was not built.
pub fn program() -> anyhow::Result<PathBuf> {
    built("pageswarm")
}

/// The program that compares images for the demo.
///
/// # Errors
///
/// If it was not built.
pub fn comparer() -> anyhow::Result<PathBuf> {
    built("pageswarm-compare")
}

fn built(name: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("own executable")?;
    let path = test.parent().and_then(Path::parent).map(|directory| directory.join(name));
    let path = path.filter(|path| path.is_file());
    path.with_context(|| format!("no {name} above {}: cargo build --release", test.display()))
}

/// Runs `pageswarm` with these arguments to its end.
///
/// # Errors
///
/// If it cannot be started, or does not end in time.
pub async fn pageswarm(arguments: &[&str]) -> anyhow::Result<Outcome> {
    run(Command::new(program()?).args(arguments)).await
}

/// Runs a command to its end.
///
/// # Errors
///
/// See [`pageswarm`].
pub async fn run(command: &mut Command) -> anyhow::Result<Outcome> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await;
    let output = output.with_context(|| format!("{command:?} did not end"))?;
    let output = output.with_context(|| format!("{command:?}"))?;
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Ok(Outcome { code: output.status.code(), text: format!("{out}{error}") })
}

/// A command that runs a node in `directory`, its gossip at the address where it listens.
///
/// # Errors
///
/// If the binary is missing.
pub fn node_run(directory: &Path, listen: SocketAddr) -> anyhow::Result<Command> {
    Ok(with_arguments(Command::new(program()?), directory, listen))
}

/// The same in a network namespace.
///
/// # Errors
///
/// If the binary is missing.
pub fn node_run_within(namespace: &str, directory: &Path, listen: SocketAddr) -> anyhow::Result<Command> {
    // It becomes the program that it starts, so that the program can be killed as any other.
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program()?);
    Ok(with_arguments(command, directory, listen))
}

fn with_arguments(mut command: Command, directory: &Path, listen: SocketAddr) -> Command {
    let gossip = SocketAddr::new(listen.ip(), 0);
    command.args(["node", "run", "--listen", &listen.to_string()]);
    command.args(["--gossip-listen", &gossip.to_string(), "--dir"]);
    command.arg(directory).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command
}
