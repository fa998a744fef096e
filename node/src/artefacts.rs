//! What workers make besides results: files, each the blob of a checkpoint of its worker's own lineage.
//!
//! A worker has one lineage of artefacts for each lineage that it simulates. Such a lineage has no RAM, so nothing
//! of it can be resumed; its checkpoints are learnt, fetched, checked and kept as those of machines are. Unlike those
//! it goes on when the node is started again: what it continues is in the store.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use pageswarm_checkpoint::{ArtefactPlace, BlobKind, LineageId};
use pageswarm_store::{IndexError, WriteError};

use crate::lineages::{Lineage, MapError};
use crate::machines::{self, MachineError};
use crate::node::Node;
use crate::publish::{PublishError, Publisher};

/// Why an artefact is not kept. The lineage is as before.
#[derive(Debug, thiserror::Error)]
pub enum ArtefactError {
    /// The file cannot be read.
    #[error("file")]
    File(#[from] std::io::Error),
    /// The lineage cannot be begun.
    #[error("lineage of artefacts cannot be begun")]
    Lineage(#[from] MachineError),
    /// Its latest map.
    #[error("lineage of artefacts")]
    Map(#[from] MapError),
    /// It was not published.
    #[error("artefact cannot be published")]
    Publish(#[from] PublishError),
    /// The store cannot be written.
    #[error("store")]
    Write(#[from] WriteError),
    /// The store cannot be read.
    #[error("store")]
    Index(#[from] IndexError),
    /// The node could not finish its own work.
    #[error("node is ending")]
    Ending,
}

/// The lineages that this node writes artefacts to.
#[derive(Debug, Default)]
pub struct Artefacts {
    /// Held while one grows.
    growing: tokio::sync::Mutex<()>,
}

const NOTES: &[u8] = b"artefacts/";

/// Publishes a file as the next artefact of this node for a lineage: on return it is durable and offered.
///
/// # Errors
///
/// [`ArtefactError`].
pub async fn keep(
    node: &Arc<Node>,
    of: LineageId,
    kind: BlobKind,
    file: File,
) -> Result<ArtefactPlace, ArtefactError> {
    // Once begun it goes on to its end, whoever has gone meanwhile: the next one continues what this one wrote.
    let keeping = tokio::spawn(keep_one(Arc::clone(node), of, kind, file));
    keeping.await.map_err(|_| ArtefactError::Ending)?
}

async fn keep_one(
    node: Arc<Node>,
    of: LineageId,
    kind: BlobKind,
    mut file: File,
) -> Result<ArtefactPlace, ArtefactError> {
    let node = &node;
    let _growing = node.artefacts.growing.lock().await;
    let finding = Arc::clone(node);
    let known = tokio::task::spawn_blocking(move || own_lineage(&finding, of));
    let mut publisher = match known.await.map_err(|_| ArtefactError::Ending)?? {
        Some(lineage) => {
            let map = node.lineages.latest_map(&lineage.id)?;
            Publisher::new(Arc::clone(node), lineage, map)
        }
        None => {
            let (lineage, publisher) = machines::new_lineage(node, 0, Duration::ZERO, None).await?;
            node.store.put_note(&note(of), Some(lineage.as_bytes()))?;
            publisher
        }
    };
    let published = tokio::task::spawn_blocking(move || {
        file.seek(SeekFrom::Start(0))?;
        Ok(publisher.publish_artefact(kind, file)?)
    });
    let published = published.await.map_err(|_| ArtefactError::Ending)?;
    if published.is_err() {
        // The store may have a head that was never acknowledged. Nothing continues it: the next artefact begins anew.
        node.store.put_note(&note(of), None)?;
    }
    published
}

/// The lineage that this node writes artefacts for `of` to, if it has begun one.
fn own_lineage(node: &Node, of: LineageId) -> Result<Option<Lineage>, ArtefactError> {
    let noted = node.store.note(&note(of))?;
    let id = noted.and_then(|value| Some(LineageId(value.try_into().ok()?)));
    let lineage = id.and_then(|id| node.lineages.get(&id));
    // If others know of more than this store does, it lost something: what they have must not be written again.
    let is_whole = |lineage: &Lineage| lineage.target == lineage.applied.as_ref().map(|(head, _)| head.index);
    let is_own = |lineage: &Lineage| lineage.genesis.writer == node.id && lineage.genesis.is_of_artefacts();
    Ok(lineage.filter(|lineage| is_own(lineage) && is_whole(lineage)))
}

fn note(of: LineageId) -> Vec<u8> {
    [NOTES, of.as_bytes()].concat()
}
