//! `cargo xtask bench idle`: what a node costs that only listens. Many nodes join one publisher, learn every checkpoint of a
//! guest, fetch none, and are then looked at.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde::de::IgnoredAny;

use super::ground::{self, Ground};
use super::guest;
use super::network::Network;
use super::profile::Link;
use super::systems::nodes::{Exchange, Hosts, Nodes};
use super::{NEEDED, ensure_installed};
use crate::bench::Destination;
use crate::bench::report::{Figure, Report};
use crate::host::{self, Machine};

const LINK: Link = Link { mbit_per_s: 1000 };
/// Of the guest's checkpoints.
const INTERVAL_MS: u64 = 500;
/// What an idle node may take.
const RSS_BYTES_MAX: u64 = 64 << 20;
/// How long the guest, and then the nodes, may take: all of them share this machine.
const PATIENCE: Duration = Duration::from_secs(400);

/// How to run it.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct IdleArgs {
    /// A few nodes and checkpoints; only the function is judged.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    pub(in crate::bench) destination: Destination,
}

#[derive(Clone, Copy, Debug)]
struct Profile {
    nodes: u32,
    checkpoints: u64,
    /// From when the last node knows the last checkpoint to when memory is looked at for the first time, and from then to
    /// when it is looked at again and judged: a node gives back within half a minute what it freed.
    rests: [Duration; 2],
}

const FULL: Profile =
    Profile { nodes: 64, checkpoints: 100, rests: [Duration::from_secs(20), Duration::from_secs(40)] };
const QUICK: Profile = Profile { nodes: 4, checkpoints: 10, rests: [Duration::from_secs(1); 2] };

/// Memory of one node, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Memory {
    /// All that is resident, the program's own text with it.
    rss_bytes: u64,
    /// The same, what is shared counted in parts.
    pss_bytes: u64,
}

/// All that was measured.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    nodes: u32,
    checkpoints: u64,
    followed: usize,
    connected_s: f64,
    /// From the last checkpoint to when the last node knew it.
    lag_s: f64,
    /// After the first rest.
    rested: Vec<Memory>,
    /// After the second, too.
    idle: Vec<Memory>,
}

impl IdleArgs {
    /// The short form.
    pub(in crate::bench) fn quick() -> Self {
        Self { quick: true, ..Self::default() }
    }

    fn command(&self) -> String {
        format!("cargo xtask bench idle{}", if self.quick { " --quick" } else { "" })
    }
}

/// Runs it and judges it.
pub(in crate::bench) fn measure(args: &IdleArgs) -> Result<Report> {
    ensure_installed(&NEEDED)?;
    ensure!(host::kvm_is_usable(), "/dev/kvm cannot be used: guests need it");
    let profile = if args.quick { QUICK } else { FULL };
    let ground = Ground::new()?;
    let outcome = run(&profile, &ground)?;
    let figures = figures(&outcome);
    let of_function = |figure: Figure| if figure.name == FOLLOWED { figure } else { figure.unjudged() };
    Ok(Report {
        name: "idle",
        command: args.command(),
        machine: Machine::here()?,
        date: host::today()?,
        figures: if args.quick { figures.into_iter().map(of_function).collect() } else { figures },
        outcome: serde_json::to_value(&outcome).context("outcome as JSON")?,
    })
}

const FOLLOWED: &str = "nodes that know every checkpoint";

fn run(profile: &Profile, ground: &Ground) -> Result<Outcome> {
    let directory = ground.fresh("idle")?;
    let network = Network::new(ground.name(), profile.nodes + 1, LINK)?;
    let clock = Instant::now();
    let mut nodes = Nodes::start(Hosts::Shaped(&network), profile.nodes, &directory, Exchange::Swarm)?;
    let connected_s = clock.elapsed().as_secs_f64();
    println!("{} nodes are connected with each other after {connected_s:.1} s", profile.nodes + 1);
    let (checkpoint, _) =
        guest::record::<IgnoredAny>(&nodes, "kernel-build", profile.checkpoints, INTERVAL_MS, PATIENCE)?;
    let clock = Instant::now();
    nodes.wait_announced(&checkpoint)?;
    let lag_s = clock.elapsed().as_secs_f64();
    let followed = nodes.knowing(&checkpoint)?;
    let memory = || nodes.processes().into_iter().skip(1).map(memory_of).collect::<Result<Vec<Memory>>>();
    let [first, second] = profile.rests;
    std::thread::sleep(first);
    let rested = memory()?;
    std::thread::sleep(second);
    let idle = memory()?;
    drop(nodes);
    ground::remove(&directory)?;
    let Profile { nodes, checkpoints, .. } = *profile;
    Ok(Outcome { nodes, checkpoints, followed, connected_s, lag_s, rested, idle })
}

fn memory_of(process: u32) -> Result<Memory> {
    let path = format!("/proc/{process}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    memory(&text).with_context(|| path.clone())
}

/// Reads /proc/PID/smaps_rollup, whose numbers are in KiB.
fn memory(rollup: &str) -> Option<Memory> {
    let find = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Memory { rss_bytes: find("Rss:")?, pss_bytes: find("Pss:")? })
}

fn figures(outcome: &Outcome) -> Vec<Figure> {
    let sorted = |memory: &[Memory], of: fn(&Memory) -> u64| {
        let mut all: Vec<u64> = memory.iter().map(of).collect();
        all.sort_unstable();
        (all.get(all.len() / 2).copied().unwrap_or(0), all.last().copied().unwrap_or(u64::MAX))
    };
    let (rss, rss_most) = sorted(&outcome.idle, |one| one.rss_bytes);
    let both = |(median, most): (u64, u64)| format!("{} / {}", mib(median), mib(most));
    let nodes = outcome.nodes as usize;
    let known = format!("{} of {nodes}, {} checkpoints", outcome.followed, outcome.checkpoints);
    let target = format!("at most {}", mib(RSS_BYTES_MAX));
    vec![
        Figure::judged(FOLLOWED, known, "all", outcome.followed == nodes),
        Figure::judged(
            "RSS of an idle node, median / most",
            both((rss, rss_most)),
            target,
            rss_most <= RSS_BYTES_MAX,
        ),
        Figure::stated(
            "PSS of an idle node, median / most",
            both(sorted(&outcome.idle, |one| one.pss_bytes)),
        ),
        Figure::stated("RSS 40 s before, median / most", both(sorted(&outcome.rested, |one| one.rss_bytes))),
        Figure::stated("until all are connected with each other", format!("{:.1} s", outcome.connected_s)),
        Figure::stated("from the last checkpoint until all know it", format!("{:.1} s", outcome.lag_s)),
    ]
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_sums_are_read() {
        let text = "55d0-7ffd ---p 00000000 00:00 0  [rollup]\nRss:               18432 kB\nPss:                9216 kB\n\
            Pss_Dirty:          100 kB\n";
        assert_eq!(memory(text), Some(Memory { rss_bytes: 18 << 20, pss_bytes: 9 << 20 }));
        assert_eq!(memory("Rss: 5 kB\n"), None);
    }

    #[test]
    fn one_node_that_is_too_large_or_behind_decides() {
        let outcome = |followed: usize, most_mib: u64| {
            let memory = [1, most_mib].map(|rss| Memory { rss_bytes: rss << 20, pss_bytes: 1 });
            // What they had before is not judged.
            let rested = vec![Memory { rss_bytes: 100 << 20, pss_bytes: 1 }; 2];
            let idle = memory.to_vec();
            Outcome { nodes: 2, checkpoints: 3, followed, connected_s: 1.0, lag_s: 1.0, rested, idle }
        };
        let holds = |outcome: &Outcome| -> Vec<bool> {
            figures(outcome).iter().filter_map(|figure| figure.holds).collect()
        };
        assert_eq!(holds(&outcome(2, 64)), [true, true]);
        assert_eq!(holds(&outcome(2, 65)), [true, false]);
        assert_eq!(holds(&outcome(1, 64)), [false, true]);
    }
}
