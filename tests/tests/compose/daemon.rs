//! The Docker daemon of the test: the machine's own if one answers, else one started here and ended here.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::process::Command;

const START_PATIENCE: Duration = Duration::from_secs(60);
const END_PATIENCE: Duration = Duration::from_secs(30);

/// A daemon to talk to. Dropping it ends the process that was started for it.
pub(crate) struct Daemon {
    host: String,
    own: Option<Own>,
}

/// A daemon that this test started, and the directory of everything it keeps.
struct Own {
    process: Child,
    root: TempDir,
}

/// Whether a program of that name is in the search path.
pub(crate) fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Whether there is compose, as a program or as a plugin of `docker`.
pub(crate) fn compose_found() -> bool {
    let plugin = || std::process::Command::new("docker").args(["compose", "version"]).output();
    found("docker-compose") || plugin().is_ok_and(|output| output.status.success())
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
///
/// If it cannot be started, fails, or does not end in time; with the last of what it said.
pub(crate) async fn finish(command: &mut Command, patience: Duration) -> Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(patience, output).await;
    let output = output.with_context(|| format!("did not end: {command:?}"))?;
    let output = output.with_context(|| format!("cannot be started: {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        bail!("{}: {command:?}: {}", output.status, last_lines(&said, 12));
    }
    Ok(text)
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

impl Daemon {
    /// Finds or starts one.
    ///
    /// # Errors
    ///
    /// If it does not come up; with the last of its log.
    pub(crate) async fn start() -> Result<Self> {
        let named = std::env::var("DOCKER_HOST").ok();
        let host = named.unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
        let running = Self { host, own: None };
        if running.host.starts_with("unix://") && running.answers().await {
            return Ok(running);
        }
        // Short, since the paths of unix sockets are.
        let root =
            tempfile::Builder::new().prefix("psd-").tempdir_in("/tmp").context("temporary directory")?;
        let process = spawn(root.path())?;
        let host = format!("unix://{}", root.path().join("docker.sock").display());
        let mut daemon = Self { host, own: Some(Own { process, root }) };
        let deadline = Instant::now() + START_PATIENCE;
        while !daemon.answers().await {
            if daemon.own.as_mut().is_some_and(Own::has_ended) || Instant::now() > deadline {
                let log = daemon.own.as_ref().map(|own| own.root.path().join("log"));
                let said = log.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
                bail!("the docker daemon does not come up here: {}", last_lines(&said, 3));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(daemon)
    }

    async fn answers(&self) -> bool {
        let mut version = self.command("docker");
        version.args(["version", "--format", "{{.Server.Version}}"]);
        finish(&mut version, Duration::from_secs(10)).await.is_ok()
    }

    /// A client program that talks to this daemon.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // The builder without BuildKit is in every Docker; BuildKit is a plugin that not every one has.
        command.env("DOCKER_HOST", &self.host).env("DOCKER_BUILDKIT", "0");
        command
    }

    /// `docker` with these arguments, to its end.
    ///
    /// # Errors
    ///
    /// See [`finish`].
    pub(crate) async fn docker(&self, arguments: &[&str], patience: Duration) -> Result<String> {
        finish(self.command("docker").args(arguments), patience).await
    }

    /// Ends the daemon if it was started here, and makes sure that nothing of it is left.
    ///
    /// # Errors
    ///
    /// If something is.
    pub(crate) async fn end(mut self) -> Result<()> {
        let Some(own) = self.own.take() else {
            return Ok(());
        };
        let root = own.root.path().to_owned();
        tokio::task::spawn_blocking(move || drop(own)).await.context("end of the docker daemon")?;
        let mounts = mounts_under(&root);
        ensure!(mounts.is_empty(), "still mounted: {mounts:?}");
        ensure!(!root.exists(), "{} is still there", root.display());
        Ok(())
    }
}

/// No firewall rule, forwarding or bridge of the machine is touched: containers of one network reach each other
/// without, and published ports go through the daemon's own proxy.
fn spawn(root: &Path) -> Result<Child> {
    let log = std::fs::File::create(root.join("log")).context("log of the docker daemon")?;
    let mut command = std::process::Command::new("setpriv");
    command
        // Should the test die, the daemon is told to end.
        .args(["--pdeathsig", "TERM", "dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false"])
        .args(["--ip-masq=false", "--ip-forward=false"])
        .arg(format!("--host=unix://{}", root.join("docker.sock").display()))
        .arg(format!("--data-root={}", root.join("data").display()))
        .arg(format!("--exec-root={}", root.join("exec").display()))
        .arg(format!("--pidfile={}", root.join("pid").display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().context("start dockerd")
}

impl Own {
    fn has_ended(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let told = std::process::Command::new("sh")
            .args(["-c", "kill -TERM \"$0\"", &self.process.id().to_string()])
            .status();
        let deadline = Instant::now() + END_PATIENCE;
        while !self.has_ended() && told.is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(50));
        }
        if !self.has_ended() {
            println!(
                "the docker daemon does not end by itself: {:?}, {:?}",
                self.process.kill(),
                self.process.wait()
            );
        }
        for mount in mounts_under(self.root.path()).iter().rev() {
            let unmounted = std::process::Command::new("umount").arg("--lazy").arg(mount).status();
            println!("left mounted by the docker daemon: {}: {unmounted:?}", mount.display());
        }
    }
}

/// Where something is mounted below `root`, in order of mounting.
fn mounts_under(root: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    points.filter(|point| point.starts_with(root)).collect()
}
