//! Goal: every interval of the guests, stopped at any moment on KVM, replays bit for bit. Method: record runs
//! with checkpoints at random moments, replay each interval from its start, event log and the hashes of its end, and
//! compare the processor, the devices and every byte of RAM with the checkpoint. `examples/intervals.rs` does the same
//! for as many intervals as are wanted.
//!
//! The program runs its own tests, because each VM is a process of its own and that process is this program, too.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

#[path = "support/exactness.rs"]
mod exactness;
#[path = "support/harness.rs"]
mod harness;
#[path = "support/recording.rs"]
mod recording;

use exactness::all_exact;
use pageswarm_machine::Workload;
use pageswarm_vmm::{PaceMode, Strategy};
use recording::Plan;
use std::process::ExitCode;

/// Intervals of each guest that does jobs.
const JOBS_INTERVALS: usize = 25;

const TESTS: [(&str, fn()); 6] = [
    ("specjbb_intervals_replay_exactly", specjbb),
    ("kernel_build_intervals_replay_exactly", kernel_build),
    ("intervals_of_a_guest_without_pause_replay_exactly", without_pause),
    ("sorting_intervals_replay_exactly", sorting),
    ("b_tree_intervals_replay_exactly", b_tree),
    ("strings_intervals_replay_exactly", strings),
];

fn main() -> ExitCode {
    harness::run(&TESTS)
}

fn specjbb() {
    let pace = PaceMode::Rate { dirty_pages_per_second: 53_000, check_pages_per_second: 20_000 };
    let workload = Workload::SpecJbb;
    compare(
        "specjbb",
        Plan {
            workload,
            pace,
            strategy: Strategy::PreCopy,
            checkpoints: 60,
            interval_us: (500, 25_000),
            seed: 21,
        },
    );
}

fn kernel_build() {
    let pace = PaceMode::Rate { dirty_pages_per_second: 22_000, check_pages_per_second: 20_000 };
    let workload = Workload::KernelBuild;
    compare(
        "kernel-build",
        Plan {
            workload,
            pace,
            strategy: Strategy::PreCopy,
            checkpoints: 60,
            interval_us: (500, 25_000),
            seed: 22,
        },
    );
}

/// Nothing but work between the moments, so that most of them are in the midst of it.
fn without_pause() {
    let pace = PaceMode::Verify { dirty_first: 60_000 };
    let workload = Workload::SpecJbb;
    compare(
        "without pause",
        Plan {
            workload,
            pace,
            strategy: Strategy::PreCopy,
            checkpoints: 60,
            interval_us: (100, 8_000),
            seed: 23,
        },
    );
}

fn sorting() {
    compare("sorting", Plan::of_jobs(Workload::Sorting, JOBS_INTERVALS, 24));
}

fn b_tree() {
    compare("b-tree", Plan::of_jobs(Workload::BTree, JOBS_INTERVALS, 25));
}

fn strings() {
    compare("strings", Plan::of_jobs(Workload::Strings, JOBS_INTERVALS, 26));
}

fn compare(name: &str, plan: Plan) {
    if let Some(exact) = all_exact(name, &plan) {
        assert_eq!(exact.intervals, plan.checkpoints as u64);
    }
}
