//! aria2: BitTorrent with a tracker, local peer discovery and peer exchange. Receivers start with the clock, as their
//! users start them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::places::{DONE, Place, Places};
use super::{Chunks, Site, System, nginx, torrent};
use crate::bench::swarm::process::{Process, until_true};

const PATIENCE: Duration = Duration::from_secs(20);
const OPTIONS: [&str; 12] = [
    "--no-conf=true",
    "--enable-dht=false",
    "--enable-dht6=false",
    "--disable-ipv6=true",
    "--bt-enable-lpd=true",
    "--enable-peer-exchange=true",
    // Goes on as a seed.
    "--seed-ratio=0.0",
    "--file-allocation=none",
    "--dir=.",
    "--summary-interval=0",
    "--quiet=true",
    "--log=aria2-own.log",
];

/// One instance on each host, and a tracker.
#[derive(Debug)]
pub(super) struct Aria2 {
    tracker: Process,
    publisher: Process,
    places: Places,
    torrent: PathBuf,
    /// What aria2 runs when a download is complete.
    hook: PathBuf,
    receivers: Vec<Process>,
}

impl Aria2 {
    pub(super) fn prepare(site: &Site<'_>) -> Result<Self> {
        let places = Places::new(site)?;
        let torrent = torrent::make(site, &places, site.profile.piece_log2)?;
        let hook = site.directory.join("complete");
        fs::write(&hook, format!("#!/bin/sh\n: > {DONE}\n")).context("hook")?;
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).context("hook")?;
        nginx::track(&places, torrent::PORT)?;
        let tracker = nginx::start(&places.publisher)?;
        let mut publisher = spawn(&places.publisher, &torrent, &hook, &["--bt-seed-unverified=true"])?;
        until_true("aria2 listens on the publisher", PATIENCE, || {
            publisher.ensure_runs()?;
            Ok(publisher.listens(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, torrent::PORT)))
        })?;
        Ok(Self { tracker, publisher, places, torrent, hook, receivers: Vec::new() })
    }
}

impl System for Aria2 {
    fn start(&mut self) -> Result<()> {
        for place in &self.places.receivers {
            self.receivers.push(spawn(place, &self.torrent, &self.hook, &[])?);
        }
        Ok(())
    }

    fn done(&mut self) -> Result<Vec<bool>> {
        let all = [&mut self.tracker, &mut self.publisher].into_iter().chain(&mut self.receivers);
        for process in all {
            process.ensure_runs()?;
        }
        Ok(self.places.done())
    }

    fn processes(&self) -> Vec<u32> {
        [&self.tracker, &self.publisher].into_iter().chain(&self.receivers).map(Process::id).collect()
    }

    fn check(&mut self) -> Result<Option<Chunks>> {
        self.places.compare()?;
        Ok(None)
    }
}

fn spawn(place: &Place, torrent: &Path, hook: &Path, more: &[&str]) -> Result<Process> {
    let mut command = place.command("aria2c");
    command.args(OPTIONS).args(more).arg(format!("--listen-port={}", torrent::PORT));
    command.arg(format!("--on-bt-download-complete={}", hook.display())).arg(torrent);
    place.spawn("aria2", &mut command)
}
