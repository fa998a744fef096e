//! Measures what translation gives, without KVM: the workload guests boot and work in the simulator, interpreted and
//! translated, not observed and observed. Times are those that the thread ran, so that what else runs matters less.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has no result")]

#[path = "../tests/support/fold.rs"]
mod fold;

use fold::Fold;
use pageswarm_machine::devices::Input;
use pageswarm_machine::guest::{self, BootParameters};
use pageswarm_machine::{Devices, Workload};
use pageswarm_sim::{CompleteRam, Exit, Observer, Simulator, Translation, Unobserved};
use std::fs;

const RAM_BYTES: usize = 64 << 20;
/// What the guest is told to do after it booted, how often: pages to dirty in the lower half, to check in the upper one.
const JOBS: [(&str, u32, u32); 2] = [("dirty", 3000, 25), ("check", 0x3fff << 16, 3)];
const REPETITIONS: usize = 2;

/// Million instructions a second: booting, then each job.
type Speeds = [f64; JOBS.len() + 1];

fn main() {
    // The guests that write and check pages when they are told to.
    for workload in [Workload::KernelBuild, Workload::SpecJbb] {
        let ways = [Translation::Never, Translation::WhenWarm];
        let plain = ways.map(|when| fastest(workload, Unobserved, when));
        let observed = ways.map(|when| fastest(workload, Fold::default(), when));
        for (part, name) in ["boot"].into_iter().chain(JOBS.map(|(name, ..)| name)).enumerate() {
            let [interpreted, translated] = plain.map(|speeds| speeds[part]);
            let [seen, seen_translated] = observed.map(|speeds| speeds[part]);
            println!(
                "{workload}, {name}: interpreted {interpreted:.0} MIPS, translated {translated:.0}: {:.2} times; \
                 observed {seen:.0} and {seen_translated:.0}: {:.2} times",
                translated / interpreted,
                seen_translated / seen,
            );
        }
    }
}

fn fastest<O: Observer + Copy>(workload: Workload, observer: O, when: Translation) -> Speeds {
    let repeated = (0..REPETITIONS).map(|_| speeds(workload, observer, when));
    repeated.fold(Speeds::default(), |best, speeds| std::array::from_fn(|part| best[part].max(speeds[part])))
}

fn speeds<O: Observer>(workload: Workload, observer: O, when: Translation) -> Speeds {
    let mut ram = vec![0; RAM_BYTES];
    let state = guest::load(&mut ram, BootParameters { seed: 5, workload }).unwrap();
    let memory = CompleteRam::new(ram);
    let mut simulator = Simulator::translating(&state, memory, observer, when).unwrap();
    let mut devices = Devices::default();
    let mut begun = (0, seconds());
    // What the guest is answered, and where it has not yet asked for more, a part ends.
    let mut paces =
        JOBS.into_iter().flat_map(|(_, pace, times)| (0..times).map(move |number| (pace, number == 0)));
    let mut found = Vec::new();
    while found.len() < Speeds::default().len() {
        match simulator.run(u64::MAX).unwrap() {
            Exit::Input { port, size } => {
                let input = devices.input(port, size).unwrap();
                let (pace, ends_part) =
                    if input == Input::Pace { paces.next().unwrap_or((0, true)) } else { (0, false) };
                if ends_part {
                    let now = (simulator.instructions(), seconds());
                    found.push((now.0 - begun.0) as f64 / (now.1 - begun.1) / 1e6);
                    begun = now;
                }
                devices.answered(input, pace);
                simulator.answer(pace);
            }
            Exit::Output { port, size, value } => {
                devices.output(port, &value.to_le_bytes()[..size]).unwrap();
            }
            other @ (Exit::Done | Exit::Breakpoint) => panic!("{other:?}"),
        }
    }
    found.try_into().unwrap()
}

/// Processor time of this process so far.
fn seconds() -> f64 {
    let times = fs::read_to_string("/proc/self/schedstat").unwrap();
    times.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}
