//! Keys on disk: the node's own, and the swarm's on the node that admits members.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use rand::TryRngCore as _;
use rand::rngs::OsRng;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("key file {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not a key.
    #[error(
        "key file {path} has {length} bytes, a key has 32: restore it from a copy, or remove it to get a new identity"
    )]
    Length {
        /// Which file.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
}

/// The key in `path`, made if the file does not exist. The file is readable by its owner only.
///
/// # Errors
///
/// [`KeyError`].
pub fn load_or_create(path: &Path) -> Result<SigningKey, KeyError> {
    let io = |source| KeyError::Io { path: path.to_owned(), source };
    match load(path)? {
        Some(key) => Ok(key),
        None => {
            let secret = random()?;
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map_err(io)?;
            file.write_all(&secret).map_err(io)?;
            file.sync_all().map_err(io)?;
            Ok(SigningKey::from_bytes(&secret))
        }
    }
}

/// The key in `path`, if the file exists.
///
/// # Errors
///
/// [`KeyError`].
pub fn load(path: &Path) -> Result<Option<SigningKey>, KeyError> {
    match std::fs::read(path) {
        Ok(bytes) => match <[u8; 32]>::try_from(bytes.as_slice()) {
            Ok(secret) => Ok(Some(SigningKey::from_bytes(&secret))),
            Err(_) => Err(KeyError::Length { path: path.to_owned(), length: bytes.len() }),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeyError::Io { path: path.to_owned(), source }),
    }
}

/// Bytes from the operating system's generator.
///
/// # Errors
///
/// [`KeyError::Io`] if it fails.
pub fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(|error| KeyError::Io {
        path: PathBuf::from("/dev/urandom"),
        source: std::io::Error::other(error),
    })?;
    Ok(bytes)
}
