//! Multiplication and division.

use super::{by_place, by_width};
use crate::alu::{self, Quotient, Status, low};
use crate::cpu::{Cpu, Leave};
use crate::exception::Exception;
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{First, FirstByte, InMemory, Op, Run, Second, Source};
use crate::operands::{Form, Operands};
use iced_x86::{Instruction, Mnemonic};

const ACCUMULATOR: u8 = 0;
const UPPER: u8 = 2;

/// An operation on the accumulator; nothing when it faults.
trait Accumulate {
    fn apply<const B: usize>(value: (u64, u64), operand: u64, status: Status) -> Option<Quotient>;
}

struct Multiply;
struct MultiplySigned;
struct Divide;
struct DivideSigned;

impl Accumulate for Multiply {
    #[inline(always)]
    fn apply<const B: usize>(value: (u64, u64), operand: u64, status: Status) -> Option<Quotient> {
        Some(alu::multiply_unsigned::<B>(value.0, operand, status))
    }
}

impl Accumulate for MultiplySigned {
    #[inline(always)]
    fn apply<const B: usize>(value: (u64, u64), operand: u64, status: Status) -> Option<Quotient> {
        Some(alu::multiply_signed::<B>(value.0, operand, status))
    }
}

impl Accumulate for Divide {
    #[inline(always)]
    fn apply<const B: usize>(value: (u64, u64), operand: u64, status: Status) -> Option<Quotient> {
        alu::divide_unsigned::<B>(value, operand, status)
    }
}

impl Accumulate for DivideSigned {
    #[inline(always)]
    fn apply<const B: usize>(value: (u64, u64), operand: u64, status: Status) -> Option<Quotient> {
        alu::divide_signed::<B>(value, operand, status)
    }
}

fn accumulate<X: Accumulate, S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let operand = S::load::<B, M, O>(cpu, op)?;
    let lower = cpu.register::<B>(ACCUMULATOR);
    let upper = if B == 1 { cpu.register::<2>(ACCUMULATOR) >> 8 } else { cpu.register::<B>(UPPER) };
    let Some((lower, upper, status)) = X::apply::<B>((lower, upper), operand, cpu.status) else {
        return Err(cpu.raise(Exception::divide()));
    };
    if B == 1 {
        cpu.set_register::<2>(ACCUMULATOR, lower | upper << 8);
    } else {
        cpu.set_register::<B>(ACCUMULATOR, lower);
        cpu.set_register::<B>(UPPER, upper);
    }
    cpu.status = status;
    Ok(())
}

/// IMUL with two operands.
fn multiply<S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let right = S::load::<B, M, O>(cpu, op)?;
    let (value, status) = alu::multiply::<B>(cpu.register::<B>(op.first), right, cpu.status);
    cpu.set_register::<B>(op.first, value);
    cpu.status = status;
    Ok(())
}

/// IMUL with three operands.
fn multiply_by_immediate<S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = S::load::<B, M, O>(cpu, op)?;
    let (value, status) = alu::multiply::<B>(value, low::<B>(op.immediate), cpu.status);
    cpu.set_register::<B>(op.first, value);
    cpu.status = status;
    Ok(())
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(
    instruction: &Instruction,
    operands: Operands,
) -> Option<Run<M, O>> {
    match (instruction.mnemonic(), instruction.op_count()) {
        (Mnemonic::Mul, _) => by_place!(operands, accumulate::<Multiply>),
        (Mnemonic::Div, _) => by_place!(operands, accumulate::<Divide>),
        (Mnemonic::Idiv, _) => by_place!(operands, accumulate::<DivideSigned>),
        (Mnemonic::Imul, 1) => by_place!(operands, accumulate::<MultiplySigned>),
        (Mnemonic::Imul, 2) => match operands.form {
            Form::RegisterRegister => by_width!(operands.width, multiply::<Second, M, O>, [2, 4, 8]),
            Form::RegisterMemory => by_width!(operands.width, multiply::<InMemory, M, O>, [2, 4, 8]),
            _ => None,
        },
        (Mnemonic::Imul, 3) => match operands.form {
            Form::RegisterRegister => {
                by_width!(operands.width, multiply_by_immediate::<Second, M, O>, [2, 4, 8])
            }
            Form::RegisterMemory => {
                by_width!(operands.width, multiply_by_immediate::<InMemory, M, O>, [2, 4, 8])
            }
            _ => None,
        },
        _ => None,
    }
}
