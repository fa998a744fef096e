//! Nodes of the product, one on each host: the publisher made the swarm, receivers joined it, all are connected.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::Deserialize;
use serde_json::json;

use super::Chunks;
use crate::bench::swarm::api::Api;
use crate::bench::swarm::network::Network;
use crate::bench::swarm::process::{self, Process, until_true};
use crate::host;

/// Data plane and gossip.
const PORTS: [u16; 2] = [7420, 7421];
/// How long nodes may take to start, and to hear of each other.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an import or a rebuild of the largest image may take.
const IMAGE_PATIENCE: Duration = Duration::from_secs(300);

/// From whom nodes fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench::swarm) enum Exchange {
    /// From each other.
    Swarm,
    /// From the publisher alone.
    Central,
}

/// Where nodes run.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench::swarm) enum Hosts<'network> {
    /// Each on a host with a link.
    Shaped(&'network Network),
    /// All on this machine, without a link.
    Loopback,
}

/// Running nodes; the first is the publisher.
#[derive(Debug)]
pub(in crate::bench::swarm) struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    process: Process,
    api: Api,
}

/// A checkpoint that was made from an image.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::bench::swarm) struct Imported {
    pub(in crate::bench::swarm) lineage: String,
    pub(in crate::bench::swarm) index: u64,
    pub(in crate::bench::swarm) state_root: String,
}

/// A fetched checkpoint.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(in crate::bench::swarm) struct Fetched {
    /// Chunks that were not on the receiver before.
    pub(in crate::bench::swarm) lacked_chunks: u64,
    /// Chunks that were.
    pub(in crate::bench::swarm) held_chunks: u64,
}

#[derive(Deserialize)]
struct Rebuilt {
    state_root: String,
}

#[derive(Deserialize)]
struct Ticket {
    ticket: String,
}

/// What of a node's status is used here.
#[derive(Deserialize)]
struct Status {
    peers: Vec<serde::de::IgnoredAny>,
    lineages: Vec<Lineage>,
    transfer: Transfer,
}

#[derive(Deserialize)]
struct Lineage {
    lineage: String,
    latest: Option<u64>,
}

#[derive(Deserialize)]
struct Transfer {
    from_writer_bytes: u64,
    from_peers_bytes: u64,
    duplicate_bytes: u64,
}

impl Nodes {
    /// Starts the publisher on host 0 and as many receivers, and waits until each is connected with every other.
    pub(in crate::bench::swarm) fn start(
        hosts: Hosts<'_>,
        receivers: u32,
        directory: &Path,
        exchange: Exchange,
    ) -> Result<Self> {
        let mut nodes = Self::first(hosts, directory, exchange, &[])?;
        for host in 1..=receivers {
            let ticket = nodes.ticket("reader")?;
            nodes.nodes.push(Node::start(hosts, host, directory, exchange, &["--join", &ticket])?);
        }
        for node in &mut nodes.nodes {
            node.wait_answer()?;
        }
        nodes.wait_connected()?;
        Ok(nodes)
    }

    /// Starts the publisher alone, on host 0, with more options.
    pub(in crate::bench::swarm) fn publisher(
        hosts: Hosts<'_>,
        directory: &Path,
        options: &[&str],
    ) -> Result<Self> {
        Self::first(hosts, directory, Exchange::Swarm, options)
    }

    fn first(hosts: Hosts<'_>, directory: &Path, exchange: Exchange, options: &[&str]) -> Result<Self> {
        let options = [&["--create-swarm"], options].concat();
        let mut publisher = Node::start(hosts, 0, directory, exchange, &options)?;
        publisher.wait_answer()?;
        Ok(Self { nodes: vec![publisher] })
    }

    /// Starts another node, on `host`, which may take that role, and waits until it is connected with every other.
    pub(in crate::bench::swarm) fn join(
        &mut self,
        network: &Network,
        host: u32,
        directory: &Path,
        role: &str,
    ) -> Result<()> {
        let ticket = self.ticket(role)?;
        let mut node =
            Node::start(Hosts::Shaped(network), host, directory, Exchange::Swarm, &["--join", &ticket])?;
        node.wait_answer()?;
        self.nodes.push(node);
        self.wait_connected()
    }

    /// The API of the node that was started last.
    pub(in crate::bench::swarm) fn newest(&self) -> Api {
        self.api(self.nodes.len() - 1)
    }

    /// Ends the node that was started last, and waits until the publisher knows: it names no holder that is gone.
    pub(in crate::bench::swarm) fn remove_newest(&mut self) -> Result<()> {
        self.nodes.pop();
        let others = self.nodes.len() - 1;
        until_true("the publisher misses the node that ended", PATIENCE, || {
            Ok(self.nodes[0].status()?.peers.len() <= others)
        })
    }

    fn ticket(&self, role: &str) -> Result<String> {
        let invitation = json!({ "role": role, "open_for_s": 3600, "member_for_s": 86_400 });
        let Ticket { ticket } = self.nodes[0].api.post("/api/v1/tickets", &invitation, PATIENCE)?;
        Ok(ticket)
    }

    fn wait_connected(&mut self) -> Result<()> {
        let others = self.nodes.len() - 1;
        self.wait_each("every node is connected with every other", |status| status.peers.len() >= others)
    }

    /// Makes a checkpoint of an image on the publisher, the first of a new lineage or the next of a given one.
    pub(in crate::bench::swarm) fn import(&self, image: &Path, lineage: Option<&str>) -> Result<Imported> {
        let body = json!({ "memory": image, "lineage": lineage });
        self.nodes[0].api.post("/api/v1/checkpoints/import", &body, IMAGE_PATIENCE)
    }

    /// Waits until every receiver knows what the checkpoint consists of.
    pub(in crate::bench::swarm) fn wait_announced(&mut self, checkpoint: &Imported) -> Result<()> {
        self.wait_each("every node has heard of the checkpoint", |status| {
            let lineage = status.lineages.iter().find(|known| known.lineage == checkpoint.lineage);
            lineage.is_some_and(|lineage| lineage.latest >= Some(checkpoint.index))
        })
    }

    /// How many receivers know what the checkpoint consists of.
    pub(in crate::bench::swarm) fn knowing(&self, checkpoint: &Imported) -> Result<usize> {
        let mut count = 0;
        for node in &self.nodes[1..] {
            let mut lineages = node.status()?.lineages.into_iter();
            let known = lineages.find(|known| known.lineage == checkpoint.lineage);
            count += usize::from(known.is_some_and(|known| known.latest >= Some(checkpoint.index)));
        }
        Ok(count)
    }

    /// The API of the node on a host.
    pub(in crate::bench::swarm) fn api(&self, host: usize) -> Api {
        self.nodes[host].api.clone()
    }

    pub(in crate::bench::swarm) fn processes(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.process.id()).collect()
    }

    pub(in crate::bench::swarm) fn ensure_run(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(|node| node.process.ensure_runs())
    }

    /// Lets a node read back a checkpoint that it has fetched, and fails unless its state root is the publisher's.
    pub(in crate::bench::swarm) fn prove(&self, host: usize, checkpoint: &Imported) -> Result<()> {
        let body = request(&checkpoint.lineage, checkpoint.index, IMAGE_PATIENCE);
        let api = &self.nodes[host].api;
        let rebuilt: Rebuilt = api.post("/api/v1/checkpoints/rebuild", &body, IMAGE_PATIENCE)?;
        ensure!(
            rebuilt.state_root == checkpoint.state_root,
            "host {host} rebuilt checkpoint {} with state root {}, the publisher's is {}",
            checkpoint.index,
            rebuilt.state_root,
            checkpoint.state_root
        );
        Ok(())
    }

    /// What all receivers together counted.
    pub(in crate::bench::swarm) fn chunks(&self) -> Result<Chunks> {
        let mut chunks = Chunks::default();
        for node in &self.nodes[1..] {
            let transfer = node.status()?.transfer;
            chunks.received_bytes += transfer.from_writer_bytes + transfer.from_peers_bytes;
            chunks.duplicate_bytes += transfer.duplicate_bytes;
        }
        Ok(chunks)
    }

    fn wait_each(&mut self, what: &str, holds: impl Fn(&Status) -> bool) -> Result<()> {
        for (host, node) in self.nodes.iter_mut().enumerate() {
            until_true(&format!("{what} (host {host})"), PATIENCE, || {
                node.process.ensure_runs()?;
                Ok(holds(&node.status()?))
            })?;
        }
        Ok(())
    }
}

/// Asks a node for all of a checkpoint, and waits for it.
pub(in crate::bench::swarm) fn fetch(
    api: &Api,
    lineage: &str,
    index: u64,
    patience: Duration,
) -> Result<Fetched> {
    api.post("/api/v1/checkpoints/fetch", &request(lineage, index, patience), patience)
}

/// A checkpoint, as the API takes it.
pub(in crate::bench::swarm) fn request(lineage: &str, index: u64, patience: Duration) -> serde_json::Value {
    let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    json!({ "lineage": lineage, "index": index, "patience_ms": patience_ms })
}

impl Hosts<'_> {
    fn address(self, host: u32) -> Ipv4Addr {
        match self {
            Self::Shaped(_) => Network::address(host),
            // All of 127.0.0.0/8 is this machine.
            Self::Loopback => Ipv4Addr::from_bits(Ipv4Addr::new(127, 98, 0, 1).to_bits() + host),
        }
    }

    fn command(self, host: u32, program: &Path) -> Command {
        match self {
            Self::Shaped(network) => process::within(&network.namespace(host), program),
            Self::Loopback => process::beside(program),
        }
    }
}

impl Node {
    fn start(
        hosts: Hosts<'_>,
        host: u32,
        directory: &Path,
        exchange: Exchange,
        membership: &[&str],
    ) -> Result<Self> {
        let (address, own) = (hosts.address(host), directory.join(format!("node-{host}")));
        let [data, gossip] = PORTS.map(|port| format!("{address}:{port}"));
        let mut command = hosts.command(host, &host::program("pageswarm")?);
        command.args(["node", "run", "--listen", &data, "--gossip-listen", &gossip, "--dir"]).arg(&own);
        command.args(membership);
        if exchange == Exchange::Central {
            command.arg("--central");
        }
        let log = own.with_extension("log");
        let process = Process::spawn(format!("node on host {host}"), &mut command, &log)?;
        Ok(Self { process, api: Api::of(&own) })
    }

    fn status(&self) -> Result<Status> {
        self.api.get("/api/v1/status")
    }

    fn wait_answer(&mut self) -> Result<()> {
        until_true("a node answers", PATIENCE, || {
            self.process.ensure_runs()?;
            Ok(self.status().is_ok())
        })
    }
}
