//! Instructions on flags alone.

use crate::alu::Status;
use crate::cpu::{Cpu, Leave};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{Op, Run};
use iced_x86::Mnemonic;

const CARRY: u64 = 1 << 0;
const ALWAYS: u64 = 1 << 1;
const DIRECTION: u64 = 1 << 10;
const OVERFLOW: u64 = 1 << 11;

fn change<M: Memory, O: Observer, const AND: u64, const XOR: u64>(
    cpu: &mut Cpu<M, O>,
    _: &Op<M, O>,
) -> Result<(), Leave> {
    let flags = cpu.rflags() & AND ^ XOR;
    cpu.set_rflags(flags);
    Ok(())
}

fn to_accumulator<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, _: &Op<M, O>) -> Result<(), Leave> {
    let flags = cpu.status.to_rflags() & 0xff | ALWAYS;
    let rest = cpu.register::<8>(0) & !0xff00;
    cpu.set_register::<8>(0, rest | flags << 8);
    Ok(())
}

fn from_accumulator<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, _: &Op<M, O>) -> Result<(), Leave> {
    let overflow = cpu.status.to_rflags() & OVERFLOW;
    cpu.status = Status::from_rflags(cpu.register::<8>(0) >> 8 & 0xff | overflow);
    Ok(())
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(mnemonic: Mnemonic) -> Option<Run<M, O>> {
    match mnemonic {
        Mnemonic::Clc => Some(change::<M, O, { !CARRY }, 0>),
        Mnemonic::Stc => Some(change::<M, O, { !CARRY }, CARRY>),
        Mnemonic::Cmc => Some(change::<M, O, { !0 }, CARRY>),
        Mnemonic::Cld => Some(change::<M, O, { !DIRECTION }, 0>),
        Mnemonic::Std => Some(change::<M, O, { !DIRECTION }, DIRECTION>),
        Mnemonic::Lahf => Some(to_accumulator::<M, O>),
        Mnemonic::Sahf => Some(from_accumulator::<M, O>),
        _ => None,
    }
}
