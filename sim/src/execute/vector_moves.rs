//! Moves between vector registers, general registers and memory.

use crate::alu::low;
use crate::cpu::{Cpu, Leave};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{Op, Run};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

const LOW_HALF: u128 = (1 << 64) - 1;

fn copy<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let value = cpu.vector(op.second);
    cpu.set_vector(op.first, value);
    Ok(())
}

fn load<M: Memory, O: Observer, const ALIGNED: bool>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let address = if ALIGNED { cpu.aligned_address(op)? } else { cpu.address(op) };
    let value = cpu.load_vector(op, address)?;
    cpu.set_vector(op.first, value);
    Ok(())
}

fn store<M: Memory, O: Observer, const ALIGNED: bool>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let address = if ALIGNED { cpu.aligned_address(op)? } else { cpu.address(op) };
    let value = cpu.vector(op.second);
    cpu.store_vector(op, address, value)
}

/// The low `B` bytes from memory, zeros above.
fn load_scalar<M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let address = cpu.address(op);
    let value = cpu.load::<B>(op, address)?;
    cpu.set_vector(op.first, u128::from(value));
    Ok(())
}

/// The low `B` bytes to memory.
fn store_scalar<M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let address = cpu.address(op);
    let value = low_half(cpu.vector(op.second));
    cpu.store::<B>(op, address, value)
}

/// The low `B` bytes from another vector, the rest unchanged.
fn merge_scalar<M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let mask = (1_u128 << (8 * B)) - 1;
    let value = cpu.vector(op.first) & !mask | cpu.vector(op.second) & mask;
    cpu.set_vector(op.first, value);
    Ok(())
}

/// MOVQ between vectors: zeros above.
fn copy_low_half<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let value = cpu.vector(op.second) & LOW_HALF;
    cpu.set_vector(op.first, value);
    Ok(())
}

fn from_general<M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = cpu.register::<B>(op.second);
    cpu.set_vector(op.first, u128::from(value));
    Ok(())
}

fn to_general<M: Memory, O: Observer, const B: usize>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = low::<B>(low_half(cpu.vector(op.second)));
    cpu.set_register::<B>(op.first, value);
    Ok(())
}

/// MOVLPS, MOVHPS and their like: one half of the first vector from memory.
fn load_half<M: Memory, O: Observer, const UPPER: bool>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let address = cpu.address(op);
    let half = cpu.load::<8>(op, address)?;
    set_half::<M, O, UPPER>(cpu, op.first, half);
    Ok(())
}

fn store_half<M: Memory, O: Observer, const UPPER: bool>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let address = cpu.address(op);
    let value = cpu.vector(op.second);
    cpu.store::<8>(op, address, low_half(if UPPER { value >> 64 } else { value }))
}

/// MOVLHPS, or with `UPPER` false MOVHLPS.
fn cross_half<M: Memory, O: Observer, const UPPER: bool>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = cpu.vector(op.second);
    let half = low_half(if UPPER { value } else { value >> 64 });
    set_half::<M, O, UPPER>(cpu, op.first, half);
    Ok(())
}

fn set_half<M: Memory, O: Observer, const UPPER: bool>(cpu: &mut Cpu<M, O>, number: u8, half: u64) {
    let value = cpu.vector(number);
    let value =
        if UPPER { value & LOW_HALF | u128::from(half) << 64 } else { value & !LOW_HALF | u128::from(half) };
    cpu.set_vector(number, value);
}

fn low_half(value: u128) -> u64 {
    u64::try_from(value & LOW_HALF).unwrap_or(0)
}

/// The operands of a move.
#[derive(Clone, Copy)]
enum Way {
    Vectors,
    Load,
    Store,
    FromGeneral,
    ToGeneral,
}

fn way(instruction: &Instruction) -> Option<Way> {
    if instruction.op_count() != 2 {
        return None;
    }
    let is_vector = |operand| instruction.op_register(operand).is_xmm();
    let is_general = |register: Register| register.is_gpr32() || register.is_gpr64();
    match (instruction.op_kind(0), instruction.op_kind(1)) {
        (OpKind::Memory, OpKind::Register) if is_vector(1) => Some(Way::Store),
        (OpKind::Register, OpKind::Memory) if is_vector(0) => Some(Way::Load),
        (OpKind::Register, OpKind::Register) => match (is_vector(0), is_vector(1)) {
            (true, true) => Some(Way::Vectors),
            (true, false) => is_general(instruction.op1_register()).then_some(Way::FromGeneral),
            (false, true) => is_general(instruction.op0_register()).then_some(Way::ToGeneral),
            (false, false) => None,
        },
        _ => None,
    }
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(instruction: &Instruction) -> Option<Run<M, O>> {
    let way = way(instruction)?;
    let run: Run<M, O> = match (instruction.mnemonic(), way) {
        (Mnemonic::Movaps | Mnemonic::Movapd | Mnemonic::Movdqa, Way::Vectors) => copy,
        (Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu, Way::Vectors) => copy,
        (Mnemonic::Movaps | Mnemonic::Movapd | Mnemonic::Movdqa, Way::Load) => load::<M, O, true>,
        (Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu, Way::Load) => load::<M, O, false>,
        (Mnemonic::Movaps | Mnemonic::Movapd | Mnemonic::Movdqa, Way::Store) => store::<M, O, true>,
        (Mnemonic::Movntps | Mnemonic::Movntpd | Mnemonic::Movntdq, Way::Store) => store::<M, O, true>,
        (Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu, Way::Store) => store::<M, O, false>,
        (Mnemonic::Movd | Mnemonic::Movss, Way::Load) => load_scalar::<M, O, 4>,
        (Mnemonic::Movq | Mnemonic::Movsd, Way::Load) => load_scalar::<M, O, 8>,
        (Mnemonic::Movd | Mnemonic::Movss, Way::Store) => store_scalar::<M, O, 4>,
        (Mnemonic::Movq | Mnemonic::Movsd, Way::Store) => store_scalar::<M, O, 8>,
        (Mnemonic::Movss, Way::Vectors) => merge_scalar::<M, O, 4>,
        (Mnemonic::Movsd, Way::Vectors) => merge_scalar::<M, O, 8>,
        (Mnemonic::Movq, Way::Vectors) => copy_low_half,
        (Mnemonic::Movd, Way::FromGeneral) => from_general::<M, O, 4>,
        (Mnemonic::Movq, Way::FromGeneral) => from_general::<M, O, 8>,
        (Mnemonic::Movd, Way::ToGeneral) => to_general::<M, O, 4>,
        (Mnemonic::Movq, Way::ToGeneral) => to_general::<M, O, 8>,
        (Mnemonic::Movlps | Mnemonic::Movlpd, Way::Load) => load_half::<M, O, false>,
        (Mnemonic::Movhps | Mnemonic::Movhpd, Way::Load) => load_half::<M, O, true>,
        (Mnemonic::Movlps | Mnemonic::Movlpd, Way::Store) => store_half::<M, O, false>,
        (Mnemonic::Movhps | Mnemonic::Movhpd, Way::Store) => store_half::<M, O, true>,
        (Mnemonic::Movhlps, Way::Vectors) => cross_half::<M, O, false>,
        (Mnemonic::Movlhps, Way::Vectors) => cross_half::<M, O, true>,
        _ => return None,
    };
    Some(run)
}
