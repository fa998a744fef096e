//! Single bits, and counts of bits.

use super::by_width;
use crate::alu::{self, Status, signed};
use crate::cpu::{Cpu, Leave};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{First, Immediate, InMemory, Op, Place, Run, Second, Source};
use crate::operands::{Form, Operands};
use iced_x86::Mnemonic;

trait Bit {
    const WRITES: bool;
    fn apply<const B: usize>(value: u64, number: u64, status: Status) -> (u64, Status);
}

trait Scan {
    fn apply<const B: usize>(value: u64, source: u64, status: Status) -> (u64, Status);
}

macro_rules! bits {
    ($($name:ident $function:ident $writes:literal),*) => {
        $(
            struct $name;
            impl Bit for $name {
                const WRITES: bool = $writes;
                #[inline(always)]
                fn apply<const B: usize>(value: u64, number: u64, status: Status) -> (u64, Status) {
                    alu::$function::<B>(value, number, status)
                }
            }
        )*
    };
}
bits!(Test bit_test false, Set bit_set true, Reset bit_reset true, Complement bit_complement true);

macro_rules! scans {
    ($($name:ident $function:ident),*) => {
        $(
            struct $name;
            impl Scan for $name {
                #[inline(always)]
                fn apply<const B: usize>(value: u64, source: u64, status: Status) -> (u64, Status) {
                    alu::$function::<B>(value, source, status)
                }
            }
        )*
    };
}
scans!(
    Forward scan_forward, Reverse scan_reverse, TrailingZeros count_trailing_zeros,
    LeadingZeros count_leading_zeros, Ones count_ones
);

/// A bit of a register, or of the memory operand by an immediate number.
fn bit<X: Bit, P: Place, S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let number = S::load::<B, M, O>(cpu, op)?;
    if !X::WRITES {
        let value = P::load::<B, M, O>(cpu, op)?;
        (_, cpu.status) = X::apply::<B>(value, number, cpu.status);
        return Ok(());
    }
    let (value, opened) = P::open::<B, M, O>(cpu, op)?;
    let (value, status) = X::apply::<B>(value, number, cpu.status);
    P::close::<B, M, O>(cpu, op, opened, value)?;
    cpu.status = status;
    Ok(())
}

/// A bit of the string of bits that begins at the memory operand, by a register's signed number.
fn bit_of_string<X: Bit, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let number = signed::<B>(cpu.register::<B>(op.second));
    let bits = 8 * B as u64;
    let step = number.cast_signed().div_euclid(bits.cast_signed()).cast_unsigned();
    let address = cpu.address(op).wrapping_add(step.wrapping_mul(B as u64));
    if !X::WRITES {
        let value = cpu.load::<B>(op, address)?;
        (_, cpu.status) = X::apply::<B>(value, number % bits, cpu.status);
        return Ok(());
    }
    let (value, spot) = cpu.open::<B>(op, address)?;
    let (value, status) = X::apply::<B>(value, number % bits, cpu.status);
    cpu.close::<B>(op, spot, value)?;
    cpu.status = status;
    Ok(())
}

/// All 64 bits of the destination go in and out: what a source without a set bit leaves is the host's answer.
fn scan<X: Scan, S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let source = S::load::<B, M, O>(cpu, op)?;
    let (value, status) = X::apply::<B>(cpu.register::<8>(op.first), source, cpu.status);
    cpu.set_register::<8>(op.first, value);
    cpu.status = status;
    Ok(())
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(mnemonic: Mnemonic, operands: Operands) -> Option<Run<M, O>> {
    match mnemonic {
        Mnemonic::Bt => select_bit::<Test, M, O>(operands),
        Mnemonic::Bts => select_bit::<Set, M, O>(operands),
        Mnemonic::Btr => select_bit::<Reset, M, O>(operands),
        Mnemonic::Btc => select_bit::<Complement, M, O>(operands),
        Mnemonic::Bsf => select_scan::<Forward, M, O>(operands),
        Mnemonic::Bsr => select_scan::<Reverse, M, O>(operands),
        Mnemonic::Tzcnt => select_scan::<TrailingZeros, M, O>(operands),
        Mnemonic::Lzcnt => select_scan::<LeadingZeros, M, O>(operands),
        Mnemonic::Popcnt => select_scan::<Ones, M, O>(operands),
        _ => None,
    }
}

fn select_bit<X: Bit, M: Memory, O: Observer>(operands: Operands) -> Option<Run<M, O>> {
    match operands.form {
        Form::RegisterRegister => by_width!(operands.width, bit::<X, First, Second, M, O>, [2, 4, 8]),
        Form::RegisterImmediate => by_width!(operands.width, bit::<X, First, Immediate, M, O>, [2, 4, 8]),
        Form::MemoryImmediate => by_width!(operands.width, bit::<X, InMemory, Immediate, M, O>, [2, 4, 8]),
        Form::MemoryRegister => by_width!(operands.width, bit_of_string::<X, M, O>, [2, 4, 8]),
        _ => None,
    }
}

fn select_scan<X: Scan, M: Memory, O: Observer>(operands: Operands) -> Option<Run<M, O>> {
    match operands.form {
        Form::RegisterRegister => by_width!(operands.width, scan::<X, Second, M, O>, [2, 4, 8]),
        Form::RegisterMemory => by_width!(operands.width, scan::<X, InMemory, M, O>, [2, 4, 8]),
        _ => None,
    }
}
