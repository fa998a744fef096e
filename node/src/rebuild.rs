//! Rebuilding a checkpoint from the store: every byte read back, hashed, and compared with what the head promises.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use pageswarm_checkpoint::{
    Blob, BlobKind, CheckpointIndex, CheckpointMap, ChunkHash, ChunkRef, LineageId, PAGE_BYTES, PageMap,
    PageNumber, Slot, StateRoot, state_root,
};
use pageswarm_store::{ChunkRead, ReadError, Store};
use pageswarm_vmm::{ImageFile, SavedState};

use crate::limits::BLOB_BYTES_MAX;
use crate::lineages::{LineageError, MapError};
use crate::node::Node;

/// Why a checkpoint cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Its map.
    #[error("map")]
    Map(#[from] MapError),
    /// Its head.
    #[error("head")]
    Lineage(#[from] LineageError),
    /// The store.
    #[error("store")]
    Read(#[from] ReadError),
    /// Chunks are not here: fetch the checkpoint first.
    #[error("{missing} chunks of checkpoint {index} are not in the store: fetch it first")]
    Missing {
        /// Which checkpoint.
        index: CheckpointIndex,
        /// How many chunks.
        missing: u64,
    },
    /// What was read back is not what the head promises.
    #[error("checkpoint {index} has state root {found}, its head promises {promised}")]
    WrongRoot {
        /// Which checkpoint.
        index: CheckpointIndex,
        /// Computed from the bytes read back.
        found: StateRoot,
        /// In the head.
        promised: StateRoot,
    },
    /// A blob is longer than any that a node publishes.
    #[error(
        "a blob of checkpoint {index} has {bytes} bytes, at most {} are read",
        crate::limits::BLOB_BYTES_MAX
    )]
    BlobLength {
        /// Which checkpoint.
        index: CheckpointIndex,
        /// How many its map says.
        bytes: u64,
    },
    /// Its map names a chunk that is no page.
    #[error(
        "page {page} of checkpoint {index} is a chunk that does not have {PAGE_BYTES} bytes: its writer made no page of it"
    )]
    NoPage {
        /// Which checkpoint.
        index: CheckpointIndex,
        /// Which page.
        page: PageNumber,
    },
    /// The image cannot be written.
    #[error("image file")]
    Image(#[from] std::io::Error),
}

/// A checkpoint whose bytes were read back and found right.
#[derive(Debug)]
pub struct Rebuilt {
    /// Its root, computed from the bytes read back.
    pub state_root: StateRoot,
    /// Everything but RAM.
    pub state: SavedState,
    /// Pages that are not zero.
    pub pages: u64,
}

/// Reads all of a checkpoint back and checks its state root. RAM goes into the file `image`, if given, which has that name
/// only once it is proven. What was proven is kept for VMs that start from it, as far as there is room for it.
///
/// # Errors
///
/// [`RebuildError`].
pub fn rebuild(
    node: &Node,
    id: &LineageId,
    index: CheckpointIndex,
    image: Option<&Path>,
) -> Result<Rebuilt, RebuildError> {
    let map = node.lineages.map_at(id, index)?;
    let unproven = image.map(|path| Unproven::create(path, &map)).transpose()?;
    let file = unproven.as_ref().map(|unproven| &unproven.file);
    let mut draft = node.images.draft(ram_bytes(&map));
    if let (None, Some(file)) = (&draft, file) {
        file.use_page_cache()?;
    }
    let rebuilt = rebuild_into(node, id, index, |page, bytes| match (&mut draft, file) {
        (Some(draft), _) => {
            draft.put(page, bytes);
            Ok(())
        }
        (None, Some(file)) => file.write_pages_at(bytes, page.0 as usize),
        (None, None) => Ok(()),
    })?;
    if let (Some(draft), Some(file)) = (&mut draft, file) {
        // From there it goes in a few calls, in order, and only once it is proven.
        draft.write_to(file)?;
    }
    unproven.map_or(Ok(()), Unproven::keep)?;
    if let Some(draft) = draft {
        node.images.keep(*id, index, draft);
    }
    Ok(rebuilt)
}

/// Reads all of a checkpoint back and checks its state root; gives each page that is not zero to `keep` on the way, in
/// no order.
///
/// # Errors
///
/// [`RebuildError`], with what `keep` fails with as [`RebuildError::Image`]. What was kept until then is worth nothing.
pub fn rebuild_into(
    node: &Node,
    id: &LineageId,
    index: CheckpointIndex,
    mut keep: impl FnMut(PageNumber, &[u8; PAGE_BYTES]) -> std::io::Result<()>,
) -> Result<Rebuilt, RebuildError> {
    let map = node.lineages.map_at(id, index)?;
    let head = node.lineages.head(id, index)?.ok_or(MapError::UnknownCheckpoint { lineage: *id, index })?;
    let chunks: Vec<(PageNumber, ChunkRef, ChunkHash)> = map.ram.chunks().collect();
    let names: Vec<ChunkHash> = chunks.iter().map(|(_, _, hash)| *hash).collect();
    let mut slots: Vec<(PageNumber, Slot)> = Vec::with_capacity(chunks.len());
    let mut missing = 0;
    let (mut written, mut no_page) = (Ok(()), None);
    node.store.read_chunks(&names, |at, read| match read {
        ChunkRead::Held(bytes) => {
            let (page, source, _) = chunks[at];
            slots.push((page, Slot::Chunk { source, hash: bytes.hash() }));
            match bytes.bytes().try_into() {
                Ok(bytes) if written.is_ok() => written = keep(page, bytes),
                Ok(_) => {}
                Err(_) => no_page = Some(page),
            }
        }
        ChunkRead::NotHeld | ChunkRead::Bad(_) => missing += 1,
    })?;
    written?;
    if let Some(page) = no_page {
        return Err(RebuildError::NoPage { index, page });
    }
    if missing > 0 {
        return Err(RebuildError::Missing { index, missing });
    }
    slots.sort_unstable_by_key(|(page, _)| *page);
    let ram = PageMap::zero(map.ram.pages()).with(&slots);
    let state = read_state(&node.store, &map, index)?;
    let found = state_root(&ram, [&state.cpu, &state.devices], None);
    if found != head.state_root {
        return Err(RebuildError::WrongRoot { index, found, promised: head.state_root });
    }
    Ok(Rebuilt { state_root: found, state, pages: names.len() as u64 })
}

/// Everything but RAM, read back.
///
/// # Errors
///
/// [`RebuildError`].
pub fn read_state(
    store: &Store,
    map: &CheckpointMap,
    index: CheckpointIndex,
) -> Result<SavedState, RebuildError> {
    let blob = |kind| read_blob(store, map, kind, index);
    Ok(SavedState {
        cpu: blob(BlobKind::Cpu)?,
        devices: blob(BlobKind::Devices)?,
        attachment: blob(BlobKind::KvmAttachment)?,
    })
}

/// The bytes of one kind of blob, read back; none if the checkpoint has no such blob.
///
/// # Errors
///
/// [`RebuildError`].
pub fn read_blob(
    store: &Store,
    map: &CheckpointMap,
    kind: BlobKind,
    index: CheckpointIndex,
) -> Result<Vec<u8>, RebuildError> {
    let length = |blob: &Blob| blob.chunks.iter().map(|(.., length)| u64::from(*length)).sum();
    let stated: u64 = map.blobs.get(&kind).map_or(0, length);
    if stated > BLOB_BYTES_MAX {
        return Err(RebuildError::BlobLength { index, bytes: stated });
    }
    let mut bytes = Vec::new();
    for (_, hash, _) in map.blobs.get(&kind).into_iter().flat_map(|blob| &blob.chunks) {
        match store.read_chunk(*hash)? {
            Some(chunk) if (bytes.len() + chunk.len()) as u64 <= BLOB_BYTES_MAX => {
                bytes.extend_from_slice(&chunk);
            }
            // The map said less than the chunks have.
            Some(_) => return Err(RebuildError::BlobLength { index, bytes: BLOB_BYTES_MAX + 1 }),
            None => return Err(RebuildError::Missing { index, missing: 1 }),
        }
    }
    Ok(bytes)
}

/// An image under another name than it gets once its bytes are proven. Without [`Unproven::keep`] it is removed.
struct Unproven {
    file: ImageFile,
    path: PathBuf,
    part: PathBuf,
}

impl Unproven {
    fn create(path: &Path, map: &CheckpointMap) -> std::io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        if std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            let why = format!("{} is there and is no file that can be replaced", path.display());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
        }
        // Two that write the same image at a time must not write into one file.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".{}-{number}.part", std::process::id()));
        let part = PathBuf::from(part);
        let unproven = Self { file: ImageFile::create(&part)?, path: path.to_owned(), part };
        unproven.file.set_pages(map.ram.pages() as usize)?;
        Ok(unproven)
    }

    fn keep(self) -> std::io::Result<()> {
        std::fs::rename(&self.part, &self.path)
    }
}

impl Drop for Unproven {
    fn drop(&mut self) {
        // It is gone already if it was kept.
        let _removed = std::fs::remove_file(&self.part);
    }
}

fn ram_bytes(map: &CheckpointMap) -> u64 {
    u64::from(map.ram.pages()) * PAGE_BYTES as u64
}
