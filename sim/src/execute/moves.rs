//! Moves between general registers and memory, with or without extension, and addresses.

use super::{by_form, by_width};
use crate::alu::{low, signed};
use crate::cpu::{Cpu, Leave};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{First, FirstByte, Immediate, InMemory, Op, Place, Run, Second, SecondByte, Source};
use crate::operands::{Form, Operands};
use iced_x86::Mnemonic;

fn copy<P: Place, S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = S::load::<B, M, O>(cpu, op)?;
    P::store::<B, M, O>(cpu, op, value)
}

/// Zero extension from `F` bytes to `B`.
fn widen<S: Source, M: Memory, O: Observer, const F: usize, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = S::load::<F, M, O>(cpu, op)?;
    cpu.set_register::<B>(op.first, value);
    Ok(())
}

/// Sign extension from `F` bytes to `B`.
fn widen_signed<S: Source, M: Memory, O: Observer, const F: usize, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = S::load::<F, M, O>(cpu, op)?;
    cpu.set_register::<B>(op.first, low::<B>(signed::<F>(value)));
    Ok(())
}

fn load_address<M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = cpu.offset(op);
    cpu.set_register::<B>(op.first, low::<B>(value));
    Ok(())
}

fn exchange<P: Place, S: Place, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let (value, opened) = P::open::<B, M, O>(cpu, op)?;
    let other = S::load::<B, M, O>(cpu, op)?;
    P::close::<B, M, O>(cpu, op, opened, other)?;
    S::store::<B, M, O>(cpu, op, value)
}

fn reverse_bytes<M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = cpu.register::<B>(op.first).swap_bytes() >> (64 - 8 * B);
    cpu.set_register::<B>(op.first, value);
    Ok(())
}

/// CBW, CWDE, CDQE: the accumulator's lower half extended to `B` bytes.
fn extend_accumulator<M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    _: &Op<M, O>,
) -> Result<(), Leave> {
    let value = cpu.register::<8>(0);
    let value = match B {
        2 => signed::<1>(value),
        4 => signed::<2>(value),
        _ => signed::<4>(value),
    };
    cpu.set_register::<B>(0, low::<B>(value));
    Ok(())
}

/// CWD, CDQ, CQO: the accumulator's sign in all of RDX's `B` bytes.
fn spread_sign<M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    _: &Op<M, O>,
) -> Result<(), Leave> {
    let value = signed::<B>(cpu.register::<B>(0)).cast_signed() >> 63;
    cpu.set_register::<B>(2, low::<B>(value.cast_unsigned()));
    Ok(())
}

/// The two-step choice of extensions: source form, then both widths.
macro_rules! by_widths {
    ($operands:expr, $run:ident, $($from:literal => $to:literal),*) => {
        match ($operands.form, $operands.second_width, $operands.width) {
            $((Form::RegisterRegister, $from, $to) => Some($run::<Second, M, O, $from, $to> as Run<M, O>),)*
            $((Form::RegisterMemory, $from, $to) => Some($run::<InMemory, M, O, $from, $to> as Run<M, O>),)*
            (Form::ByteByte, 1, 2) => Some($run::<SecondByte, M, O, 1, 2> as Run<M, O>),
            (Form::ByteByte, 1, 4) => Some($run::<SecondByte, M, O, 1, 4> as Run<M, O>),
            _ => None,
        }
    };
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(mnemonic: Mnemonic, operands: Operands) -> Option<Run<M, O>> {
    match mnemonic {
        Mnemonic::Mov => by_form!(operands, copy),
        Mnemonic::Movnti => by_width!(operands.width, copy::<InMemory, Second, M, O>, [4, 8]),
        Mnemonic::Movzx => by_widths!(operands, widen, 1 => 2, 1 => 4, 1 => 8, 2 => 4, 2 => 8),
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            by_widths!(operands, widen_signed, 1 => 2, 1 => 4, 1 => 8, 2 => 4, 2 => 8, 4 => 4, 4 => 8)
        }
        Mnemonic::Lea => by_width!(operands.width, load_address::<M, O>, [2, 4, 8]),
        Mnemonic::Xchg => select_exchange(operands),
        Mnemonic::Bswap => by_width!(operands.width, reverse_bytes::<M, O>, [4, 8]),
        Mnemonic::Cbw => Some(extend_accumulator::<M, O, 2>),
        Mnemonic::Cwde => Some(extend_accumulator::<M, O, 4>),
        Mnemonic::Cdqe => Some(extend_accumulator::<M, O, 8>),
        Mnemonic::Cwd => Some(spread_sign::<M, O, 2>),
        Mnemonic::Cdq => Some(spread_sign::<M, O, 4>),
        Mnemonic::Cqo => Some(spread_sign::<M, O, 8>),
        _ => None,
    }
}

fn select_exchange<M: Memory, O: Observer>(operands: Operands) -> Option<Run<M, O>> {
    match operands.form {
        Form::RegisterRegister => by_width!(operands.width, exchange::<First, Second, M, O>, [1, 2, 4, 8]),
        Form::MemoryRegister => by_width!(operands.width, exchange::<InMemory, Second, M, O>, [1, 2, 4, 8]),
        Form::ByteByte => Some(exchange::<FirstByte, SecondByte, M, O, 1>),
        Form::MemoryByte => Some(exchange::<InMemory, SecondByte, M, O, 1>),
        _ => None,
    }
}
