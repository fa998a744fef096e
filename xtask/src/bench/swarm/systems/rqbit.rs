//! rqbit: BitTorrent, with all peers given and local peer discovery. Receivers start with the clock, as their users start
//! them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::places::{Place, Places};
use super::{Chunks, Site, System, torrent};
use crate::bench::swarm::process::{Process, until_true};

pub(super) const PROGRAM: &str = "rqbit";
/// No package of Debian's has it. Its web pages need another language's tools, and nothing here looks at them.
pub(super) const INSTALL: &str = "cargo install rqbit --locked --no-default-features --features rust-tls";

const PATIENCE: Duration = Duration::from_secs(20);
const OPTIONS: [&str; 8] = [
    "-v",
    "info",
    "--disable-dht",
    "--disable-upnp-port-forward",
    "--disable-trackers",
    "--ipv4-only",
    "--listen-ip",
    "0.0.0.0",
];
/// What it says of a torrent of which it has all, as a seed from the start or once it has downloaded it.
const FINISHED: &str = "torrent finished downloading";
const SEEDS: &str = "Initial check results";

/// One instance on each host.
#[derive(Debug)]
pub(super) struct Rqbit {
    publisher: Process,
    places: Places,
    torrent: PathBuf,
    receivers: Vec<Receiver>,
}

#[derive(Debug)]
struct Receiver {
    process: Process,
    finished: bool,
}

impl Rqbit {
    pub(super) fn prepare(site: &Site<'_>) -> Result<Self> {
        let places = Places::new(site)?;
        let torrent = torrent::make(site, &places, site.profile.piece_log2)?;
        let mut publisher = spawn(&places.publisher, &places, &torrent)?;
        until_true("rqbit seeds on the publisher", PATIENCE, || {
            publisher.ensure_runs()?;
            let listens = publisher.listens(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, torrent::PORT));
            Ok(listens && publisher.has_said(SEEDS))
        })?;
        Ok(Self { publisher, places, torrent, receivers: Vec::new() })
    }
}

impl System for Rqbit {
    fn start(&mut self) -> Result<()> {
        for place in &self.places.receivers {
            let process = spawn(place, &self.places, &self.torrent)?;
            self.receivers.push(Receiver { process, finished: false });
        }
        Ok(())
    }

    fn done(&mut self) -> Result<Vec<bool>> {
        self.publisher.ensure_runs()?;
        for receiver in self.receivers.iter_mut().filter(|receiver| !receiver.finished) {
            receiver.process.ensure_runs()?;
            receiver.finished = receiver.process.has_said(FINISHED);
        }
        Ok(self.receivers.iter().map(|receiver| receiver.finished).collect())
    }

    fn processes(&self) -> Vec<u32> {
        let receivers = self.receivers.iter().map(|receiver| receiver.process.id());
        std::iter::once(self.publisher.id()).chain(receivers).collect()
    }

    fn check(&mut self) -> Result<Option<Chunks>> {
        self.places.compare()?;
        Ok(None)
    }
}

fn spawn(place: &Place, places: &Places, torrent: &Path) -> Result<Process> {
    let peers = places.all().map(|other| other.address).filter(|other| *other != place.address);
    let peers: Vec<String> = peers.map(|peer| format!("{peer}:{}", torrent::PORT)).collect();
    let mut command = place.command(PROGRAM);
    command.args(OPTIONS).arg(format!("--listen-port={}", torrent::PORT));
    // The publisher's file is there already, and checked.
    command.args(["download", "--overwrite", "--disable-http-api", "--output-folder", "."]);
    command.arg(format!("--initial-peers={}", peers.join(","))).arg(torrent);
    place.spawn("rqbit", &mut command)
}
