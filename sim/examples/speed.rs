//! Measures the interpreter: instructions a second on intervals of the workload guests, not observed and observed,
//! beside the time that the same intervals took on KVM. An argument says of how many repetitions the fastest counts.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has no result")]

#[path = "../tests/support/fold.rs"]
mod fold;
#[path = "../tests/support/recording.rs"]
mod recording;

use fold::Fold;
use pageswarm_machine::{CheckpointIndex, Workload};
use pageswarm_sim::{Interval, Observer, Unobserved, replay};
use pageswarm_vmm::{PaceMode, Strategy};
use recording::{Plan, Recording, copy_of, record};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const REPETITIONS: usize = 3;

fn main() -> ExitCode {
    if let Some(code) = recording::vm_process() {
        return code;
    }
    if !recording::kvm_or_skip("speed") {
        return ExitCode::SUCCESS;
    }
    let repetitions = std::env::args().nth(1).map_or(REPETITIONS, |number| number.parse().unwrap());
    for workload in Workload::ALL {
        let plan = Plan {
            workload,
            pace: PaceMode::Verify { dirty_first: 40_000 },
            strategy: Strategy::PreCopy,
            checkpoints: 12,
            interval_us: (20_000, 60_000),
            seed: 31,
        };
        let recording = record(&plan);
        let native: u64 = recording.intervals.iter().map(|interval| interval.interval_ns).sum();
        let (instructions, accesses, plain) = best(&recording, repetitions, Unobserved);
        let (_, _, observed) = best(&recording, repetitions, Fold::default());
        let mips = |time: Duration| instructions as f64 / time.as_secs_f64() / 1e6;
        println!(
            "{workload}: {instructions} instructions, {:.2} accesses each; simulated {:.0} MIPS, observed {:.0} \
             MIPS; on KVM {:.0} MIPS with checkpoints every {} ms: {:.1} times as fast",
            accesses as f64 / instructions as f64,
            mips(plain),
            mips(observed),
            mips(Duration::from_nanos(native)),
            native / 1_000_000 / recording.intervals.len() as u64,
            plain.as_secs_f64() * 1e9 / native as f64,
        );
    }
    ExitCode::SUCCESS
}

/// Instructions, accesses, and the least time of some repetitions; RAM is copied outside of it.
fn best<O: Observer + Copy>(recording: &Recording, repetitions: usize, observer: O) -> (u64, u64, Duration) {
    let mut least = (0, 0, Duration::MAX);
    for _ in 0..repetitions {
        let mut ram = recording.ram.clone();
        let mut start = &recording.start;
        let (mut instructions, mut accesses, mut time) = (0, 0, Duration::ZERO);
        for (number, recorded) in (0..).zip(&recording.intervals) {
            let (index, events, end) = (CheckpointIndex(number), &recorded.events, &recorded.end);
            let memory = copy_of(&ram);
            let interval = Interval { index, start, events, end, work_max: u64::MAX };
            let before = Instant::now();
            let replayed = replay(&interval, memory, observer).expect("an exact replay");
            time += before.elapsed();
            instructions += replayed.instructions + replayed.repeats;
            accesses += replayed.reads + replayed.writes;
            recorded.apply(&mut ram);
            start = end;
        }
        if time < least.2 {
            least = (instructions, accesses, time);
        }
    }
    least
}
