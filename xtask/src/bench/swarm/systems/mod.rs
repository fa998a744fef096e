//! The systems that are compared, each a module.

mod aria2;
mod http;
mod libtorrent;
mod nginx;
pub(super) mod nodes;
mod pageswarm;
mod places;
mod rqbit;
mod torrent;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use serde::Serialize;

use super::network::Network;
use super::profile::Profile;
use crate::host;
use nodes::Exchange;
use pageswarm::Pageswarm;

/// Where a system runs, and what it spreads from host 0 to all others.
#[derive(Debug)]
pub(super) struct Site<'a> {
    pub(super) network: &'a Network,
    pub(super) profile: &'a Profile,
    pub(super) content: &'a Path,
    /// For its files; removed after the run.
    pub(super) directory: PathBuf,
}

/// A system that is prepared: all that would be there long before a content exists runs already. Dropping it ends it.
pub(super) trait System {
    /// Lets all receivers begin.
    fn start(&mut self) -> Result<()>;

    /// For each receiver, whether it has the whole content as far as the system itself verifies it.
    fn done(&mut self) -> Result<Vec<bool>>;

    /// Processes that run, without those whose end `done` has seen.
    fn processes(&self) -> Vec<u32>;

    /// After the clock: fails unless every receiver has the right bytes.
    fn check(&mut self) -> Result<Option<Chunks>>;
}

/// What the product's receivers count of chunks, encoded.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Chunks {
    pub(super) received_bytes: u64,
    /// Of these, bytes that were held already when they came.
    pub(super) duplicate_bytes: u64,
}

/// The systems there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// The product.
    Pageswarm,
    /// The product, with every node fetching from the publisher alone.
    PageswarmCentral,
    /// nginx on the publisher, curl on receivers.
    Http,
    /// BitTorrent.
    Aria2,
    /// BitTorrent, in instances that run already.
    Libtorrent,
    /// BitTorrent, written in Rust.
    Rqbit,
}

/// A program, and the package that has it.
type Needed = (&'static str, &'static str);

const NGINX: Needed = ("nginx", "nginx-light");
const MKTORRENT: Needed = ("mktorrent", "mktorrent");

impl Kind {
    /// In the order in which they run.
    pub(super) const ALL: [Self; 6] =
        [Self::Pageswarm, Self::PageswarmCentral, Self::Http, Self::Aria2, Self::Libtorrent, Self::Rqbit];

    /// Those of the quick form.
    pub(super) const QUICK: [Self; 3] = [Self::Pageswarm, Self::PageswarmCentral, Self::Http];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pageswarm => "pageswarm",
            Self::PageswarmCentral => "pageswarm central",
            Self::Http => "http",
            Self::Aria2 => "aria2",
            Self::Libtorrent => "libtorrent",
            Self::Rqbit => "rqbit",
        }
    }

    /// The name of the figure that states its time.
    pub(super) const fn figure(self) -> &'static str {
        match self {
            Self::Pageswarm => "time over the bound",
            Self::PageswarmCentral => "time over the bound: pageswarm, every node from the publisher",
            Self::Http => "time over the bound: nginx and curl",
            Self::Aria2 => "time over the bound: aria2",
            Self::Libtorrent => "time over the bound: libtorrent",
            Self::Rqbit => "time over the bound: rqbit",
        }
    }

    /// Whether this is the product in another mode rather than another tool.
    pub(super) const fn is_product(self) -> bool {
        matches!(self, Self::Pageswarm | Self::PageswarmCentral)
    }

    /// Packages of what it needs and this machine lacks, or the command that brings it.
    pub(super) fn lacking(self) -> Vec<&'static str> {
        let needed: &[Needed] = match self {
            Self::Pageswarm | Self::PageswarmCentral => &[],
            Self::Http => &[NGINX, ("curl", "curl")],
            Self::Aria2 => &[("aria2c", "aria2"), NGINX, MKTORRENT],
            Self::Libtorrent => &[MKTORRENT],
            Self::Rqbit => &[(rqbit::PROGRAM, rqbit::INSTALL), MKTORRENT],
        };
        let absent = needed.iter().filter(|(program, _)| !host::in_path(program));
        let mut packages: Vec<&'static str> = absent.map(|(_, package)| *package).collect();
        if self == Self::Libtorrent && libtorrent::python().is_none() {
            packages.push("python3-libtorrent");
        }
        packages
    }

    /// Which version this machine has, in the program's own words.
    pub(super) fn version(self) -> String {
        let (program, arguments): (&str, &[&str]) = match self {
            Self::Pageswarm | Self::PageswarmCentral => return env!("CARGO_PKG_VERSION").to_owned(),
            Self::Http => ("nginx", &["-v"]),
            Self::Aria2 => ("aria2c", &["--version"]),
            Self::Libtorrent => (libtorrent::python().unwrap_or("python3"), &["-c", libtorrent::SAY_VERSION]),
            Self::Rqbit => (rqbit::PROGRAM, &["--version"]),
        };
        let said = Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let said = said.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
    }

    pub(super) fn prepare(self, site: &Site<'_>) -> Result<Box<dyn System>> {
        let system: Box<dyn System> = match self {
            Self::Pageswarm => Box::new(Pageswarm::prepare(site, Exchange::Swarm)?),
            Self::PageswarmCentral => Box::new(Pageswarm::prepare(site, Exchange::Central)?),
            Self::Http => Box::new(http::Http::prepare(site)?),
            Self::Aria2 => Box::new(aria2::Aria2::prepare(site)?),
            Self::Libtorrent => Box::new(libtorrent::Libtorrent::prepare(site)?),
            Self::Rqbit => Box::new(rqbit::Rqbit::prepare(site)?),
        };
        Ok(system)
    }
}
