//! Goal: the interpreter does what a processor does, instruction by instruction, undefined flags included. Method:
//! random programs of all instructions that it knows, run on KVM at ring 3 and simulated; registers, flags, vectors
//! and memory are compared after each.

use pageswarm_machine::{CpuState, PageNumber};
use pageswarm_sim::lockstep::{Lockstep, Native, Tally, initial_ram};
use pageswarm_sim::memory::PageBytes;
use pageswarm_vmm::{BareMachine, VmFailure};
use std::path::Path;
use std::time::Instant;

/// LOCKSTEP_SEED in the environment has other programs compared.
const INSTRUCTIONS: u64 = 4_000_000;
const FIRST_SEED: u64 = 1;
/// Each stops at its first difference.
const SEEDS: u64 = 12;

struct Kvm(BareMachine);

impl Native for Kvm {
    type Error = VmFailure;

    fn write(&mut self, page: PageNumber, bytes: &PageBytes) {
        self.0.write(page, bytes);
    }

    fn read(&mut self, page: PageNumber, bytes: &mut PageBytes) {
        self.0.read(page, bytes);
    }

    fn run(&mut self, start: &CpuState) -> Result<CpuState, VmFailure> {
        self.0.run(start)
    }
}

#[test]
fn random_programs_end_as_on_the_processor() {
    if !Path::new("/dev/kvm").exists() {
        println!("SKIP: lockstep: /dev/kvm does not exist");
        return;
    }
    let ram = initial_ram().unwrap();
    let native = Kvm(BareMachine::new(&ram).unwrap());
    let mut lockstep = Lockstep::new(native, ram);
    let first = std::env::var("LOCKSTEP_SEED").ok().map_or(FIRST_SEED, |seed| seed.parse().unwrap());
    let begun = Instant::now();
    let (mut tally, mut differences) = (Tally::default(), 0);
    for seed in first..first + SEEDS {
        match lockstep.run(seed, INSTRUCTIONS / SEEDS) {
            Ok(more) => {
                tally.instructions += more.instructions;
                tally.programs += more.programs;
            }
            Err(error) => {
                println!("{error:x?}");
                differences += 1;
            }
        }
    }
    println!(
        "{} instructions of {} kinds in {} programs compared in {:.1} s: {differences} seeds with a difference",
        tally.instructions,
        lockstep.kinds(),
        tally.programs,
        begun.elapsed().as_secs_f64()
    );
    assert_eq!(differences, 0, "each seed's first one is above");
    assert!(tally.instructions >= INSTRUCTIONS && lockstep.kinds() > 500, "{}", lockstep.kinds());
}
