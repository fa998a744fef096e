//! Vector instructions that an immediate operand controls, and those that gather bits.

use crate::cpu::{Cpu, Leave};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{Op, Run};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// The new destination, from both operands and the immediate.
type Shuffle = fn(u128, u128, u8) -> u128;

/// A shuffle by its number, so that a handler can be made of it.
const SHUFFLES: [Shuffle; 7] = [
    |_, right, control| shuffle_lanes::<4>(right, right, control),
    |_, right, control| shuffle_words(right, control, 0),
    |_, right, control| shuffle_words(right, control, 64),
    |value, right, control| shuffle_lanes::<4>(value, right, control),
    |value, right, control| u128::from(half(value, control)) | u128::from(half(right, control >> 1)) << 64,
    |value, _, count| if count < 16 { value << (8 * count) } else { 0 },
    |value, _, count| if count < 16 { value >> (8 * count) } else { 0 },
];
const PSHUFD: usize = 0;
const PSHUFLW: usize = 1;
const PSHUFHW: usize = 2;
const SHUFPS: usize = 3;
const SHUFPD: usize = 4;
const PSLLDQ: usize = 5;
const PSRLDQ: usize = 6;

/// Two lanes of 32 bits of `value`, then two of `right`, by two bits of `control` each.
fn shuffle_lanes<const LANES: u32>(value: u128, right: u128, control: u8) -> u128 {
    (0..LANES).fold(0, |out, lane| {
        let from = if lane < LANES / 2 { value } else { right };
        let chosen = u32::from(control >> (2 * lane) & 3);
        out | (from >> (32 * chosen) & 0xffff_ffff) << (32 * lane)
    })
}

/// The four words from bit `start` on, reordered.
fn shuffle_words(value: u128, control: u8, start: u32) -> u128 {
    let kept = value & !(0xffff_ffff_ffff_ffff << start);
    (0..4).fold(kept, |out, lane| {
        let chosen = u32::from(control >> (2 * lane) & 3);
        out | (value >> (start + 16 * chosen) & 0xffff) << (start + 16 * lane)
    })
}

fn half(value: u128, control: u8) -> u64 {
    let value = if control & 1 == 0 { value } else { value >> 64 };
    u64::try_from(value & u128::from(u64::MAX)).unwrap_or(0)
}

fn control_of<M, O>(op: &Op<M, O>) -> u8 {
    op.immediate.to_le_bytes()[0]
}

fn shuffle<M: Memory, O: Observer, const N: usize, const FROM_MEMORY: bool>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let right = if FROM_MEMORY {
        let address = cpu.aligned_address(op)?;
        cpu.load_vector(op, address)?
    } else {
        cpu.vector(op.second)
    };
    let value = SHUFFLES[N](cpu.vector(op.first), right, control_of(op));
    cpu.set_vector(op.first, value);
    Ok(())
}

fn extract_word<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let lane = u32::from(control_of(op) & 7);
    let word = cpu.vector(op.second) >> (16 * lane) & 0xffff;
    cpu.set_register::<4>(op.first, half(word, 0));
    Ok(())
}

fn insert_word<M: Memory, O: Observer, const FROM_MEMORY: bool>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let word = if FROM_MEMORY {
        let address = cpu.address(op);
        cpu.load::<2>(op, address)?
    } else {
        cpu.register::<2>(op.second)
    };
    let shift = 16 * u32::from(control_of(op) & 7);
    let value = cpu.vector(op.first) & !(0xffff << shift) | u128::from(word) << shift;
    cpu.set_vector(op.first, value);
    Ok(())
}

/// The highest bit of each lane of `BITS` bits.
fn gather_signs<M: Memory, O: Observer, const BITS: u32>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let value = cpu.vector(op.second);
    let signs = (0..128 / BITS).fold(0, |out, lane| out | (value >> (BITS * (lane + 1) - 1) & 1) << lane);
    cpu.set_register::<4>(op.first, half(signs, 0));
    Ok(())
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(instruction: &Instruction) -> Option<Run<M, O>> {
    let operands = instruction.op_count();
    let has_vector = (0..operands.min(2)).any(|operand| instruction.op_register(operand).is_xmm());
    if !has_vector {
        return None;
    }
    let from_memory = instruction.op_kind(1) == OpKind::Memory;
    let run: Run<M, O> = match (instruction.mnemonic(), from_memory) {
        (Mnemonic::Pshufd, false) => shuffle::<M, O, PSHUFD, false>,
        (Mnemonic::Pshufd, true) => shuffle::<M, O, PSHUFD, true>,
        (Mnemonic::Pshuflw, false) => shuffle::<M, O, PSHUFLW, false>,
        (Mnemonic::Pshuflw, true) => shuffle::<M, O, PSHUFLW, true>,
        (Mnemonic::Pshufhw, false) => shuffle::<M, O, PSHUFHW, false>,
        (Mnemonic::Pshufhw, true) => shuffle::<M, O, PSHUFHW, true>,
        (Mnemonic::Shufps, false) => shuffle::<M, O, SHUFPS, false>,
        (Mnemonic::Shufps, true) => shuffle::<M, O, SHUFPS, true>,
        (Mnemonic::Shufpd, false) => shuffle::<M, O, SHUFPD, false>,
        (Mnemonic::Shufpd, true) => shuffle::<M, O, SHUFPD, true>,
        (Mnemonic::Pslldq, false) => shuffle::<M, O, PSLLDQ, false>,
        (Mnemonic::Psrldq, false) => shuffle::<M, O, PSRLDQ, false>,
        (Mnemonic::Pextrw, false) if instruction.op_kind(0) == OpKind::Register => extract_word,
        (Mnemonic::Pinsrw, false) => insert_word::<M, O, false>,
        (Mnemonic::Pinsrw, true) => insert_word::<M, O, true>,
        (Mnemonic::Pmovmskb, false) => gather_signs::<M, O, 8>,
        (Mnemonic::Movmskps, false) => gather_signs::<M, O, 32>,
        (Mnemonic::Movmskpd, false) => gather_signs::<M, O, 64>,
        _ => return None,
    };
    Some(run)
}
