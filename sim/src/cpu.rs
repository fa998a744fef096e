//! The processor's state while it runs, and its two ends: made from canonical state, turned back into it.

use crate::alu::Status;
use crate::exception::Exception;
use crate::memory::Memory;
use crate::observe::Observer;
use crate::refusal::{Reason, UnsupportedState};
use crate::tlb::Tlb;
use crate::written::{PageSet, WrittenPages};
use pageswarm_machine::CpuState;
use pageswarm_machine::cpu::{RFLAGS_RESUME, Segment, Table};

/// The register number that reads as zero.
pub(crate) const NO_REGISTER: u8 = 16;
/// The register numbers that hold the bases of FS and GS.
pub(crate) const FS_BASE: u8 = 17;
pub(crate) const GS_BASE: u8 = 18;

const FLAG_ALWAYS: u64 = 1 << 1;
const FLAG_DIRECTION: u64 = 1 << 10;
/// TF, NT, VM and AC change how instructions work in ways that are not modelled.
const FLAGS_UNMODELLED: u64 = 1 << 8 | 1 << 14 | 1 << 17 | 1 << 18;
/// PE, PG and nothing that disables caches; the FPU there and not switched off.
const CR0_NEEDED: u64 = 1 << 31 | 1;
const CR0_REFUSED: u64 = 1 << 2 | 1 << 3;
const CR4_NEEDED: u64 = 1 << 5 | 1 << 9;
/// PAE, OSFXSR, OSXMMEXCPT, PGE, MCE, DE, TSD, PSE.
const CR4_KNOWN: u64 = 0x7fc;
const EFER_NEEDED: u64 = 1 << 8 | 1 << 10;
const CODE_LONG: u16 = 0x2000;

/// Why the instructions of a block do not go on with the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// RIP was set; the instruction is complete.
    Jumped,
    /// One iteration of a repeated instruction is done and RIP is still on it.
    Again,
    /// A port access is described in `port`; RIP is on the instruction.
    Port,
    /// An exception is described in `raised`.
    Exception,
    /// The simulation cannot go on; `refused` says why.
    Refused,
}

/// An access to a port that the outside has to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortAccess {
    pub(crate) port: u16,
    pub(crate) size: u8,
    /// Bytes of the instruction.
    pub(crate) length: u8,
    pub(crate) is_input: bool,
}

/// The processor and its memory.
#[derive(Debug)]
pub(crate) struct Cpu<M, O> {
    /// General registers, then zero, the FS base and the GS base. 32 places, so that a masked number always has one.
    pub(crate) registers: [u64; 32],
    pub(crate) vectors: [u128; 16],
    pub(crate) rip: u64,
    pub(crate) status: Status,
    /// RFLAGS without the arithmetic flags.
    other_flags: u64,
    pub(crate) segments: [Segment; 6],
    pub(crate) task: Segment,
    local_table: Segment,
    pub(crate) gdt: Table,
    pub(crate) idt: Table,
    pub(crate) control: [u64; 4],
    pub(crate) efer: u64,
    pub(crate) mxcsr: u32,
    /// Instructions completed before the block that runs.
    pub(crate) count: u64,
    /// Iterations of repeated instructions.
    pub(crate) repeats: u64,
    /// Where repeated instructions stop after each iteration.
    pub(crate) breakpoint: Option<u64>,
    pub(crate) memory: M,
    pub(crate) observer: O,
    pub(crate) tlb: Tlb,
    pub(crate) written: WrittenPages,
    pub(crate) port: Option<PortAccess>,
    pub(crate) raised: Option<Exception>,
    pub(crate) refused: Option<Reason>,
    /// Pages that decoded code came from.
    pub(crate) code_pages: PageSet,
    /// Code that was decoded has been overwritten, or is mapped differently now.
    pub(crate) code_changed: bool,
}

impl<M: Memory, O: Observer> Cpu<M, O> {
    pub(crate) fn new(state: &CpuState, memory: M, observer: O) -> Result<Self, UnsupportedState> {
        check(state)?;
        let mut registers = [0; 32];
        registers[..16].copy_from_slice(&state.general);
        registers[usize::from(FS_BASE)] = state.segments[4].base;
        registers[usize::from(GS_BASE)] = state.segments[5].base;
        let written = WrittenPages::new(memory.pages());
        let code_pages = PageSet::new(memory.pages());
        Ok(Self {
            registers,
            vectors: state.xmm.map(u128::from_le_bytes),
            rip: state.rip,
            status: Status::from_rflags(state.rflags),
            other_flags: state.rflags & !Status::RFLAGS,
            segments: state.segments,
            task: state.task,
            local_table: state.local_table,
            gdt: state.gdt,
            idt: state.idt,
            control: state.control,
            efer: state.efer,
            mxcsr: state.mxcsr,
            count: 0,
            repeats: 0,
            breakpoint: None,
            memory,
            observer,
            tlb: Tlb::new(),
            written,
            port: None,
            raised: None,
            refused: None,
            code_pages,
            code_changed: false,
        })
    }

    pub(crate) fn state(&self) -> CpuState {
        let mut state = CpuState::start(self.rip);
        state.general.copy_from_slice(&self.registers[..16]);
        state.rflags = self.rflags() & !RFLAGS_RESUME;
        state.segments = self.segments;
        state.task = self.task;
        state.local_table = self.local_table;
        state.gdt = self.gdt;
        state.idt = self.idt;
        state.control = self.control;
        state.efer = self.efer;
        state.xmm = self.vectors.map(u128::to_le_bytes);
        state.mxcsr = self.mxcsr;
        state
    }

    /// The current privilege level.
    pub(crate) fn ring(&self) -> u8 {
        (self.segments[1].selector & 3).to_le_bytes()[0]
    }

    pub(crate) fn rflags(&self) -> u64 {
        self.other_flags | self.status.to_rflags()
    }

    pub(crate) fn set_rflags(&mut self, rflags: u64) {
        self.status = Status::from_rflags(rflags);
        self.other_flags = rflags & !Status::RFLAGS | FLAG_ALWAYS;
    }

    /// Sets the arithmetic flags and those of `taken` from `rflags`.
    pub(crate) fn take_flags(&mut self, rflags: u64, taken: u64) -> Result<(), Leave> {
        let flags = rflags & FLAGS_UNMODELLED;
        if flags != 0 {
            return Err(self.refuse(Reason::Flags { flags }));
        }
        let taken = taken | Status::RFLAGS;
        self.set_rflags(self.rflags() & !taken & !RFLAGS_RESUME | rflags & taken);
        Ok(())
    }

    /// Whether string instructions go downwards.
    pub(crate) fn goes_down(&self) -> bool {
        self.other_flags & FLAG_DIRECTION != 0
    }

    pub(crate) fn io_privilege(&self) -> u8 {
        (self.other_flags >> 12 & 3).to_le_bytes()[0]
    }

    pub(crate) fn raise(&mut self, exception: Exception) -> Leave {
        self.raised = Some(exception);
        Leave::Exception
    }

    pub(crate) fn refuse(&mut self, reason: Reason) -> Leave {
        self.refused = Some(reason);
        Leave::Refused
    }

    /// Forgets the soft TLB and all decoded code, as a change of rights or of page tables demands.
    pub(crate) fn forget_translations(&mut self) {
        self.tlb.clear();
        self.code_changed = true;
    }

    /// The lower `B` bytes of a register.
    #[inline(always)]
    pub(crate) fn register<const B: usize>(&self, number: u8) -> u64 {
        crate::alu::low::<B>(self.registers[usize::from(number & 31)])
    }

    /// Writes a register as an instruction of that width does: 32 bits clear what is above, less does not.
    #[inline(always)]
    pub(crate) fn set_register<const B: usize>(&mut self, number: u8, value: u64) {
        let place = &mut self.registers[usize::from(number & 31)];
        *place = match B {
            1 => *place & !0xff | value & 0xff,
            2 => *place & !0xffff | value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        };
    }
}

fn check(state: &CpuState) -> Result<(), UnsupportedState> {
    let [cr0, _, _, cr4] = state.control;
    let long = state.efer & EFER_NEEDED == EFER_NEEDED && state.segments[1].attributes & CODE_LONG != 0;
    if !long || cr0 & CR0_NEEDED != CR0_NEEDED {
        return Err(UnsupportedState::Mode);
    }
    if cr0 & CR0_REFUSED != 0 {
        return Err(UnsupportedState::Control { register: 0, value: cr0 });
    }
    if cr4 & CR4_NEEDED != CR4_NEEDED || cr4 & !CR4_KNOWN != 0 {
        return Err(UnsupportedState::Control { register: 4, value: cr4 });
    }
    if state.rflags & FLAGS_UNMODELLED != 0 {
        return Err(UnsupportedState::Flags { flags: state.rflags });
    }
    Ok(())
}
