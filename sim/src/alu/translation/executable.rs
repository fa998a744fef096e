//! Memory that holds translated code, and what its code may touch while it runs.
//!
//! The memory is writable or executable, never both at once.

use super::stretch::Assembled;
use crate::alu::Status;
use crate::limits::CODE_BYTES;
use crate::tlb::{Entry as TlbEntry, Tlb};
use pageswarm_machine::PAGE_BYTES;
use std::mem::offset_of;
use std::ops::Range;
use std::ptr::{self, NonNull};

/// Where a translation begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    offset: usize,
    /// Of the code memory: what was forgotten is not entered.
    generation: u64,
}

/// Why a translation cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotKept {
    /// There is room again when everything is forgotten.
    Full,
    /// The system gives no executable memory.
    NoMemory,
}

/// Executable memory; none until the first translation.
#[derive(Debug)]
pub(crate) struct CodeMemory {
    start: Option<NonNull<u8>>,
    used: usize,
    generation: u64,
    refused: bool,
}

// SAFETY: the memory belongs to this value alone, and nothing in it depends on the thread.
unsafe impl Send for CodeMemory {}
// SAFETY: through a shared reference the memory is only executed and never changed.
unsafe impl Sync for CodeMemory {}

/// What translated code works on: borrowed for as long as it runs.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) registers: &'a mut [u64; 32],
    pub(crate) status: &'a mut Status,
    pub(crate) tlb: &'a Tlb,
    pub(crate) ram: &'a mut [u8],
}

/// The same as translated code sees it, by its address.
#[repr(C)]
pub(super) struct Frame {
    registers: *mut u64,
    reads: *const TlbEntry,
    writes: *const TlbEntry,
    ram: *mut u8,
    /// Guest-physical addresses below have [`WIDEST`] bytes of RAM.
    limit: u64,
    /// Instructions that may still be begun by going round.
    budget: i64,
    status: u64,
}

/// Most bytes of one access.
pub(super) const WIDEST: usize = 8;

/// Distances of the frame's fields from its begin.
pub(super) mod field {
    use super::{Frame, offset_of};

    const fn byte(offset: usize) -> u8 {
        assert!(offset < 128, "a distance is a signed byte");
        offset.to_le_bytes()[0]
    }

    pub(in super::super) const REGISTERS: u8 = byte(offset_of!(Frame, registers));
    pub(in super::super) const READS: u8 = byte(offset_of!(Frame, reads));
    pub(in super::super) const WRITES: u8 = byte(offset_of!(Frame, writes));
    pub(in super::super) const RAM: u8 = byte(offset_of!(Frame, ram));
    pub(in super::super) const LIMIT: u8 = byte(offset_of!(Frame, limit));
    pub(in super::super) const BUDGET: u8 = byte(offset_of!(Frame, budget));
    pub(in super::super) const STATUS: u8 = byte(offset_of!(Frame, status));
}

type Code = extern "sysv64" fn(*mut Frame) -> u32;

impl CodeMemory {
    pub(crate) const fn new() -> Self {
        Self { start: None, used: 0, generation: 0, refused: false }
    }

    /// Makes room; entries from before are not entered any more.
    pub(crate) const fn clear(&mut self) {
        self.used = 0;
        self.generation += 1;
    }

    /// Keeps a translation.
    pub(crate) fn keep(&mut self, assembled: &Assembled) -> Result<Entry, NotKept> {
        let bytes = assembled.bytes();
        if bytes.len() > CODE_BYTES - self.used {
            return Err(NotKept::Full);
        }
        let start = self.map().ok_or(NotKept::NoMemory)?;
        let pages = self.used & !(PAGE_BYTES - 1)..(self.used + bytes.len()).next_multiple_of(PAGE_BYTES);
        if !protect(start, &pages, libc::PROT_READ | libc::PROT_WRITE) {
            self.refuse();
            return Err(NotKept::NoMemory);
        }
        // SAFETY: there is room for the bytes, as compared above.
        let place = unsafe { start.add(self.used) };
        // SAFETY: the room is writable since the call above, and nobody else knows of it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_ptr(), bytes.len()) };
        if !protect(start, &pages, libc::PROT_READ | libc::PROT_EXEC) {
            self.refuse();
            return Err(NotKept::NoMemory);
        }
        let entry = Entry { offset: self.used, generation: self.generation };
        self.used += bytes.len();
        Ok(entry)
    }

    /// Rights may have changed for a part of the pages: what was kept before could not run any more, either.
    const fn refuse(&mut self) {
        self.clear();
        self.refused = true;
    }

    fn map(&mut self) -> Option<NonNull<u8>> {
        if self.refused {
            return None;
        }
        if self.start.is_none() {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a new mapping at a place that the system chooses changes none that is there.
            let mapped = unsafe { libc::mmap(ptr::null_mut(), CODE_BYTES, libc::PROT_READ, flags, -1, 0) };
            self.refused = mapped == libc::MAP_FAILED;
            self.start = if self.refused { None } else { NonNull::new(mapped.cast()) };
        }
        self.start
    }

    /// Runs a translation; returns by which of its exits it left, and the work begun by going round.
    #[inline]
    pub(crate) fn run(&self, entry: Entry, machine: Machine<'_>, budget: u64) -> Option<(u32, u64)> {
        let start = self.start.filter(|_| entry.generation == self.generation)?;
        let budget = i64::try_from(budget).unwrap_or(i64::MAX);
        let mut frame = Frame {
            registers: machine.registers.as_mut_ptr(),
            reads: machine.tlb.reads().as_ptr(),
            writes: machine.tlb.writes().as_ptr(),
            ram: machine.ram.as_mut_ptr(),
            limit: (machine.ram.len() as u64).saturating_sub(WIDEST as u64 - 1),
            budget,
            status: u64::from(machine.status.0),
        };
        // SAFETY: an entry of this generation is a place in the memory that is used.
        let place = unsafe { start.add(entry.offset) };
        // SAFETY: there is the whole code of an `Assembled`, a function of this kind, and it is executable.
        let code = unsafe { std::mem::transmute::<*mut u8, Code>(place.as_ptr()) };
        // The code reads and writes the frame, the first 16 registers, the TLB's entries, found by a masked number,
        // and RAM below the limit, each of which is borrowed until here.
        let exit = code(&raw mut frame);
        let [low, high, ..] = frame.status.to_le_bytes();
        *machine.status = Status(u16::from_le_bytes([low, high]));
        Some((exit, (budget - frame.budget).cast_unsigned()))
    }
}

/// Sets what may be done with pages of the code memory at `start`; only with those, because it takes time for each.
fn protect(start: NonNull<u8>, pages: &Range<usize>, rights: i32) -> bool {
    // SAFETY: the pages are in the mapping that was made for this.
    let first = unsafe { start.add(pages.start) };
    // SAFETY: as above, and no code in it runs now.
    unsafe { libc::mprotect(first.as_ptr().cast(), pages.len(), rights) == 0 }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        if let Some(start) = self.start {
            // SAFETY: the mapping was made by `map`, and nothing enters it any more.
            unsafe { libc::munmap(start.as_ptr().cast(), CODE_BYTES) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Accesses, translate};
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    /// ADD RAX, RCX.
    const ADDITION: [u8; 3] = [0x48, 0x01, 0xc8];

    fn addition() -> Assembled {
        let instruction = Decoder::with_ip(64, &ADDITION, 0x1000, DecoderOptions::NONE).decode();
        translate(&[instruction], Accesses::Direct, None).unwrap()
    }

    fn run(memory: &CodeMemory, entry: Entry) -> Option<(u64, u64)> {
        let (mut registers, mut status, tlb) = ([0; 32], Status::default(), Tlb::new());
        registers[..2].copy_from_slice(&[u64::MAX, 1]);
        let machine =
            Machine { registers: &mut registers, status: &mut status, tlb: &tlb, ram: Default::default() };
        memory.run(entry, machine, 1)?;
        Some((registers[0], status.to_rflags()))
    }

    #[test]
    fn what_is_kept_runs_until_it_is_forgotten() {
        let mut memory = CodeMemory::new();
        let entries = [memory.keep(&addition()).unwrap(), memory.keep(&addition()).unwrap()];
        for entry in entries {
            // CF, PF, AF and ZF.
            assert_eq!(run(&memory, entry), Some((0, 0x55)));
        }
        memory.clear();
        assert_eq!(run(&memory, entries[0]), None);
        let again = memory.keep(&addition()).unwrap();
        assert_eq!(run(&memory, again), Some((0, 0x55)));
        assert_eq!(run(&memory, entries[0]), None);
    }

    #[test]
    fn more_than_there_is_room_for_is_not_kept() {
        let mut memory = CodeMemory::new();
        memory.used = CODE_BYTES - addition().bytes().len();
        let last = memory.keep(&addition()).unwrap();
        assert_eq!(run(&memory, last), Some((0, 0x55)));
        assert_eq!(memory.keep(&addition()).unwrap_err(), NotKept::Full);
    }

    #[test]
    fn without_executable_memory_nothing_is_kept() {
        let mut memory = CodeMemory::new();
        memory.refused = true;
        assert_eq!(memory.keep(&addition()).unwrap_err(), NotKept::NoMemory);
    }
}
