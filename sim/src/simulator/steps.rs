//! Single steps: the interpreter without blocks, for whoever has to look at the machine after each instruction.

use super::{Exit, Simulator};
use crate::cpu::{Cpu, Leave};
use crate::decode::{Decoded, decode};
use crate::limits::{INSTRUCTION_BYTES, STEP_PLACES};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::Op;
use crate::paging::{Intent, Rights};
use crate::refusal::Refusal;
use pageswarm_machine::PageNumber;

/// Instructions that were decoded for single steps, found by their address. They are none of a [`Simulator`]'s blocks:
/// each of them leaves all its flags behind.
#[derive(Debug)]
pub(crate) struct Steps<M, O> {
    places: Box<[Option<Op<M, O>>]>,
    is_empty: bool,
}

impl<M: Memory, O: Observer> Steps<M, O> {
    pub(crate) fn new() -> Self {
        Self { places: vec![None; STEP_PLACES].into_boxed_slice(), is_empty: true }
    }

    /// Forgets everything: to be called between [`Simulator::run`] and single steps, because a run forgets which
    /// pages hold code, and when another simulator is stepped.
    pub(crate) fn forget(&mut self) {
        if !self.is_empty {
            self.places.fill(None);
            self.is_empty = true;
        }
    }

    fn find(&self, rip: u64) -> Option<Op<M, O>> {
        self.places[place(rip)].filter(|op| op.rip == rip)
    }

    fn decode(&mut self, cpu: &mut Cpu<M, O>) -> Result<Op<M, O>, Leave> {
        let op = decode_alone(cpu)?;
        self.places[place(op.rip)] = Some(op);
        self.is_empty = false;
        Ok(op)
    }
}

fn place(rip: u64) -> usize {
    usize::from(u16::try_from(rip & 0xffff).unwrap_or(0)) % STEP_PLACES
}

/// Decodes the instruction at RIP; a page that it does not need is not touched.
fn decode_alone<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>) -> Result<Op<M, O>, Leave> {
    let rip = cpu.rip;
    let mut bytes = [0; INSTRUCTION_BYTES];
    let fetched = cpu.fetch(rip, &mut bytes)?;
    let mut decoded = decode(&bytes[..fetched], rip);
    if matches!(decoded, Decoded::Cut) {
        let more = cpu.fetch(rip.wrapping_add(fetched as u64), &mut bytes[fetched..])?;
        decoded = decode(&bytes[..fetched + more], rip);
    }
    match decoded {
        Decoded::Op(op, ..) => {
            for address in [rip, op.next().wrapping_sub(1)] {
                let page = cpu.translate(address, Intent::Execute, Rights::Current)? >> 12;
                if !cpu.code_pages.contains(page) {
                    cpu.code_pages.insert(page);
                    cpu.tlb.clear_writes();
                }
            }
            Ok(op)
        }
        Decoded::Refused(reason) => Err(cpu.refuse(reason)),
        Decoded::Cut => Err(cpu.refuse(crate::refusal::Reason::Unknown)),
    }
}

impl<M: Memory, O: Observer> Simulator<M, O> {
    /// Runs one instruction, one iteration of a repeated one, or delivers one exception. [`Self::work`] grows by 1, or
    /// by 2 at a repeated instruction's last iteration.
    ///
    /// # Errors
    /// When the instruction cannot be simulated exactly.
    pub(crate) fn step(&mut self, steps: &mut Steps<M, O>) -> Result<Option<Exit>, Refusal> {
        if self.cpu.code_changed {
            self.forget_code();
            steps.forget();
        }
        self.at_breakpoint = false;
        let rip = self.cpu.rip;
        let op = match steps.find(rip) {
            Some(op) => op,
            None => match steps.decode(&mut self.cpu) {
                Ok(op) => op,
                Err(leave) => return self.settle(leave, rip, 0),
            },
        };
        // A repeated instruction pauses after each iteration at a breakpoint only.
        let told = self.cpu.breakpoint.replace(rip);
        let left = (op.run)(&mut self.cpu, &op);
        self.cpu.breakpoint = told;
        match left {
            Ok(()) => {
                self.cpu.rip = op.next();
                self.cpu.count += 1;
                Ok(None)
            }
            Err(Leave::Jumped) => {
                self.cpu.count += 1;
                Ok(None)
            }
            Err(leave) => self.settle(leave, rip, op.next()),
        }
    }

    /// The address of the next instruction, as a cheap part of [`Self::state`].
    pub(crate) fn rip(&self) -> u64 {
        self.cpu.rip
    }

    pub(crate) fn memory_mut(&mut self) -> &mut M {
        &mut self.cpu.memory
    }

    pub(crate) fn observer_mut(&mut self) -> &mut O {
        &mut self.cpu.observer
    }

    /// Counts pages as written that were written before this simulator was made.
    pub(crate) fn note_written(&mut self, pages: impl Iterator<Item = PageNumber>) {
        pages.for_each(|page| self.cpu.written.insert(u64::from(page.0)));
    }
}
