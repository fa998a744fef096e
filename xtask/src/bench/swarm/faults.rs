//! `cargo xtask bench faults`: page faults of a guest that is restored lazily over a link of a set rate, from the only node
//! that has its checkpoint; on the idle link, and while a bulk fetch fills it. And how soon a guest works that is restored
//! lazily, against one of which everything is fetched first.
//!
//! Every phase has a node of its own, which is gone before the next one starts: the publisher stays the only holder.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api::Api;
use super::content::{self, Noise};
use super::ground::{self, Ground};
use super::measure::{Meter, Metered};
use super::network::Network;
use super::process::until_true;
use super::profile::Link;
use super::systems::nodes::{self, Exchange, Hosts, Imported, Nodes};
use super::{NEEDED, SEED, ensure_installed, say_links};
use crate::bench::Destination;
use crate::bench::report::{Figure, Report};
use crate::host::{self, Machine};

/// The largest run that the engine asks for, encoded: one may be on the wire and one in the sender's hands when a fault
/// arrives (`pageswarm_swarm::limits::RUN_BYTES_MAX`).
const RUN_BYTES: u64 = 256 << 10;
/// The link must carry so much, or the run is void.
const LOAD_PERCENT_MIN: u64 = 90;
const LINK: Link = Link { mbit_per_s: 100 };
const WORKLOAD: &str = "kernel-build";
/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Over which the link is looked at before the guest starts.
const LOOK: Duration = Duration::from_secs(1);

/// How to run it.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct FaultsArgs {
    /// A small guest; only the function is judged.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    pub(in crate::bench) destination: Destination,
}

/// What is restored, and what fills the link.
#[derive(Clone, Copy, Debug)]
struct Profile {
    ram_bytes: u64,
    noise_bytes: u64,
}

/// A fault waits for some 20 ms beside a bulk fetch: the noise must last longer than all of them.
const FULL: Profile = Profile { ram_bytes: 64 << 20, noise_bytes: 1280 << 20 };
const QUICK: Profile = Profile { ram_bytes: 64 << 20, noise_bytes: 384 << 20 };

/// What a guest found that was resumed lazily and checked all of its memory.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct SelfCheck {
    holds: bool,
    counter_before: u64,
    /// All that were answered, those for zero pages and for pages that came meanwhile too.
    faults: u64,
    took_ms: u64,
}

/// Of page faults, those for which a page was fetched.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Fetched {
    faults_fetched: u64,
    fault_fetch_p50_us: Option<u64>,
    fault_fetch_p99_us: Option<u64>,
}

#[derive(Deserialize)]
struct Status {
    transfer: Fetched,
}

/// A guest's check of itself, and how long its faults took.
#[derive(Clone, Copy, Debug, Serialize)]
struct Checked {
    check: SelfCheck,
    fetched: Fetched,
}

/// A self-check while the link was loaded.
#[derive(Clone, Debug, Serialize)]
struct Loaded {
    checked: Checked,
    /// Of the link's rate, before the guest was there.
    background_percent: u64,
    /// Of the link's rate, while it faulted, its own pages with it.
    during_percent: u64,
    metered: Metered,
    /// Whether the bulk fetch outlasted the guest.
    outlasted: bool,
}

/// From the wish to a guest's work.
#[derive(Clone, Copy, Debug, Serialize)]
struct Start {
    /// Until the guest runs its first instruction.
    first_instruction_ms: u64,
    /// Until it has done what it does in a second at the rate that is set.
    first_second_ms: u64,
}

/// All that was measured.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    idle: Checked,
    loaded: Loaded,
    lazy: Start,
    fetched_first: Start,
}

/// A recorded checkpoint, and the rate at which its guest dirties pages.
#[derive(Clone, Debug)]
struct Recorded {
    checkpoint: Imported,
    pages_per_s: u64,
}

#[derive(Deserialize)]
struct Vm {
    vm: u64,
    lineage: Option<String>,
    counter: u64,
    ended: Option<String>,
    failed: bool,
    checkpoints: Vec<Taken>,
}

#[derive(Deserialize)]
struct Taken {
    index: u64,
    rate_set: u64,
    state_root: String,
}

impl FaultsArgs {
    /// The short form.
    pub(in crate::bench) fn quick() -> Self {
        Self { quick: true, ..Self::default() }
    }

    fn command(&self) -> String {
        format!("cargo xtask bench faults{}", if self.quick { " --quick" } else { "" })
    }
}

/// Runs it and judges it.
pub(in crate::bench) fn measure(args: &FaultsArgs) -> Result<Report> {
    ensure_installed(&NEEDED)?;
    ensure!(host::kvm_is_usable(), "/dev/kvm cannot be used: guests need it");
    let profile = if args.quick { QUICK } else { FULL };
    say_links(LINK, None);
    let ground = Ground::new()?;
    let outcome = run(&profile, &ground)?;
    let figures = figures(&outcome);
    let figures = if args.quick { figures.into_iter().map(of_function).collect() } else { figures };
    Ok(Report {
        name: "faults",
        command: args.command(),
        machine: Machine::here()?,
        date: host::today()?,
        figures,
        outcome: serde_json::to_value(&outcome).context("outcome as JSON")?,
    })
}

const WHOLE: &str = "guests restored and found whole";

fn of_function(figure: Figure) -> Figure {
    if figure.name == WHOLE { figure } else { figure.unjudged() }
}

fn run(profile: &Profile, ground: &Ground) -> Result<Outcome> {
    let directory = ground.fresh("faults")?;
    let network = Network::new(ground.name(), 5, LINK)?;
    let mut nodes = Nodes::start(Hosts::Shaped(&network), 0, &directory, Exchange::Swarm)?;
    let recorded = record(&nodes.api(0), profile)?;
    println!("recorded a guest of {} MiB", profile.ram_bytes >> 20);
    let noise = import_noise(&nodes, &directory, profile)?;
    let idle = alone(&mut nodes, &network, &directory, (1, &recorded), self_check)?;
    println!("idle link: {idle:?}");
    let loaded = alone(&mut nodes, &network, &directory, (2, &recorded), |api, recorded| {
        under_load(api, recorded, &noise, &network)
    })?;
    println!("loaded link: {:?}, {} % of it in use", loaded.checked, loaded.during_percent);
    let before = idle.check.counter_before;
    let lazy = alone(&mut nodes, &network, &directory, (3, &recorded), |api, recorded| {
        start(api, recorded, before, Instant::now())
    })?;
    println!("restored lazily: {lazy:?}");
    let fetched_first = alone(&mut nodes, &network, &directory, (4, &recorded), |api, recorded| {
        let clock = Instant::now();
        let Imported { lineage, index, .. } = &recorded.checkpoint;
        nodes::fetch(api, lineage, *index, PATIENCE)?;
        start(api, recorded, before, clock)
    })?;
    println!("fetched first: {fetched_first:?}");
    drop(nodes);
    ground::remove(&directory)?;
    Ok(Outcome { idle, loaded, lazy, fetched_first })
}

/// Lets a node on `host`, which joins for it and is gone afterwards, do something with the checkpoint.
fn alone<T>(
    nodes: &mut Nodes,
    network: &Network,
    directory: &Path,
    (host, recorded): (u32, &Recorded),
    work: impl FnOnce(&Api, &Recorded) -> Result<T>,
) -> Result<T> {
    nodes.join(network, host, directory, "publisher")?;
    nodes.wait_announced(&recorded.checkpoint)?;
    let done = work(&nodes.newest(), recorded).with_context(|| format!("host {host}"))?;
    nodes.remove_newest()?;
    Ok(done)
}

fn import_noise(nodes: &Nodes, directory: &Path, profile: &Profile) -> Result<Imported> {
    let image = directory.join("noise");
    content::write(&image, profile.noise_bytes, &mut Noise::new(SEED))?;
    let imported = nodes.import(&image, None)?;
    std::fs::remove_file(&image).context("noise")?;
    Ok(imported)
}

/// Two checkpoints of a guest; the second is restored later.
fn record(api: &Api, profile: &Profile) -> Result<Recorded> {
    let body = json!({
        "workload": WORKLOAD, "ram_bytes": profile.ram_bytes, "interval_ms": 500, "strategy": "pre-copy",
        "checkpoints": 2, "seed": SEED,
    });
    let vm: Vm = api.post("/api/v1/vms", &body, PATIENCE)?;
    let lineage = vm.lineage.context("a VM without a lineage")?;
    let path = format!("/api/v1/vms/{}?from=0", vm.vm);
    until_true("the guest is recorded", PATIENCE, || {
        let vm: Vm = api.get(&path)?;
        ensure!(!vm.failed, "the guest failed: {:?}", vm.ended);
        Ok(vm.ended.is_some())
    })?;
    let vm: Vm = api.get(&path)?;
    let last = vm.checkpoints.into_iter().next_back().context("no checkpoint was taken")?;
    let checkpoint = Imported { lineage, index: last.index, state_root: last.state_root };
    Ok(Recorded { checkpoint, pages_per_s: last.rate_set })
}

/// Resumes it with nothing but what faults bring, and lets the guest check all of its memory.
fn self_check(api: &Api, recorded: &Recorded) -> Result<Checked> {
    let body = nodes::request(&recorded.checkpoint.lineage, recorded.checkpoint.index, PATIENCE);
    let check = api.post("/api/v1/checkpoints/self-check", &body, PATIENCE)?;
    let status: Status = api.get("/api/v1/status")?;
    Ok(Checked { check, fetched: status.transfer })
}

/// The same while a bulk fetch from the same node fills the link.
fn under_load(api: &Api, recorded: &Recorded, noise: &Imported, network: &Network) -> Result<Loaded> {
    let bulk = {
        let (api, lineage, index) = (api.clone(), noise.lineage.clone(), noise.index);
        std::thread::spawn(move || nodes::fetch(&api, &lineage, index, PATIENCE))
    };
    let mut background_percent = 0;
    until_true("a bulk fetch fills the link", Duration::from_secs(20), || {
        ensure!(!bulk.is_finished(), "the bulk fetch ended before it filled the link");
        let (meter, clock) = (Meter::start(network, &[])?, Instant::now());
        std::thread::sleep(LOOK);
        background_percent = percent(meter.stop(&[])?.received_bytes, clock.elapsed());
        Ok(background_percent >= LOAD_PERCENT_MIN)
    })?;
    let (meter, clock) = (Meter::start(network, &[])?, Instant::now());
    let checked = self_check(api, recorded)?;
    let elapsed = clock.elapsed();
    let metered = meter.stop(&[])?;
    let during_percent = percent(metered.received_bytes, elapsed);
    // Its node is ended next, and with it the rest of the fetch.
    Ok(Loaded { checked, background_percent, during_percent, metered, outlasted: !bulk.is_finished() })
}

/// Of what the link carries in that time.
fn percent(bytes: u64, in_time: Duration) -> u64 {
    let most = u128::from(LINK.bytes_per_s()) * in_time.as_micros() / 1_000_000;
    u64::try_from(u128::from(bytes) * 100 / most.max(1)).unwrap_or(u64::MAX)
}

/// Resumes the checkpoint as a branch, and waits until the guest has worked for a second.
fn start(api: &Api, recorded: &Recorded, counter_before: u64, clock: Instant) -> Result<Start> {
    let Imported { lineage, index, .. } = &recorded.checkpoint;
    let body = json!({
        "workload": WORKLOAD, "ram_bytes": 0, "interval_ms": 1000, "strategy": "pre-copy", "seed": SEED,
        "resume": nodes::request(lineage, *index, PATIENCE),
    });
    let vm: Vm = api.post("/api/v1/vms", &body, PATIENCE)?;
    let first_instruction_ms = millis(clock.elapsed());
    let wanted = counter_before + recorded.pages_per_s;
    let path = format!("/api/v1/vms/{}", vm.vm);
    until_true("the guest has worked for a second", PATIENCE, || {
        let vm: Vm = api.get(&path)?;
        if let Some(why) = vm.ended {
            bail!("the guest ended: {why}");
        }
        Ok(vm.counter >= wanted)
    })?;
    Ok(Start { first_instruction_ms, first_second_ms: millis(clock.elapsed()) })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn figures(outcome: &Outcome) -> Vec<Figure> {
    let Outcome { idle, loaded, lazy, fetched_first } = outcome;
    let known = |us: Option<u64>| us.unwrap_or(u64::MAX);
    let two_runs_us = 2 * RUN_BYTES * 1_000_000 / LINK.bytes_per_s();
    let (alone, beside) = (idle.fetched, loaded.checked.fetched);
    let most_us = known(alone.fault_fetch_p99_us).saturating_add(two_runs_us);
    let p99_us = known(beside.fault_fetch_p99_us);
    let is_whole = |one: &Checked| one.check.holds && one.fetched.faults_fetched > 0;
    let whole = usize::from(is_whole(idle)) + usize::from(is_whole(&loaded.checked));
    let load = loaded.background_percent.min(loaded.during_percent);
    let is_loaded = load >= LOAD_PERCENT_MIN && loaded.outlasted;
    let under_load = Figure::judged(
        "page fault under load, p99",
        ms(p99_us),
        format!("at most idle p99 and the wire time of two runs of {} KiB: {}", RUN_BYTES >> 10, ms(most_us)),
        p99_us <= most_us,
    );
    let end = if loaded.outlasted { "" } else { ", not to their end" };
    let link =
        format!("{} % before, {} % during the faults{end}", loaded.background_percent, loaded.during_percent);
    vec![
        Figure::judged(WHOLE, format!("{whole} of 2"), "all", whole == 2),
        Figure::stated("faults answered by fetching, idle link", answered(idle)),
        Figure::stated("faults answered by fetching, under load", answered(&loaded.checked)),
        Figure::stated("page fault, idle link, p50", ms(known(alone.fault_fetch_p50_us))),
        Figure::stated("page fault, idle link, p99", ms(known(alone.fault_fetch_p99_us))),
        Figure::stated("page fault under load, p50", ms(known(beside.fault_fetch_p50_us))),
        if is_loaded { under_load } else { under_load.unjudged() },
        Figure::judged("link in use", link, format!("at least {LOAD_PERCENT_MIN} %, or void"), is_loaded),
        Figure::stated("machine idle under load", format!("{:.0} %", loaded.metered.idle_percent)),
        Figure::stated("first instruction, lazily", ms(lazy.first_instruction_ms * 1000)),
        Figure::stated("first instruction, fetched first", ms(fetched_first.first_instruction_ms * 1000)),
        Figure::stated("first second of work, lazily", ms(lazy.first_second_ms * 1000)),
        Figure::stated("first second of work, fetched first", ms(fetched_first.first_second_ms * 1000)),
    ]
}

fn answered(checked: &Checked) -> String {
    format!("{} of {}, in {} ms", checked.fetched.faults_fetched, checked.check.faults, checked.check.took_ms)
}

fn ms(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(idle_p99_us: u64, loaded_p99_us: u64, during_percent: u64) -> Outcome {
        let checked = |p99: u64| Checked {
            check: SelfCheck { holds: true, counter_before: 5, faults: 9, took_ms: 2 },
            fetched: Fetched {
                faults_fetched: 7,
                fault_fetch_p50_us: Some(1000),
                fault_fetch_p99_us: Some(p99),
            },
        };
        let metered = Metered {
            publisher_up_bytes: 1,
            received_bytes: 1,
            drops: 0,
            cpu_s: 0.0,
            idle_percent: 50.0,
            relayed: None,
        };
        let start = Start { first_instruction_ms: 1, first_second_ms: 2 };
        let loaded = Loaded {
            checked: checked(loaded_p99_us),
            background_percent: 95,
            during_percent,
            metered,
            outlasted: true,
        };
        Outcome { idle: checked(idle_p99_us), loaded, lazy: start, fetched_first: start }
    }

    fn holds(outcome: &Outcome) -> Vec<Option<bool>> {
        figures(outcome).iter().filter(|figure| figure.target.is_some()).map(|figure| figure.holds).collect()
    }

    #[test]
    fn the_target_is_idle_and_two_runs() {
        // 2 * 262,144 bytes at 12.5 MB/s are 41.943 ms.
        assert_eq!(holds(&outcome(10_000, 51_943, 95)), [Some(true); 3]);
        assert_eq!(holds(&outcome(10_000, 51_944, 95)), [Some(true), Some(false), Some(true)]);
    }

    #[test]
    fn a_link_with_room_makes_the_run_void() {
        assert_eq!(holds(&outcome(10_000, 20_000, 89)), [Some(true), None, Some(false)]);
    }

    #[test]
    fn the_link_is_measured_by_its_rate() {
        assert_eq!(percent(LINK.bytes_per_s() / 2, Duration::from_millis(500)), 100);
        assert_eq!(percent(LINK.bytes_per_s(), Duration::from_secs(2)), 50);
    }
}
