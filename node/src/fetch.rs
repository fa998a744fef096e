//! Fetching a checkpoint: what of it is missing here, from whom it came, and how long it took.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pageswarm_checkpoint::{CheckpointIndex, LineageId};
use pageswarm_swarm::{BirthSet, Input};

use crate::events::What;
use crate::hub::WantError;
use crate::lazy_ram::PageSet;
use crate::lineages::MapError;
use crate::node::Node;

/// Why a checkpoint was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Its map.
    #[error("map")]
    Map(#[from] MapError),
    /// The engine.
    #[error("chunks")]
    Want(#[from] WantError),
    /// Nobody announced it in time.
    #[error("checkpoint {index} of lineage {} was not announced within {} s", lineage.short(), waited.as_secs())]
    NotAnnounced {
        /// Whose.
        lineage: LineageId,
        /// Which.
        index: CheckpointIndex,
        /// How long it was waited for.
        waited: Duration,
    },
    /// What is not RAM did not come in time.
    #[error(
        "CPU and devices of checkpoint {index} of lineage {} did not come within {} s: nobody who is connected has them",
        lineage.short(), waited.as_secs()
    )]
    StateLate {
        /// Whose.
        lineage: LineageId,
        /// Which.
        index: CheckpointIndex,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The node could not finish its own work.
    #[error("node is ending")]
    Ending,
}

/// A fetched checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fetched {
    /// Chunks that were not here before.
    pub lacked_chunks: u64,
    /// Chunks of the checkpoint that were.
    pub held_chunks: u64,
    /// From the wish to the last chunk of what had to come first.
    pub took: Duration,
}

/// Waits until the checkpoint's delta is known here.
///
/// # Errors
///
/// [`FetchError::NotAnnounced`].
pub async fn wait_announced(
    node: &Node,
    lineage: LineageId,
    index: CheckpointIndex,
    patience: Duration,
) -> Result<(), FetchError> {
    let known = async {
        loop {
            let changed = node.lineages.changed();
            let applied = node.lineages.get(&lineage).and_then(|lineage| lineage.applied);
            if applied.is_some_and(|(head, _)| head.index >= index) {
                return;
            }
            changed.await;
        }
    };
    let waited = tokio::time::timeout(patience, known).await;
    waited.map_err(|_| FetchError::NotAnnounced { lineage, index, waited: patience })
}

/// As [`fetch_state`], within `patience`.
///
/// # Errors
///
/// [`FetchError`].
pub async fn fetch_state_within(
    node: &Arc<Node>,
    id: LineageId,
    index: CheckpointIndex,
    patience: Duration,
) -> Result<(), FetchError> {
    let fetched = tokio::time::timeout(patience, fetch_state(node, id, index)).await;
    fetched.map_err(|_| FetchError::StateLate { lineage: id, index, waited: patience })?
}

/// Fetches what of a checkpoint is not RAM: CPU, devices, attachments.
///
/// # Errors
///
/// [`FetchError`].
pub async fn fetch_state(node: &Arc<Node>, id: LineageId, index: CheckpointIndex) -> Result<(), FetchError> {
    let planning = Arc::clone(node);
    let wanted = tokio::task::spawn_blocking(move || planning.lineages.blob_births(&id, index));
    for (lineage, births) in wanted.await.map_err(|_| FetchError::Ending)?? {
        node.hub.want(lineage, births).await?;
    }
    Ok(())
}

/// What is to be fetched.
#[derive(Debug)]
pub struct Plan {
    /// By lineage, all that is wanted, and what of it is not here.
    wanted: Vec<(LineageId, BirthSet, BirthSet)>,
}

impl Plan {
    /// Plans to fetch all of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`FetchError`].
    pub async fn of_checkpoint(
        node: &Arc<Node>,
        id: LineageId,
        index: CheckpointIndex,
    ) -> Result<Self, FetchError> {
        let plan = Self::of(node, move |node| {
            node.lineages.prepare_bases(&id, index)?;
            node.lineages.demand(&id, index)
        });
        let plan = plan.await?;
        plan.wanted.iter().for_each(|(lineage, _, lacked)| node.lineages.note_lacked(*lineage, lacked));
        Ok(plan)
    }

    /// Plans to fetch some pages of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`FetchError`].
    pub async fn of_pages(
        node: &Arc<Node>,
        id: LineageId,
        index: CheckpointIndex,
        pages: PageSet,
    ) -> Result<Self, FetchError> {
        Self::of(node, move |node| {
            node.lineages.prepare_bases(&id, index)?;
            node.lineages.demand_of_pages(&id, index, &pages)
        })
        .await
    }

    async fn of(
        node: &Arc<Node>,
        demand: impl FnOnce(&Node) -> Result<BTreeMap<LineageId, BirthSet>, MapError> + Send + 'static,
    ) -> Result<Self, FetchError> {
        let node = Arc::clone(node);
        let planned = tokio::task::spawn_blocking(move || {
            let mut wanted = Vec::new();
            for (lineage, births) in demand(&node)? {
                let lacked = node.lineages.lacked(lineage, &births)?;
                wanted.push((lineage, births, lacked));
            }
            Ok(Self { wanted })
        });
        planned.await.map_err(|_| FetchError::Ending)?
    }

    /// Chunks that are not here.
    #[must_use]
    pub fn lacked_chunks(&self) -> u64 {
        self.wanted.iter().map(|(_, _, lacked)| lacked.len()).sum()
    }

    /// Chunks that are.
    #[must_use]
    pub fn held_chunks(&self) -> u64 {
        self.wanted.iter().map(|(_, births, lacked)| births.len() - lacked.len()).sum()
    }

    /// Fetches what is lacking. If this is dropped, it is not wanted any more.
    ///
    /// # Errors
    ///
    /// [`FetchError`].
    pub async fn carry_out(self, node: &Node) -> Result<(), FetchError> {
        for (lineage, births, lacked) in self.wanted {
            // What is here for another reason (a duplicate of another lineage's chunk) is news to the engine.
            let mut held = births.clone();
            held.subtract(&lacked);
            if !held.is_empty() {
                node.hub.input(Input::LocalHas { lineage, births: held }).await;
            }
            node.hub.want(lineage, births).await?;
        }
        Ok(())
    }
}

/// Fetches everything of a checkpoint that is not here.
///
/// # Errors
///
/// [`FetchError`].
pub async fn fetch(node: &Arc<Node>, id: LineageId, index: CheckpointIndex) -> Result<Fetched, FetchError> {
    let start = Instant::now();
    let plan = Plan::of_checkpoint(node, id, index).await?;
    let (lacked_chunks, held_chunks) = (plan.lacked_chunks(), plan.held_chunks());
    plan.carry_out(node).await?;
    node.lineages.note_held(&id, index);
    node.counters.checkpoints_fetched.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let took = start.elapsed();
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    node.events.add(What::CheckpointHeld { lineage: id.to_string(), index: index.0, took_ms });
    Ok(Fetched { lacked_chunks, held_chunks, took })
}
