//! The workload guest: fills RAM from a seed, dirties pages at the pace it is told, and proves its RAM right.
//!
//! It runs in ring 3 from its first instruction and uses no RDTSC, CPUID, RDRAND, HLT or x87: its only inputs
//! are port reads, so that an interval can be replayed.

#![no_std]
#![no_main]
#![no_builtins]

#[expect(dead_code, reason = "shared with the host, which uses the rest")]
#[path = "../src/abi.rs"]
mod abi;
#[path = "../src/content.rs"]
mod content;
mod memory;
mod ports;
mod ram;

use abi::Parameter;
use content::{Order, Random};
use ram::Ram;

/// Pace batches between two reports of the operation counter.
const REPORT_BATCHES: u32 = 32;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.start")]
extern "C" fn _start() -> ! {
    ports::phase(abi::PHASE_FILLING);
    ports::print(b"pageswarm guest: filling\n");
    let mut ram = Ram::fill();
    ports::print(b"pageswarm guest: running\n");
    ports::phase(abi::PHASE_RUNNING);
    let wrong = Work::new().run(&mut ram);
    ports::output(abi::PORT_WRONG_PAGE, wrong);
    ports::phase(abi::PHASE_STOPPED);
    loop {
        ports::input(abi::PORT_PACE);
    }
}

struct Work {
    run_pages: u64,
    order: Order,
    random: Random,
    run: u64,
    left_in_run: u64,
    operations: u64,
    passes: u32,
    pass_ns: u64,
}

impl Work {
    fn new() -> Self {
        let seed = ram::parameter(Parameter::Seed);
        let run_pages = ram::parameter(Parameter::RunPages);
        let runs = ram::parameter(Parameter::DataPages) / run_pages;
        Self {
            run_pages,
            order: Order::new(seed, runs),
            random: Random::new(seed, 6),
            run: 0,
            left_in_run: 0,
            operations: 0,
            passes: 0,
            pass_ns: 0,
        }
    }

    /// Works until a wrong byte is found; returns its page number.
    fn run(&mut self, ram: &mut Ram) -> u32 {
        let mut batches = 0;
        loop {
            let pace = ports::input(abi::PORT_PACE);
            for _ in 0..pace & 0xffff {
                self.dirty_one(ram);
            }
            let passed = match ram.check(pace >> 16) {
                Ok(passed) => passed,
                Err(wrong) => return wrong,
            };
            batches += 1;
            if passed {
                self.passes += 1;
                self.pass_ns = ports::clock_ns();
            }
            if passed || batches == REPORT_BATCHES {
                batches = 0;
                ports::output(abi::PORT_OPERATIONS_LOW, self.operations as u32);
                ports::output(abi::PORT_OPERATIONS_HIGH, (self.operations >> 32) as u32);
            }
            if passed {
                ports::output(abi::PORT_PASSES, self.passes);
            }
        }
    }

    fn dirty_one(&mut self, ram: &mut Ram) {
        if self.left_in_run == 0 {
            self.run = self.order.draw();
            self.left_in_run = self.run_pages;
        }
        self.left_in_run -= 1;
        ram.change(self.run * self.run_pages + self.left_in_run, &mut self.random);
        self.operations += 1;
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Ring 3 may not execute this, so the machine stops with a fault that the VMM reports.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}
