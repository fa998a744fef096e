//! The directory of packs: naming, creating, listing and opening them, with a bound on how many stay open.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::PackNumber;
use super::header::{self, PACK_HEADER_BYTES, Salt};
use crate::limits::OPEN_PACKS_MAX;

/// A pack that is open for reading.
#[derive(Clone, Debug)]
pub(crate) struct OpenPack {
    pub(crate) file: Arc<File>,
    /// `None` if both copies of the header are damaged: no record can be told from noise then.
    pub(crate) salt: Option<Salt>,
}

/// The packs of a store.
#[derive(Debug)]
pub(crate) struct PackFiles {
    dir: PathBuf,
    open: RwLock<BTreeMap<PackNumber, OpenPack>>,
}

impl PackFiles {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, open: RwLock::new(BTreeMap::new()) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, number: PackNumber) -> PathBuf {
        self.dir.join(number.file_name())
    }

    /// Every pack there is with its length, in order.
    pub(crate) fn list(&self) -> io::Result<Vec<(PackNumber, u64)>> {
        let mut packs = vec![];
        for entry in self.dir.read_dir()? {
            let entry = entry?;
            if let Some(number) = entry.file_name().to_str().and_then(PackNumber::of_file_name) {
                packs.push((number, entry.metadata()?.len()));
            }
        }
        packs.sort_unstable();
        Ok(packs)
    }

    /// Creates a pack and makes its name durable; replaces nothing.
    pub(crate) fn create(&self, number: PackNumber) -> io::Result<(Arc<File>, Salt)> {
        let path = self.path(number);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let salt = Salt::random();
        let written = file.write_all_at(&header::encode(number, salt), 0).and_then(|()| sync_dir(&self.dir));
        if let Err(error) = written {
            // A pack without a header would be reported as damage later; nobody relies on this one yet.
            let _removed = std::fs::remove_file(&path);
            return Err(error);
        }
        let file = Arc::new(file);
        self.remember(number, OpenPack { file: Arc::clone(&file), salt: Some(salt) });
        Ok((file, salt))
    }

    /// The pack, from the open ones or opened now.
    pub(crate) fn open(&self, number: PackNumber) -> io::Result<OpenPack> {
        let known = self.open.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
        if let Some(pack) = known {
            return Ok(pack);
        }
        let pack = self.open_unshared(number)?;
        self.remember(number, pack.clone());
        Ok(pack)
    }

    fn open_unshared(&self, number: PackNumber) -> io::Result<OpenPack> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(number))?;
        let mut bytes = vec![0; usize::try_from(PACK_HEADER_BYTES).unwrap_or(usize::MAX)];
        let length = read_up_to(&file, &mut bytes, 0)?;
        let salt = header::decode(&bytes[..length], number);
        Ok(OpenPack { file: Arc::new(file), salt })
    }

    fn remember(&self, number: PackNumber, pack: OpenPack) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(number, pack);
        if open.len() > OPEN_PACKS_MAX {
            // Any other will do: it is opened again when it is needed.
            let evicted = open.keys().copied().find(|other| *other != number);
            evicted.and_then(|other| open.remove(&other));
        }
    }
}

/// Reads until `buffer` is full or the file ends; the number of bytes read.
pub(crate) fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let at = offset.saturating_add(u64::try_from(filled).unwrap_or(u64::MAX));
        match file.read_at(&mut buffer[filled..], at) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
