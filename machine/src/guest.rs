//! The workload guest's program and how it is put into RAM.

use crate::abi::{self, Parameter};
use crate::bytes::{BytesError, Reader};
use crate::cpu::CpuState;
use crate::layout::{self, Layout, RamSizeError};
use crate::workload::Workload;

/// The guest program, an ELF file built from `guest/` together with this crate.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));

const SEGMENT_LOAD: u32 = 1;
const SEGMENT_EXECUTE: u32 = 1;
const PROGRAM_HEADER_BYTES: usize = 56;

/// What a guest starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootParameters {
    /// Seeds all contents and the order of writes.
    pub seed: u64,
    /// What the guest does.
    pub workload: Workload,
}

/// An instruction whose result replay could not reproduce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// RDTSC or RDTSCP.
    TimeStamp,
    /// CPUID.
    ProcessorId,
    /// RDRAND, RDSEED or RDPID.
    Random,
}

/// Why a program cannot be put into RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The RAM has an impossible size.
    #[error(transparent)]
    RamSize(#[from] RamSizeError),
    /// The program is cut short.
    #[error("guest program is cut short")]
    Short(#[from] BytesError),
    /// The program is not a static 64-bit x86 ELF file.
    #[error("guest program is not a static 64-bit x86 ELF file")]
    Format,
    /// A segment or the entry lies outside the program's area.
    #[error("guest program has an address {address:#x} outside its area")]
    Address {
        /// The first such address.
        address: u64,
    },
    /// The program's code has an instruction that cannot be replayed.
    #[error("guest program has a {instruction:?} instruction at {address:#x}, which cannot be replayed")]
    Forbidden {
        /// Which kind.
        instruction: Forbidden,
        /// Where.
        address: u64,
    },
}

/// Puts tables, parameters and [`PROGRAM`] into `ram`, which must be zero, and gives the state to start with.
///
/// # Errors
/// When `ram` has an impossible size.
pub fn load(ram: &mut [u8], parameters: BootParameters) -> Result<CpuState, LoadError> {
    load_program(ram, PROGRAM, parameters)
}

/// As [`load`], with another program for the same ABI.
///
/// # Errors
/// When `ram` has an impossible size or the program does not fit the ABI. The search for instructions that cannot be
/// replayed looks for their bytes at every offset of the code, so it can be wrong in refusing, and it cannot see
/// code that a program writes. HLT is not searched for: it faults in ring 3.
pub fn load_program(
    ram: &mut [u8],
    program: &[u8],
    parameters: BootParameters,
) -> Result<CpuState, LoadError> {
    let layout = Layout::new(ram.len() as u64)?;
    let entry = load_elf(ram, program)?;
    layout.write_tables(ram);
    for (which, value) in [
        (Parameter::Magic, abi::PARAMETER_MAGIC),
        (Parameter::Seed, parameters.seed),
        (Parameter::RunPages, parameters.workload.run_pages()),
        (Parameter::DataBase, layout.data_base()),
        (Parameter::DataPages, layout.data_pages()),
    ] {
        layout::put(ram, abi::PARAMETER_BASE + 8 * which as u64, value);
    }
    Ok(CpuState::start(entry))
}

/// Copies the loadable segments and returns the entry address.
fn load_elf(ram: &mut [u8], program: &[u8]) -> Result<u64, LoadError> {
    let mut reader = Reader::new(program);
    // 64-bit, little-endian, version 1; then an executable file for x86-64.
    if reader.take(7)? != b"\x7fELF\x02\x01\x01" {
        return Err(LoadError::Format);
    }
    reader.take(9)?;
    if (reader.u16()?, reader.u16()?) != (2, 62) {
        return Err(LoadError::Format);
    }
    reader.take(4)?;
    let (entry, headers) = (reader.u64()?, reader.u64()?);
    reader.take(14)?;
    let (size, count) = (usize::from(reader.u16()?), usize::from(reader.u16()?));
    if size != PROGRAM_HEADER_BYTES {
        return Err(LoadError::Format);
    }
    let mut reader = Reader::new(program);
    reader.take(usize::try_from(headers).map_err(|_| LoadError::Format)?)?;
    for _ in 0..count {
        load_segment(ram, program, Reader::new(reader.take(size)?))?;
    }
    area(entry, 1)?;
    Ok(entry)
}

fn load_segment(ram: &mut [u8], program: &[u8], mut header: Reader<'_>) -> Result<(), LoadError> {
    let (kind, flags) = (header.u32()?, header.u32()?);
    let (offset, address) = (header.u64()?, header.u64()?);
    header.take(8)?;
    let (file_bytes, memory_bytes) = (header.u64()?, header.u64()?);
    if kind != SEGMENT_LOAD {
        return Ok(());
    }
    let target = &mut ram[area(address, memory_bytes.max(file_bytes))?];
    let mut file = Reader::new(program);
    file.take(usize::try_from(offset).map_err(|_| LoadError::Format)?)?;
    let bytes = file.take(usize::try_from(file_bytes).map_err(|_| LoadError::Format)?)?;
    if flags & SEGMENT_EXECUTE != 0 {
        refuse_forbidden(bytes, address)?;
    }
    target.fill(0);
    target[..bytes.len()].copy_from_slice(bytes);
    Ok(())
}

/// The range of RAM from `address`, if it lies in the program's area, which every RAM size has.
fn area(address: u64, bytes: u64) -> Result<std::ops::Range<usize>, LoadError> {
    let end = address.checked_add(bytes).filter(|&end| end <= abi::IMAGE_END);
    let end = end.filter(|_| address >= abi::IMAGE_BASE).ok_or(LoadError::Address { address })?;
    let index = |address| usize::try_from(address).map_err(|_| LoadError::Address { address });
    Ok(index(address)?..index(end)?)
}

fn refuse_forbidden(code: &[u8], base: u64) -> Result<(), LoadError> {
    for (offset, window) in code.windows(3).enumerate() {
        let instruction = match *window {
            [0x0f, 0x31, _] | [0x0f, 0x01, 0xf9] => Forbidden::TimeStamp,
            [0x0f, 0xa2, _] => Forbidden::ProcessorId,
            // Group 9 with a register operand: /6 is RDRAND, /7 is RDSEED or RDPID.
            [0x0f, 0xc7, 0xf0..=0xff] => Forbidden::Random,
            _ => continue,
        };
        return Err(LoadError::Forbidden { instruction, address: base + offset as u64 });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMETERS: BootParameters = BootParameters { seed: 7, workload: Workload::SpecJbb };

    #[test]
    fn the_program_loads_and_starts_at_its_first_instruction() {
        let mut ram = vec![0; 64 << 20];
        let state = load(&mut ram, PARAMETERS).unwrap();
        assert_eq!(state.rip, abi::IMAGE_BASE);
        assert!(ram[0x10_0000..0x10_0010].iter().any(|&byte| byte != 0));
        let parameter = usize::try_from(abi::PARAMETER_BASE).unwrap();
        assert_eq!(ram[parameter..parameter + 8], abi::PARAMETER_MAGIC.to_le_bytes());
    }

    #[test]
    fn programs_cut_anywhere_are_refused_without_panic() {
        let mut ram = vec![0; 64 << 20];
        for length in (0..PROGRAM.len()).step_by(61).filter(|&length| length < 0x4000) {
            assert!(load_program(&mut ram, &PROGRAM[..length], PARAMETERS).is_err());
        }
    }

    #[test]
    fn instructions_that_cannot_be_replayed_are_refused() {
        let start = PROGRAM.len().min(0x1000);
        for (bytes, instruction) in [
            ([0x0f, 0x31, 0x90], Forbidden::TimeStamp),
            ([0x0f, 0xa2, 0x90], Forbidden::ProcessorId),
            ([0x0f, 0xc7, 0xf0], Forbidden::Random),
        ] {
            let mut program = PROGRAM.to_vec();
            program[start + 16..start + 19].copy_from_slice(&bytes);
            let error = load_program(&mut vec![0; 64 << 20], &program, PARAMETERS).unwrap_err();
            assert_eq!(error, LoadError::Forbidden { instruction, address: abi::IMAGE_BASE + 16 });
        }
    }
}
