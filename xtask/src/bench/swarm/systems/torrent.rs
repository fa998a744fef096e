//! The torrent that BitTorrent's clients are given before the clock.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::places::{CONTENT, Places};
use super::{Site, nginx};

/// Where every client listens.
pub(super) const PORT: u16 = 6881;

/// Makes it with pieces of 2 to the power of `piece_log2` bytes.
pub(super) fn make(site: &Site<'_>, places: &Places, piece_log2: u32) -> Result<PathBuf> {
    let path = site.directory.join("content.torrent");
    let mut command = Command::new("mktorrent");
    command.args(["-l", &piece_log2.to_string(), "-a", &nginx::announce_url(places.publisher.address)]);
    command.args(["-n", CONTENT, "-o"]).arg(&path).arg(places.publisher.content());
    let output = command.stdin(Stdio::null()).output().context("mktorrent")?;
    ensure!(output.status.success(), "mktorrent: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(path)
}
