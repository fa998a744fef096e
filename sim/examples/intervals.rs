//! Records consecutive intervals of guests on KVM, ended at random moments, replays each, and compares the processor, the
//! devices and all RAM with the checkpoint at its end. It stops at the first interval that is not exact.
//!
//!     intervals [WORKLOAD]... [--intervals N] [--seed N]
//!
//! Without names, the guests that do jobs: sorting, b-tree and strings; 1,000 intervals of each.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has no result")]

#[path = "../tests/support/exactness.rs"]
mod exactness;
#[path = "../tests/support/recording.rs"]
mod recording;

use exactness::{Exact, all_exact};
use pageswarm_machine::Workload;
use recording::Plan;
use std::process::ExitCode;

const INTERVALS: usize = 1000;
const SEED: u64 = 41;

struct Wanted {
    workloads: Vec<Workload>,
    intervals: usize,
    seed: u64,
}

fn main() -> ExitCode {
    if let Some(code) = recording::vm_process() {
        return code;
    }
    let Some(wanted) = wanted(std::env::args().skip(1)) else {
        eprintln!("usage: intervals [WORKLOAD]... [--intervals N] [--seed N]");
        return ExitCode::from(2);
    };
    let mut sum = Exact::default();
    for (workload, seed) in wanted.workloads.iter().zip(wanted.seed..) {
        let plan = Plan::of_jobs(*workload, wanted.intervals, seed);
        match all_exact(workload.name(), &plan) {
            Some(exact) => sum += exact,
            None => return ExitCode::SUCCESS,
        }
    }
    println!("all: {sum}");
    ExitCode::SUCCESS
}

fn wanted(mut arguments: impl Iterator<Item = String>) -> Option<Wanted> {
    let mut wanted = Wanted { workloads: Vec::new(), intervals: INTERVALS, seed: SEED };
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--intervals" => wanted.intervals = arguments.next()?.parse().ok()?,
            "--seed" => wanted.seed = arguments.next()?.parse().ok()?,
            name => wanted.workloads.push(name.parse().ok()?),
        }
    }
    if wanted.workloads.is_empty() {
        wanted.workloads.extend(Workload::JOBS);
    }
    Some(wanted)
}
