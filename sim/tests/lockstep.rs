//! Goal: the interpreter does what a processor does, instruction by instruction, undefined flags included. Method:
//! random programs of all instructions that it knows, run on KVM at ring 3 and simulated; registers, flags, vectors
//! and memory are compared after each.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use pageswarm_machine::{CpuState, PAGE_BYTES, PageNumber};
use pageswarm_sim::lockstep::{Lockstep, LockstepError, Native, Tally, initial_ram};
use pageswarm_sim::memory::{Memory, PageBytes};
use pageswarm_sim::{CompleteRam, Exit, Simulator, Unobserved};
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
                println!("{error}");
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

/// A processor that adds wrongly: the interpreter itself, with R9 and a byte of memory wrong after the bytes of an ADD
/// were run.
struct Wrong {
    ram: CompleteRam,
}

/// ADD R9, RAX.
const WRONG: [u8; 3] = [0x49, 0x01, 0xc1];
const CODE: usize = 0x10_0000;
const WINDOW: usize = 0x40_0000;

impl Native for Wrong {
    type Error = std::convert::Infallible;

    fn write(&mut self, page: PageNumber, bytes: &PageBytes) {
        let start = page.0 as usize * PAGE_BYTES;
        self.ram.bytes_mut()[start..start + PAGE_BYTES].copy_from_slice(bytes);
    }

    fn read(&mut self, page: PageNumber, bytes: &mut PageBytes) {
        *bytes = *self.ram.page(page);
    }

    fn run(&mut self, start: &CpuState) -> Result<CpuState, Self::Error> {
        let wrong = self.ram.bytes()[CODE..CODE + PAGE_BYTES].windows(3).any(|bytes| bytes == WRONG);
        let mut simulator = Simulator::new(start, &mut self.ram, Unobserved).unwrap();
        assert!(matches!(simulator.run(1 << 20), Ok(Exit::Output { .. })));
        let mut state = simulator.state();
        drop(simulator);
        if wrong {
            state.general[9] ^= 1 << 40;
            self.ram.bytes_mut()[WINDOW + 5] ^= 1;
        }
        Ok(state)
    }
}

fn wrong() -> Lockstep<Wrong> {
    let ram = initial_ram().unwrap();
    Lockstep::new(Wrong { ram: CompleteRam::new(ram.clone()) }, ram)
}

#[test]
fn a_difference_names_its_instruction_and_all_that_differs() {
    // MOV EAX, 7; ADD R9, RAX; MOV [RBX], R9; NOP.
    let program = [&[0xb8, 7, 0, 0, 0][..], &WRONG, &[0x4c, 0x89, 0x0b, 0x90]].concat();
    let Err(LockstepError::Difference(found)) = wrong().run_program(3, &program) else {
        panic!("not found");
    };
    assert_eq!((found.rip, &found.code[..]), (0x10_0005, &WRONG[..]));
    assert_eq!((found.before.general[0], found.native.general[0]), (7, 7));
    assert_eq!(found.native.general[9], found.simulated.general[9] ^ 1 << 40);
    let [byte] = found.memory[..] else { panic!("{found}") };
    assert_eq!((byte.address, byte.before), (0x40_0005, byte.simulated));
    let text = found.to_string();
    for part in ["49 01 c1", "add r9,rax", "r9 ", "<--", "1 bytes of memory differ", "0x400005"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.matches("<--").count(), 1, "{text}");
}

#[test]
fn programs_without_a_difference_or_an_end_say_so() {
    let mut lockstep = wrong();
    // MOV ECX, 5; LOOP to itself.
    let tally = lockstep.run_program(1, &[0xb9, 5, 0, 0, 0, 0xe2, 0xfe]).unwrap();
    assert_eq!(tally, Tally { programs: 1, instructions: 1 + 5 + 1 });
    assert!(matches!(lockstep.run_program(1, &[0xeb, 0xfe]), Err(LockstepError::Endless { .. })));
    assert!(matches!(lockstep.run_program(1, &[0xd9, 0xe8]), Err(LockstepError::Refused { .. })));
    assert!(matches!(lockstep.run_program(1, &[0x90; 20_000]), Err(LockstepError::Length { .. })));
    // Random programs without the wrong ADD in them.
    assert!(lockstep.run(5, 2000).is_ok());
}
