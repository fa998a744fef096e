//! Jumps, calls, returns, and what a condition decides.

use crate::cpu::{Cpu, Leave};
use crate::exception::Exception;
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{First, FirstByte, Immediate, InMemory, Op, Place, Run, Second, Source};
use crate::operands::{Form, Operands};
use crate::paging::is_canonical;
use iced_x86::{ConditionCode, FlowControl, Instruction, Mnemonic};

const COUNTER: u8 = 1;
const STACK: u8 = 4;

impl<M: Memory, O: Observer> Cpu<M, O> {
    /// Faults on the jump itself where its target is not canonical.
    #[inline(always)]
    fn check_target(&mut self, target: u64) -> Result<(), Leave> {
        if is_canonical(target) { Ok(()) } else { Err(self.raise(Exception::general_protection(0))) }
    }
}

fn jump<S: Source, M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let target = S::load::<8, M, O>(cpu, op)?;
    cpu.check_target(target)?;
    cpu.rip = target;
    Err(Leave::Jumped)
}

fn branch<M: Memory, O: Observer, const C: u8>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    go_if(cpu, op, cpu.status.holds::<C>())
}

/// A direct branch; one that is taken faults itself where its target is not canonical.
fn go_if<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>, goes: bool) -> Result<(), Leave> {
    if goes {
        cpu.check_target(op.immediate)?;
    }
    cpu.rip = if goes { op.immediate } else { op.next() };
    Err(Leave::Jumped)
}

fn call<S: Source, M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let target = S::load::<8, M, O>(cpu, op)?;
    cpu.check_target(target)?;
    let top = cpu.register::<8>(STACK).wrapping_sub(8);
    cpu.store::<8>(op, top, op.next())?;
    cpu.set_register::<8>(STACK, top);
    cpu.rip = target;
    Err(Leave::Jumped)
}

/// RET; its immediate operand, if any, is zero otherwise.
fn ret<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let top = cpu.register::<8>(STACK);
    let target = cpu.load::<8>(op, top)?;
    cpu.check_target(target)?;
    cpu.rip = target;
    cpu.set_register::<8>(STACK, top.wrapping_add(8).wrapping_add(op.immediate));
    Err(Leave::Jumped)
}

/// JRCXZ.
fn branch_without_count<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    go_if(cpu, op, cpu.register::<8>(COUNTER) == 0)
}

/// LOOP, LOOPE (`C` is the condition's number) and LOOPNE; `C` 16 asks for no condition.
fn loop_while<M: Memory, O: Observer, const C: u8>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let left = cpu.register::<8>(COUNTER).wrapping_sub(1);
    let goes = left != 0 && (C == 16 || cpu.status.holds::<C>());
    if goes {
        // Before the count is taken: a branch that faults has done nothing.
        cpu.check_target(op.immediate)?;
    }
    cpu.set_register::<8>(COUNTER, left);
    go_if(cpu, op, goes)
}

fn set_if<P: Place, M: Memory, O: Observer, const C: u8>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = u64::from(cpu.status.holds::<C>());
    P::store::<1, M, O>(cpu, op, value)
}

/// CMOVcc reads its source and clears what is above 32 bits whatever the condition says.
fn move_if<S: Source, M: Memory, O: Observer, const B: usize, const C: u8>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = S::load::<B, M, O>(cpu, op)?;
    let value = if cpu.status.holds::<C>() { value } else { cpu.register::<B>(op.first) };
    cpu.set_register::<B>(op.first, value);
    Ok(())
}

/// `$run` for the condition whose number in the encoding is `$number`.
macro_rules! by_condition {
    ($number:expr, $run:ident::<$($generic:tt),*>) => {
        match $number {
            0 => Some($run::<$($generic,)* 0> as Run<M, O>),
            1 => Some($run::<$($generic,)* 1> as Run<M, O>),
            2 => Some($run::<$($generic,)* 2> as Run<M, O>),
            3 => Some($run::<$($generic,)* 3> as Run<M, O>),
            4 => Some($run::<$($generic,)* 4> as Run<M, O>),
            5 => Some($run::<$($generic,)* 5> as Run<M, O>),
            6 => Some($run::<$($generic,)* 6> as Run<M, O>),
            7 => Some($run::<$($generic,)* 7> as Run<M, O>),
            8 => Some($run::<$($generic,)* 8> as Run<M, O>),
            9 => Some($run::<$($generic,)* 9> as Run<M, O>),
            10 => Some($run::<$($generic,)* 10> as Run<M, O>),
            11 => Some($run::<$($generic,)* 11> as Run<M, O>),
            12 => Some($run::<$($generic,)* 12> as Run<M, O>),
            13 => Some($run::<$($generic,)* 13> as Run<M, O>),
            14 => Some($run::<$($generic,)* 14> as Run<M, O>),
            15 => Some($run::<$($generic,)* 15> as Run<M, O>),
            _ => None,
        }
    };
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(
    instruction: &Instruction,
    operands: Operands,
) -> Option<Run<M, O>> {
    let conditional = match instruction.condition_code() {
        ConditionCode::None => None,
        // The decoder counts the conditions from 1.
        condition => Some(condition as u8 - 1),
    };
    let branches = instruction.flow_control() == FlowControl::ConditionalBranch;
    match (instruction.mnemonic(), conditional) {
        (Mnemonic::Jmp, _) => by_target(
            instruction,
            operands,
            jump::<Immediate, M, O>,
            jump::<First, M, O>,
            jump::<InMemory, M, O>,
        ),
        (Mnemonic::Call, _) => by_target(
            instruction,
            operands,
            call::<Immediate, M, O>,
            call::<First, M, O>,
            call::<InMemory, M, O>,
        ),
        (Mnemonic::Ret, _) => Some(ret::<M, O>),
        (Mnemonic::Jrcxz, _) => Some(branch_without_count::<M, O>),
        (Mnemonic::Loop, _) => Some(loop_while::<M, O, 16>),
        (Mnemonic::Loope, _) => Some(loop_while::<M, O, 4>),
        (Mnemonic::Loopne, _) => Some(loop_while::<M, O, 5>),
        (_, Some(condition)) if branches => by_condition!(condition, branch::<M, O>),
        (_, Some(condition)) => match (operands.form, operands.width) {
            (Form::Register, 1) => by_condition!(condition, set_if::<First, M, O>),
            (Form::Byte, 1) => by_condition!(condition, set_if::<FirstByte, M, O>),
            (Form::Memory, 1) => by_condition!(condition, set_if::<InMemory, M, O>),
            (Form::RegisterRegister, 2) => by_condition!(condition, move_if::<Second, M, O, 2>),
            (Form::RegisterRegister, 4) => by_condition!(condition, move_if::<Second, M, O, 4>),
            (Form::RegisterRegister, 8) => by_condition!(condition, move_if::<Second, M, O, 8>),
            (Form::RegisterMemory, 2) => by_condition!(condition, move_if::<InMemory, M, O, 2>),
            (Form::RegisterMemory, 4) => by_condition!(condition, move_if::<InMemory, M, O, 4>),
            (Form::RegisterMemory, 8) => by_condition!(condition, move_if::<InMemory, M, O, 8>),
            _ => None,
        },
        _ => None,
    }
}

/// A near jump or call: to a place, through a register, or through memory.
fn by_target<M, O>(
    instruction: &Instruction,
    operands: Operands,
    direct: Run<M, O>,
    register: Run<M, O>,
    memory: Run<M, O>,
) -> Option<Run<M, O>> {
    match (operands.form, operands.width) {
        _ if instruction.is_jmp_short_or_near() || instruction.is_call_near() => Some(direct),
        (Form::Register, 8) => Some(register),
        (Form::Memory, 8) if !instruction.is_jmp_far_indirect() && !instruction.is_call_far_indirect() => {
            Some(memory)
        }
        _ => None,
    }
}
