//! Recorded intervals replayed one after the other, and everything at each end compared with the checkpoint.

#![allow(unreachable_pub, clippy::allow_attributes, reason = "the module is part of several programs")]

use crate::recording::{Plan, Recorded, Recorder, kvm_or_skip};
use pageswarm_machine::CheckpointIndex;
use pageswarm_sim::{Boundary, CompleteRam, Interval, Unobserved, replay};
use std::fmt;
use std::time::{Duration, Instant};

/// More than any processor does in a nanosecond.
const WORK_PER_NS: u64 = 8;
/// Work that is allowed besides.
const WORK_MORE: u64 = 100_000_000;

/// What was replayed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Exact {
    pub intervals: u64,
    instructions: u64,
    repeats: u64,
    accesses: u64,
    changed: u64,
    comparisons: u64,
    native: Duration,
    simulated: Duration,
}

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{count} of {count} intervals exact: {} instructions and {} repeats, {} accesses, {} changed pages, {} \
             comparisons of RAM; {:.2} s on KVM, {:.2} s simulated",
            self.instructions,
            self.repeats,
            self.accesses,
            self.changed,
            self.comparisons,
            self.native.as_secs_f64(),
            self.simulated.as_secs_f64(),
            count = self.intervals,
        )
    }
}

impl std::ops::AddAssign for Exact {
    fn add_assign(&mut self, more: Self) {
        self.intervals += more.intervals;
        self.instructions += more.instructions;
        self.repeats += more.repeats;
        self.accesses += more.accesses;
        self.changed += more.changed;
        self.comparisons += more.comparisons;
        self.native += more.native;
        self.simulated += more.simulated;
    }
}

/// Records the plan's intervals, all consecutive, and replays each. `None`, with a visible line, where there is no KVM.
///
/// # Panics
/// When one is not exact.
pub fn all_exact(name: &str, plan: &Plan) -> Option<Exact> {
    if !kvm_or_skip(name) {
        return None;
    }
    let (mut recorder, ram, start) = Recorder::boot(plan);
    let memory = CompleteRam::new(ram.clone());
    let mut replays = Replays { name, ram, memory: Some(memory), start, exact: Exact::default() };
    for _ in 0..plan.checkpoints {
        replays.compare(recorder.next());
    }
    println!("{name}: {}", replays.exact);
    Some(replays.exact)
}

struct Replays<'a> {
    name: &'a str,
    /// RAM at the last checkpoint, as captured.
    ram: Vec<u8>,
    /// RAM at the end of the last replay, which was compared with that.
    memory: Option<CompleteRam>,
    start: Boundary,
    exact: Exact,
}

impl Replays<'_> {
    fn compare(&mut self, recorded: Recorded) {
        let (name, number) = (self.name, self.exact.intervals);
        let interval = Interval {
            index: CheckpointIndex(number),
            start: &self.start,
            events: &recorded.events,
            end: &recorded.end,
            work_max: recorded.interval_ns * WORK_PER_NS + WORK_MORE,
        };
        let memory = self.memory.take().expect("the last replay gave it back");
        let before = Instant::now();
        let replayed = replay(&interval, memory, Unobserved)
            .unwrap_or_else(|error| panic!("{name}: {error}: {:?}", error.cause));
        self.exact.simulated += before.elapsed();
        recorded.apply(&mut self.ram);
        assert!(replayed.memory.bytes() == self.ram, "{name}: RAM of interval {number}");
        assert_eq!(replayed.cpu.encode(), recorded.end.cpu.encode(), "{name}: interval {number}");
        assert_eq!(replayed.devices.encode(), recorded.end.devices.encode(), "{name}: interval {number}");
        // What the dirty log named and what the simulation wrote is the same, apart from what equals what was there.
        assert!(replayed.changed.iter().all(|page| recorded.pages.contains_key(&page.0)));
        self.exact += Exact {
            intervals: 1,
            instructions: replayed.instructions,
            repeats: replayed.repeats,
            accesses: replayed.reads + replayed.writes,
            changed: replayed.changed.len() as u64,
            comparisons: replayed.comparisons,
            native: Duration::from_nanos(recorded.interval_ns),
            simulated: Duration::ZERO,
        };
        self.start = recorded.end;
        self.memory = Some(replayed.memory);
    }
}
