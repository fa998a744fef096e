//! What every guest program is made of: the ABI, its RAM with checksums, the port devices, and the loop that works.
//!
//! A guest runs in ring 3 from its first instruction and uses no RDTSC, CPUID, RDRAND, HLT or x87: its only inputs
//! are port reads, so that an interval can be replayed.

#![no_std]
#![no_builtins]

#[path = "../../src/abi.rs"]
pub mod abi;
mod blocks;
#[path = "../../src/content.rs"]
pub mod content;
mod memory;
pub mod ports;
mod ram;
mod serve;

pub use blocks::{Block, Blocks, Job, WrongWord};
pub use ram::{Ram, WrongPage, parameter};
pub use serve::{Guest, serve};

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // It stops the machine with a fault that whoever runs it reports.
    unsafe { core::arch::asm!("ud2", options(noreturn)) }
}
