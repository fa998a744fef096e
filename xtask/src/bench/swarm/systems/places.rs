//! A directory for each host, for systems that spread files: the publisher's has the content, in receivers' it appears.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Site;
use crate::bench::swarm::content;
use crate::bench::swarm::network::Network;
use crate::bench::swarm::process::{self, Process};

/// The content's name in every directory.
pub(super) const CONTENT: &str = "content";
/// A file that a receiver makes once it has the content.
pub(super) const DONE: &str = "done";

/// A host.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) address: Ipv4Addr,
    pub(super) directory: PathBuf,
}

/// All hosts.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) publisher: Place,
    pub(super) receivers: Vec<Place>,
}

impl Places {
    pub(super) fn new(site: &Site<'_>) -> Result<Self> {
        let place = |host: u32| -> Result<Place> {
            let directory = site.directory.join(format!("host-{host}"));
            fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
            let namespace = site.network.namespace(host);
            Ok(Place { namespace, address: Network::address(host), directory })
        };
        let publisher = place(0)?;
        let copy = publisher.content();
        fs::hard_link(site.content, &copy).with_context(|| copy.display().to_string())?;
        let receivers = (1..=site.profile.receivers).map(place).collect::<Result<_>>()?;
        Ok(Self { publisher, receivers })
    }

    /// The publisher first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.publisher).chain(&self.receivers)
    }

    /// Which receivers have said that they have the content.
    pub(super) fn done(&self) -> Vec<bool> {
        self.receivers.iter().map(|place| place.directory.join(DONE).exists()).collect()
    }

    /// Fails unless every receiver's file is the publisher's.
    pub(super) fn compare(&self) -> Result<()> {
        let original = self.publisher.content();
        for place in &self.receivers {
            let copy = place.content();
            ensure!(content::equal(&original, &copy)?, "{} has other bytes", copy.display());
        }
        Ok(())
    }
}

impl Place {
    pub(super) fn content(&self) -> PathBuf {
        self.directory.join(CONTENT)
    }

    /// A command in the host's namespace and directory.
    pub(super) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = process::within(&self.namespace, program);
        command.current_dir(&self.directory);
        command
    }

    /// Starts a command of this host.
    pub(super) fn spawn(&self, what: &str, command: &mut Command) -> Result<Process> {
        let log = self.directory.join(format!("{what}.log"));
        Process::spawn(format!("{what} at {}", self.address), command, &log)
    }
}
