//! Goal: every interval of the workload guests, stopped at any moment on KVM, replays bit for bit. Method: record runs
//! with checkpoints at random moments, replay each interval from its start, event log and the hashes of its end, and
//! compare the processor, the devices and every byte of RAM with the checkpoint.
//!
//! The program runs its own tests, because each VM is a process of its own and that process is this program, too.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

#[path = "support/recording.rs"]
mod recording;

use pageswarm_machine::{CheckpointIndex, Workload};
use pageswarm_sim::{Interval, Unobserved, replay};
use pageswarm_vmm::PaceMode;
use recording::{Plan, copy_of, kvm_or_skip, record};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// More than any interval here can hold: a second of the fastest guest.
const WORK_MAX: u64 = 4_000_000_000;

const TESTS: [(&str, fn()); 3] = [
    ("specjbb_intervals_replay_exactly", specjbb),
    ("kernel_build_intervals_replay_exactly", kernel_build),
    ("intervals_of_a_guest_without_pause_replay_exactly", without_pause),
];

fn main() -> ExitCode {
    if let Some(code) = recording::vm_process() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        // None is ignored.
        for (name, _) in TESTS.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &str| {
        wanted.is_empty()
            || wanted.iter().any(|part| if has("--exact") { name == **part } else { name.contains(&***part) })
    };
    let mut passed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        // A failure is a panic, which ends this program.
        test();
        println!("test {name} ... ok");
        passed += 1;
    }
    println!("test result: ok. {passed} passed; 0 failed; 0 ignored");
    ExitCode::SUCCESS
}

fn specjbb() {
    let pace = PaceMode::Rate { dirty_pages_per_second: 53_000, check_pages_per_second: 20_000 };
    all_exact(
        "specjbb",
        &Plan { workload: Workload::SpecJbb, pace, checkpoints: 60, interval_us: (500, 25_000), seed: 21 },
    );
}

fn kernel_build() {
    let pace = PaceMode::Rate { dirty_pages_per_second: 22_000, check_pages_per_second: 20_000 };
    all_exact(
        "kernel-build",
        &Plan {
            workload: Workload::KernelBuild,
            pace,
            checkpoints: 60,
            interval_us: (500, 25_000),
            seed: 22,
        },
    );
}

/// Nothing but work between the moments, so that most of them are in the midst of it.
fn without_pause() {
    all_exact(
        "without pause",
        &Plan {
            workload: Workload::SpecJbb,
            pace: PaceMode::Verify { dirty_first: 60_000 },
            checkpoints: 60,
            interval_us: (100, 8_000),
            seed: 23,
        },
    );
}

fn all_exact(name: &str, plan: &Plan) {
    if !kvm_or_skip(name) {
        return;
    }
    let recording = record(plan);
    let mut ram = recording.ram;
    let mut start = &recording.start;
    let (mut instructions, mut changed, mut accesses, mut comparisons) = (0, 0, 0, 0);
    let (mut native_ns, mut time) = (0, Duration::ZERO);
    for (number, recorded) in (0..).zip(&recording.intervals) {
        let interval = Interval {
            index: CheckpointIndex(number),
            start,
            events: &recorded.events,
            end: &recorded.end,
            work_max: WORK_MAX,
        };
        let before = Instant::now();
        let memory = copy_of(&ram);
        let replayed = replay(&interval, memory, Unobserved)
            .unwrap_or_else(|error| panic!("{name}: {error}: {:?}", error.cause));
        time += before.elapsed();
        recorded.apply(&mut ram);
        assert!(replayed.memory.bytes() == ram, "{name}: RAM of interval {number}");
        assert_eq!(replayed.cpu.encode(), recorded.end.cpu.encode(), "{name}: interval {number}");
        assert_eq!(replayed.devices.encode(), recorded.end.devices.encode(), "{name}: interval {number}");
        // What the dirty log named and what the simulation wrote is the same, apart from what equals what was there.
        assert!(replayed.changed.iter().all(|page| recorded.pages.contains_key(&page.0)));
        instructions += replayed.instructions;
        changed += replayed.changed.len();
        accesses += replayed.reads + replayed.writes;
        comparisons += replayed.comparisons;
        native_ns += recorded.interval_ns;
        start = &recorded.end;
    }
    println!(
        "{name}: {count} of {count} intervals exact: {instructions} instructions, {accesses} accesses, {changed} \
         changed pages, {comparisons} comparisons of RAM; {:.2} s on KVM, {:.2} s simulated",
        native_ns as f64 / 1e9,
        time.as_secs_f64(),
        count = recording.intervals.len(),
    );
}
