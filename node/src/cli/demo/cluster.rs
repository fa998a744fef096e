//! The demo's processes: one publisher and N nodes that joined with its tickets.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use super::DemoArgs;
use crate::api::client::Client;
use crate::api::error::code_of;
use crate::api::views::{StatusView, TicketRequest, TicketView};
use crate::exit::{ExitCode, Failure};

/// How long nodes may take to start and find each other.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// What a node says, in its directory.
const LOG: &str = "node.log";

/// Running nodes. Dropping it kills them.
pub(super) struct Cluster {
    publisher: Client,
    nodes: Vec<Client>,
    witness: PathBuf,
    children: Vec<Child>,
}

impl Cluster {
    pub(super) async fn start(directory: &Path, args: &DemoArgs) -> Result<Self, Failure> {
        let witness = directory.join("witness");
        std::fs::create_dir_all(&witness).map_err(|error| {
            Failure::new(code_of(&error), format!("cannot make {}: {error}", witness.display()))
        })?;
        let home = directory.join("publisher");
        let http = args.http.map(|address| ["--http".to_owned(), address.to_string()]);
        let processor = ["--processor".to_owned(), args.processor.name().to_owned()];
        let mut arguments = vec!["--create-swarm".to_owned()];
        arguments.extend_from_slice(&processor);
        arguments.extend(http.into_iter().flatten());
        let mut children = vec![spawn(&home, &arguments, Precedence::First)?];
        let publisher = Client::new(&home);
        ready((&publisher, &home), &mut children[0], 0).await?;
        let mut nodes = Vec::new();
        for number in 0..args.nodes {
            let request = TicketRequest { role: "reader".to_owned(), open_for_s: 600, member_for_s: 86_400 };
            let ticket: TicketView = publisher.post("/api/v1/tickets", &request).await?;
            let home = directory.join(format!("node-{number}"));
            let [flag, processor] = processor.clone();
            let arguments = ["--join".to_owned(), ticket.ticket, flag, processor];
            children.push(spawn(&home, &arguments, Precedence::After)?);
            nodes.push((Client::new(&home), home));
        }
        for ((node, home), child) in nodes.iter().zip(&mut children[1..]) {
            ready((node, home), child, args.nodes as usize).await?;
        }
        ready((&publisher, &home), &mut children[0], args.nodes as usize).await?;
        let nodes = nodes.into_iter().map(|(node, _)| node).collect();
        Ok(Self { publisher, nodes, witness, children })
    }

    pub(super) const fn publisher(&self) -> &Client {
        &self.publisher
    }

    pub(super) fn nodes(&self) -> &[Client] {
        &self.nodes
    }

    pub(super) fn witness_directory(&self) -> PathBuf {
        self.witness.clone()
    }

    /// Ends all nodes and waits for them.
    pub(super) async fn end(&mut self) {
        for client in self.nodes.iter().chain([&self.publisher]) {
            // One that does not answer is killed below.
            let told = tokio::time::timeout(Duration::from_secs(5), client.post_only("/api/v1/end")).await;
            if !matches!(told, Ok(Ok(_))) {
                tracing::debug!("node cannot be told to end");
            }
        }
        for child in &mut self.children {
            if tokio::time::timeout(Duration::from_secs(10), child.wait()).await.is_err()
                && let Err(error) = child.kill().await
            {
                tracing::warn!(%error, "node cannot be ended");
            }
        }
    }
}

/// Whose work comes first on a machine that all share: in earnest every node has a machine of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Precedence {
    First,
    After,
}

fn spawn(home: &Path, arguments: &[String], precedence: Precedence) -> Result<Child, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(code_of(&error), format!("cannot start a node: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    std::fs::create_dir_all(home).map_err(failed)?;
    let log = std::fs::File::create(home.join(LOG)).map_err(failed)?;
    let mut command = match precedence {
        Precedence::First => Command::new(program),
        Precedence::After => {
            let mut command = Command::new("nice");
            command.args(["-n", "19"]).arg(program);
            command
        }
    };
    command
        .args(["node", "run", "--listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0", "--dir"])
        .arg(home)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)
}

/// A node's own code and last words are those of whoever started it.
fn ended_at_start(home: &Path, status: ExitStatus) -> Failure {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    let code = code.and_then(|code| ExitCode::ALL.into_iter().find(|known| *known as u8 == code));
    let said = std::fs::read_to_string(home.join(LOG)).unwrap_or_default();
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    let code = code.filter(|code| *code != ExitCode::Done).unwrap_or(ExitCode::Failed);
    Failure::new(code, format!("a node ended at start with {status}: {last}"))
}

/// Waits until the node answers and has so many peers.
async fn ready((client, home): (&Client, &Path), child: &mut Child, peers: usize) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + START_TIMEOUT;
    loop {
        let status = client.get::<StatusView>("/api/v1/status").await;
        if status.as_ref().is_ok_and(|status| status.peers.len() >= peers) {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(ended_at_start(home, status));
        }
        if tokio::time::Instant::now() > deadline {
            let found = status.map(|status| status.peers.len()).unwrap_or(0);
            let message = format!("a node has {found} of {peers} peers after {} s", START_TIMEOUT.as_secs());
            return Err(Failure::new(ExitCode::Failed, message));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
