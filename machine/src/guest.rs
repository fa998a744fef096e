//! The guests' programs and how they are put into RAM.

use crate::abi::{self, Parameter};
use crate::bytes::{BytesError, Reader};
use crate::cpu::CpuState;
use crate::forbidden::{ForbiddenInstruction, first_forbidden};
use crate::layout::{self, Layout, RamSizeError};
use crate::workload::Workload;

/// The guest program that does a workload: an ELF file built from `guest/` together with this crate.
#[must_use]
pub const fn program(workload: Workload) -> &'static [u8] {
    match workload {
        Workload::KernelBuild | Workload::SpecJbb => include_bytes!(concat!(env!("OUT_DIR"), "/paced.elf")),
        Workload::Sorting => include_bytes!(concat!(env!("OUT_DIR"), "/sorting.elf")),
        Workload::BTree => include_bytes!(concat!(env!("OUT_DIR"), "/tree.elf")),
        Workload::Strings => include_bytes!(concat!(env!("OUT_DIR"), "/strings.elf")),
    }
}

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
    #[error("guest program has an instruction that cannot be replayed: {0:?}")]
    Forbidden(ForbiddenInstruction),
}

/// Puts tables, parameters and the workload's [`program`] into `ram`, which must be zero, and gives the state to start
/// with.
///
/// # Errors
/// When `ram` has an impossible size.
pub fn load(ram: &mut [u8], parameters: BootParameters) -> Result<CpuState, LoadError> {
    load_program(ram, program(parameters.workload), parameters)
}

/// As [`load`], with another program for the same ABI.
///
/// # Errors
/// When `ram` has an impossible size, the program does not fit the ABI, or a segment that can be executed has an
/// instruction that cannot be replayed, as far as [`first_forbidden`] sees.
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
    if flags & SEGMENT_EXECUTE != 0
        && let Some(found) = first_forbidden(bytes, address)
    {
        return Err(LoadError::Forbidden(found));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forbidden::Forbidden;

    /// Where the code is in the file.
    const TEXT_PLACE: usize = 0x1000;
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
    fn every_workload_has_a_program_that_loads() {
        for workload in Workload::ALL {
            load(&mut vec![0; 64 << 20], BootParameters { seed: 7, workload }).unwrap();
        }
    }

    #[test]
    fn programs_cut_anywhere_are_refused_without_panic() {
        let (mut ram, program) = (vec![0; 64 << 20], program(Workload::SpecJbb));
        for length in (0..program.len()).step_by(61).filter(|&length| length < 0x3000) {
            assert!(load_program(&mut ram, &program[..length], PARAMETERS).is_err());
        }
    }

    /// Each is planted in place of the program's first instructions.
    #[test]
    fn instructions_that_cannot_be_replayed_are_refused() {
        for (bytes, why) in [
            (&[0x0f, 0x31][..], Forbidden::Time),
            (&[0x0f, 0x01, 0xf9], Forbidden::Time),
            (&[0x0f, 0x33], Forbidden::Time),
            (&[0x0f, 0xa2], Forbidden::Processor),
            (&[0x0f, 0x01, 0xd0], Forbidden::Processor),
            (&[0xf3, 0x0f, 0xc7, 0xf8], Forbidden::Processor),
            (&[0x0f, 0xc7, 0xf0], Forbidden::Random),
            (&[0x48, 0x0f, 0xc7, 0xf9], Forbidden::Random),
            (&[0x0f, 0x05], Forbidden::System),
            (&[0x0f, 0x34], Forbidden::System),
            (&[0x0f, 0x01, 0xd9], Forbidden::System),
            (&[0x0f, 0x01, 0x00], Forbidden::Tables),
            (&[0x0f, 0x00, 0xc8], Forbidden::Tables),
            (&[0xc7, 0xf8, 0, 0, 0, 0], Forbidden::Transaction),
        ] {
            let mut planted = program(Workload::SpecJbb).to_vec();
            planted[TEXT_PLACE..TEXT_PLACE + bytes.len()].copy_from_slice(bytes);
            let error = load_program(&mut vec![0; 64 << 20], &planted, PARAMETERS).unwrap_err();
            let LoadError::Forbidden(found) = error else { panic!("{error}") };
            assert_eq!((found.why, found.address, found.bytes()), (why, abi::IMAGE_BASE, bytes));
            assert!(error.to_string().ends_with(&found.to_string()), "{error}");
        }
    }
}
