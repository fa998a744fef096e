//! The guest's side of the port devices.

use crate::abi;
use core::arch::asm;

/// Reads a 32-bit port.
pub fn input(port: u16) -> u32 {
    let value: u32;
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
    value
}

/// Writes a 32-bit port.
pub fn output(port: u16, value: u32) {
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
}

/// Says what the guest is doing.
pub fn phase(phase: u32) {
    output(abi::PORT_PHASE, phase);
}

/// Writes text to the console.
pub fn print(text: &[u8]) {
    for &byte in text {
        unsafe {
            asm!("out dx, al", in("dx") abi::PORT_CONSOLE, in("al") byte, options(nostack, preserves_flags))
        };
    }
}

/// The clock, read until its high half is the same before and after.
pub fn clock_ns() -> u64 {
    loop {
        let high = input(abi::PORT_CLOCK_HIGH);
        let low = input(abi::PORT_CLOCK_LOW);
        if input(abi::PORT_CLOCK_HIGH) == high {
            return u64::from(high) << 32 | u64::from(low);
        }
    }
}
