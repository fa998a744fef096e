//! libtorrent (rasterbar): BitTorrent in instances that run before the clock, as a daemon would, and are told of the
//! torrent and of all peers when it starts.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::places::{Place, Places};
use super::{Chunks, Site, System, torrent};
use crate::bench::swarm::process::{Process, until_true};

/// For `python -c`.
pub(super) const SAY_VERSION: &str = "import libtorrent; print('libtorrent', libtorrent.version)";

const SCRIPT: &str = include_str!("libtorrent_instance.py");
/// At this job larger pieces were slower.
const PIECE_LOG2: u32 = 18;
const PATIENCE: Duration = Duration::from_secs(30);

/// One instance on each host.
#[derive(Debug)]
pub(super) struct Libtorrent {
    publisher: Process,
    receivers: Vec<Process>,
    places: Places,
}

/// An interpreter that has the bindings. Another Python may hide the system's, whose packages they come with.
pub(super) fn python() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let mut command = Command::new(python);
        command.args(["-c", "import libtorrent"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

impl Libtorrent {
    pub(super) fn prepare(site: &Site<'_>) -> Result<Self> {
        let places = Places::new(site)?;
        let python = python().context("no Python with libtorrent")?;
        let torrent = torrent::make(site, &places, PIECE_LOG2)?;
        // Python would take a script of the module's name for the module.
        let script = site.directory.join("instance.py");
        fs::write(&script, SCRIPT).context("script")?;
        let spawn = |place: &Place, role: &str| {
            let peers = places.all().map(|other| other.address).filter(|other| *other != place.address);
            let mut command = place.command(python);
            command.arg(&script).arg(&torrent).arg(role);
            command.arg(place.address.to_string()).arg(torrent::PORT.to_string());
            command.args(peers.map(|peer| peer.to_string())).stdin(Stdio::piped());
            place.spawn("libtorrent", &mut command)
        };
        let mut publisher = spawn(&places.publisher, "publisher")?;
        let mut receivers = Vec::new();
        for place in &places.receivers {
            receivers.push(spawn(place, "receiver")?);
        }
        until_true("every instance of libtorrent is ready", PATIENCE, || {
            for process in std::iter::once(&mut publisher).chain(&mut receivers) {
                process.ensure_runs()?;
            }
            Ok(places.all().all(|place| place.directory.join("ready").exists()))
        })?;
        Ok(Self { publisher, receivers, places })
    }
}

impl System for Libtorrent {
    fn start(&mut self) -> Result<()> {
        for process in &mut self.receivers {
            process.input().context("standard input")?.write_all(b"\n").context("libtorrent")?;
        }
        Ok(())
    }

    fn done(&mut self) -> Result<Vec<bool>> {
        for process in std::iter::once(&mut self.publisher).chain(&mut self.receivers) {
            process.ensure_runs()?;
        }
        Ok(self.places.done())
    }

    fn processes(&self) -> Vec<u32> {
        std::iter::once(&self.publisher).chain(&self.receivers).map(Process::id).collect()
    }

    fn check(&mut self) -> Result<Option<Chunks>> {
        self.places.compare()?;
        Ok(None)
    }
}
