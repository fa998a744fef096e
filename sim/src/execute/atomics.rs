//! Exchanges that compare or add. With one processor a LOCK prefix changes nothing.

use super::by_width;
use crate::alu;
use crate::cpu::{Cpu, Leave};
use crate::exception::Exception;
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{First, FirstByte, InMemory, Op, Place, Run, Second, SecondByte, Source};
use crate::operands::{Form, Operands};
use iced_x86::Mnemonic;

const ACCUMULATOR: u8 = 0;
const UPPER: u8 = 2;
const COUNTER: u8 = 1;
const BASE: u8 = 3;
const ZERO: u64 = 1 << 6;

fn exchange_add<P: Place, S: Place, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let (value, opened) = P::open::<B, M, O>(cpu, op)?;
    let right = S::load::<B, M, O>(cpu, op)?;
    let (sum, status) = alu::add::<B>(value, right, cpu.status);
    // Both operands may be one register: the sum is what stays.
    S::store::<B, M, O>(cpu, op, value)?;
    P::close::<B, M, O>(cpu, op, opened, sum)?;
    cpu.status = status;
    Ok(())
}

fn compare_exchange<P: Place, S: Source, M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let (value, opened) = P::open::<B, M, O>(cpu, op)?;
    let fresh = S::load::<B, M, O>(cpu, op)?;
    let expected = cpu.register::<B>(ACCUMULATOR);
    let (_, status) = alu::subtract::<B>(expected, value, cpu.status);
    if expected == value {
        P::close::<B, M, O>(cpu, op, opened, fresh)?;
    } else {
        // The destination is written either way.
        P::close::<B, M, O>(cpu, op, opened, value)?;
        cpu.set_register::<B>(ACCUMULATOR, value);
    }
    cpu.status = status;
    Ok(())
}

/// CMPXCHG on registers. Whether the upper half of a 32-bit destination survives a failure, the manuals do not agree on.
fn compare_exchange_registers<M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let (value, fresh) = (cpu.register::<8>(op.first), cpu.register::<8>(op.second));
    let (accumulator, value, status) =
        alu::compare_exchange::<B>(cpu.register::<8>(ACCUMULATOR), value, fresh);
    // The accumulator may be the destination, and then it is equal and takes the other's value.
    cpu.set_register::<8>(ACCUMULATOR, accumulator);
    cpu.set_register::<8>(op.first, value);
    cpu.status = status;
    Ok(())
}

/// CMPXCHG8B.
fn compare_exchange_pair<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let address = cpu.address(op);
    let (value, spot) = cpu.open::<8>(op, address)?;
    let join = |lower: u64, upper: u64| lower | upper << 32;
    let expected = join(cpu.register::<4>(ACCUMULATOR), cpu.register::<4>(UPPER));
    let equal = expected == value;
    let fresh = join(cpu.register::<4>(BASE), cpu.register::<4>(COUNTER));
    cpu.close::<8>(op, spot, if equal { fresh } else { value })?;
    if !equal {
        cpu.set_register::<4>(ACCUMULATOR, value & 0xffff_ffff);
        cpu.set_register::<4>(UPPER, value >> 32);
    }
    set_zero(cpu, equal);
    Ok(())
}

/// CMPXCHG16B.
fn compare_exchange_wide<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let address = cpu.address(op);
    if !address.is_multiple_of(16) {
        return Err(cpu.raise(Exception::general_protection(0)));
    }
    let (lower, _) = cpu.open::<8>(op, address)?;
    let (upper, _) = cpu.open::<8>(op, address.wrapping_add(8))?;
    let equal = lower == cpu.register::<8>(ACCUMULATOR) && upper == cpu.register::<8>(UPPER);
    let fresh = if equal { [cpu.register::<8>(BASE), cpu.register::<8>(COUNTER)] } else { [lower, upper] };
    cpu.store_vector(op, address, u128::from(fresh[0]) | u128::from(fresh[1]) << 64)?;
    if !equal {
        cpu.set_register::<8>(ACCUMULATOR, lower);
        cpu.set_register::<8>(UPPER, upper);
    }
    set_zero(cpu, equal);
    Ok(())
}

fn set_zero<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, zero: bool) {
    let flags = cpu.rflags() & !ZERO;
    cpu.set_rflags(if zero { flags | ZERO } else { flags });
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(mnemonic: Mnemonic, operands: Operands) -> Option<Run<M, O>> {
    match (mnemonic, operands.form) {
        (Mnemonic::Xadd, Form::RegisterRegister) => {
            by_width!(operands.width, exchange_add::<First, Second, M, O>, [1, 2, 4, 8])
        }
        (Mnemonic::Xadd, Form::MemoryRegister) => {
            by_width!(operands.width, exchange_add::<InMemory, Second, M, O>, [1, 2, 4, 8])
        }
        (Mnemonic::Xadd, Form::ByteByte) => Some(exchange_add::<FirstByte, SecondByte, M, O, 1>),
        (Mnemonic::Xadd, Form::MemoryByte) => Some(exchange_add::<InMemory, SecondByte, M, O, 1>),
        (Mnemonic::Cmpxchg, Form::RegisterRegister) => {
            by_width!(operands.width, compare_exchange_registers::<M, O>, [1, 2, 4, 8])
        }
        (Mnemonic::Cmpxchg, Form::MemoryRegister) => {
            by_width!(operands.width, compare_exchange::<InMemory, Second, M, O>, [1, 2, 4, 8])
        }
        (Mnemonic::Cmpxchg, Form::ByteByte) => Some(compare_exchange::<FirstByte, SecondByte, M, O, 1>),
        (Mnemonic::Cmpxchg, Form::MemoryByte) => Some(compare_exchange::<InMemory, SecondByte, M, O, 1>),
        (Mnemonic::Cmpxchg8b, Form::Memory) => Some(compare_exchange_pair::<M, O>),
        (Mnemonic::Cmpxchg16b, Form::Memory) => Some(compare_exchange_wide::<M, O>),
        _ => None,
    }
}
