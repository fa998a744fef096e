//! Nodes as processes of the built program, asked and ordered through its command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use pageswarm_tests::command::program;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a node may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running node. Dropping it kills it.
pub(crate) struct Node {
    pub(crate) home: PathBuf,
    /// Where its page is.
    pub(crate) dashboard: SocketAddr,
    child: Child,
}

impl Node {
    /// Starts a node in `home`; `membership` is how it becomes a member, if it is not one yet.
    pub(crate) async fn start(home: &Path, http: &str, membership: &[&str]) -> Result<Self> {
        let log = std::fs::File::create(home.with_extension("log"))?;
        let mut child = Command::new(program()?)
            .args(["node", "run", "--listen", "127.0.0.1:0"])
            .args(["--gossip-listen", "127.0.0.1:0", "--http", http, "--dir"])
            .arg(home)
            .args(membership)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("node")?;
        let dashboard = timeout(PATIENCE, dashboard_of(&mut child)).await.context("node is not ready")??;
        Ok(Self { home: home.to_owned(), dashboard, child })
    }

    pub(crate) fn page(&self) -> String {
        format!("http://{}/", self.dashboard)
    }

    /// What a command answers in JSON.
    pub(crate) async fn ask(&self, command: &[&str]) -> Result<Value> {
        let output = Command::new(program()?)
            .args(command)
            .args(["--json", "--dir"])
            .arg(&self.home)
            .kill_on_drop(true)
            .output()
            .await?;
        if !output.status.success() {
            bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} is not JSON"))
    }

    pub(crate) async fn ticket(&self) -> Result<String> {
        let answer = self.ask(&["swarm", "ticket"]).await?;
        Ok(answer["ticket"].as_str().context("ticket")?.to_owned())
    }

    /// Ends it as a service manager would, and waits for it. Its home stays.
    pub(crate) async fn end(mut self) -> Result<()> {
        let id = self.child.id().context("the node has ended before")?;
        let told = Command::new("kill").args(["-TERM", &id.to_string()]).status().await?;
        ensure!(told.success(), "the node cannot be told to end");
        let status = timeout(PATIENCE, self.child.wait()).await.context("the node does not end")??;
        ensure!(status.success(), "the node ended with {status}");
        Ok(())
    }
}

async fn dashboard_of(child: &mut Child) -> Result<SocketAddr> {
    let output = child.stdout.take().context("the node's output")?;
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some((_, rest)) = line.split_once("dashboard http://") {
            return rest.trim_end_matches('/').parse().with_context(|| format!("no address in {line:?}"));
        }
    }
    bail!("the node ended at its start: its log is beside its home")
}
