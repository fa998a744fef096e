//! Shifts and rotations.

use super::{by_form, by_width};
use crate::alu::{self, Status};
use crate::cpu::{Cpu, Leave};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{First, FirstByte, Immediate, InMemory, Op, Place, Run, Second, SecondByte, Source};
use crate::operands::{Form, Operands};
use iced_x86::{Instruction, Mnemonic, OpKind};

const COUNTER: u8 = 1;

trait Shift {
    fn apply<const B: usize>(value: u64, count: u8, status: Status) -> (u64, Status);
}

trait DoubleShift {
    fn apply<const B: usize>(value: u64, filler: u64, count: u8, status: Status) -> (u64, Status);
}

macro_rules! shifts {
    ($($name:ident $function:ident),*) => {
        $(
            struct $name;
            impl Shift for $name {
                #[inline(always)]
                fn apply<const B: usize>(value: u64, count: u8, status: Status) -> (u64, Status) {
                    alu::$function::<B>(value, count, status)
                }
            }
        )*
    };
}
shifts!(
    Left shift_left, Right shift_right, RightSigned shift_right_signed, RotateLeft rotate_left,
    RotateRight rotate_right, RotateLeftWithCarry rotate_left_with_carry,
    RotateRightWithCarry rotate_right_with_carry
);

macro_rules! double_shifts {
    ($($name:ident $function:ident),*) => {
        $(
            struct $name;
            impl DoubleShift for $name {
                #[inline(always)]
                fn apply<const B: usize>(value: u64, filler: u64, count: u8, status: Status) -> (u64, Status) {
                    alu::$function::<B>(value, filler, count, status)
                }
            }
        )*
    };
}
double_shifts!(DoubleLeft double_shift_left, DoubleRight double_shift_right);

fn count_of(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

fn shift<X: Shift, P: Place, S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let count = count_of(S::load::<1, M, O>(cpu, op)?);
    let (value, opened) = P::open::<B, M, O>(cpu, op)?;
    let (value, status) = X::apply::<B>(value, count, cpu.status);
    P::close::<B, M, O>(cpu, op, opened, value)?;
    cpu.status = status;
    Ok(())
}

fn double_by_immediate<X: DoubleShift, P: Place, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    double::<X, P, M, O, B>(cpu, op, count_of(op.immediate))
}

fn double_by_counter<X: DoubleShift, P: Place, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let count = count_of(cpu.register::<1>(COUNTER));
    double::<X, P, M, O, B>(cpu, op, count)
}

#[inline(always)]
fn double<X: DoubleShift, P: Place, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
    count: u8,
) -> Result<(), Leave> {
    let (value, opened) = P::open::<B, M, O>(cpu, op)?;
    let filler = cpu.register::<B>(op.second);
    let (value, status) = X::apply::<B>(value, filler, count, cpu.status);
    P::close::<B, M, O>(cpu, op, opened, value)?;
    cpu.status = status;
    Ok(())
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(
    instruction: &Instruction,
    operands: Operands,
) -> Option<Run<M, O>> {
    match instruction.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => by_form!(operands, shift::<Left>),
        Mnemonic::Shr => by_form!(operands, shift::<Right>),
        Mnemonic::Sar => by_form!(operands, shift::<RightSigned>),
        Mnemonic::Rol => by_form!(operands, shift::<RotateLeft>),
        Mnemonic::Ror => by_form!(operands, shift::<RotateRight>),
        Mnemonic::Rcl => by_form!(operands, shift::<RotateLeftWithCarry>),
        Mnemonic::Rcr => by_form!(operands, shift::<RotateRightWithCarry>),
        Mnemonic::Shld => select_double::<DoubleLeft, M, O>(instruction, operands),
        Mnemonic::Shrd => select_double::<DoubleRight, M, O>(instruction, operands),
        _ => None,
    }
}

fn select_double<X: DoubleShift, M: Memory, O: Observer>(
    instruction: &Instruction,
    operands: Operands,
) -> Option<Run<M, O>> {
    let by_counter = instruction.op_kind(2) == OpKind::Register;
    match (operands.form, by_counter) {
        (Form::RegisterRegister, false) => {
            by_width!(operands.width, double_by_immediate::<X, First, M, O>, [2, 4, 8])
        }
        (Form::RegisterRegister, true) => {
            by_width!(operands.width, double_by_counter::<X, First, M, O>, [2, 4, 8])
        }
        (Form::MemoryRegister, false) => {
            by_width!(operands.width, double_by_immediate::<X, InMemory, M, O>, [2, 4, 8])
        }
        (Form::MemoryRegister, true) => {
            by_width!(operands.width, double_by_counter::<X, InMemory, M, O>, [2, 4, 8])
        }
        _ => None,
    }
}
