//! From bytes to an instruction that is ready to run, or the reason why there is none.

use crate::execute;
use crate::execute::quiet::FlagUse;
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{Op, Run};
use crate::operands::{self, Operands};
use crate::refusal::Reason;
use iced_x86::{Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};
use pageswarm_machine::forbidden::Forbidden;

/// What bytes are.
pub(crate) enum Decoded<M, O> {
    /// An instruction.
    Op(Op<M, O>, Follows, FlagUse<M, O>),
    /// The instruction goes on behind the bytes.
    Cut,
    /// Nothing that can be run.
    Refused(Reason),
}

/// What comes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// The one behind it.
    Next,
    /// Whatever it says.
    Elsewhere,
}

/// Decodes the first instruction of `bytes`, which are at `rip`.
pub(crate) fn decode<M: Memory, O: Observer>(bytes: &[u8], rip: u64) -> Decoded<M, O> {
    let mut decoder = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE);
    let instruction = decoder.decode();
    if decoder.last_error() == DecoderError::NoMoreBytes {
        return Decoded::Cut;
    }
    if instruction.is_invalid() || has_unmodelled_prefix(&instruction, bytes) {
        return Decoded::Refused(Reason::Unknown);
    }
    if Forbidden::of(instruction.mnemonic()).is_some() {
        return Decoded::Refused(Reason::NotReplayable);
    }
    let Some(run) = select(&instruction) else {
        return Decoded::Refused(Reason::Unknown);
    };
    let mut op = Op::new(run, rip);
    op.length = u8::try_from(instruction.len()).unwrap_or(0);
    operands::place(&instruction, &mut op);
    let stays = instruction.flow_control() == FlowControl::Next
        && !matches!(instruction.mnemonic(), Mnemonic::In | Mnemonic::Out);
    let flags = FlagUse::of(&instruction, Operands::of(&instruction));
    Decoded::Op(op, if stays { Follows::Next } else { Follows::Elsewhere }, flags)
}

/// What runs the instruction.
fn select<M: Memory, O: Observer>(instruction: &Instruction) -> Option<Run<M, O>> {
    let operands = Operands::of(instruction);
    let mnemonic = instruction.mnemonic();
    execute::arithmetic::select(mnemonic, operands)
        .or_else(|| execute::moves::select(mnemonic, operands))
        .or_else(|| execute::control::select(instruction, operands))
        .or_else(|| execute::shifts::select(instruction, operands))
        .or_else(|| execute::bits::select(mnemonic, operands))
        .or_else(|| execute::products::select(instruction, operands))
        .or_else(|| execute::stack::select(instruction, operands))
        .or_else(|| execute::atomics::select(mnemonic, operands))
        .or_else(|| execute::strings::select(instruction))
        .or_else(|| execute::flags::select(mnemonic))
        .or_else(|| execute::system::select(instruction))
        .or_else(|| execute::vectors::select(instruction))
        .or_else(|| execute::vector_moves::select(instruction))
        .or_else(|| execute::shuffles::select(instruction))
}

/// 32-bit addresses anywhere; and 16-bit operands of branches, which processors read differently.
fn has_unmodelled_prefix(instruction: &Instruction, bytes: &[u8]) -> bool {
    let prefixes = bytes.iter().take_while(|byte| {
        matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3)
    });
    let branches = instruction.flow_control() != FlowControl::Next
        || (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::NearBranch16);
    prefixes.into_iter().any(|prefix| *prefix == 0x67 || *prefix == 0x66 && branches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::CompleteRam;
    use crate::observe::Unobserved;

    fn refusal(bytes: &[u8]) -> Option<Reason> {
        let mut padded = [0x90; 15];
        padded[..bytes.len()].copy_from_slice(bytes);
        match decode::<CompleteRam, Unobserved>(&padded, 0x10_0000) {
            Decoded::Refused(reason) => Some(reason),
            Decoded::Op(..) | Decoded::Cut => None,
        }
    }

    #[test]
    fn what_cannot_be_replayed_or_is_not_known_is_refused() {
        for bytes in [&[0x0f, 0x31][..], &[0x0f, 0xa2], &[0x0f, 0xc7, 0xf0], &[0x0f, 0x01, 0xf9]] {
            assert_eq!(refusal(bytes), Some(Reason::NotReplayable), "{bytes:x?}");
        }
        // FLD1, VADDPS, an invalid opcode, a 32-bit address.
        for bytes in [&[0xd9, 0xe8][..], &[0xc5, 0xf8, 0x58, 0xc1], &[0x06], &[0x67, 0x8b, 0x03]] {
            assert_eq!(refusal(bytes), Some(Reason::Unknown), "{bytes:x?}");
        }
    }

    #[test]
    fn an_instruction_cut_short_is_told_apart() {
        assert!(matches!(decode::<CompleteRam, Unobserved>(&[0x48, 0xb8, 1, 2], 0), Decoded::Cut));
    }
}
