//! `cargo xtask bench distance`: whether distance between hosts is what it says, round trips and loss, and what the relay costs.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::probe::RoundTrips;
use super::relay::READY;
use super::{Carried, this_program};
use crate::bench::Destination;
use crate::bench::report::{Figure, Report};
use crate::bench::swarm::ground::Ground;
use crate::bench::swarm::measure::cpu_s;
use crate::bench::swarm::network::Network;
use crate::bench::swarm::process::{self, Process, until_true};
use crate::bench::swarm::profile::{DISTANCE, Link};
use crate::bench::swarm::{NEEDED, ensure_installed, say_links};
use crate::host::{self, Machine};

/// Fast, so that nothing waits for links.
const LINK: Link = Link { mbit_per_s: 1000 };
const PORT: u16 = 7777;
const PACKETS: u32 = 20_000;
const GAP: Duration = Duration::from_micros(200);
const PATIENCE: Duration = Duration::from_secs(60);
/// How much later than it should a packet's round trip may end, in the middle of all.
const LATE_MAX: Duration = Duration::from_millis(2);

/// How to run it.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct DistanceArgs {
    #[command(flatten)]
    pub(in crate::bench) destination: Destination,
}

/// All that was measured.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    round_trips: RoundTrips,
    carried: Carried,
    relay_cpu_s: f64,
}

/// Runs it and judges it.
pub(in crate::bench) fn measure(_args: &DistanceArgs) -> Result<Report> {
    ensure_installed(&NEEDED)?;
    say_links(LINK, Some(DISTANCE));
    let ground = Ground::new()?;
    let outcome = run(&ground)?;
    Ok(Report {
        name: "distance",
        command: "cargo xtask bench distance".to_owned(),
        machine: Machine::here()?,
        date: host::today()?,
        figures: figures(&outcome),
        outcome: serde_json::to_value(&outcome).context("outcome as JSON")?,
    })
}

fn run(ground: &Ground) -> Result<Outcome> {
    let directory = ground.fresh("distance")?;
    let network = Network::distant(ground.name(), 2, LINK, DISTANCE, &directory.join("relay.log"))?;
    let relay = network.relay().context("a network without a relay")?;
    let target = format!("{}:{PORT}", Network::address(1));
    let log = directory.join("echo.log");
    let mut echo = start(&network.namespace(1), &["echo", "--listen", &target], &log)?;
    until_true("the echo is ready", PATIENCE, || {
        echo.ensure_runs()?;
        Ok(echo.has_said(READY))
    })?;
    let (before, cpu_before_s) = (relay.carried()?, cpu_s(relay.id())?);
    let (packets, gap) = (PACKETS.to_string(), GAP.as_micros().to_string());
    let arguments = ["probe", "--target", &target, "--packets", &packets, "--gap-us", &gap];
    let mut probe = start(&network.namespace(0), &arguments, &directory.join("probe.log"))?;
    until_true("the probe ends", PATIENCE, || probe.succeeded())?;
    let said = probe.said();
    let found = said.lines().last().context("the probe said nothing")?;
    Ok(Outcome {
        round_trips: serde_json::from_str(found).context("what the probe found")?,
        carried: relay.carried()?.since(before),
        relay_cpu_s: cpu_s(relay.id())? - cpu_before_s,
    })
}

fn start(namespace: &str, arguments: &[&str], log: &Path) -> Result<Process> {
    let mut command = process::within(namespace, this_program()?);
    command.arg("relay").args(arguments);
    Process::spawn(arguments[0], &mut command, log)
}

fn figures(outcome: &Outcome) -> Vec<Figure> {
    let Outcome { round_trips, carried, relay_cpu_s } = outcome;
    let least = 2 * DISTANCE.delay;
    let time = Duration::from_micros;
    let ms = |us: u64| format!("{:.2} ms", us as f64 / 1e3);
    let (lost, wanted) = (carried.lost_percent(), f64::from(DISTANCE.lost_per_million) / 1e4);
    let unanswered = round_trips.sent - round_trips.answered.min(round_trips.sent);
    vec![
        Figure::judged(
            "round trip, least",
            ms(round_trips.least_us),
            format!("at least {} ms", least.as_millis()),
            round_trips.answered > 0 && time(round_trips.least_us) >= least,
        ),
        Figure::judged(
            "round trip, p50",
            ms(round_trips.p50_us),
            format!("at most {} ms", (least + LATE_MAX).as_millis()),
            round_trips.answered > 0 && time(round_trips.p50_us) <= least + LATE_MAX,
        ),
        Figure::stated("round trip, p99", ms(round_trips.p99_us)),
        Figure::judged(
            "packets lost, of those that passed",
            format!("{lost:.3} %: {} of {}", carried.lost, carried.taken),
            format!("{:.2} to {:.2} %", wanted / 2.0, wanted * 1.5),
            (wanted / 2.0..=wanted * 1.5).contains(&lost),
        ),
        Figure::stated("datagrams without an answer", format!("{unanswered} of {}", round_trips.sent)),
        Figure::stated("packets that the relay did not take in time", carried.overflowed.to_string()),
        Figure::stated(
            "processor time of the relay, a packet",
            format!("{:.1} us", relay_cpu_s * 1e6 / carried.taken.max(1) as f64),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_late_and_lossless_paths_are_noticed() {
        let outcome = |least_us: u64, p50_us: u64, lost: u64| Outcome {
            round_trips: RoundTrips { sent: 100, answered: 90, least_us, p50_us, p99_us: 30_000 },
            carried: Carried { taken: 100_000, lost, overflowed: 0 },
            relay_cpu_s: 0.1,
        };
        let short = |outcome: &Outcome| -> Vec<&str> {
            figures(outcome).iter().filter(|figure| figure.holds == Some(false)).map(|one| one.name).collect()
        };
        assert!(short(&outcome(20_000, 22_000, 100)).is_empty());
        assert_eq!(short(&outcome(19_999, 20_500, 100)), ["round trip, least"]);
        assert_eq!(short(&outcome(20_000, 22_001, 100)), ["round trip, p50"]);
        assert_eq!(short(&outcome(20_000, 20_500, 0)), ["packets lost, of those that passed"]);
        assert_eq!(short(&outcome(20_000, 20_500, 151)), ["packets lost, of those that passed"]);
    }
}
