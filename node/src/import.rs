//! Importing: images of RAM that were made elsewhere become checkpoints of a lineage of this node's own.
//!
//! A hypervisor's snapshot is its RAM, page after page, and a file with everything else. The former spreads and is
//! rebuilt like that of any checkpoint; the latter is kept whole and given out whole, nobody here reads it. So an
//! imported checkpoint can be fetched everywhere, and resumed by the hypervisor that made it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pageswarm_checkpoint::membership::{MembershipError, Role};
use pageswarm_checkpoint::{LineageId, PAGE_BYTES};
use pageswarm_vmm::SavedState;

use crate::limits::{IMPORT_RAM_BYTES_MAX, IMPORT_STATE_BYTES_MAX};
use crate::machines::{self, MachineError};
use crate::node::Node;
use crate::publish::{CheckpointFigures, PublishError, Publisher};

/// Why an image is not imported. The lineage is as before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// This node may not publish.
    #[error("this node may not publish: start it with a ticket of role publisher")]
    Role(#[source] MembershipError),
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image is not one of RAM.
    #[error(
        "{} has {bytes} bytes: a RAM image is a whole number of pages of 4096 bytes, at most 8 GiB",
        path.display()
    )]
    Length {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The state is too long.
    #[error("{} is longer than 64 MiB: is this the state file?", path.display())]
    StateLength {
        /// Which file.
        path: PathBuf,
    },
    /// The lineage cannot be continued.
    #[error("lineage {} is not what this node imported last: import without a lineage to begin a new one", .0.short())]
    NotOpen(LineageId),
    /// The image has another size than the lineage's checkpoints.
    #[error("the image has {pages} pages, checkpoints of lineage {} have {of_lineage}", lineage.short())]
    Pages {
        /// Of the image.
        pages: u32,
        /// Whose.
        lineage: LineageId,
        /// Of the lineage.
        of_lineage: u32,
    },
    /// The lineage cannot be begun.
    #[error("lineage cannot be begun")]
    Lineage(#[from] MachineError),
    /// The checkpoint was not published.
    #[error("checkpoint cannot be published")]
    Publish(#[from] PublishError),
    /// The node could not finish its own work.
    #[error("node is ending")]
    Ending,
}

/// What to import.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The RAM image.
    pub memory: PathBuf,
    /// Everything but RAM, in the form of whoever made it.
    pub state: Option<PathBuf>,
    /// The lineage to continue; none begins a new one.
    pub lineage: Option<LineageId>,
}

/// The lineage that was imported to last. It can be continued until this node ends or another one is begun: its
/// publisher holds the latest image, against which the next one is compared.
#[derive(Debug, Default)]
pub struct Imports {
    open: tokio::sync::Mutex<Option<Import>>,
}

#[derive(Debug)]
struct Import {
    lineage: LineageId,
    pages: u32,
    publisher: Publisher,
}

/// Publishes an image as a checkpoint: on return it is durable and its head on the way.
///
/// # Errors
///
/// [`ImportError`].
pub async fn import(
    node: &Arc<Node>,
    options: ImportOptions,
) -> Result<(LineageId, CheckpointFigures), ImportError> {
    node.members.certificate().allows(Role::Publisher).map_err(ImportError::Role)?;
    let mut open = node.imports.open.lock().await;
    let ImportOptions { memory, state, lineage } = options;
    let read = tokio::task::spawn_blocking(move || {
        let state = state.map(|path| read_state(&path)).transpose()?.unwrap_or_default();
        Ok::<_, ImportError>((read_image(&memory)?, state))
    });
    let (image, state) = read.await.map_err(|_| ImportError::Ending)??;
    let pages = u32::try_from(image.len()).expect("the length was checked");
    let mut import = match lineage {
        None => {
            let (lineage, publisher) = machines::new_lineage(node, pages, Duration::ZERO, None).await?;
            Import { lineage, pages, publisher }
        }
        Some(lineage) => {
            let continued = open.take_if(|import| import.lineage == lineage && import.pages == pages);
            continued.ok_or_else(|| match &*open {
                Some(other) if other.lineage == lineage => {
                    ImportError::Pages { pages, lineage, of_lineage: other.pages }
                }
                _ => ImportError::NotOpen(lineage),
            })?
        }
    };
    let published = tokio::task::spawn_blocking(move || {
        let state = SavedState { cpu: vec![], devices: state, attachment: vec![] };
        let figures = import.publisher.publish_image(&image, &state)?;
        Ok::<_, ImportError>((import, figures))
    });
    let (import, figures) = published.await.map_err(|_| ImportError::Ending)??;
    import.publisher.note(&figures);
    let lineage = import.lineage;
    *open = Some(import);
    Ok((lineage, figures))
}

fn read_image(path: &Path) -> Result<Vec<[u8; PAGE_BYTES]>, ImportError> {
    let failed = |source| ImportError::File { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes == 0 || bytes % PAGE_BYTES as u64 != 0 || bytes > IMPORT_RAM_BYTES_MAX {
        return Err(ImportError::Length { path: path.to_owned(), bytes });
    }
    let pages = usize::try_from(bytes / PAGE_BYTES as u64).expect("at most 8 GiB");
    let mut image = vec![[0; PAGE_BYTES]; pages];
    file.read_exact(image.as_flattened_mut()).map_err(failed)?;
    Ok(image)
}

fn read_state(path: &Path) -> Result<Vec<u8>, ImportError> {
    let failed = |source| ImportError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut state = vec![];
    file.take(IMPORT_STATE_BYTES_MAX + 1).read_to_end(&mut state).map_err(failed)?;
    if state.len() as u64 > IMPORT_STATE_BYTES_MAX {
        return Err(ImportError::StateLength { path: path.to_owned() });
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_whole_number_of_pages() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ram");
        for (bytes, pages) in [(0, None), (4095, None), (4096, Some(1)), (4097, None), (12_288, Some(3))] {
            std::fs::write(&path, vec![7; bytes]).unwrap();
            let read = read_image(&path);
            match pages {
                Some(pages) => assert_eq!(read.unwrap(), vec![[7; PAGE_BYTES]; pages]),
                None => assert!(matches!(read, Err(ImportError::Length { .. })), "{bytes}"),
            }
        }
        assert!(matches!(read_image(&directory.path().join("none")), Err(ImportError::File { .. })));
    }
}
