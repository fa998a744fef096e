//! The walk through four-level page tables, with accessed and dirty bits.

use crate::cpu::{Cpu, Leave};
use crate::exception::Exception;
use crate::memory::Memory;
use crate::observe::Observer;
use crate::refusal::Reason;
use pageswarm_machine::PageNumber;

/// What a translation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    Read,
    Write,
    Execute,
}

/// With whose rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Those of the current privilege level.
    Current,
    /// The processor's own, for descriptor tables and stacks of inner rings.
    System,
}

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000f_ffff_ffff_f000;

const FAULT_PROTECTION: u32 = 1 << 0;
const FAULT_WRITE: u32 = 1 << 1;
const FAULT_USER: u32 = 1 << 2;
const FAULT_FETCH: u32 = 1 << 4;

const CR0_WRITE_PROTECT: u64 = 1 << 16;
const EFER_NO_EXECUTE: u64 = 1 << 11;
const LEVELS: u32 = 4;

/// One step's entry: where it is and what it holds.
type Visited = (u64, u64);

impl<M: Memory, O: Observer> Cpu<M, O> {
    /// The guest-physical address of `address`, sets accessed and dirty bits, and makes the page present.
    #[cold]
    pub(crate) fn translate(&mut self, address: u64, intent: Intent, rights: Rights) -> Result<u64, Leave> {
        if !is_canonical(address) {
            return Err(self.raise(match intent {
                Intent::Execute => Exception::general_protection(0),
                Intent::Read | Intent::Write => Exception::not_canonical(address),
            }));
        }
        let mut visited = [Visited::default(); LEVELS as usize];
        let mut table = self.control[2] & FRAME;
        let mut allowed = WRITE | USER;
        let mut executable = true;
        for level in (0..LEVELS).rev() {
            let place = table + (address >> (12 + 9 * level) & 511) * 8;
            let entry = self.table_entry(place)?;
            visited[level as usize] = (place, entry);
            if entry & PRESENT == 0 {
                return Err(self.page_fault(address, intent, rights, 0));
            }
            self.check_reserved(entry, level)?;
            allowed &= entry;
            executable &= entry & NO_EXECUTE == 0;
            if level == 0 || entry & LARGE != 0 {
                if !self.may(allowed, executable, intent, rights) {
                    return Err(self.page_fault(address, intent, rights, FAULT_PROTECTION));
                }
                self.mark_used(&visited[level as usize..], intent);
                let inside = (1 << (12 + 9 * level)) - 1;
                let physical = entry & FRAME & !inside | address & inside;
                self.make_present(physical)?;
                return Ok(physical);
            }
            table = entry & FRAME;
        }
        unreachable!("level 0 always ends the walk")
    }

    fn may(&self, allowed: u64, executable: bool, intent: Intent, rights: Rights) -> bool {
        let user = self.ring() == 3 && rights == Rights::Current;
        let written = !user && self.control[0] & CR0_WRITE_PROTECT == 0;
        (!user || allowed & USER != 0)
            && match intent {
                Intent::Read => true,
                Intent::Write => written || allowed & WRITE != 0,
                Intent::Execute => executable,
            }
    }

    /// Large pages of a terabyte, reserved frame bits and NX without its enabling are refused, not modelled.
    fn check_reserved(&mut self, entry: u64, level: u32) -> Result<(), Leave> {
        let low_frame = ((1_u64 << (9 * level).saturating_sub(1)) - 1) << 13;
        let wrong = entry & LARGE != 0 && (level == 3 || level > 0 && entry & FRAME & low_frame != 0)
            || entry & NO_EXECUTE != 0 && self.efer & EFER_NO_EXECUTE == 0;
        if wrong { Err(self.refuse(Reason::PageTable)) } else { Ok(()) }
    }

    fn table_entry(&mut self, place: u64) -> Result<u64, Leave> {
        self.make_present(place)?;
        Ok(u64::from_le_bytes(self.memory.read(place)))
    }

    fn mark_used(&mut self, visited: &[Visited], intent: Intent) {
        for (depth, &(place, entry)) in visited.iter().enumerate() {
            let dirty = if depth == 0 && intent == Intent::Write { DIRTY } else { 0 };
            let used = entry | ACCESSED | dirty;
            if used != entry {
                self.before_write(place);
                self.memory.write(place, used.to_le_bytes());
            }
        }
    }

    /// Makes the page of a physical address present.
    pub(crate) fn make_present(&mut self, physical: u64) -> Result<(), Leave> {
        let page = u32::try_from(physical >> 12).ok().filter(|&page| page < self.memory.pages());
        let Some(page) = page else {
            return Err(self.refuse(Reason::OutsideRam { physical }));
        };
        match self.memory.make_present(PageNumber(page)) {
            Ok(()) => Ok(()),
            Err(unavailable) => Err(self.refuse(Reason::Page(unavailable))),
        }
    }

    fn page_fault(&mut self, address: u64, intent: Intent, rights: Rights, protection: u32) -> Leave {
        let kind = match intent {
            Intent::Read => 0,
            Intent::Write => FAULT_WRITE,
            Intent::Execute if self.efer & EFER_NO_EXECUTE != 0 => FAULT_FETCH,
            Intent::Execute => 0,
        };
        let user = self.ring() == 3 && rights == Rights::Current;
        let user = if user { FAULT_USER } else { 0 };
        self.raise(Exception::page_fault(address, protection | kind | user))
    }
}

/// Whether bits 47 to 63 are all alike.
pub(crate) const fn is_canonical(address: u64) -> bool {
    let upper = address.cast_signed() >> 47;
    upper == 0 || upper == -1
}
