//! `cargo xtask bench swarm`: real nodes on links of a set rate, and other tools on the same links in the same run, each
//! against the bound that none can beat.

mod api;
mod content;
mod distance;
mod faults;
mod figures;
mod ground;
mod guest;
mod idle;
mod loopback;
mod measure;
mod network;
mod process;
mod profile;
mod stream;
mod systems;
mod table;
mod workers;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::Destination;
use super::report::{Figure, Report};
use crate::host::{self, Machine};
use crate::sim;
use content::Noise;
use distance::Distance;
pub(super) use distance::{DistanceArgs, measure as measure_distance};
pub(crate) use distance::{RelayPart, run as relay};
pub(super) use faults::{FaultsArgs, measure as measure_faults};
use ground::Ground;
pub(super) use idle::{IdleArgs, measure as measure_idle};
use measure::Run;
use network::Network;
use profile::{Link, Profile};
use systems::{Kind, Site};
pub(super) use workers::{WorkersArgs, measure as measure_workers};

const SEED: u64 = 7;
/// Programs of the testbed itself, and their packages.
const NEEDED: [(&str, &str); 3] = [("ip", "iproute2"), ("tc", "iproute2"), ("setpriv", "util-linux")];

/// How to run it.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct SwarmArgs {
    /// A small comparison of which only the function is judged.
    #[arg(long, conflicts_with = "profile")]
    quick: bool,
    /// What is spread, to how many, over which links.
    #[arg(long, value_enum, default_value = "big")]
    profile: ProfileName,
    /// Run this system alone; may be given several times.
    #[arg(long, value_enum, value_name = "SYSTEM")]
    only: Vec<Kind>,
    #[command(flatten)]
    pub(super) destination: Destination,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum ProfileName {
    /// 256 MiB to 8 nodes at 100 Mbit/s.
    #[default]
    Big,
    /// 128 MiB to 8 nodes at 50 Mbit/s, which leaves two cores time to rest.
    Half,
    /// 20 MiB to 16 nodes at 50 Mbit/s.
    Delta,
    /// 20 MiB to 8 nodes at 25 Mbit/s, 20 ms away from each other and with 0.1 % loss.
    Wan,
    /// 40 deltas, one every 250 ms, to 8 nodes that each want another checkpoint; the product alone.
    Stream,
    /// 1 GiB to one node without a link, beside bare QUIC: processor time.
    Loopback,
}

impl SwarmArgs {
    /// The short form.
    pub(super) fn quick() -> Self {
        Self { quick: true, ..Self::default() }
    }

    fn command(&self) -> String {
        let profile = match (self.quick, self.profile) {
            (true, _) => " --quick",
            (false, ProfileName::Big) => " --profile big",
            (false, ProfileName::Half) => " --profile half",
            (false, ProfileName::Delta) => " --profile delta",
            (false, ProfileName::Wan) => " --profile wan",
            (false, ProfileName::Stream) => " --profile stream",
            (false, ProfileName::Loopback) => " --profile loopback",
        };
        let only: String =
            self.only.iter().map(|kind| format!(" --only {}", kind.name().replace(' ', "-"))).collect();
        format!("cargo xtask bench swarm{profile}{only}")
    }

    fn kinds(&self) -> Vec<Kind> {
        let all: &[Kind] = if self.quick { &Kind::QUICK } else { &Kind::ALL };
        let wanted = |kind: &Kind| self.only.is_empty() || self.only.contains(kind);
        all.iter().copied().filter(wanted).collect()
    }
}

/// Fails if a program is not in the path, and names its package.
fn ensure_installed(programs: &[(&str, &str)]) -> Result<()> {
    for (program, package) in programs {
        ensure!(host::in_path(program), "{program} is not installed ({package})");
    }
    Ok(())
}

/// Runs the profile and judges it.
pub(super) fn measure(args: &SwarmArgs) -> Result<Report> {
    ensure_installed(&NEEDED)?;
    let ground = Ground::new()?;
    let (figures, outcome) = match (args.quick, args.profile) {
        (true, _) => compare(&profile::QUICK, &args.kinds(), &ground)?,
        (false, ProfileName::Big) => compare(&profile::BIG, &args.kinds(), &ground)?,
        (false, ProfileName::Half) => compare(&profile::HALF, &args.kinds(), &ground)?,
        (false, ProfileName::Delta) => compare(&profile::DELTA, &args.kinds(), &ground)?,
        (false, ProfileName::Wan) => compare(&profile::WAN, &args.kinds(), &ground)?,
        (false, ProfileName::Stream) => stream(&ground)?,
        (false, ProfileName::Loopback) => loopback(&ground)?,
    };
    let figures = if args.quick { figures::of_function(figures) } else { figures };
    Ok(Report {
        name: "swarm",
        command: args.command(),
        machine: Machine::here()?,
        date: host::today()?,
        figures,
        outcome,
    })
}

fn compare(profile: &Profile, kinds: &[Kind], ground: &Ground) -> Result<(Vec<Figure>, serde_json::Value)> {
    say_links(profile.link, profile.distance);
    println!(
        "{}: {} MiB to {} receivers, bound {:.2} s",
        profile.name,
        profile.content_bytes >> 20,
        profile.receivers,
        profile.bound_s()
    );
    // First: should it fail, nothing that took minutes is lost.
    let simulated = profile.simulation().map(|options| sim::over_bound(SEED, &options)).transpose()?;
    let content = ground.fresh("content")?.join("content");
    content::write(&content, profile.content_bytes, &mut Noise::new(SEED))?;
    let mut runs = Vec::new();
    for kind in kinds {
        let lacking = kind.lacking();
        if !lacking.is_empty() {
            println!("SKIP: {}: not installed ({})", kind.name(), lacking.join(", "));
            continue;
        }
        match run(*kind, profile, &content, ground).with_context(|| kind.name()) {
            Ok(run) => {
                println!("{}: {:.2} s", kind.name(), run.makespan_s);
                if let Some(relayed) = &run.metered.relayed {
                    println!("  relay: {}", figures::of_relay(relayed, run.makespan_s));
                }
                runs.push(run);
            }
            Err(error) if *kind == Kind::Pageswarm => return Err(error),
            // What another tool cannot do is no reason to lose what was measured.
            Err(error) => println!("FAILED: {error:#}"),
        }
    }
    println!("\n{}\n", table::table(&runs));
    let outcome = serde_json::to_value(&runs).context("runs as JSON")?;
    let mut figures = figures::of_comparison(profile, &runs);
    let product = runs.iter().find(|run| run.system == Kind::Pageswarm);
    figures.extend(product.zip(simulated).map(|(run, simulated)| figures::beside_simulation(run, simulated)));
    Ok((figures, outcome))
}

/// One system on a network and in a directory of its own; both are gone afterwards.
fn run(kind: Kind, profile: &Profile, content: &Path, ground: &Ground) -> Result<Run> {
    let directory = ground.fresh("run")?;
    let (name, hosts, link) = (ground.name(), profile.receivers + 1, profile.link);
    let network = match profile.distance {
        None => Network::new(name, hosts, link)?,
        Some(distance) => Network::distant(name, hosts, link, distance, &directory.join("relay.log"))?,
    };
    let site = Site { network: &network, profile, content, directory: directory.clone() };
    let run = measure::run(kind, &site);
    ground::remove(&directory)?;
    run
}

fn stream(ground: &Ground) -> Result<(Vec<Figure>, serde_json::Value)> {
    let profile = &profile::STREAM;
    say_links(profile.link, None);
    let run = stream::run(profile, ground)?;
    let outcome = serde_json::to_value(&run).context("run as JSON")?;
    Ok((figures::of_stream(profile, &run), outcome))
}

fn loopback(ground: &Ground) -> Result<(Vec<Figure>, serde_json::Value)> {
    let run = loopback::run(ground)?;
    run.ensure_whole()?;
    let outcome = serde_json::to_value(&run).context("run as JSON")?;
    Ok((figures::of_loopback(&run), outcome))
}

fn say_links(link: Link, distance: Option<Distance>) {
    println!(
        "links: {} Mbit/s up and down, by HTB with bursts of {} KiB, a bfifo of {} bytes behind each; TCP is cubic",
        link.mbit_per_s,
        network::BURST_BYTES >> 10,
        link.queue_bytes()
    );
    if let Some(distance) = distance {
        println!("between them: {}", distance.text());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_repeats_the_run() {
        let quick = SwarmArgs { quick: true, ..SwarmArgs::default() };
        assert_eq!(quick.command(), "cargo xtask bench swarm --quick");
        assert_eq!(quick.kinds(), Kind::QUICK);
        let only = vec![Kind::PageswarmCentral];
        let one = SwarmArgs { profile: ProfileName::Delta, only, ..SwarmArgs::default() };
        assert_eq!(one.command(), "cargo xtask bench swarm --profile delta --only pageswarm-central");
        assert_eq!(one.kinds(), [Kind::PageswarmCentral]);
        let wan = SwarmArgs { profile: ProfileName::Wan, ..SwarmArgs::default() };
        assert_eq!(wan.command(), "cargo xtask bench swarm --profile wan");
    }
}
