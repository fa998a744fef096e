//! What tests ask of a node over its API: VMs, checkpoints, tickets.

use std::time::Duration;

use anyhow::Context as _;
use pageswarm_node::api::views::{
    CheckpointDetailView, CheckpointRequest, CheckpointView, FetchView, LineageView, RebuildView, RunRequest,
    SelfCheckView, StatusView, TicketRequest, TicketView, VmView,
};
use pageswarm_node::api::work::{StandingsView, WorkRequest, WorkView};
use pageswarm_node::exit::Failure;
use pageswarm_node::simulate::Restore;
use tokio::task::JoinSet;

use crate::cluster::{NodeProcess, PATIENCE, until};

/// RAM of the guests here: small, so that a test takes seconds.
pub const RAM_BYTES: u64 = 64 << 20;

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

impl NodeProcess {
    /// What it says of itself.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub async fn status(&self) -> anyhow::Result<StatusView> {
        Ok(self.client().get("/api/v1/status").await?)
    }

    /// The value of one of its metrics, by its whole name.
    ///
    /// # Errors
    ///
    /// If it does not answer, or has no such metric, or one that is no whole number.
    pub async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let metrics = self.client().text("/metrics").await?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("no metric {name}: {metrics}"))?.parse()?)
    }

    /// A ticket of this node's swarm.
    ///
    /// # Errors
    ///
    /// If it is no admin.
    pub async fn ticket(&self, role: &str, member_for_s: u64) -> anyhow::Result<String> {
        let request = TicketRequest { role: role.to_owned(), open_for_s: 600, member_for_s };
        let view: TicketView = self.client().post("/api/v1/tickets", &request).await?;
        Ok(view.ticket)
    }

    /// Waits until it is connected with `other`.
    ///
    /// # Errors
    ///
    /// If it is not in time.
    pub async fn wait_peer(&self, other: &Self) -> anyhow::Result<()> {
        until(&format!("connected with {}", other.directory().display()), PATIENCE, async || {
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
    pub async fn continue_as_branch(
        &self,
        guest: Guest,
        lineage: &str,
        index: u64,
    ) -> Result<String, Failure> {
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
            when_behind: None,
            resume,
        };
        let view: VmView = self.client().post("/api/v1/vms", &request).await?;
        Ok(view.lineage.unwrap_or_default())
    }

    /// What it knows of a lineage, once it knows its checkpoint `index`.
    ///
    /// # Errors
    ///
    /// If it does not in time.
    pub async fn wait_checkpoint(&self, lineage: &str, index: u64) -> anyhow::Result<LineageView> {
        until(&format!("checkpoint {index} known in {}", self.directory().display()), PATIENCE, async || {
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
        self.client().get(&format!("/api/v1/lineages/{lineage}/checkpoints")).await
    }

    /// One checkpoint, and what is lacking of it here.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn checkpoint(&self, lineage: &str, index: u64) -> Result<CheckpointDetailView, Failure> {
        self.client().get(&format!("/api/v1/lineages/{lineage}/checkpoints/{index}")).await
    }

    /// Fetches a checkpoint whole.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn fetch(&self, lineage: &str, index: u64) -> Result<FetchView, Failure> {
        self.client().post("/api/v1/checkpoints/fetch", &request(lineage, index, PATIENCE)).await
    }

    /// Reads a checkpoint back from the store and hashes it against its head.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn rebuild(&self, lineage: &str, index: u64) -> Result<RebuildView, Failure> {
        self.client().post("/api/v1/checkpoints/rebuild", &request(lineage, index, PATIENCE)).await
    }

    /// Fetches and rebuilds.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn get(&self, lineage: &str, index: u64) -> anyhow::Result<(FetchView, RebuildView)> {
        let at = || format!("checkpoint {index} in {}", self.directory().display());
        let fetched = self.fetch(lineage, index).await.with_context(at)?;
        let rebuilt = self.rebuild(lineage, index).await.with_context(at)?;
        Ok((fetched, rebuilt))
    }

    /// Where the lineage's intervals stand, as this node knows it.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn standings(&self, lineage: &str) -> Result<StandingsView, Failure> {
        self.client().get(&format!("/api/v1/lineages/{lineage}/simulations")).await
    }

    /// Works on the lineage until every interval has a result. Aborting the task, or dropping it, ends the work.
    #[must_use]
    pub fn start_work(&self, lineage: &str) -> JoinSet<Result<WorkView, Failure>> {
        let (client, lineage) = (self.client().clone(), lineage.to_owned());
        let mut working = JoinSet::new();
        working.spawn(async move {
            let (restore, tracing) = (Restore::Full, None);
            let request = WorkRequest { lineage, jobs: 1, until_done: true, restore, tracing };
            client.post("/api/v1/work", &request).await
        });
        working
    }

    /// Resumes a checkpoint lazily and lets its guest check all of its memory.
    ///
    /// # Errors
    ///
    /// What the API answered.
    pub async fn self_check(
        &self,
        lineage: &str,
        index: u64,
        patience: Duration,
    ) -> Result<SelfCheckView, Failure> {
        self.client().post("/api/v1/checkpoints/self-check", &request(lineage, index, patience)).await
    }
}

fn request(lineage: &str, index: u64, patience: Duration) -> CheckpointRequest {
    let patience_ms = u64::try_from(patience.as_millis()).ok();
    CheckpointRequest { lineage: lineage.to_owned(), index, patience_ms, ..CheckpointRequest::default() }
}
