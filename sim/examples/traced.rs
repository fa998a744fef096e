//! Measures traces: instructions a second while every access is written into Parquet by the same thread, and bytes per
//! access, on intervals of the workload guests, beside the targets.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has no result")]

#[path = "../tests/support/recording.rs"]
mod recording;

use pageswarm_checkpoint::{LineageId, StateRoot};
use pageswarm_machine::{CheckpointIndex, Workload};
use pageswarm_sim::trace::{TraceOptions, TraceSubject, TraceWriter, Values};
use pageswarm_sim::{Interval, Replayed, Unobserved, replay};
use pageswarm_vmm::PaceMode;
use recording::{Plan, Recording, copy_of, record};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const REPETITIONS: usize = 3;
const MIPS_MIN: f64 = 40.0;

/// What is measured.
#[derive(Clone, Copy, Debug)]
struct Manner {
    name: &'static str,
    traced: Option<Values>,
    bytes_max: f64,
}

const MANNERS: [Manner; 3] = [
    Manner { name: "not traced", traced: None, bytes_max: f64::INFINITY },
    Manner { name: "with values", traced: Some(Values::Kept), bytes_max: 3.0 },
    Manner { name: "without values", traced: Some(Values::Omitted), bytes_max: 1.0 },
];

/// Sums over the intervals of a recording.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    instructions: u64,
    accesses: u64,
    bytes: u64,
    time: Duration,
}

fn main() -> ExitCode {
    if let Some(code) = recording::vm_process() {
        return code;
    }
    if !recording::kvm_or_skip("traced") {
        return ExitCode::SUCCESS;
    }
    let mut is_met = true;
    println!(
        "{:<14}{:<16}{:>14}{:>14}{:>8}{:>8}{:>14}{:>8}  verdict",
        "workload", "trace", "instructions", "accesses", "MIPS", "least", "bytes/access", "most"
    );
    for workload in Workload::ALL {
        let plan = Plan {
            workload,
            pace: PaceMode::Verify { dirty_first: 40_000 },
            checkpoints: 4,
            interval_us: (20_000, 60_000),
            seed: 31,
        };
        let recording = record(&plan);
        let mut best = [Sums { time: Duration::MAX, ..Sums::default() }; MANNERS.len()];
        for _ in 0..REPETITIONS {
            for (best, manner) in best.iter_mut().zip(MANNERS) {
                let sums = run(&recording, manner.traced);
                if sums.time < best.time {
                    *best = sums;
                }
            }
        }
        for (sums, manner) in best.iter().zip(MANNERS) {
            is_met &= print(&workload.to_string(), sums, &manner);
        }
    }
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints a line; false when a target is missed.
fn print(workload: &str, sums: &Sums, manner: &Manner) -> bool {
    let mips = sums.instructions as f64 / sums.time.as_secs_f64() / 1e6;
    let bytes = sums.bytes as f64 / sums.accesses as f64;
    let start = format!("{workload:<14}{:<16}{:>14}{:>14}", manner.name, sums.instructions, sums.accesses);
    if manner.traced.is_none() {
        println!("{start}{mips:>8.1}");
        return true;
    }
    let is_met = mips >= MIPS_MIN && bytes <= manner.bytes_max;
    let verdict = if is_met { "met" } else { "MISSED" };
    println!("{start}{mips:>8.1}{MIPS_MIN:>8.1}{bytes:>14.3}{:>8.1}  {verdict}", manner.bytes_max);
    is_met
}

/// Replays all intervals; RAM is copied outside of the time.
fn run(recording: &Recording, traced: Option<Values>) -> Sums {
    let mut ram = recording.ram.clone();
    let (mut start, mut sums) = (&recording.start, Sums::default());
    for (number, recorded) in (0..).zip(&recording.intervals) {
        let (index, events, end) = (CheckpointIndex(number), &recorded.events, &recorded.end);
        let memory = copy_of(&ram);
        let interval = Interval { index, start, events, end, work_max: u64::MAX };
        let before = Instant::now();
        match traced {
            None => {
                let replayed = replay(&interval, memory, Unobserved).expect("an exact replay");
                sums.time += before.elapsed();
                sums.count(&replayed);
            }
            Some(values) => {
                let subject = TraceSubject {
                    lineage: LineageId([1; 32]),
                    interval: index,
                    input_root: StateRoot([2; 32]),
                };
                let options = TraceOptions { values, bytes_max: u64::MAX };
                let file = tempfile::tempfile().unwrap();
                let writer = TraceWriter::new(file, subject, options).unwrap();
                let replayed = replay(&interval, memory, writer).expect("an exact replay");
                sums.count(&replayed);
                let written = replayed.observer.finish(StateRoot([3; 32])).unwrap();
                sums.time += before.elapsed();
                sums.bytes += written.bytes;
            }
        }
        recorded.apply(&mut ram);
        start = end;
    }
    sums
}

impl Sums {
    fn count<M, O>(&mut self, replayed: &Replayed<M, O>) {
        self.instructions += replayed.instructions + replayed.repeats;
        self.accesses += replayed.reads + replayed.writes;
    }
}
