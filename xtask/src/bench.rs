//! `cargo xtask bench NAME`: one contract for every measurement. Each compares within one run, prints last a table of
//! figure, value, target and verdict, and fails if a target falls short.

mod demo;
mod report;
mod swarm;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Subcommand;

use crate::{Verdict, host};
use report::Report;
pub(crate) use swarm::{RelayPart, relay};

/// The measurements there are.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// The main job: downtime, dirty rate, and whether every checkpoint was rebuilt and proven.
    Demo(demo::DemoArgs),
    /// Whether hosts that are to be distant from each other are: round trips and loss between two.
    Distance(swarm::DistanceArgs),
    /// Page faults of a lazily restored guest over a link, idle and full.
    Faults(swarm::FaultsArgs),
    /// Memory of nodes that only listen: many processes, a guest's checkpoints, nothing fetched.
    Idle(swarm::IdleArgs),
    /// Spreading one content to many nodes over links of a set rate, beside other tools.
    Swarm(swarm::SwarmArgs),
    /// Workers that share a recording's intervals: how much faster two finish it than one.
    Workers(swarm::WorkersArgs),
}

/// Where a measurement goes besides the screen.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Destination {
    /// Write figures, machine, command and date, and all that the measured program said, to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Put the figures into docs/measurements.md, in place of those of the same command.
    #[arg(long)]
    write: bool,
}

impl Bench {
    /// The measurements that have a short form, in it.
    pub(crate) fn quick() -> [Self; 5] {
        [
            Self::Demo(demo::DemoArgs::quick()),
            Self::Faults(swarm::FaultsArgs::quick()),
            Self::Idle(swarm::IdleArgs::quick()),
            Self::Swarm(swarm::SwarmArgs::quick()),
            Self::Workers(swarm::WorkersArgs::quick()),
        ]
    }

    /// What it is called among the checks.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Demo(_) => "bench demo, function only",
            Self::Distance(_) => "bench distance",
            Self::Faults(_) => "bench faults, function only",
            Self::Idle(_) => "bench idle, function only",
            Self::Swarm(_) => "bench swarm, function only",
            Self::Workers(_) => "bench workers, function only",
        }
    }

    /// What this machine lacks for it.
    pub(crate) fn lacks(&self) -> Option<&'static str> {
        let records = !matches!(self, Self::Distance(_) | Self::Swarm(_));
        if records && !host::kvm_is_usable() {
            return Some("/dev/kvm is not usable here");
        }
        if matches!(self, Self::Demo(_)) {
            return None;
        }
        if !host::may_make_networks() {
            return Some("network namespaces take root with its capabilities");
        }
        if matches!(self, Self::Workers(_)) && !host::has_first_two_cores() {
            return Some("two workers need the cores 0 and 1");
        }
        let programs = ["ip", "tc", "setpriv", "taskset"];
        (!programs.iter().all(|program| host::in_path(program)))
            .then_some("ip, tc, setpriv and taskset are not all there: install iproute2 and util-linux")
    }
}

/// Measures, and prints the table.
pub(crate) fn run(bench: &Bench) -> Result<Verdict> {
    let (report, destination) = match bench {
        Bench::Demo(args) => (demo::measure(args)?, &args.destination),
        Bench::Distance(args) => (swarm::measure_distance(args)?, &args.destination),
        Bench::Faults(args) => (swarm::measure_faults(args)?, &args.destination),
        Bench::Idle(args) => (swarm::measure_idle(args)?, &args.destination),
        Bench::Swarm(args) => (swarm::measure(args)?, &args.destination),
        Bench::Workers(args) => (swarm::measure_workers(args)?, &args.destination),
    };
    if let Some(path) = &destination.json {
        let text = serde_json::to_string_pretty(&report).context("report as JSON")?;
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    if destination.write {
        write_document(&report)?;
    }
    println!("{}", report.table());
    Ok(Verdict::of(report.holds()))
}

fn write_document(report: &Report) -> Result<()> {
    let path = host::root()?.join("docs/measurements.md");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let text = report.written_into(&text).with_context(|| path.display().to_string())?;
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}
