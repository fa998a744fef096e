//! `cargo xtask bench workers`: how much faster two workers finish a recording than one. Each worker has one core to itself and
//! a host with a link; both counts are measured in the same run, in turns, each time in a new swarm.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::api::Api;
use super::ground::{self, Ground};
use super::guest;
use super::measure::cpu_s;
use super::network::Network;
use super::profile::Link;
use super::systems::nodes::{Hosts, Nodes};
use super::{NEEDED, ensure_installed};
use crate::bench::Destination;
use crate::bench::report::{Figure, Report};
use crate::host::{self, Machine};

/// The guest whose rate of work is set.
const PACED: &str = "kernel-build";
const LINK: Link = Link { mbit_per_s: 1000 };
/// How much faster two are, at least.
const GAIN_MIN: f64 = 1.8;
/// How long the guest, and then the workers, may take.
const PATIENCE: Duration = Duration::from_secs(400);

/// How to run it.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkersArgs {
    /// A short recording; only the function is judged.
    #[arg(long)]
    quick: bool,
    /// What is recorded: kernel-build, whose guest mostly writes memory, or one that computes, such as sorting.
    #[arg(long, default_value = PACED)]
    workload: String,
    #[command(flatten)]
    pub(in crate::bench) destination: Destination,
}

#[derive(Clone, Copy, Debug)]
struct Profile {
    checkpoints: u64,
    interval_ms: u64,
    /// Times that each number of workers has its turn.
    turns: usize,
    /// What the cores are compared with, one against two.
    lockstep_instructions: u64,
}

const FULL: Profile =
    Profile { checkpoints: 61, interval_ms: 200, turns: 2, lockstep_instructions: 1_000_000 };
/// Of guests that compute all the time an interval takes seconds to simulate.
const FULL_COMPUTING: Profile = Profile { checkpoints: 31, ..FULL };
const QUICK: Profile = Profile { checkpoints: 7, interval_ms: 100, turns: 1, lockstep_instructions: 50_000 };

/// One turn: a recording, and some workers who finish it.
#[derive(Clone, Debug, Serialize)]
struct Turn {
    restore: Restore,
    recording: Recording,
    workers: Vec<Worker>,
    /// Intervals proven in the end.
    proven: u64,
    took_s: f64,
    /// The memory of each interval when the first worker simulated it once more; empty if it did not.
    again: Vec<MemoryUse>,
}

/// What was recorded.
#[derive(Clone, Debug, Serialize)]
struct Recording {
    intervals: u64,
    /// The guest's own time, without pauses.
    run_s: f64,
    /// Of one checkpoint, on average.
    downtime_s: f64,
    /// Pages a second that the guest was to dirty, over those that it did.
    slowdown: f64,
}

/// What one worker did.
#[derive(Clone, Debug, Serialize)]
struct Worker {
    work: Work,
    /// Of its core, while the work lasted.
    cpu_percent: f64,
    /// Of its link down, with all headers.
    link_percent: f64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Work {
    published: Vec<Published>,
    given_back: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Published {
    interval: u64,
    outcome: String,
    instructions: u64,
    lease_to_start_ms: Option<u64>,
    idle_ms: Option<u64>,
    simulation_ms: u64,
    memory: Option<MemoryUse>,
}

/// Pages that a simulation whose memory is filled where it is touched was expected to touch, and did.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct MemoryUse {
    expected_pages: u64,
    touched_pages: u64,
    hit_pages: u64,
    awaited_pages: u64,
}

/// How simulations get the RAM that they begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Restore {
    Lazy,
    Full,
}

#[derive(Deserialize)]
struct Standings {
    intervals: u64,
    exact: u64,
    confirmed: u64,
}

#[derive(Deserialize)]
struct Checkpoint {
    downtime_us: u64,
    interval_us: u64,
    rate_set: u64,
    rate_achieved: u64,
}

impl WorkersArgs {
    /// The short form.
    pub(in crate::bench) fn quick() -> Self {
        Self { quick: true, workload: PACED.to_owned(), destination: Destination::default() }
    }

    fn command(&self) -> String {
        let workload =
            if self.workload == PACED { String::new() } else { format!(" --workload {}", self.workload) };
        format!("cargo xtask bench workers{}{workload}", if self.quick { " --quick" } else { "" })
    }
}

/// Runs it and judges it.
pub(in crate::bench) fn measure(args: &WorkersArgs) -> Result<Report> {
    ensure_installed(&NEEDED)?;
    ensure_installed(&[("taskset", "util-linux")])?;
    ensure!(host::kvm_is_usable(), "/dev/kvm cannot be used: guests need it");
    let cores = std::thread::available_parallelism().context("cores of this machine")?.get();
    ensure!(cores >= 2, "two workers need a core each, and this machine has {cores}");
    let profile = match args.workload.as_str() {
        _ if args.quick => QUICK,
        PACED => FULL,
        _ => FULL_COMPUTING,
    };
    let ground = Ground::new()?;
    let cores_gain = cores_gain(profile.lockstep_instructions)?;
    let mut turns = Vec::new();
    let order = [(1, Restore::Lazy), (2, Restore::Lazy)].repeat(profile.turns);
    for (workers, restore) in order.into_iter().chain([(1, Restore::Full)]) {
        let is_first = turns.is_empty();
        let turn = turn(&profile, (&args.workload, workers, restore, is_first), &ground)?;
        let Turn { proven, took_s, .. } = turn;
        println!("{workers} at work, {restore:?} restore: {proven} intervals in {took_s:.1} s");
        turns.push(turn);
    }
    let figures = figures(&turns, cores_gain);
    let of_function = |figure: Figure| if figure.name == PROVEN { figure } else { figure.unjudged() };
    println!("\nthe model, with what the first of one worker's turns showed:\n{}", model(&turns)?);
    Ok(Report {
        name: "workers",
        command: args.command(),
        machine: Machine::here()?,
        date: host::today()?,
        figures: if args.quick { figures.into_iter().map(of_function).collect() } else { figures },
        outcome: serde_json::to_value(&turns).context("outcome as JSON")?,
    })
}

fn turn(
    profile: &Profile,
    (workload, workers, restore, twice): (&str, u32, Restore, bool),
    ground: &Ground,
) -> Result<Turn> {
    let directory = ground.fresh("workers")?;
    let network = Network::new(ground.name(), workers + 1, LINK)?;
    // Nothing is simulated twice: one worker alone has nobody who could.
    let mut nodes = Nodes::publisher(Hosts::Shaped(&network), &directory, &["--simulate-twice", "0%"])?;
    let (checkpoint, taken) =
        guest::record(&nodes, workload, profile.checkpoints, profile.interval_ms, PATIENCE)?;
    let recording = recording(&taken);
    let mut pinned = Vec::new();
    for host in 1..=workers {
        nodes.join(&network, host, &directory, "worker")?;
        let process = nodes.processes()[host as usize];
        pin(process, host - 1)?;
        pinned.push((nodes.newest(), process));
    }
    nodes.wait_announced(&checkpoint)?;
    let before = network.counters()?;
    let clock = Instant::now();
    let did = work(&pinned, &checkpoint.lineage, restore)?;
    let took_s = clock.elapsed().as_secs_f64();
    let after = network.counters()?;
    let carried =
        after.iter().zip(&before).skip(1).map(|(after, before)| after.down_bytes - before.down_bytes);
    let workers = did.into_iter().zip(carried).map(|((work, cpu_s), down_bytes)| Worker {
        work,
        cpu_percent: 100.0 * cpu_s / took_s,
        link_percent: 100.0 * (down_bytes * 8) as f64 / (LINK.mbit_per_s as f64 * 1e6 * took_s),
    });
    let workers = workers.collect();
    let path = format!("/api/v1/lineages/{}/simulations", checkpoint.lineage);
    let standings: Standings = nodes.api(0).get(&path)?;
    ensure!(standings.intervals == recording.intervals, "{} intervals are known", standings.intervals);
    let again = match pinned.first() {
        Some((api, _)) if twice => simulate_again(api, &checkpoint.lineage, recording.intervals)?,
        _ => vec![],
    };
    drop(nodes);
    ground::remove(&directory)?;
    Ok(Turn { restore, recording, workers, proven: standings.exact + standings.confirmed, took_s, again })
}

/// Simulates all intervals once more where they were simulated before: what they touch is known then.
fn simulate_again(api: &Api, lineage: &str, intervals: u64) -> Result<Vec<MemoryUse>> {
    #[derive(Deserialize)]
    struct Simulated {
        memory: Option<MemoryUse>,
    }
    let one = |index| {
        let body = json!({ "lineage": lineage, "index": index, "restore": Restore::Lazy });
        let simulated: Simulated = api.post("/api/v1/simulations", &body, PATIENCE)?;
        simulated.memory.context("a lazy simulation says how it used its memory")
    };
    (0..intervals).map(one).collect()
}

/// What the figures of all checkpoints say. An interval is from boundary to boundary, with the pause at the first of them.
fn recording(all: &[Checkpoint]) -> Recording {
    let taken = all.get(1..).unwrap_or_default();
    let sum = |of: fn(&Checkpoint) -> u64, over: &[Checkpoint]| over.iter().map(of).sum::<u64>() as f64;
    let whole_s = sum(|one| one.interval_us, taken) / 1e6;
    let run_s = whole_s - sum(|one| one.downtime_us, &all[..taken.len()]) / 1e6;
    let slowdown = sum(|one| one.rate_set, taken) / sum(|one| one.rate_achieved, taken).max(1.0);
    Recording {
        intervals: taken.len() as u64,
        run_s,
        downtime_s: sum(|one| one.downtime_us, taken) / 1e6 / taken.len().max(1) as f64,
        // Pages were counted over the pauses too, which the model has apart.
        slowdown: slowdown * run_s / whole_s.max(1e-9),
    }
}

/// Leaves all threads of a process one core.
fn pin(process: u32, core: u32) -> Result<()> {
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", &core.to_string(), &process.to_string()]);
    let output = command.output().context("taskset")?;
    ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// How much more two cores do than one where nothing is shared but the machine: the simulator compared with the processor,
/// by itself on one core, then on two at a time. Two cores of a virtual machine may be one of its host.
fn cores_gain(instructions: u64) -> Result<f64> {
    let on = |(core, instructions): (u32, u64)| {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &core.to_string()]).arg(host::program("pageswarm")?);
        command.args(["sim", "lockstep", "--instructions", &instructions.to_string()]).stdout(Stdio::null());
        command.spawn().context("taskset")
    };
    let time = |cores: &[u32], instructions: u64| -> Result<f64> {
        let clock = Instant::now();
        let running = cores.iter().map(|core| on((*core, instructions))).collect::<Result<Vec<_>>>()?;
        for mut process in running {
            ensure!(process.wait()?.success(), "pageswarm sim lockstep failed");
        }
        Ok(clock.elapsed().as_secs_f64())
    };
    // The first one brings the program into memory.
    time(&[0], 1)?;
    let one = time(&[0], instructions)?;
    Ok(2.0 * one / time(&[0, 1], instructions)?.max(1e-9))
}

/// Lets all work until everything has a result; what each did, and its seconds of processor time.
fn work(workers: &[(Api, u32)], lineage: &str, restore: Restore) -> Result<Vec<(Work, f64)>> {
    let body = json!({ "lineage": lineage, "jobs": 1, "until_done": true, "restore": restore });
    let one = |(api, process): &(Api, u32)| -> Result<(Work, f64)> {
        let before = cpu_s(*process)?;
        let work = api.post("/api/v1/work", &body, PATIENCE)?;
        Ok((work, cpu_s(*process)? - before))
    };
    std::thread::scope(|scope| {
        let one = &one;
        let running: Vec<_> = workers.iter().map(|worker| scope.spawn(move || one(worker))).collect();
        let joined = running.into_iter().map(|thread| thread.join().expect("a thread that returns errors"));
        joined.collect()
    })
}

impl Turn {
    fn published(&self) -> impl Iterator<Item = &Published> {
        self.workers.iter().flat_map(|worker| &worker.work.published)
    }

    /// Of all intervals, each once: one that was leased a second time because it took long is no more work done.
    fn instructions(&self) -> u64 {
        let each: BTreeMap<u64, u64> =
            self.published().map(|published| (published.interval, published.instructions)).collect();
        each.into_values().sum()
    }
}

/// Turns in which so many worked, with lazy restores.
fn with(turns: &[Turn], workers: usize) -> impl Iterator<Item = &Turn> {
    turns.iter().filter(move |turn| turn.workers.len() == workers && turn.restore == Restore::Lazy)
}

/// Instructions a second: recordings of the same guest differ a little in their length.
fn speed(turns: &[Turn], workers: usize) -> f64 {
    let instructions: u64 = with(turns, workers).map(Turn::instructions).sum();
    instructions as f64 / seconds(turns, workers).max(1e-9)
}

fn seconds(turns: &[Turn], workers: usize) -> f64 {
    with(turns, workers).map(|turn| turn.took_s).sum()
}

const PROVEN: &str = "intervals proven";

fn figures(turns: &[Turn], cores_gain: f64) -> Vec<Figure> {
    let intervals: u64 = turns.iter().map(|turn| turn.recording.intervals).sum();
    let proven: u64 = turns.iter().map(|turn| turn.proven).sum();
    let gain = speed(turns, 2) / speed(turns, 1).max(1e-9);
    let count = with(turns, 1).count().max(1) as f64;
    let times = [1, 2].map(|workers| format!("{:.1} s", seconds(turns, workers) / count));
    let rates = [1, 2].map(|workers| format!("{:.0}", speed(turns, workers) / 1e6));
    let all = |of: fn(&Worker) -> f64| -> String {
        let lazy = turns.iter().filter(|turn| turn.restore == Restore::Lazy);
        let each = lazy.flat_map(|turn| &turn.workers).map(of);
        each.map(|percent| format!("{percent:.0}")).collect::<Vec<_>>().join(", ") + " %"
    };
    let medians = |of: fn(&Published) -> Option<u64>| {
        [Restore::Lazy, Restore::Full].map(|restore| median(turns, restore, of)).join(" / ")
    };
    vec![
        Figure::judged(PROVEN, format!("{proven} of {intervals}"), "all", proven == intervals),
        Figure::judged(
            "two workers over one, by instructions a second",
            format!("{gain:.2}"),
            format!("at least {GAIN_MIN:.1}"),
            gain >= GAIN_MIN,
        ),
        Figure::stated(
            "the same of two programs that share nothing but the machine",
            format!("{cores_gain:.2}"),
        ),
        Figure::stated("time of one worker / of two", times.join(" / ")),
        Figure::stated("millions of instructions a second, one / two", rates.join(" / ")),
        Figure::stated("each worker's core in use", all(|worker| worker.cpu_percent)),
        Figure::stated("each worker's link in use, down", all(|worker| worker.link_percent)),
        Figure::stated(
            "from lease to first instruction, median, lazy / full restore",
            medians(|one| one.lease_to_start_ms),
        ),
        Figure::stated("of that without a simulation in its place, median", medians(|one| one.idle_ms)),
        Figure::stated("time of one worker with full restores", full_s(turns)),
        Figure::stated("touched pages that were expected / waited for", expectation(&first_passes(turns))),
        Figure::stated("expected pages that were not touched", wasted(&first_passes(turns))),
        Figure::stated("the first two in a second pass", expectation(&second_passes(turns))),
        Figure::stated("the last in a second pass", wasted(&second_passes(turns))),
    ]
}

fn median(turns: &[Turn], restore: Restore, of: fn(&Published) -> Option<u64>) -> String {
    let turns = turns.iter().filter(|turn| turn.restore == restore);
    let mut all: Vec<u64> = turns.flat_map(Turn::published).filter_map(of).collect();
    all.sort_unstable();
    all.get(all.len() / 2).map_or_else(|| "none".to_owned(), |ms| format!("{ms} ms"))
}

fn full_s(turns: &[Turn]) -> String {
    let full = turns.iter().find(|turn| turn.restore == Restore::Full);
    full.map_or_else(|| "none".to_owned(), |turn| format!("{:.1} s", turn.took_s))
}

/// All simulations of workers whose memory was filled where it was touched.
fn first_passes(turns: &[Turn]) -> Vec<MemoryUse> {
    turns.iter().flat_map(Turn::published).filter_map(|published| published.memory).collect()
}

fn second_passes(turns: &[Turn]) -> Vec<MemoryUse> {
    turns.iter().flat_map(|turn| turn.again.iter().copied()).collect()
}

fn sum(all: &[MemoryUse], of: fn(&MemoryUse) -> u64) -> u64 {
    all.iter().map(of).sum()
}

fn expectation(all: &[MemoryUse]) -> String {
    let touched = sum(all, |used| used.touched_pages);
    let share = |of: fn(&MemoryUse) -> u64| 100.0 * sum(all, of) as f64 / touched.max(1) as f64;
    let (hit, awaited) = (share(|used| used.hit_pages), share(|used| used.awaited_pages));
    format!("{hit:.1} % / {awaited:.1} % of {touched}")
}

fn wasted(all: &[MemoryUse]) -> String {
    let expected = sum(all, |used| used.expected_pages);
    let wasted = sum(all, |used| used.expected_pages - used.hit_pages.min(used.expected_pages));
    let percent = 100.0 * wasted as f64 / expected.max(1) as f64;
    format!("{percent:.1} % of {expected}, {:.1} MiB", (wasted * 4096) as f64 / f64::from(1 << 20))
}

/// What the model says with what one worker showed, beside what was reached, and for more workers than there are here.
fn model(turns: &[Turn]) -> Result<String> {
    let mut command = Command::new(host::program("pageswarm")?);
    command.args(["sim", "model"]).args(questions(turns)?);
    let output = command.output().context("pageswarm sim model")?;
    ensure!(output.status.success(), "sim model: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("what the model said")
}

/// What the model is asked: options with their values.
fn questions(turns: &[Turn]) -> Result<Vec<String>> {
    let alone = with(turns, 1).next().context("one worker alone had no turn")?;
    let Recording { intervals, run_s, downtime_s, slowdown } = alone.recording;
    let sum_s = |of: fn(&Published) -> u64| alone.published().map(of).sum::<u64>() as f64 / 1e3;
    let simulation = sum_s(|one| one.simulation_ms) / run_s;
    let start_up_s = sum_s(|one| one.idle_ms.unwrap_or(0)) / intervals as f64;
    let mut questions = vec![
        format!("--run={run_s:.6}s"),
        format!("--interval={:.6}s", run_s / intervals as f64),
        format!("--recording-slowdown={slowdown:.4}"),
        format!("--downtime={downtime_s:.9}s"),
        format!("--simulation-slowdown={simulation:.4}"),
        format!("--start-up={start_up_s:.6}s"),
    ];
    let reached = |turn: &Turn| format!("--reached={}:{:.3}s", turn.workers.len(), turn.took_s);
    questions.extend(turns.iter().filter(|turn| turn.restore == Restore::Lazy).map(reached));
    Ok(questions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(workers: usize, took_s: f64, proven: u64) -> Turn {
        let published = |interval| Published {
            interval,
            outcome: "ended".to_owned(),
            instructions: 1_000_000 / workers as u64,
            lease_to_start_ms: Some(30),
            idle_ms: Some(10),
            simulation_ms: 400,
            memory: Some(MemoryUse {
                expected_pages: 40,
                touched_pages: 50,
                hit_pages: 30,
                awaited_pages: 5,
            }),
        };
        let work = |interval| Work { published: vec![published(interval)], given_back: 0 };
        let worker = |interval| Worker { work: work(interval), cpu_percent: 99.0, link_percent: 1.0 };
        let recording = Recording { intervals: 2, run_s: 0.4, downtime_s: 1e-4, slowdown: 1.0 };
        let workers = (0..workers as u64).map(worker).collect();
        Turn { restore: Restore::Lazy, recording, workers, proven, took_s, again: vec![] }
    }

    fn verdicts(turns: &[Turn]) -> Vec<bool> {
        figures(turns, 1.9).iter().filter_map(|figure| figure.holds).collect()
    }

    #[test]
    fn too_little_gain_and_an_open_interval_decide() {
        assert_eq!(verdicts(&[turn(1, 2.0, 2), turn(2, 1.0, 2)]), [true, true]);
        assert_eq!(verdicts(&[turn(1, 2.0, 2), turn(2, 1.2, 2)]), [true, false]);
        assert_eq!(verdicts(&[turn(1, 2.0, 2), turn(2, 1.0, 1)]), [false, true]);
    }

    #[test]
    fn a_turn_with_full_restores_counts_for_itself_only() {
        let full = Turn { restore: Restore::Full, ..turn(1, 0.1, 2) };
        let turns = [turn(1, 2.0, 2), turn(2, 1.0, 2), full];
        assert_eq!(verdicts(&turns), [true, true]);
        assert!(questions(&turns).unwrap().join(" ").ends_with("--reached=1:2.000s --reached=2:1.000s"));
        assert_eq!(full_s(&turns), "0.1 s");
    }

    #[test]
    fn the_model_is_asked_with_what_one_worker_showed() {
        let asked = questions(&[turn(1, 2.0, 2), turn(2, 1.0, 2)]).unwrap().join(" ");
        assert!(asked.starts_with("--run=0.400000s --interval=0.200000s"), "{asked}");
        assert!(asked.contains("--simulation-slowdown=1.0000 --start-up=0.005000s"), "{asked}");
        assert!(asked.ends_with("--reached=1:2.000s --reached=2:1.000s"), "{asked}");
    }

    #[test]
    fn an_interval_that_two_did_counts_once() {
        let mut hedged = turn(2, 1.0, 2);
        hedged.workers[1].work.published[0].interval = 0;
        assert_eq!(hedged.instructions(), 500_000);
    }

    #[test]
    fn pauses_are_no_part_of_the_run() {
        let one = |downtime_us| Checkpoint {
            downtime_us,
            interval_us: 1_000_000,
            rate_set: 100,
            rate_achieved: 90,
        };
        let found = recording(&[one(100_000), one(7)]);
        assert!((found.run_s - 0.9).abs() < 1e-9 && (found.slowdown - 1.0).abs() < 1e-9, "{found:?}");
        assert!((found.downtime_s - 7e-6).abs() < 1e-12, "{found:?}");
    }
}
