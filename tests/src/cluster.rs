//! Real nodes as processes on the loopback: started, asked over their API sockets, killed, started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use pageswarm_node::api::client::Client;
use pageswarm_node::api::views::StatusView;
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::Instant;

use crate::command::{node_run, node_run_within};

/// How long a node may take to answer after its start, and to do what takes it milliseconds when it is alone.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory for the nodes of one test. Lives longer than they do if it is declared before them.
#[derive(Debug)]
pub struct Ground {
    root: TempDir,
}

/// Where a node runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its data plane; port 0 takes any.
    pub listen: SocketAddr,
    /// Its network namespace, if not this one.
    pub namespace: Option<String>,
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub struct NodeProcess {
    directory: PathBuf,
    place: Place,
    client: Client,
    child: Child,
    /// Its data plane.
    pub address: SocketAddr,
    /// Its id.
    pub id: String,
    extra: Vec<String>,
}

/// Asks `probe` again and again until it answers.
///
/// # Errors
///
/// If it did not within `patience`.
pub async fn until<T>(
    what: &str,
    patience: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = probe().await {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("not within {} s: {what}", patience.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Ground {
    /// An empty one.
    ///
    /// # Errors
    ///
    /// If no directory can be made.
    pub fn new() -> anyhow::Result<Self> {
        let root =
            tempfile::Builder::new().prefix("pageswarm-test-").tempdir().context("temporary directory")?;
        Ok(Self { root })
    }

    /// A path in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Starts the node that makes a swarm; it may run VMs and admit others.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub async fn create(&self, name: &str, extra: &[&str]) -> anyhow::Result<NodeProcess> {
        NodeProcess::start(&self.path(name), &["--create-swarm"], extra).await
    }

    /// Starts a node that joins `admin`'s swarm, and waits until the two are connected.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub async fn join(
        &self,
        name: &str,
        admin: &NodeProcess,
        role: &str,
        extra: &[&str],
    ) -> anyhow::Result<NodeProcess> {
        let ticket = admin.ticket(role, 3600).await?;
        let node = NodeProcess::start(&self.path(name), &["--join", &ticket], extra).await?;
        node.wait_peer(admin).await?;
        Ok(node)
    }
}

impl NodeProcess {
    /// Starts a node in `directory` on ports of the system's choice and waits until its API answers.
    ///
    /// # Errors
    ///
    /// If it ends, or does not answer.
    pub async fn start(directory: &Path, membership: &[&str], extra: &[&str]) -> anyhow::Result<Self> {
        let place = Place { listen: "127.0.0.1:0".parse()?, namespace: None };
        Self::start_at(place, directory, membership, extra).await
    }

    /// The same at another place than the loopback.
    ///
    /// # Errors
    ///
    /// If it ends, or does not answer.
    pub async fn start_at(
        place: Place,
        directory: &Path,
        membership: &[&str],
        extra: &[&str],
    ) -> anyhow::Result<Self> {
        let extra: Vec<String> = extra.iter().map(|word| (*word).to_owned()).collect();
        let (child, status) = spawn(directory, &place, membership, &extra).await?;
        let client = Client::new(directory);
        let address = status.data_address.parse()?;
        let place = Place { listen: address, ..place };
        Ok(Self { directory: directory.to_owned(), place, client, child, address, id: status.node, extra })
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    ///
    /// If it cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill")
    }

    /// Sends it SIGKILL and does not wait.
    ///
    /// # Errors
    ///
    /// If it cannot be killed.
    pub fn start_kill(&mut self) -> anyhow::Result<()> {
        self.child.start_kill().context("kill")
    }

    /// Ends it in order, so that its store is closed.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        self.client.post_only("/api/v1/end").await?;
        let ended =
            tokio::time::timeout(PATIENCE, self.child.wait()).await.context("the node does not end")??;
        anyhow::ensure!(ended.success(), "the node ended with {ended}");
        Ok(())
    }

    /// Starts it again where it was, at the same data address, and tells it of `peers`.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub async fn restart(&mut self, peers: &[&Self]) -> anyhow::Result<()> {
        let peers: Vec<String> =
            peers.iter().flat_map(|peer| ["--peer".to_owned(), peer.address.to_string()]).collect();
        let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
        (self.child, _) = spawn(&self.directory, &self.place, &peers, &self.extra).await?;
        Ok(())
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Where it keeps everything.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its API.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }
}

async fn spawn(
    directory: &Path,
    place: &Place,
    membership: &[&str],
    extra: &[String],
) -> anyhow::Result<(Child, StatusView)> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.with_extension("log"))?;
    let mut command = match &place.namespace {
        Some(namespace) => node_run_within(namespace, directory, place.listen)?,
        None => node_run(directory, place.listen)?,
    };
    let mut child = command.args(membership).args(extra).stderr(log).spawn().context("start a node")?;
    let client = Client::new(directory);
    let answered = until(&format!("node in {} answers", directory.display()), PATIENCE, async || {
        if let Ok(Some(ended)) = child.try_wait() {
            return Some(Err(ended));
        }
        client.get::<StatusView>("/api/v1/status").await.ok().map(Ok)
    })
    .await?;
    match answered {
        Ok(status) => Ok((child, status)),
        Err(ended) => {
            let said = std::fs::read_to_string(directory.with_extension("log")).unwrap_or_default();
            bail!("node in {} ended at its start with {ended}: {said}", directory.display())
        }
    }
}
