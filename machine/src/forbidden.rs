//! Instructions that run in ring 3 and whose results a replay could not give again, and the search for them in a program.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use std::fmt;

/// Most bytes of one instruction.
const INSTRUCTION_BYTES: usize = 15;

/// Why an instruction's result is not in the machine's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// It reads a clock or a counter, or waits for one: RDTSC, RDTSCP, RDPMC, TPAUSE, UMWAIT.
    Time,
    /// It says which processor this is and what that allows: CPUID, RDPID, XGETBV, RDPKRU.
    Processor,
    /// RDRAND or RDSEED.
    Random,
    /// It leaves to a system that is not there, or to the one below: SYSCALL, SYSENTER, VMCALL, VMMCALL.
    System,
    /// It reads tables that are the system's below: SGDT, SIDT, SLDT, STR, SMSW, LAR, LSL, VERR, VERW.
    Tables,
    /// A transaction, which may fail at any time: XBEGIN.
    Transaction,
}

impl Forbidden {
    /// What forbids an instruction, if something does.
    #[must_use]
    pub const fn of(mnemonic: Mnemonic) -> Option<Self> {
        Some(match mnemonic {
            Mnemonic::Rdtsc | Mnemonic::Rdtscp | Mnemonic::Rdpmc | Mnemonic::Tpause | Mnemonic::Umwait => {
                Self::Time
            }
            Mnemonic::Cpuid | Mnemonic::Rdpid | Mnemonic::Xgetbv | Mnemonic::Rdpkru => Self::Processor,
            Mnemonic::Rdrand | Mnemonic::Rdseed => Self::Random,
            Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Vmcall | Mnemonic::Vmmcall => Self::System,
            Mnemonic::Sgdt
            | Mnemonic::Sidt
            | Mnemonic::Sldt
            | Mnemonic::Str
            | Mnemonic::Smsw
            | Mnemonic::Lar
            | Mnemonic::Lsl
            | Mnemonic::Verr
            | Mnemonic::Verw => Self::Tables,
            Mnemonic::Xbegin => Self::Transaction,
            _ => return None,
        })
    }
}

/// An instruction of a program that cannot be replayed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ForbiddenInstruction {
    /// Why.
    pub why: Forbidden,
    /// Where it would be in guest memory.
    pub address: u64,
    bytes: [u8; INSTRUCTION_BYTES],
    length: u8,
}

impl ForbiddenInstruction {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Display for ForbiddenInstruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:#x} (bytes", self.address)?;
        for byte in self.bytes() {
            write!(f, " {byte:02x}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for ForbiddenInstruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {self}", self.why)
    }
}

/// The first forbidden instruction of `code`, which is at `address`.
///
/// Code is decoded from its first byte on, one instruction behind the other, and from the next byte where there is none.
/// So it is an aid, no proof: an instruction that only a jump into the middle of another reaches is not seen, nor is
/// code that a program writes, and data between instructions can look like one. Whatever gets past it, the
/// simulator refuses when it is to run.
#[must_use]
pub fn first_forbidden(code: &[u8], address: u64) -> Option<ForbiddenInstruction> {
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    while decoder.can_decode() {
        let start = decoder.position();
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            decoder.set_position(start + 1).ok()?;
            decoder.set_ip(address.wrapping_add(start as u64 + 1));
            continue;
        }
        if let Some(why) = Forbidden::of(instruction.mnemonic()) {
            let found = &code[start..start + instruction.len()];
            let mut bytes = [0; INSTRUCTION_BYTES];
            bytes[..found.len()].copy_from_slice(found);
            let length = u8::try_from(found.len()).unwrap_or(0);
            return Some(ForbiddenInstruction { why, address: instruction.ip(), bytes, length });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_inside_of_other_instructions_are_no_instructions() {
        // MOV EAX, 0x0f31a20f; then RDTSC behind an invalid byte.
        let code = [0xb8, 0x0f, 0xa2, 0x31, 0x0f, 0x06, 0x0f, 0x31, 0x90];
        let found = first_forbidden(&code, 0x1000).unwrap();
        assert_eq!((found.why, found.address, found.bytes()), (Forbidden::Time, 0x1006, &[0x0f, 0x31][..]));
        assert_eq!(first_forbidden(&code[..5], 0x1000), None);
        assert_eq!(found.to_string(), "at 0x1006 (bytes 0f 31)");
    }

    #[test]
    fn any_bytes_end_the_search() {
        let code: Vec<u8> = (0..4096_u32).map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()[3]).collect();
        for start in 0..code.len() {
            let _found_or_not = first_forbidden(&code[start..], u64::MAX - 2000);
        }
    }
}
