//! The first difference between a processor and the interpreter, for people to read.

use super::program::CODE;
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};
use pageswarm_machine::CpuState;
use std::fmt;

/// Differing bytes of memory that are kept; how many there are is counted.
pub(super) const BYTES_KEPT: usize = 64;

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
const FLAGS: [(u64, &str); 7] =
    [(0, "CF"), (2, "PF"), (4, "AF"), (6, "ZF"), (7, "SF"), (10, "DF"), (11, "OF")];

/// A byte of memory that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DifferingByte {
    /// Its address.
    pub address: u64,
    /// What it was before the instructions.
    pub before: u8,
    /// What the processor made of it.
    pub native: u8,
    /// What the simulation made of it.
    pub simulated: u8,
}

/// The first difference of a program: after the instructions in `code`, processor and simulation disagree, and before
/// them they did not. Displayed, it is several lines.
#[derive(Clone, PartialEq, Eq)]
pub struct Difference {
    /// The program's seed and number.
    pub seed: (u64, u64),
    /// The instructions' address.
    pub rip: u64,
    /// Their bytes: one instruction, or a few that belong together.
    pub code: Vec<u8>,
    /// The state before them.
    pub before: CpuState,
    /// The state after them as the processor has it.
    pub native: CpuState,
    /// The state after them as simulated.
    pub simulated: CpuState,
    /// The first bytes of memory that differ.
    pub memory: Vec<DifferingByte>,
    /// How many bytes of memory differ.
    pub differing_bytes: usize,
}

impl fmt::Debug for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, number) = self.seed;
        writeln!(f, "seed {seed} program {number}, {} bytes from its start:", self.rip.wrapping_sub(CODE))?;
        write_instructions(f, &self.code, self.rip)?;
        writeln!(f, "{:<8}{:<20}{:<20}simulated", "", "before", "processor")?;
        let states = [&self.before, &self.native, &self.simulated];
        for (number, name) in NAMES.iter().enumerate() {
            row(f, name, states.map(|state| u128::from(state.general[number])))?;
        }
        row(f, "rip", states.map(|state| u128::from(state.rip)))?;
        row(f, "rflags", states.map(|state| u128::from(state.rflags)))?;
        for (bit, name) in FLAGS {
            if self.native.rflags >> bit & 1 != self.simulated.rflags >> bit & 1 {
                row(f, name, states.map(|state| u128::from(state.rflags >> bit & 1)))?;
            }
        }
        row(f, "mxcsr", states.map(|state| u128::from(state.mxcsr)))?;
        for number in 0..self.before.xmm.len() {
            if self.native.xmm[number] != self.simulated.xmm[number] {
                row(f, &format!("xmm{number}"), states.map(|state| u128::from_le_bytes(state.xmm[number])))?;
            }
        }
        let [native, simulated] = [&self.native, &self.simulated].map(without_shown);
        if native != simulated {
            writeln!(f, "other state: processor {native:x?}\n  simulated {simulated:x?}")?;
        }
        write!(f, "{} bytes of memory differ", self.differing_bytes)?;
        for DifferingByte { address, before, native, simulated } in &self.memory {
            write!(f, "\n{address:#x}: {before:#04x}, processor {native:#04x}, simulated {simulated:#04x}")?;
        }
        Ok(())
    }
}

/// A line of three values, marked where the last two differ.
fn row(f: &mut fmt::Formatter<'_>, name: &str, [before, native, simulated]: [u128; 3]) -> fmt::Result {
    let mark = if native == simulated { "" } else { "  <--" };
    writeln!(f, "{name:<8}{before:<#20x}{native:<#20x}{simulated:#x}{mark}")
}

fn without_shown(state: &CpuState) -> CpuState {
    let mut state = state.clone();
    (state.general, state.xmm, state.rflags, state.rip, state.mxcsr) = ([0; 16], [[0; 16]; 16], 0, 0, 0);
    state
}

/// Each instruction's address, bytes and text.
fn write_instructions(f: &mut fmt::Formatter<'_>, code: &[u8], rip: u64) -> fmt::Result {
    let mut decoder = Decoder::with_ip(64, code, rip, DecoderOptions::NONE);
    let mut formatter = IntelFormatter::new();
    while decoder.can_decode() {
        let start = decoder.position();
        let instruction = decoder.decode();
        let (mut bytes, mut text) = (String::new(), String::new());
        for byte in &code[start..decoder.position()] {
            bytes.push_str(&format!("{byte:02x} "));
        }
        formatter.format(&instruction, &mut text);
        writeln!(f, "  {:#x}  {bytes:<31} {text}", instruction.ip())?;
    }
    Ok(())
}
