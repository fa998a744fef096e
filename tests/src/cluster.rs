//! Real nodes as processes on the loopback: started, asked over their API sockets, killed, started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pageswarm_node::api::client::Client;
use pageswarm_node::api::views::{
    CheckpointDetailView, CheckpointRequest, CheckpointView, FetchView, LineageView, RebuildView, RunRequest,
    SelfCheckView, StatusView, TicketRequest, TicketView, VmView,
};
use pageswarm_node::exit::Failure;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// How long a node may take to answer after its start, and to do what takes it milliseconds when it is alone.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// RAM of the guests here: small, so that a test takes seconds.
pub const RAM_BYTES: u64 = 64 << 20;

/// A directory for the nodes of one test. Lives longer than they do if it is declared before them.
#[derive(Debug)]
pub struct Ground {
    root: TempDir,
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub struct NodeProcess {
    directory: PathBuf,
    client: Client,
    child: Child,
    /// Its data plane.
    pub address: SocketAddr,
    /// Its id.
    pub id: String,
    extra: Vec<String>,
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output and standard error, one after the other.
    pub text: String,
}

/// What a VM is to do.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Its RAM.
    pub ram_bytes: u64,
    /// Between two checkpoints.
    pub interval_ms: u64,
    /// After how many it ends.
    pub checkpoints: Option<u64>,
}

impl Default for Guest {
    fn default() -> Self {
        Self { ram_bytes: RAM_BYTES, interval_ms: 200, checkpoints: Some(4) }
    }
}

/// The binary under test: beside the directory of the test's own executable.
///
/// # Errors
///
/// If it was not built.
pub fn program() -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe().context("own executable")?;
    let path = test.parent().and_then(Path::parent).map(|directory| directory.join("pageswarm"));
    let path = path.filter(|path| path.is_file());
    path.with_context(|| format!("no pageswarm above {}: cargo build --release", test.display()))
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

/// Asks `probe` again and again until it answers.
///
/// # Errors
///
/// If it did not within `patience`.
pub async fn until<T>(what: &str, patience: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> anyhow::Result<T> {
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
        let root = tempfile::Builder::new().prefix("pageswarm-test-").tempdir().context("temporary directory")?;
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
    pub async fn join(&self, name: &str, admin: &NodeProcess, role: &str, extra: &[&str]) -> anyhow::Result<NodeProcess> {
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
        let address: SocketAddr = "127.0.0.1:0".parse()?;
        let extra: Vec<String> = extra.iter().map(|word| (*word).to_owned()).collect();
        let (child, status) = spawn(directory, address, membership, &extra).await?;
        let client = Client::new(directory);
        let address = status.data_address.parse()?;
        Ok(Self { directory: directory.to_owned(), client, child, address, id: status.node, extra })
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    ///
    /// If it cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill")
    }

    /// Ends it in order, so that its store is closed.
    ///
    /// # Errors
    ///
    /// If it does not end.
    pub async fn end(&mut self) -> anyhow::Result<()> {
        self.client.post_only("/api/v1/end").await?;
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("the node does not end")??;
        anyhow::ensure!(ended.success(), "the node ended with {ended}");
        Ok(())
    }

    /// Starts it again where it was, at the same data address, and tells it of `peers`.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub async fn restart(&mut self, peers: &[&Self]) -> anyhow::Result<()> {
        let peers: Vec<String> = peers.iter().flat_map(|peer| ["--peer".to_owned(), peer.address.to_string()]).collect();
        let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
        (self.child, _) = spawn(&self.directory, self.address, &peers, &self.extra).await?;
        Ok(())
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

    /// What it says of itself.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub async fn status(&self) -> anyhow::Result<StatusView> {
        Ok(self.client.get("/api/v1/status").await?)
    }

    /// A ticket of this node's swarm.
    ///
    /// # Errors
    ///
    /// If it is no admin.
    pub async fn ticket(&self, role: &str, member_for_s: u64) -> anyhow::Result<String> {
        let request = TicketRequest { role: role.to_owned(), open_for_s: 600, member_for_s };
        let view: TicketView = self.client.post("/api/v1/tickets", &request).await?;
        Ok(view.ticket)
    }

    /// Waits until it is connected with `other`.
    ///
    /// # Errors
    ///
    /// If it is not in time.
    pub async fn wait_peer(&self, other: &Self) -> anyhow::Result<()> {
        until(&format!("connected with {}", other.directory.display()), PATIENCE, async || {
            let status = self.status().await.ok()?;
            status.peers.iter().any(|peer| peer.node == other.id).then_some(())
        })
        .await
    }

    /// Starts a VM; the name of the lineage that it writes.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn run_vm(&self, guest: Guest) -> Result<String, Failure> {
        self.start_vm(guest, None).await
    }

    /// Continues a checkpoint as a branch.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn continue_as_branch(&self, guest: Guest, lineage: &str, index: u64) -> Result<String, Failure> {
        self.start_vm(guest, Some(request(lineage, index, PATIENCE))).await
    }

    async fn start_vm(&self, guest: Guest, resume: Option<CheckpointRequest>) -> Result<String, Failure> {
        let request = RunRequest {
            workload: "kernel-build".to_owned(),
            ram_bytes: guest.ram_bytes,
            interval_ms: guest.interval_ms,
            strategy: "pre-copy".to_owned(),
            checkpoints: guest.checkpoints,
            seed: 7,
            witness: Vec::new(),
            witness_directory: None,
            resume,
        };
        let view: VmView = self.client.post("/api/v1/vms", &request).await?;
        Ok(view.lineage.unwrap_or_default())
    }

    /// What it knows of a lineage, once it knows its checkpoint `index`.
    ///
    /// # Errors
    ///
    /// If it does not in time.
    pub async fn wait_checkpoint(&self, lineage: &str, index: u64) -> anyhow::Result<LineageView> {
        until(&format!("checkpoint {index} known in {}", self.directory.display()), PATIENCE, async || {
            let status = self.status().await.ok()?;
            status.lineages.into_iter().find(|view| view.lineage == lineage && view.latest >= Some(index))
        })
        .await
    }

    /// All checkpoints of the lineage that it knows.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn checkpoints(&self, lineage: &str) -> Result<Vec<CheckpointView>, Failure> {
        self.client.get(&format!("/api/v1/lineages/{lineage}/checkpoints")).await
    }

    /// One checkpoint, and what is lacking of it here.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn checkpoint(&self, lineage: &str, index: u64) -> Result<CheckpointDetailView, Failure> {
        self.client.get(&format!("/api/v1/lineages/{lineage}/checkpoints/{index}")).await
    }

    /// Fetches a checkpoint whole.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn fetch(&self, lineage: &str, index: u64) -> Result<FetchView, Failure> {
        self.client.post("/api/v1/checkpoints/fetch", &request(lineage, index, PATIENCE)).await
    }

    /// Reads a checkpoint back from the store and hashes it against its head.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn rebuild(&self, lineage: &str, index: u64) -> Result<RebuildView, Failure> {
        self.client.post("/api/v1/checkpoints/rebuild", &request(lineage, index, PATIENCE)).await
    }

    /// Fetches and rebuilds.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn get(&self, lineage: &str, index: u64) -> anyhow::Result<(FetchView, RebuildView)> {
        let at = || format!("checkpoint {index} in {}", self.directory.display());
        let fetched = self.fetch(lineage, index).await.with_context(at)?;
        let rebuilt = self.rebuild(lineage, index).await.with_context(at)?;
        Ok((fetched, rebuilt))
    }

    /// Resumes a checkpoint lazily and lets its guest check all of its memory.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn self_check(&self, lineage: &str, index: u64, patience: Duration) -> Result<SelfCheckView, Failure> {
        self.client.post("/api/v1/checkpoints/self-check", &request(lineage, index, patience)).await
    }
}

fn request(lineage: &str, index: u64, patience: Duration) -> CheckpointRequest {
    let patience_ms = u64::try_from(patience.as_millis()).ok();
    CheckpointRequest { lineage: lineage.to_owned(), index, patience_ms, output: None }
}

/// A command that runs a node in `directory` on the loopback.
///
/// # Errors
///
/// If the binary is missing.
pub fn node_run(directory: &Path, listen: SocketAddr) -> anyhow::Result<Command> {
    let mut command = Command::new(program()?);
    command.args(["node", "run", "--listen", &listen.to_string(), "--gossip-listen", "127.0.0.1:0", "--dir"]);
    command.arg(directory).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

async fn spawn(
    directory: &Path,
    listen: SocketAddr,
    membership: &[&str],
    extra: &[String],
) -> anyhow::Result<(Child, StatusView)> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.with_extension("log"))?;
    let mut command = node_run(directory, listen)?;
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
