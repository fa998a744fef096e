//! What one does without peers: a web server, and every receiver downloads from it.

use anyhow::Result;

use super::places::{CONTENT, Places};
use super::{Chunks, Site, System, nginx};
use crate::bench::swarm::process::Process;

/// nginx and one curl for each receiver.
#[derive(Debug)]
pub(super) struct Http {
    server: Process,
    places: Places,
    limit_s: u64,
    downloads: Vec<Process>,
}

impl Http {
    pub(super) fn prepare(site: &Site<'_>) -> Result<Self> {
        let places = Places::new(site)?;
        let server = nginx::start(&places.publisher)?;
        Ok(Self { server, places, limit_s: site.profile.limit().as_secs(), downloads: Vec::new() })
    }
}

impl System for Http {
    fn start(&mut self) -> Result<()> {
        let (url, limit) = (nginx::content_url(self.places.publisher.address), self.limit_s.to_string());
        for place in &self.places.receivers {
            let mut command = place.command("curl");
            command.args(["--silent", "--show-error", "--fail", "--max-time", &limit]);
            command.args(["--output", CONTENT, &url]);
            self.downloads.push(place.spawn("curl", &mut command)?);
        }
        Ok(())
    }

    fn done(&mut self) -> Result<Vec<bool>> {
        self.server.ensure_runs()?;
        self.downloads.iter_mut().map(Process::succeeded).collect()
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.server.id()]
    }

    fn check(&mut self) -> Result<Option<Chunks>> {
        self.places.compare()?;
        Ok(None)
    }
}
