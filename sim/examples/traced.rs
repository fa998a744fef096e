//! Measures traces: instructions a second while every access is written into Parquet by the same thread, and bytes per
//! access, on intervals of the workload guests, beside the targets. A second is one of the thread's processor time,
//! where the system tells it, so that other programs count little; what the clock on the wall says stands beside it. The argument is how
//! many intervals of each guest are recorded, 2 without one.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has no result")]

#[path = "../tests/support/recording.rs"]
mod recording;

use pageswarm_checkpoint::{LineageId, StateRoot};
use pageswarm_machine::{CheckpointIndex, Workload};
use pageswarm_sim::trace::{TraceOptions, TraceSubject, TraceWriter, Values};
use pageswarm_sim::{Interval, Replayed, Unobserved, replay};
use pageswarm_vmm::{PaceMode, Strategy};
use recording::{Plan, Recording, copy_of, record};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const REPETITIONS: usize = 2;
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
    time: Spent,
}

/// Time that something took.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    processor: Duration,
    wall: Duration,
}

/// When something began.
#[derive(Clone, Copy, Debug)]
struct Start {
    processor: Option<Duration>,
    wall: Instant,
}

impl Start {
    fn now() -> Self {
        Self { processor: processor_time(), wall: Instant::now() }
    }

    fn spent(&self) -> Spent {
        let wall = self.wall.elapsed();
        let processor = self.processor.zip(processor_time()).map_or(wall, |(start, end)| end - start);
        Spent { processor, wall }
    }
}

/// Processor time of this thread, where there is Linux's scheduler to tell it.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn main() -> ExitCode {
    if let Some(code) = recording::vm_process() {
        return code;
    }
    if !recording::kvm_or_skip("traced") {
        return ExitCode::SUCCESS;
    }
    let argument = std::env::args().nth(1);
    let checkpoints = argument.map_or(2, |text| text.parse().expect("a number of intervals"));
    let mut is_met = true;
    println!(
        "{:<14}{:<16}{:>14}{:>14}{:>10}{:>8}{:>8}{:>14}{:>8}  verdict",
        "workload", "trace", "instructions", "accesses", "wall MIPS", "MIPS", "least", "bytes/access", "most"
    );
    for workload in Workload::ALL {
        let plan = Plan {
            workload,
            pace: PaceMode::Verify { dirty_first: 40_000 },
            strategy: Strategy::PreCopy,
            checkpoints,
            interval_us: (20_000, 60_000),
            seed: 31,
        };
        let recording = record(&plan);
        let mut best: [Option<Sums>; MANNERS.len()] = [None; MANNERS.len()];
        for _ in 0..REPETITIONS {
            for (best, manner) in best.iter_mut().zip(MANNERS) {
                let sums = run(&recording, manner.traced);
                if best.is_none_or(|best| sums.time.processor < best.time.processor) {
                    *best = Some(sums);
                }
            }
        }
        for (sums, manner) in best.iter().flatten().zip(MANNERS) {
            is_met &= print(&workload.to_string(), sums, &manner);
        }
    }
    if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints a line; false when a target is missed.
fn print(workload: &str, sums: &Sums, manner: &Manner) -> bool {
    let rate = |time: Duration| sums.instructions as f64 / time.as_secs_f64() / 1e6;
    let (mips, wall) = (rate(sums.time.processor), rate(sums.time.wall));
    let bytes = sums.bytes as f64 / sums.accesses as f64;
    let Sums { instructions, accesses, .. } = sums;
    let start = format!("{workload:<14}{:<16}{instructions:>14}{accesses:>14}{wall:>10.1}", manner.name);
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
        let before = Start::now();
        match traced {
            None => {
                let replayed = replay(&interval, memory, Unobserved).expect("an exact replay");
                sums.add(before.spent());
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
                sums.add(before.spent());
                sums.bytes += written.bytes;
            }
        }
        recorded.apply(&mut ram);
        start = end;
    }
    sums
}

impl Sums {
    fn add(&mut self, spent: Spent) {
        self.time.processor += spent.processor;
        self.time.wall += spent.wall;
    }

    fn count<M, O>(&mut self, replayed: &Replayed<M, O>) {
        self.instructions += replayed.instructions + replayed.repeats;
        self.accesses += replayed.reads + replayed.writes;
    }
}
