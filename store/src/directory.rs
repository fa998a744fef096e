//! A store's directory: its lock, its version, its permissions.
//!
//! ```text
//! LOCK      held while the store is open; names the holder's process
//! VERSION   `pageswarm-store 1`
//! packs/    0000000001.pack and so on
//! index/    RocksDB, a cache of packs
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::pack::sync_dir;

/// The version of the layout that this code reads and writes.
pub const STORE_VERSION: u32 = 1;

const VERSION_WORD: &str = "pageswarm-store";

/// The longest VERSION or LOCK file that is read.
const SMALL_FILE_BYTES_MAX: u64 = 256;

/// Why a directory cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process, or another part of this one, has it open.
    #[error("store {} is in use by process {holder}", dir.display())]
    Locked {
        /// The store.
        dir: PathBuf,
        /// The holder's process id as it noted it, or `?` if it has not yet.
        holder: HolderId,
    },
    /// The layout is from the future.
    #[error(
        "store {} was written by a newer pageswarm (store version {found}, this one knows {STORE_VERSION}): \
         upgrade, or use another directory", dir.display()
    )]
    NewerVersion {
        /// The store.
        dir: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The directory has files and none of them says that it is a store.
    #[error("{} is not empty and not a pageswarm store", dir.display())]
    NotAStore {
        /// The directory.
        dir: PathBuf,
    },
    /// The version file says nothing known.
    #[error("{} does not name a store version: it is damaged, or not of a pageswarm store", path.display())]
    VersionUnreadable {
        /// The file.
        path: PathBuf,
    },
    /// This user may not.
    #[error("no permission to use {}", path.display())]
    Denied {
        /// What was to be used.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No space left.
    #[error("disk is full: {} cannot be written; free space on it, or use another directory", path.display())]
    DiskFull {
        /// What was to be written.
        path: PathBuf,
    },
    /// Anything else the system says.
    #[error("{} cannot be used", path.display())]
    Io {
        /// What was to be used.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The process that holds a lock, if it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderId(pub Option<u32>);

/// A locked directory of a known version.
#[derive(Debug)]
pub(crate) struct StoreDirectory {
    dir: PathBuf,
    lock: File,
}

impl StoreDirectory {
    /// Locks `dir`, creating it if it does not exist.
    pub(crate) fn open(dir: &Path) -> Result<Self, DirectoryError> {
        create_dir(dir)?;
        let lock = take_lock(dir)?;
        match read_version(dir)? {
            Some(found) if found > STORE_VERSION => {
                return Err(DirectoryError::NewerVersion { dir: dir.to_owned(), found });
            }
            Some(_) => {}
            None => write_version(dir)?,
        }
        let directory = Self { dir: dir.to_owned(), lock };
        directory.remove_discarded()?;
        create_dir(&directory.packs())?;
        create_dir(&directory.index())?;
        sync_dir(dir).map_err(|source| refused(dir, source))?;
        Ok(directory)
    }

    pub(crate) fn packs(&self) -> PathBuf {
        self.dir.join("packs")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    /// Removes the index; packs hold all that is in it. Half an index never has its name, wherever this is broken off.
    pub(crate) fn discard_index(&self) -> Result<(), DirectoryError> {
        let index = self.index();
        std::fs::rename(&index, self.discarded()).map_err(|source| refused(&index, source))?;
        create_dir(&index)?;
        sync_dir(&self.dir).map_err(|source| refused(&self.dir, source))?;
        self.remove_discarded()
    }

    fn discarded(&self) -> PathBuf {
        self.dir.join("index.discarded")
    }

    fn remove_discarded(&self) -> Result<(), DirectoryError> {
        let discarded = self.discarded();
        match std::fs::remove_dir_all(&discarded) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(&discarded, error)),
            _ => Ok(()),
        }
    }
}

impl Drop for StoreDirectory {
    fn drop(&mut self) {
        // Closing is not enough: a process that another thread is just starting still shares the open file.
        let _unlocked = self.lock.unlock();
    }
}

impl std::fmt::Display for HolderId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(process) => process.fmt(f),
            None => f.write_str("?"),
        }
    }
}

fn create_dir(dir: &Path) -> Result<(), DirectoryError> {
    let existed = dir.is_dir();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| refused(dir, source))?;
    if !existed {
        // The mode is subject to the umask only; a parent that exists keeps its own.
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700))
            .map_err(|source| refused(dir, source))?;
    }
    Ok(())
}

fn take_lock(dir: &Path) -> Result<File, DirectoryError> {
    let path = dir.join("LOCK");
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| refused(&path, source))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = HolderId(read_small(&mut lock).ok().and_then(|text| text.trim().parse().ok()));
            return Err(DirectoryError::Locked { dir: dir.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(refused(&path, source)),
    }
    let process = format!("{}\n", std::process::id());
    lock.set_len(0)
        .and_then(|()| lock.write_all_at(process.as_bytes(), 0))
        .map_err(|source| refused(&path, source))?;
    Ok(lock)
}

/// The version of the store in `dir`; `None` if `dir` is empty.
fn read_version(dir: &Path) -> Result<Option<u32>, DirectoryError> {
    let path = dir.join("VERSION");
    let text = match File::open(&path).and_then(|mut file| read_small(&mut file)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if is_fresh(dir)? {
                Ok(None)
            } else {
                Err(DirectoryError::NotAStore { dir: dir.to_owned() })
            };
        }
        Err(source) => return Err(refused(&path, source)),
    };
    let version = text.trim_end().strip_prefix(VERSION_WORD).and_then(|rest| rest.trim().parse().ok());
    version.filter(|version| *version > 0).map(Some).ok_or(DirectoryError::VersionUnreadable { path })
}

fn is_fresh(dir: &Path) -> Result<bool, DirectoryError> {
    for entry in dir.read_dir().map_err(|source| refused(dir, source))? {
        let name = entry.map_err(|source| refused(dir, source))?.file_name();
        if name != "LOCK" && name != "VERSION.new" && name != "lost+found" {
            return Ok(false);
        }
    }
    Ok(true)
}

fn write_version(dir: &Path) -> Result<(), DirectoryError> {
    let (fresh, path) = (dir.join("VERSION.new"), dir.join("VERSION"));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(format!("{VERSION_WORD} {STORE_VERSION}\n").as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)?;
        sync_dir(dir)
    };
    write().map_err(|source| refused(&path, source))
}

fn read_small(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.take(SMALL_FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

fn refused(path: &Path, source: io::Error) -> DirectoryError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            DirectoryError::Denied { path, source }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DirectoryError::DiskFull { path },
        _ => DirectoryError::Io { path, source },
    }
}
