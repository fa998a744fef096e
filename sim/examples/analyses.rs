//! Runs all built-in analyses on intervals that are recorded now, prints their tables and writes their pictures (and, for
//! programs, their JSON) into the directory that is named: `cargo run --release --example analyses DIRECTORY`.
//!
//! Redundancy, working sets and write heat are of the workload guests on KVM; double fetches, which those guests do not
//! make, of a program in which some were planted. How long a replay takes with each analysis, beside one without, is
//! printed last.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has no result")]

#[path = "../tests/support/planted.rs"]
mod planted;
#[path = "../tests/support/recording.rs"]
mod recording;

use anyhow::Context as _;
use pageswarm_machine::{CheckpointIndex, Workload};
use pageswarm_sim::analysis::{
    Analysis, DoubleFetch, Redundancy, Reference, Report, Series, Start, Stretch, Study, WorkingSets,
    WriteHeat, map,
};
use pageswarm_sim::{Access, Interval, Unobserved, replay};
use pageswarm_vmm::{PaceMode, Strategy};
use recording::{Plan, Recording, copy_of, record};
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = recording::vm_process() {
        return Ok(code);
    }
    let directory = std::env::args().nth(1).context("which directory shall the pictures go to?")?;
    let directory = Path::new(&directory);
    fs::create_dir_all(directory)?;
    double_fetches(directory)?;
    if recording::kvm_or_skip("analyses") {
        for workload in Workload::ALL {
            of_guest(directory, workload)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn of_guest(directory: &Path, workload: Workload) -> anyhow::Result<()> {
    let pace = PaceMode::Rate { dirty_pages_per_second: 53_000, check_pages_per_second: 20_000 };
    let plan = Plan {
        workload,
        pace,
        strategy: Strategy::PreCopy,
        checkpoints: 12,
        interval_us: (1_000, 2_000),
        seed: 51,
    };
    let recording = record(&plan);
    println!("# {workload}\n");
    let redundancy = Redundancy::since(Reference::of(&recording.ram));
    let plain = replayed_plain(&recording);
    let times = [
        ("redundancy", analysed(directory, workload, &recording, redundancy)?),
        ("working sets", analysed(directory, workload, &recording, WorkingSets)?),
        ("write heat", analysed(directory, workload, &recording, WriteHeat)?),
    ];
    println!("a replay without analysis: {} ms", plain.as_millis());
    for (name, time) in times {
        let factor = time.as_secs_f64() / plain.as_secs_f64();
        println!("with {name}: {} ms, {factor:.2} times as long", time.as_millis());
    }
    println!();
    Ok(())
}

/// All intervals, with RAM at the start of each. In the first the guest fills its RAM.
fn each(recording: &Recording, mut visit: impl FnMut(&Interval<'_>, &[u8])) {
    let mut ram = recording.ram.clone();
    let mut start = &recording.start;
    for (number, recorded) in (0..).zip(&recording.intervals) {
        let (index, events, end) = (CheckpointIndex(number), &recorded.events, &recorded.end);
        visit(&Interval { index, start, events, end, work_max: u64::MAX }, &ram);
        recorded.apply(&mut ram);
        start = end;
    }
}

fn replayed_plain(recording: &Recording) -> Duration {
    let mut time = Duration::ZERO;
    each(recording, |interval, ram| {
        let memory = copy_of(ram);
        let clock = Instant::now();
        replay(interval, memory, Unobserved).unwrap();
        time += clock.elapsed();
    });
    time
}

fn analysed<A: Analysis<Outcome: Report + Serialize>>(
    directory: &Path,
    workload: Workload,
    recording: &Recording,
    analysis: A,
) -> anyhow::Result<Duration> {
    let (mut study, mut time) = (Study::new(analysis), Duration::ZERO);
    each(recording, |interval, ram| {
        let memory = copy_of(ram);
        let clock = Instant::now();
        let observer = study.begin(&Start { index: interval.index, ram });
        let replayed = replay(interval, memory, observer).unwrap();
        study.end(interval.index, replayed.observer, replayed.instructions).unwrap();
        time += clock.elapsed();
    });
    show(directory, &workload.to_string(), &study.finish().context("there are intervals")?)?;
    Ok(time)
}

fn show<O: Report + Serialize>(directory: &Path, of: &str, series: &Series<O>) -> anyhow::Result<()> {
    println!("{series}");
    let title: String =
        O::TITLE.chars().map(|letter| if letter.is_alphabetic() { letter } else { '-' }).collect();
    let file = directory.join(format!("{of}-{}", title.to_lowercase()));
    fs::write(file.with_extension("svg"), series.picture().to_string())?;
    fs::write(file.with_extension("json"), serde_json::to_string_pretty(series)?)?;
    Ok(())
}

/// The planted program in twelve intervals.
fn double_fetches(directory: &Path) -> anyhow::Result<()> {
    const INTERVALS: usize = 12;
    let program = planted::Program::new(5, 400);
    let (accesses, instructions) = program.accesses();
    let analysis = DoubleFetch::between(program.regions());
    let mut study = Study::new(analysis.clone());
    let (mut began, mut from) = (0, 0);
    for number in 1..=INTERVALS {
        let to = accesses.len() * number / INTERVALS;
        let border = accesses.get(to).map_or(instructions, |access| access.instruction);
        let here = accesses[from..to].iter();
        let moved = here.map(|access| Access { instruction: access.instruction - began, ..*access });
        let index = CheckpointIndex(number as u64 - 1);
        let start = Start { index, ram: &program.ram };
        study.add(Stretch::one(index, border - began), map(&analysis, &start, moved, border - began))?;
        (began, from) = (border, to);
    }
    println!("# {} planted double fetches\n", program.planted.len());
    show(directory, "planted", &study.finish().context("there are intervals")?)
}
