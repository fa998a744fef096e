//! Why a simulation cannot go on: what it does not know it refuses, and never approximates.

use crate::limits::INSTRUCTION_BYTES;
use crate::memory::PageUnavailable;
use std::fmt;

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The instruction is not one of those that the interpreter knows.
    #[error("instruction is not known")]
    Unknown,
    /// Its result depends on more than the machine's state: RDTSC, CPUID, RDRAND and their like.
    #[error("instruction cannot be replayed")]
    NotReplayable,
    /// It would set a flag whose effect is not modelled: TF, AC, NT or VM.
    #[error("instruction sets flags {flags:#x}, whose effect is not modelled")]
    Flags {
        /// Those flags.
        flags: u64,
    },
    /// It touches memory beyond RAM.
    #[error("instruction touches guest-physical address {physical:#x}, which is no RAM")]
    OutsideRam {
        /// Where.
        physical: u64,
    },
    /// It uses a page-table entry or a descriptor of a kind that is not modelled.
    #[error("instruction uses a page-table entry that is not modelled")]
    PageTable,
    /// It goes through a descriptor or gate of a kind that is not modelled.
    #[error("instruction uses a descriptor that is not modelled")]
    Descriptor,
    /// An exception that cannot be delivered, nor what its delivery causes: the machine would stop.
    #[error("instruction raises exception {vector} ({error:#x}), which ends in a triple fault")]
    TripleFault {
        /// The first exception's number.
        vector: u8,
        /// Its error code, if it has one.
        error: u32,
    },
    /// A page that it needs cannot be had.
    #[error(transparent)]
    Page(#[from] PageUnavailable),
}

/// Where a simulation stopped, and why.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The instruction's address.
    pub rip: u64,
    /// The bytes there, as far as they could be fetched.
    pub bytes: [u8; INSTRUCTION_BYTES],
    /// How many were fetched.
    pub length: u8,
}

impl Refusal {
    /// The bytes that were fetched; the instruction is a prefix of them.
    #[must_use]
    pub fn code(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length).min(INSTRUCTION_BYTES)]
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:#x} (bytes", self.rip)?;
        for byte in self.code() {
            write!(f, " {byte:02x}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {self}", self.reason)
    }
}

impl std::error::Error for Refusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}

/// A state that the interpreter cannot start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedState {
    /// Not 64-bit code under four-level paging.
    #[error("machine is not in 64-bit mode with four-level paging")]
    Mode,
    /// Control registers enable what is not modelled.
    #[error("control register {register} is {value:#x}, part of which is not modelled")]
    Control {
        /// Its number.
        register: u8,
        /// Its value.
        value: u64,
    },
    /// RFLAGS has a flag whose effect is not modelled.
    #[error("rflags are {flags:#x}, part of which is not modelled")]
    Flags {
        /// RFLAGS.
        flags: u64,
    },
}
