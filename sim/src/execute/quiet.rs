//! Arithmetic whose flags nobody sees, because an instruction behind it sets them all: the same without the flags.

use crate::alu::{low, signed};
use crate::cpu::{Cpu, Leave};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{Immediate, InMemory, Op, Run, Second, Source};
use crate::operands::{Form, Operands, is_immediate};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// What an instruction has to do with the arithmetic flags.
#[derive(Debug)]
pub(crate) struct FlagUse<M, O> {
    /// What runs it if its flags are never seen.
    pub(crate) quiet: Option<Run<M, O>>,
    effect: Effect,
    /// It may fault, and then the flags before it are seen.
    may_leave: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It sets all of them, and does not look at them.
    SetsAll,
    /// It neither sets nor sees any.
    None,
    /// Anything else.
    Other,
}

impl<M: Memory, O: Observer> FlagUse<M, O> {
    pub(crate) fn of(instruction: &Instruction, operands: Operands) -> Self {
        let sets_all = matches!(
            instruction.mnemonic(),
            Mnemonic::Add
                | Mnemonic::Sub
                | Mnemonic::And
                | Mnemonic::Or
                | Mnemonic::Xor
                | Mnemonic::Cmp
                | Mnemonic::Test
        );
        let untouched = instruction.rflags_read() == 0 && instruction.rflags_modified() == 0;
        let effect = match (sets_all, untouched) {
            (true, _) => Effect::SetsAll,
            (_, true) => Effect::None,
            _ => Effect::Other,
        };
        let in_register = |operand| {
            instruction.op_kind(operand) == OpKind::Register || is_immediate(instruction.op_kind(operand))
        };
        let may_leave = instruction.is_stack_instruction() || !(0..instruction.op_count()).all(in_register);
        // LEA's operand is an address, and nothing is there.
        let may_leave = may_leave && instruction.mnemonic() != Mnemonic::Lea;
        Self { quiet: select(instruction, operands), effect, may_leave }
    }

    /// Whether the flags before the instruction are seen by nobody, if those after it are (`unseen`) or are not.
    pub(crate) fn hides(&self, unseen: bool) -> bool {
        let quiet = unseen && self.quiet.is_some();
        !self.may_leave
            && match self.effect {
                Effect::SetsAll => true,
                Effect::None => unseen,
                Effect::Other => quiet,
            }
    }
}

/// An operation on two operands of 4 or 8 bytes.
trait Quiet {
    fn apply<const B: usize>(value: u64, right: u64) -> u64;
}

struct Add;
struct Subtract;
struct And;
struct Or;
struct Xor;
struct Multiply;
struct Left;
struct Right;
struct RightSigned;

impl Quiet for Add {
    #[inline(always)]
    fn apply<const B: usize>(value: u64, right: u64) -> u64 {
        low::<B>(value.wrapping_add(right))
    }
}

impl Quiet for Subtract {
    #[inline(always)]
    fn apply<const B: usize>(value: u64, right: u64) -> u64 {
        low::<B>(value.wrapping_sub(right))
    }
}

impl Quiet for And {
    #[inline(always)]
    fn apply<const B: usize>(value: u64, right: u64) -> u64 {
        value & right
    }
}

impl Quiet for Or {
    #[inline(always)]
    fn apply<const B: usize>(value: u64, right: u64) -> u64 {
        value | right
    }
}

impl Quiet for Xor {
    #[inline(always)]
    fn apply<const B: usize>(value: u64, right: u64) -> u64 {
        value ^ right
    }
}

impl Quiet for Multiply {
    #[inline(always)]
    fn apply<const B: usize>(value: u64, right: u64) -> u64 {
        low::<B>(value.wrapping_mul(right))
    }
}

/// How far a shift goes: the count modulo the width.
#[inline(always)]
const fn distance<const B: usize>(count: u64) -> u64 {
    count & (8 * B as u64 - 1)
}

impl Quiet for Left {
    #[inline(always)]
    fn apply<const B: usize>(value: u64, right: u64) -> u64 {
        low::<B>(value << distance::<B>(right))
    }
}

impl Quiet for Right {
    #[inline(always)]
    fn apply<const B: usize>(value: u64, right: u64) -> u64 {
        value >> distance::<B>(right)
    }
}

impl Quiet for RightSigned {
    #[inline(always)]
    fn apply<const B: usize>(value: u64, right: u64) -> u64 {
        low::<B>((signed::<B>(value).cast_signed() >> distance::<B>(right)).cast_unsigned())
    }
}

fn change<X: Quiet, S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let right = S::load::<B, M, O>(cpu, op)?;
    let value = cpu.register::<B>(op.first);
    cpu.set_register::<B>(op.first, X::apply::<B>(value, right));
    Ok(())
}

/// A shift's count is one byte, whatever it shifts.
fn shift<X: Quiet, S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let right = S::load::<1, M, O>(cpu, op)?;
    let value = cpu.register::<B>(op.first);
    cpu.set_register::<B>(op.first, X::apply::<B>(value, right));
    Ok(())
}

/// IMUL with three operands.
fn multiply_by_immediate<S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = S::load::<B, M, O>(cpu, op)?;
    cpu.set_register::<B>(op.first, low::<B>(value.wrapping_mul(op.immediate)));
    Ok(())
}

/// INC and DEC: `D` is what is added.
fn step<M: Memory, O: Observer, const D: u64, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = cpu.register::<B>(op.first).wrapping_add(D);
    cpu.set_register::<B>(op.first, low::<B>(value));
    Ok(())
}

fn select<M: Memory, O: Observer>(instruction: &Instruction, operands: Operands) -> Option<Run<M, O>> {
    match (instruction.mnemonic(), instruction.op_count()) {
        (Mnemonic::Add, _) => select_change::<Add, M, O>(operands),
        (Mnemonic::Sub, _) => select_change::<Subtract, M, O>(operands),
        (Mnemonic::And, _) => select_change::<And, M, O>(operands),
        (Mnemonic::Or, _) => select_change::<Or, M, O>(operands),
        (Mnemonic::Xor, _) => select_change::<Xor, M, O>(operands),
        (Mnemonic::Imul, 2) => select_change::<Multiply, M, O>(operands),
        (Mnemonic::Imul, 3) => match (operands.form, operands.width) {
            (Form::RegisterRegister, 4) => Some(multiply_by_immediate::<Second, M, O, 4>),
            (Form::RegisterRegister, 8) => Some(multiply_by_immediate::<Second, M, O, 8>),
            _ => None,
        },
        (Mnemonic::Shl, _) => select_shift::<Left, M, O>(operands),
        (Mnemonic::Shr, _) => select_shift::<Right, M, O>(operands),
        (Mnemonic::Sar, _) => select_shift::<RightSigned, M, O>(operands),
        (Mnemonic::Inc, _) => match (operands.form, operands.width) {
            (Form::Register, 4) => Some(step::<M, O, 1, 4>),
            (Form::Register, 8) => Some(step::<M, O, 1, 8>),
            _ => None,
        },
        (Mnemonic::Dec, _) => match (operands.form, operands.width) {
            (Form::Register, 4) => Some(step::<M, O, { u64::MAX }, 4>),
            (Form::Register, 8) => Some(step::<M, O, { u64::MAX }, 8>),
            _ => None,
        },
        _ => None,
    }
}

fn select_change<X: Quiet, M: Memory, O: Observer>(operands: Operands) -> Option<Run<M, O>> {
    match (operands.form, operands.width) {
        (Form::RegisterRegister, 4) => Some(change::<X, Second, M, O, 4>),
        (Form::RegisterRegister, 8) => Some(change::<X, Second, M, O, 8>),
        (Form::RegisterImmediate, 4) => Some(change::<X, Immediate, M, O, 4>),
        (Form::RegisterImmediate, 8) => Some(change::<X, Immediate, M, O, 8>),
        (Form::RegisterMemory, 4) => Some(change::<X, InMemory, M, O, 4>),
        (Form::RegisterMemory, 8) => Some(change::<X, InMemory, M, O, 8>),
        _ => None,
    }
}

fn select_shift<X: Quiet, M: Memory, O: Observer>(operands: Operands) -> Option<Run<M, O>> {
    match (operands.form, operands.width) {
        (Form::RegisterRegister, 4) => Some(shift::<X, Second, M, O, 4>),
        (Form::RegisterRegister, 8) => Some(shift::<X, Second, M, O, 8>),
        (Form::RegisterImmediate, 4) => Some(shift::<X, Immediate, M, O, 4>),
        (Form::RegisterImmediate, 8) => Some(shift::<X, Immediate, M, O, 8>),
        _ => None,
    }
}
