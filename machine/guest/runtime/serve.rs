//! The loop of every guest: takes work and checks from the pace port, and reports what was done.

use crate::abi;
use crate::ports;
use crate::ram::{Ram, WrongPage};

/// Pace batches between two reports of the operation counter.
const REPORT_BATCHES: u32 = 32;

/// What a guest does to its RAM.
pub trait Guest {
    /// Writes the base image into RAM that is zero, and seals what it writes.
    fn fill(&mut self, ram: &mut Ram);

    /// Does so many units of work, or more of them later; returns how many were done.
    ///
    /// # Errors
    /// A page in which a wrong byte was found.
    fn work(&mut self, ram: &mut Ram, units: u32) -> Result<u32, WrongPage>;
}

/// Fills RAM, works until a wrong byte is found, and reports it.
pub fn serve(guest: &mut impl Guest) -> ! {
    ports::phase(abi::PHASE_FILLING);
    ports::print(b"pageswarm guest: filling\n");
    let mut ram = Ram::new();
    guest.fill(&mut ram);
    ports::print(b"pageswarm guest: running\n");
    ports::phase(abi::PHASE_RUNNING);
    let wrong = work_until_wrong(guest, &mut ram);
    ports::output(abi::PORT_WRONG_PAGE, wrong.0);
    ports::phase(abi::PHASE_STOPPED);
    loop {
        ports::input(abi::PORT_PACE);
    }
}

fn work_until_wrong(guest: &mut impl Guest, ram: &mut Ram) -> WrongPage {
    let (mut operations, mut passes, mut batches) = (0_u64, 0_u32, 0);
    loop {
        let pace = ports::input(abi::PORT_PACE);
        match guest.work(ram, pace & 0xffff) {
            Ok(done) => operations += u64::from(done),
            Err(wrong) => return wrong,
        }
        let passed = match ram.check(pace >> 16) {
            Ok(passed) => passed,
            Err(wrong) => return wrong,
        };
        batches += 1;
        if passed {
            passes += 1;
            // What it says does not matter: it is one more input that a replay must give.
            ports::clock_ns();
        }
        if passed || batches == REPORT_BATCHES {
            batches = 0;
            ports::output(abi::PORT_OPERATIONS_LOW, operations as u32);
            ports::output(abi::PORT_OPERATIONS_HIGH, (operations >> 32) as u32);
        }
        if passed {
            ports::output(abi::PORT_PASSES, passes);
        }
    }
}
