//! Addition, subtraction, logic and comparison.

use super::{by_form, by_place, by_width};
use crate::alu::{self, Status, low};
use crate::cpu::{Cpu, Leave};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{First, FirstByte, Immediate, InMemory, Op, Place, Run, Second, SecondByte, Source};
use crate::operands::{Form, Operands};
use iced_x86::Mnemonic;

/// An operation on two operands.
trait Binary {
    fn apply<const B: usize>(value: u64, right: u64, status: Status) -> (u64, Status);
}

/// An operation on one operand.
trait Unary {
    fn apply<const B: usize>(value: u64, status: Status) -> (u64, Status);
}

macro_rules! binary {
    ($($name:ident $function:ident),*) => {
        $(
            struct $name;
            impl Binary for $name {
                #[inline(always)]
                fn apply<const B: usize>(value: u64, right: u64, status: Status) -> (u64, Status) {
                    alu::$function::<B>(value, right, status)
                }
            }
        )*
    };
}
binary!(
    Add add, Subtract subtract, And and, Or or, Xor xor, Test test, AddWithCarry add_with_carry,
    SubtractWithBorrow subtract_with_borrow
);

macro_rules! unary {
    ($($name:ident $function:ident),*) => {
        $(
            struct $name;
            impl Unary for $name {
                #[inline(always)]
                fn apply<const B: usize>(value: u64, status: Status) -> (u64, Status) {
                    alu::$function::<B>(value, status)
                }
            }
        )*
    };
}
unary!(Increment increment, Decrement decrement, Negate negate);

struct Complement;

impl Unary for Complement {
    #[inline(always)]
    fn apply<const B: usize>(value: u64, status: Status) -> (u64, Status) {
        (low::<B>(!value), status)
    }
}

fn change<X: Binary, P: Place, S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let right = S::load::<B, M, O>(cpu, op)?;
    let (value, opened) = P::open::<B, M, O>(cpu, op)?;
    let (value, status) = X::apply::<B>(value, right, cpu.status);
    P::close::<B, M, O>(cpu, op, opened, value)?;
    cpu.status = status;
    Ok(())
}

fn compare<X: Binary, P: Source, S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let right = S::load::<B, M, O>(cpu, op)?;
    let value = P::load::<B, M, O>(cpu, op)?;
    (_, cpu.status) = X::apply::<B>(value, right, cpu.status);
    Ok(())
}

fn change_one<X: Unary, P: Place, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let (value, opened) = P::open::<B, M, O>(cpu, op)?;
    let (value, status) = X::apply::<B>(value, cpu.status);
    P::close::<B, M, O>(cpu, op, opened, value)?;
    cpu.status = status;
    Ok(())
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(mnemonic: Mnemonic, operands: Operands) -> Option<Run<M, O>> {
    match mnemonic {
        Mnemonic::Add => by_form!(operands, change::<Add>),
        Mnemonic::Sub => by_form!(operands, change::<Subtract>),
        Mnemonic::And => by_form!(operands, change::<And>),
        Mnemonic::Or => by_form!(operands, change::<Or>),
        Mnemonic::Xor => by_form!(operands, change::<Xor>),
        Mnemonic::Adc => by_form!(operands, change::<AddWithCarry>),
        Mnemonic::Sbb => by_form!(operands, change::<SubtractWithBorrow>),
        Mnemonic::Cmp => by_form!(operands, compare::<Subtract>),
        Mnemonic::Test => by_form!(operands, compare::<Test>),
        Mnemonic::Inc => by_place!(operands, change_one::<Increment>),
        Mnemonic::Dec => by_place!(operands, change_one::<Decrement>),
        Mnemonic::Neg => by_place!(operands, change_one::<Negate>),
        Mnemonic::Not => by_place!(operands, change_one::<Complement>),
        _ => None,
    }
}
