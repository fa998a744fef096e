//! A container of the testbed and the API of the node in it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pageswarm_node::api::client::Client;
use pageswarm_node::api::views::{
    CheckpointDetailView, CheckpointRequest, FetchView, RebuildView, StatusView,
};
use pageswarm_tests::cluster::until;

/// A container with a node in it.
pub(crate) struct Container {
    /// Its name.
    pub(crate) name: String,
    /// Docker's name of it.
    pub(crate) id: String,
    pub(crate) process: u32,
    /// The API of its node.
    pub(crate) client: Client,
}

impl Container {
    /// The container whose first process is `process`.
    pub(crate) fn new(name: &str, id: &str, process: u32) -> Self {
        // The node's directory as its process sees it: its API socket is reached without a program in the image.
        let directory = PathBuf::from(format!("/proc/{process}/root/var/lib/pageswarm"));
        Self { name: name.to_owned(), id: id.to_owned(), process, client: Client::new(&directory) }
    }

    /// What its node says of itself.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub(crate) async fn status(&self) -> Result<StatusView> {
        Ok(self.client.get("/api/v1/status").await?)
    }

    /// Waits until its node is connected with so many others.
    ///
    /// # Errors
    ///
    /// If it is not in time.
    pub(crate) async fn wait_peers(&self, count: usize, patience: Duration) -> Result<()> {
        until(&format!("{} has {count} peers", self.name), patience, async || {
            (self.status().await.ok()?.peers.len() >= count).then_some(())
        })
        .await
    }

    /// The lineage that it knows, once it knows one.
    ///
    /// # Errors
    ///
    /// If it does not in time.
    pub(crate) async fn lineage(&self, patience: Duration) -> Result<String> {
        until(&format!("{} knows a lineage", self.name), patience, async || {
            self.status().await.ok()?.lineages.pop().map(|view| view.lineage)
        })
        .await
    }

    /// Makes sure that the node runs under a seccomp profile and without capabilities.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub(crate) fn check_confinement(&self) -> Result<()> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process))?;
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        ensure!(field("Seccomp:") == Some("2"), "{} runs without a seccomp filter", self.name);
        ensure!(field("CapEff:") == Some("0000000000000000"), "{} has capabilities", self.name);
        Ok(())
    }

    /// Fetches a checkpoint whole, once it is announced.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub(crate) async fn fetch(&self, lineage: &str, index: u64, patience: Duration) -> Result<FetchView> {
        let patience_ms = u64::try_from(patience.as_millis()).ok();
        let lineage = lineage.to_owned();
        let request = CheckpointRequest { lineage, index, patience_ms, ..CheckpointRequest::default() };
        let fetched = self.client.post("/api/v1/checkpoints/fetch", &request).await;
        fetched.with_context(|| format!("{} fetches checkpoint {index}", self.name))
    }

    /// Reads a checkpoint back from the node's store and hashes it.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub(crate) async fn rebuild(&self, lineage: &str, index: u64) -> Result<RebuildView> {
        let request =
            CheckpointRequest { lineage: lineage.to_owned(), index, ..CheckpointRequest::default() };
        let rebuilt = self.client.post("/api/v1/checkpoints/rebuild", &request).await;
        rebuilt.with_context(|| format!("{} rebuilds checkpoint {index}", self.name))
    }

    /// A checkpoint, and what the node lacks of it.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub(crate) async fn checkpoint(&self, lineage: &str, index: u64) -> Result<CheckpointDetailView> {
        let view = self.client.get(&format!("/api/v1/lineages/{lineage}/checkpoints/{index}")).await;
        view.with_context(|| format!("{} about checkpoint {index}", self.name))
    }
}
