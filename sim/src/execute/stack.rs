//! The stack.

use crate::cpu::{Cpu, Leave};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{First, Immediate, InMemory, Op, Place, Run, Source};
use crate::operands::{Form, Operands};
use iced_x86::{Instruction, Mnemonic};

const STACK: u8 = 4;
const FRAME: u8 = 5;
/// RF and VM read as zero when pushed.
const FLAGS_NOT_PUSHED: u64 = 1 << 16 | 1 << 17;
/// DF and ID; IF and IOPL depend on privilege.
const FLAGS_POPPED: u64 = 1 << 10 | 1 << 21;
const FLAG_INTERRUPT: u64 = 1 << 9;
const FLAGS_IO_PRIVILEGE: u64 = 3 << 12;

fn push_value<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>, value: u64) -> Result<(), Leave> {
    let top = cpu.register::<8>(STACK).wrapping_sub(8);
    cpu.store::<8>(op, top, value)?;
    cpu.set_register::<8>(STACK, top);
    Ok(())
}

fn push<S: Source, M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let value = S::load::<8, M, O>(cpu, op)?;
    push_value(cpu, op, value)
}

/// POP: an address in the operand is computed with the new stack pointer.
fn pop<P: Place, M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let top = cpu.register::<8>(STACK);
    let value = cpu.load::<8>(op, top)?;
    cpu.set_register::<8>(STACK, top.wrapping_add(8));
    let stored = P::store::<8, M, O>(cpu, op, value);
    if stored.is_err() {
        cpu.set_register::<8>(STACK, top);
    }
    stored
}

fn push_flags<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let flags = cpu.rflags() & !FLAGS_NOT_PUSHED;
    push_value(cpu, op, flags)
}

fn pop_flags<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let top = cpu.register::<8>(STACK);
    let flags = cpu.load::<8>(op, top)?;
    let mut taken = FLAGS_POPPED;
    if cpu.ring() <= cpu.io_privilege() {
        taken |= FLAG_INTERRUPT;
    }
    if cpu.ring() == 0 {
        taken |= FLAGS_IO_PRIVILEGE;
    }
    cpu.take_flags(flags, taken)?;
    cpu.set_register::<8>(STACK, top.wrapping_add(8));
    Ok(())
}

fn leave<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let frame = cpu.register::<8>(FRAME);
    let before = cpu.load::<8>(op, frame)?;
    cpu.set_register::<8>(STACK, frame.wrapping_add(8));
    cpu.set_register::<8>(FRAME, before);
    Ok(())
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(
    instruction: &Instruction,
    operands: Operands,
) -> Option<Run<M, O>> {
    let moved = instruction.stack_pointer_increment();
    match (instruction.mnemonic(), operands.form, moved) {
        (Mnemonic::Push, Form::Register, -8) => Some(push::<First, M, O>),
        (Mnemonic::Push, Form::Memory, -8) => Some(push::<InMemory, M, O>),
        (Mnemonic::Push, Form::Immediate, -8) => Some(push::<Immediate, M, O>),
        (Mnemonic::Pop, Form::Register, 8) => Some(pop::<First, M, O>),
        (Mnemonic::Pop, Form::Memory, 8) => Some(pop::<InMemory, M, O>),
        (Mnemonic::Pushfq, ..) => Some(push_flags::<M, O>),
        (Mnemonic::Popfq, ..) => Some(pop_flags::<M, O>),
        (Mnemonic::Leave, ..) if instruction.code() == iced_x86::Code::Leaveq => Some(leave::<M, O>),
        _ => None,
    }
}
