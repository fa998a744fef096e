//! Exceptions and interrupts: what they are, and their delivery through the guest's descriptor tables.

use crate::access::Part;
use crate::cpu::{Cpu, Leave};
use crate::limits::INSTRUCTION_BYTES;
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::Op;
use crate::paging::{Rights, is_canonical};
use crate::refusal::Reason;
use iced_x86::{Decoder, DecoderOptions, OpKind, Register};
use pageswarm_machine::cpu::{RFLAGS_RESUME, Segment};

const DIVIDE: u8 = 0;
const BREAKPOINT: u8 = 3;
const INVALID_OPCODE: u8 = 6;
const DOUBLE_FAULT: u8 = 8;
const STACK: u8 = 12;
const GENERAL_PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;

const GATE_BYTES: u64 = 16;
const GATE_INTERRUPT: u64 = 14;
const GATE_TRAP: u64 = 15;
/// Error code bits: the entry is in the IDT; the event came from outside the program.
const ERROR_IDT: u32 = 2;

/// RFLAGS: trap, interrupt enable, nested task, resume.
const FLAGS_CLEARED: u64 = 1 << 8 | 1 << 14 | 1 << 16;
const FLAG_INTERRUPT: u64 = 1 << 9;
/// RFLAGS that IRETQ restores at ring 3 with IOPL 3, besides the arithmetic ones.
const FLAGS_RETURNED: u64 = 1 << 9 | 1 << 10 | 1 << 21;
const TSS_RSP0: u64 = 4;
const TSS_IST1: u64 = 36;

/// Code segments: type, S, DPL, P, L and D/B of [`Segment::attributes`].
const SEGMENT_CODE: u16 = 0x18;
const SEGMENT_CONFORMING: u16 = 0x04;
const SEGMENT_PRESENT: u16 = 0x80;
const SEGMENT_LONG: u16 = 0x2000;

/// An event to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exception {
    vector: u8,
    error: Option<u32>,
    address: Option<u64>,
    /// The address of data that is not canonical: the instruction's segment says which exception that is.
    not_canonical: Option<u64>,
    origin: Origin,
}

/// Who caused an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// An instruction that could not be completed; it would run again.
    Fault,
    /// INT n or INT3, completed.
    Program,
    /// The outside.
    Interrupt,
}

impl Exception {
    const fn fault(vector: u8, error: Option<u32>) -> Self {
        Self { vector, error, address: None, not_canonical: None, origin: Origin::Fault }
    }

    pub(crate) const fn divide() -> Self {
        Self::fault(DIVIDE, None)
    }

    pub(crate) const fn invalid_opcode() -> Self {
        Self::fault(INVALID_OPCODE, None)
    }

    pub(crate) const fn general_protection(error: u32) -> Self {
        Self::fault(GENERAL_PROTECTION, Some(error))
    }

    /// #GP, unless the access is through the stack's segment.
    pub(crate) const fn not_canonical(address: u64) -> Self {
        Self { not_canonical: Some(address), ..Self::general_protection(0) }
    }

    pub(crate) const fn page_fault(address: u64, error: u32) -> Self {
        Self { address: Some(address), ..Self::fault(PAGE_FAULT, Some(error)) }
    }

    pub(crate) const fn breakpoint() -> Self {
        Self { origin: Origin::Program, ..Self::fault(BREAKPOINT, None) }
    }

    pub(crate) const fn program(vector: u8) -> Self {
        Self { origin: Origin::Program, ..Self::fault(vector, None) }
    }

    pub(crate) const fn interrupt(vector: u8) -> Self {
        Self { origin: Origin::Interrupt, ..Self::fault(vector, None) }
    }

    /// Whether the instruction that caused it is complete.
    pub(crate) const fn follows_instruction(self) -> bool {
        matches!(self.origin, Origin::Program)
    }

    /// Whether it counts when the delivery of another one fails.
    const fn is_contributory(self) -> bool {
        matches!(self.origin, Origin::Fault) && matches!(self.vector, 0 | 10..=13)
    }

    const fn is_page_fault(self) -> bool {
        matches!(self.origin, Origin::Fault) && self.vector == PAGE_FAULT
    }
}

/// A gate of the IDT, read.
struct Gate {
    target: u64,
    selector: u16,
    stack: u64,
    is_trap: bool,
}

impl<M: Memory, O: Observer> Cpu<M, O> {
    /// Delivers `first`, and what its delivery causes. RIP is where the handler returns to.
    pub(crate) fn deliver(&mut self, first: Exception) -> Result<(), Leave> {
        let first = match first.not_canonical {
            Some(address) if self.is_on_stack(address) => Exception::fault(STACK, Some(0)),
            _ => first,
        };
        let mut event = first;
        loop {
            if let Some(address) = event.address {
                self.control[1] = address;
            }
            match self.enter(event) {
                Err(Leave::Exception) => event = self.after_failed_delivery(event, first)?,
                done => return done,
            }
        }
    }

    /// Whether the instruction at RIP accesses `address` through the stack's segment.
    fn is_on_stack(&mut self, address: u64) -> bool {
        /// What an instruction accesses beside its operand is no further from RSP.
        const REACH: u64 = 48;
        let (rip, mut bytes) = (self.rip, [0; INSTRUCTION_BYTES]);
        let mut fetched = self.fetch(rip, &mut bytes).unwrap_or(0);
        if fetched < bytes.len() {
            // Behind the page's end there may be nothing, and nothing that is needed.
            fetched += self.fetch(rip.wrapping_add(fetched as u64), &mut bytes[fetched..]).unwrap_or(0);
            (self.raised, self.refused) = (None, None);
        }
        let instruction = Decoder::with_ip(64, &bytes[..fetched], rip, DecoderOptions::NONE).decode();
        let has_operand =
            (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        if has_operand && instruction.memory_segment() == Register::SS {
            return true;
        }
        let is_near = address.wrapping_sub(self.registers[4]).wrapping_add(REACH) < 2 * REACH;
        instruction.is_stack_instruction() && (!has_operand || is_near)
    }

    /// What follows when delivering `event` raised another one (Intel SDM volume 3, table 6-5).
    fn after_failed_delivery(&mut self, event: Exception, first: Exception) -> Result<Exception, Leave> {
        let second = self.raised.take().ok_or(Leave::Refused)?;
        if event.vector == DOUBLE_FAULT && event.origin == Origin::Fault {
            let error = first.error.unwrap_or(0);
            return Err(self.refuse(Reason::TripleFault { vector: first.vector, error }));
        }
        let doubles = event.is_contributory() && second.is_contributory()
            || event.is_page_fault() && (second.is_contributory() || second.is_page_fault());
        Ok(if doubles { Exception::fault(DOUBLE_FAULT, Some(0)) } else { second })
    }

    fn enter(&mut self, event: Exception) -> Result<(), Leave> {
        let gate = self.gate(event)?;
        let code = self.code_segment(gate.selector, event)?;
        let ring = u8::try_from(code.attributes >> 5 & 3).unwrap_or(3);
        let conforms = code.attributes & SEGMENT_CONFORMING != 0;
        let inner = !conforms && ring < self.ring();
        let old_stack = self.registers[4];
        let stack = match (gate.stack, inner) {
            (0, false) => old_stack,
            (0, true) => self.task_word(TSS_RSP0 + 8 * u64::from(ring))?,
            (number, _) => self.task_word(TSS_IST1 + 8 * (number - 1))?,
        };
        let (old_stack_selector, old_code) = (self.segments[2].selector, self.segments[1].selector);
        let (flags, rip) = (self.rflags(), self.rip);
        // A handler that returns to the instruction lets it run.
        let resume = if event.origin == Origin::Fault { RFLAGS_RESUME } else { 0 };
        let rights = if inner { Rights::System } else { Rights::Current };
        let mut top = stack & !15;
        let pushed = [
            u64::from(old_stack_selector),
            old_stack,
            flags | resume,
            u64::from(old_code),
            rip,
            event.error.map_or(0, u64::from),
        ];
        let count = if event.error.is_some() { 6 } else { 5 };
        for value in &pushed[..count] {
            top = top.wrapping_sub(8);
            self.store_part(Part::of_event(rip, top), value.to_le_bytes(), rights)?;
        }
        if inner {
            self.segments[2] = Segment { selector: u16::from(ring), attributes: 0x100, ..Segment::default() };
        }
        let cleared = if gate.is_trap { FLAGS_CLEARED } else { FLAGS_CLEARED | FLAG_INTERRUPT };
        self.set_rflags(flags & !cleared);
        self.registers[4] = top;
        self.rip = gate.target;
        let ring = if inner { ring } else { self.ring() };
        self.segments[1] = Segment { selector: gate.selector & !3 | u16::from(ring), ..code };
        if inner {
            self.forget_translations();
        }
        Ok(())
    }

    fn gate(&mut self, event: Exception) -> Result<Gate, Leave> {
        let vector = u64::from(event.vector);
        let outside = u32::from(event.origin == Origin::Interrupt);
        let error = u32::from(event.vector) * 8 + ERROR_IDT + outside;
        if vector * GATE_BYTES + GATE_BYTES - 1 > u64::from(self.idt.limit) {
            return Err(self.raise(Exception::general_protection(error)));
        }
        let place = self.idt.base.wrapping_add(vector * GATE_BYTES);
        let lower = self.load_system(place)?;
        let upper = self.load_system(place.wrapping_add(8))?;
        let kind = lower >> 40 & 0x1f;
        let level = lower >> 45 & 3;
        let refused = kind != GATE_INTERRUPT && kind != GATE_TRAP
            || event.origin == Origin::Program && level < u64::from(self.ring());
        if refused {
            return Err(self.raise(Exception::general_protection(error)));
        }
        if lower >> 47 & 1 == 0 {
            return Err(self.raise(Exception::fault(11, Some(error))));
        }
        let target = lower & 0xffff | lower >> 32 & 0xffff_0000 | upper << 32;
        if !is_canonical(target) {
            return Err(self.raise(Exception::general_protection(outside)));
        }
        let selector = u16::try_from(lower >> 16 & 0xffff).unwrap_or(0);
        Ok(Gate { target, selector, stack: lower >> 32 & 7, is_trap: kind == GATE_TRAP })
    }

    /// The 64-bit code segment of a gate, from the GDT.
    fn code_segment(&mut self, selector: u16, event: Exception) -> Result<Segment, Leave> {
        let error = u32::from(selector & !3) + u32::from(event.origin == Origin::Interrupt);
        let descriptor = self.descriptor(selector, error)?;
        let segment = segment_from(descriptor, selector);
        let level = segment.attributes >> 5 & 3;
        let wrong = segment.attributes & SEGMENT_CODE != SEGMENT_CODE
            || segment.attributes & SEGMENT_LONG == 0
            || level > u16::from(self.ring());
        if wrong {
            return Err(self.raise(Exception::general_protection(error)));
        }
        if segment.attributes & SEGMENT_PRESENT == 0 {
            return Err(self.raise(Exception::fault(11, Some(error))));
        }
        Ok(segment)
    }

    /// A descriptor of the GDT. Local tables are not modelled.
    fn descriptor(&mut self, selector: u16, error: u32) -> Result<u64, Leave> {
        if selector & 4 != 0 {
            return Err(self.refuse(Reason::Descriptor));
        }
        let offset = u64::from(selector & !7);
        if offset == 0 || offset + 7 > u64::from(self.gdt.limit) {
            return Err(self.raise(Exception::general_protection(error)));
        }
        self.load_system(self.gdt.base.wrapping_add(offset))
    }

    fn task_word(&mut self, offset: u64) -> Result<u64, Leave> {
        if offset + 7 > u64::from(self.task.limit) {
            return Err(self.raise(Exception::fault(10, Some(u32::from(self.task.selector & !3)))));
        }
        self.load_system(self.task.base.wrapping_add(offset))
    }

    fn load_system(&mut self, address: u64) -> Result<u64, Leave> {
        let bytes = self.load_part::<8>(Part::of_event(self.rip, address), Rights::System)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// IRETQ to the same or an outer ring.
    pub(crate) fn return_from_event(&mut self, op: &Op<M, O>) -> Result<(), Leave> {
        let top = self.registers[4];
        let mut frame = [0; 5];
        for (place, value) in (0..).zip(&mut frame) {
            *value = self.load::<8>(op, top.wrapping_add(8 * place))?;
        }
        let [rip, code, flags, stack, stack_segment] = frame;
        let (code, stack_segment) = (selector(code), selector(stack_segment));
        let (ring, from) = (code & 3, u16::from(self.ring()));
        let error = u32::from(code & !3);
        let code_segment = segment_from(self.descriptor(code, error)?, code);
        let level = code_segment.attributes >> 5 & 3;
        let wrong = code_segment.attributes & (SEGMENT_CODE | SEGMENT_PRESENT | SEGMENT_LONG)
            != SEGMENT_CODE | SEGMENT_PRESENT | SEGMENT_LONG
            || ring < from
            || level != ring
            || stack_segment & 3 != ring;
        if wrong || !is_canonical(rip) {
            // The finer distinctions between the faults of a bad frame are not modelled.
            return Err(self.refuse(Reason::Descriptor));
        }
        let stack_descriptor = if stack_segment & !3 == 0 && ring < 3 {
            Segment { selector: stack_segment, attributes: 0x100, ..Segment::default() }
        } else {
            segment_from(self.descriptor(stack_segment, u32::from(stack_segment & !3))?, stack_segment)
        };
        let iopl = self.rflags() >> 12 & 3;
        let mut taken = FLAGS_RETURNED;
        if from == 0 {
            taken |= 3 << 12;
        } else if u64::from(from) > iopl {
            taken &= !FLAG_INTERRUPT;
        }
        self.take_flags(flags, taken)?;
        self.segments[1] = code_segment;
        self.segments[2] = stack_descriptor;
        self.registers[4] = stack;
        self.rip = rip;
        if ring != from {
            self.forget_translations();
        }
        Ok(())
    }
}

fn selector(value: u64) -> u16 {
    let [low, high, ..] = value.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// A segment register as loaded from a descriptor.
fn segment_from(descriptor: u64, selector: u16) -> Segment {
    let attributes = u16::try_from(descriptor >> 40 & 0xf0ff).unwrap_or(0);
    let limit = u32::try_from(descriptor & 0xffff | descriptor >> 32 & 0xf_0000).unwrap_or(0);
    let limit = if attributes & 0x8000 == 0 { limit } else { limit << 12 | 0xfff };
    let base = descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000;
    Segment { selector, base, limit, attributes }
}
