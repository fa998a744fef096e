//! The interpreter: runs instructions until something from outside is needed.

pub(crate) mod steps;

use crate::alu::low;
use crate::cache::Cache;
use crate::cpu::{Cpu, Leave};
use crate::exception::Exception;
use crate::limits::INSTRUCTION_BYTES;
use crate::memory::Memory;
use crate::observe::Observer;
use crate::refusal::{Reason, Refusal, UnsupportedState};
use crate::stretches::{Translated, Translation};
use pageswarm_machine::{CpuState, PageNumber};

const ACCUMULATOR: u8 = 0;

/// Why [`Simulator::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// As much was done as was asked for.
    Done,
    /// RIP is at the breakpoint.
    Breakpoint,
    /// The guest reads a port; [`Simulator::answer`] completes the instruction.
    Input {
        /// The port.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: usize,
    },
    /// The guest wrote a port.
    Output {
        /// The port.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: usize,
        /// The bytes, little-endian, zeros above.
        value: u32,
    },
}

/// One simulated processor and its memory.
#[derive(Debug)]
pub struct Simulator<M, O> {
    cpu: Cpu<M, O>,
    cache: Cache<M, O>,
    /// The breakpoint was told and not yet passed.
    at_breakpoint: bool,
    /// Exceptions delivered: a fault completes no instruction, and a handler may cause the next one at once.
    deliveries: u64,
}

impl<M: Memory, O: Observer> Simulator<M, O> {
    /// A processor in `state`.
    ///
    /// # Errors
    /// When the state enables what is not modelled.
    pub fn new(state: &CpuState, memory: M, observer: O) -> Result<Self, UnsupportedState> {
        Self::translating(state, memory, observer, Translation::WhenWarm)
    }

    /// The same, and when to translate code.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn translating(
        state: &CpuState,
        memory: M,
        observer: O,
        when: Translation,
    ) -> Result<Self, UnsupportedState> {
        Ok(Self {
            cpu: Cpu::new(state, memory, observer)?,
            cache: Cache::new(when),
            at_breakpoint: false,
            deliveries: 0,
        })
    }

    /// The canonical state.
    #[must_use]
    pub fn state(&self) -> CpuState {
        self.cpu.state()
    }

    /// Guest RAM.
    #[must_use]
    pub const fn memory(&self) -> &M {
        &self.cpu.memory
    }

    /// Ends the simulation and gives back memory and observer.
    #[must_use]
    pub fn into_parts(self) -> (M, O) {
        (self.cpu.memory, self.cpu.observer)
    }

    /// Instructions completed. A repeated string instruction is one.
    #[must_use]
    pub const fn instructions(&self) -> u64 {
        self.cpu.count
    }

    /// Iterations that repeated string instructions made.
    #[must_use]
    pub const fn repeats(&self) -> u64 {
        self.cpu.repeats
    }

    /// Pages written since the start, ascending.
    #[must_use]
    pub fn written_pages(&self) -> Vec<PageNumber> {
        self.cpu.written.ever()
    }

    /// Whether a page was written since the start.
    #[must_use]
    pub fn has_written(&self, page: PageNumber) -> bool {
        self.cpu.written.has(page)
    }

    /// Pages written since this was called last, ascending.
    pub fn take_recently_written(&mut self) -> Vec<PageNumber> {
        // A page in the TLB is written without being noted again.
        self.cpu.tlb.clear_writes();
        self.cpu.written.take_recent()
    }

    /// Makes [`Self::run`] return each time before the instruction at `rip` runs, and after each iteration of it if it
    /// is a repeated one.
    pub fn stop_at(&mut self, rip: u64) {
        self.cpu.breakpoint = Some(rip);
        self.cache.clear();
    }

    /// Instructions, repeats and delivered exceptions: what a limit is set on.
    #[must_use]
    pub const fn work(&self) -> u64 {
        self.cpu.count + self.cpu.repeats + self.deliveries
    }

    /// General register `number` (in encoding order), as a cheap part of [`Self::state`].
    pub(crate) fn general(&self, number: usize) -> u64 {
        self.cpu.registers[number & 15]
    }

    /// Runs until the sum of instructions, repeats and delivered exceptions is at least `work`, or something else ends it.
    ///
    /// # Errors
    /// When the next instruction cannot be simulated exactly.
    pub fn run(&mut self, work: u64) -> Result<Exit, Refusal> {
        loop {
            if self.cpu.code_changed {
                self.forget_code();
            }
            if self.work() >= work {
                return Ok(Exit::Done);
            }
            let rip = self.cpu.rip;
            if self.cpu.breakpoint == Some(rip) && !self.at_breakpoint {
                self.at_breakpoint = true;
                return Ok(Exit::Breakpoint);
            }
            self.at_breakpoint = false;
            let block = match self.cache.locate(&mut self.cpu) {
                Ok(place) => self.cache.block(place),
                Err(leave) => {
                    self.settle(leave, rip, 0)?;
                    continue;
                }
            };
            let mut begun = 0;
            if let Translated::As(stretch) = block.translated {
                let budget = work - self.work();
                match self.cache.stretches.run(&mut self.cpu, stretch, budget) {
                    Some(inside) => begun = inside,
                    None => continue,
                }
            }
            let (mut left, mut next) = (None, block.next);
            let mut completed = block.length;
            for op in &self.cache.ops(block)[begun as usize..] {
                if let Err(leave) = (op.run)(&mut self.cpu, op) {
                    left = Some((leave, op.rip, op.next()));
                    completed = u32::from(op.position);
                    break;
                }
                if self.cpu.code_changed {
                    next = op.next();
                    completed = u32::from(op.position) + 1;
                    break;
                }
            }
            self.cpu.count += u64::from(completed);
            match left {
                None => self.cpu.rip = next,
                Some((Leave::Jumped, ..)) => self.cpu.count += 1,
                Some((leave, rip, next)) => {
                    if let Some(exit) = self.settle(leave, rip, next)? {
                        return Ok(exit);
                    }
                }
            }
        }
    }

    /// Deals with what ended a block at the instruction at `rip`, with `next` behind it.
    #[cold]
    fn settle(&mut self, leave: Leave, rip: u64, next: u64) -> Result<Option<Exit>, Refusal> {
        self.cpu.rip = rip;
        match leave {
            Leave::Jumped | Leave::Again => Ok(None),
            Leave::Port => Ok(self.port_exit()),
            Leave::Exception => {
                let Some(exception) = self.cpu.raised.take() else {
                    return Ok(None);
                };
                if exception.follows_instruction() {
                    self.cpu.rip = next;
                    self.cpu.count += 1;
                }
                self.deliveries += 1;
                match self.cpu.deliver(exception) {
                    Ok(()) => Ok(None),
                    Err(_) => Err(self.refusal(rip)),
                }
            }
            Leave::Refused => Err(self.refusal(rip)),
        }
    }

    fn port_exit(&mut self) -> Option<Exit> {
        let access = self.cpu.port?;
        let size = usize::from(access.size);
        if access.is_input {
            return Some(Exit::Input { port: access.port, size });
        }
        let accumulator = self.cpu.register::<4>(ACCUMULATOR);
        let value = match size {
            1 => low::<1>(accumulator),
            2 => low::<2>(accumulator),
            _ => accumulator,
        };
        self.complete_port(access.length);
        Some(Exit::Output { port: access.port, size, value: u32::try_from(value).unwrap_or(0) })
    }

    fn complete_port(&mut self, length: u8) {
        self.cpu.port = None;
        self.cpu.rip = self.cpu.rip.wrapping_add(u64::from(length));
        self.cpu.count += 1;
    }

    /// Gives the guest what it reads from the port of the last [`Exit::Input`].
    pub fn answer(&mut self, value: u32) {
        let Some(access) = self.cpu.port else {
            return;
        };
        let value = u64::from(value);
        match access.size {
            1 => self.cpu.set_register::<1>(ACCUMULATOR, value),
            2 => self.cpu.set_register::<2>(ACCUMULATOR, value),
            _ => self.cpu.set_register::<4>(ACCUMULATOR, value),
        }
        self.complete_port(access.length);
    }

    /// Delivers an interrupt from outside, between two instructions.
    ///
    /// # Errors
    /// When it cannot be delivered exactly.
    pub fn interrupt(&mut self, vector: u8) -> Result<(), Refusal> {
        let rip = self.cpu.rip;
        self.cpu.deliver(Exception::interrupt(vector)).map_err(|_| self.refusal(rip))
    }

    /// Forgets decoded code, because some of it was written or the processor's rights changed.
    fn forget_code(&mut self) {
        self.cache.clear();
        self.cpu.code_pages.clear();
        self.cpu.code_changed = false;
    }

    #[cold]
    fn refusal(&mut self, rip: u64) -> Refusal {
        let reason = self.cpu.refused.take().unwrap_or(Reason::Unknown);
        self.cpu.rip = rip;
        let mut bytes = [0; INSTRUCTION_BYTES];
        let fetched = self.cpu.fetch(rip, &mut bytes).unwrap_or(0);
        (self.cpu.raised, self.cpu.refused) = (None, None);
        Refusal { reason, rip, bytes, length: u8::try_from(fetched).unwrap_or(0) }
    }
}
