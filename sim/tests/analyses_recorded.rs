//! Goal: what analyses find in recorded intervals does not depend on how the run was cut into them. Method: a guest recorded
//! on KVM, its intervals analysed while each is replayed, and merged; the same run replayed as one interval, from the
//! first checkpoint to the last with all inputs, and analysed; every outcome must be the same.
//!
//! The program runs its own test, because each VM is a process of its own and that process is this program, too.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

#[path = "support/harness.rs"]
mod harness;
#[path = "support/recording.rs"]
mod recording;

use pageswarm_machine::{CheckpointIndex, EventLog, Workload};
use pageswarm_sim::analysis::{
    DoubleFetch, Redundancy, Reference, Regions, Report, Series, Start, Study, WorkingSets, WriteHeat,
};
use pageswarm_sim::{Interval, replay};
use pageswarm_vmm::{PaceMode, Strategy};
use recording::{Plan, Recording, copy_of, kvm_or_skip, record};
use std::fmt::Debug;
use std::process::ExitCode;

const TEST: &str = "recorded_intervals_give_what_one_long_interval_gives";
const WORK_MAX: u64 = 4_000_000_000;

fn main() -> ExitCode {
    harness::run(&[(TEST, test)])
}

/// One study of each kind.
struct Studies {
    redundancy: Study<Redundancy>,
    sets: Study<WorkingSets>,
    heat: Study<WriteHeat>,
    fetches: Study<DoubleFetch>,
}

impl Studies {
    fn new(ram: &[u8]) -> Self {
        // The guest has no region that serves others: this one, and its table of sums, stand for both.
        let regions = Regions { reader: 0x10_0400..0x10_1000, shared: 0x20_0000..0x22_0000 };
        Self {
            redundancy: Study::new(Redundancy::since(Reference::of(ram))),
            sets: Study::new(WorkingSets),
            heat: Study::new(WriteHeat),
            fetches: Study::new(DoubleFetch::between(regions)),
        }
    }

    fn replay(&mut self, interval: &Interval<'_>, ram: &[u8]) {
        let start = Start { index: interval.index, ram };
        let first = (self.redundancy.begin(&start), self.sets.begin(&start));
        let observer = (first, (self.heat.begin(&start), self.fetches.begin(&start)));
        let replayed = replay(interval, copy_of(ram), observer).unwrap();
        let ((redundancy, sets), (heat, fetches)) = replayed.observer;
        let (index, instructions) = (interval.index, replayed.instructions);
        self.redundancy.end(index, redundancy, instructions).unwrap();
        self.sets.end(index, sets, instructions).unwrap();
        self.heat.end(index, heat, instructions).unwrap();
        self.fetches.end(index, fetches, instructions).unwrap();
    }
}

/// How many intervals are analysed.
const INTERVALS: usize = 4;

/// The number of the first interval of those that took the least time: on a busy host some take a hundred times as long.
fn shortest(recording: &Recording) -> usize {
    let time = |from: &usize| -> u64 {
        recording.intervals[*from..*from + INTERVALS].iter().map(|interval| interval.interval_ns).sum()
    };
    // Behind the boot, which would be most of the run.
    (1..=recording.intervals.len() - INTERVALS).min_by_key(time).unwrap()
}

fn test() {
    if !kvm_or_skip(TEST) {
        return;
    }
    let pace = PaceMode::Rate { dirty_pages_per_second: 53_000, check_pages_per_second: 20_000 };
    let plan = Plan {
        workload: Workload::SpecJbb,
        pace,
        strategy: Strategy::PreCopy,
        checkpoints: 16,
        interval_us: (500, 2_000),
        seed: 41,
    };
    let recording = record(&plan);
    let first = shortest(&recording);
    let (before, intervals) = recording.intervals.split_at(first);
    let at_start = &before.last().unwrap().end;
    let mut ram = recording.ram.clone();
    before.iter().for_each(|interval| interval.apply(&mut ram));
    let (mut parts, mut whole) = (Studies::new(&ram), Studies::new(&ram));
    let (mut events, mut start) = (EventLog::default(), at_start);
    let ram_at_start = ram.clone();
    for (number, recorded) in (first as u64..).zip(&intervals[..INTERVALS]) {
        let (index, end) = (CheckpointIndex(number), &recorded.end);
        parts.replay(&Interval { index, start, events: &recorded.events, end, work_max: WORK_MAX }, &ram);
        recorded.events.events().iter().for_each(|event| events.push(*event).unwrap());
        recorded.apply(&mut ram);
        start = end;
    }
    let (index, end) = (CheckpointIndex(first as u64), start);
    let long = Interval { index, start: at_start, events: &events, end, work_max: WORK_MAX };
    whole.replay(&long, &ram_at_start);
    let writes = compare(parts.heat.finish(), whole.heat.finish()).whole.writes;
    assert!(writes > 1000, "the guest must have worked: {writes} writes");
    compare(parts.redundancy.finish(), whole.redundancy.finish());
    compare(parts.sets.finish(), whole.sets.finish());
    compare(parts.fetches.finish(), whole.fetches.finish());
}

fn compare<O: Report + Debug + PartialEq>(parts: Option<Series<O>>, whole: Option<Series<O>>) -> Series<O> {
    let (parts, whole) = (parts.unwrap(), whole.unwrap());
    assert_eq!((parts.intervals.len(), whole.intervals.len()), (INTERVALS, 1));
    assert_eq!(parts.instructions, whole.instructions);
    assert_eq!(parts.whole, whole.whole, "{}", O::TITLE);
    assert_eq!(parts.whole, whole.intervals[0].outcome, "{}", O::TITLE);
    let row = parts.whole.row().join(", ");
    println!(
        "{}: {} intervals and one of {} instructions: {row}",
        O::TITLE,
        parts.intervals.len(),
        parts.instructions
    );
    parts
}
