//! The Debian base image of the testbed: made once by debootstrap, kept as a tar file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::process::Command;

use super::daemon::finish;

/// For downloading and unpacking some hundred packages.
const DEBOOTSTRAP_PATIENCE: Duration = Duration::from_secs(420);
/// What a base image does without.
const LEFT_OUT: [&str; 5] =
    ["./var/cache/apt", "./var/lib/apt/lists", "./usr/share/doc", "./usr/share/man", "./usr/share/locale"];

/// The tar file of a minimal Debian 12; made if it is not in the cache of this user.
///
/// # Errors
///
/// If debootstrap fails, for want of a network for example.
pub(crate) async fn tarball() -> Result<PathBuf> {
    let cache = cache_directory();
    let kept = cache.join("debian-bookworm-minbase.tar");
    if kept.is_file() {
        return Ok(kept);
    }
    std::fs::create_dir_all(&cache).with_context(|| format!("make {}", cache.display()))?;
    // Beside the cache and not in /tmp, which may be mounted without devices.
    let work =
        tempfile::Builder::new().prefix("debootstrap-").tempdir_in(&cache).context("temporary directory")?;
    let root = work.path().join("root");
    let mut debootstrap = Command::new("debootstrap");
    finish(debootstrap.args(["--variant=minbase", "bookworm"]).arg(&root), DEBOOTSTRAP_PATIENCE).await?;
    let part = work.path().join("part.tar");
    pack(&root, &part).await?;
    std::fs::rename(&part, &kept).with_context(|| format!("keep {}", kept.display()))?;
    Ok(kept)
}

async fn pack(root: &Path, tar: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command
        .arg("-C")
        .arg(root)
        .args(LEFT_OUT.map(|path| format!("--exclude={path}")))
        .arg("-cf")
        .arg(tar)
        .arg(".");
    finish(&mut command, Duration::from_secs(60)).await.map(drop)
}

fn cache_directory() -> PathBuf {
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    named.or_else(home).unwrap_or_else(std::env::temp_dir).join("pageswarm")
}
