//! The operands of a decoded instruction: of which form they are, and where an [`Op`] keeps them.

use crate::cpu::{FS_BASE, GS_BASE, NO_REGISTER};
use crate::op::{HIGH_BYTE, Op};
use iced_x86::{Instruction, OpKind, Register};

/// What the first two operands are. `Byte` is a byte register, where one of them is AH, CH, DH or BH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    None,
    Register,
    Memory,
    Byte,
    RegisterRegister,
    RegisterMemory,
    RegisterImmediate,
    MemoryRegister,
    MemoryImmediate,
    ByteByte,
    ByteMemory,
    ByteImmediate,
    MemoryByte,
    Immediate,
    /// Vector registers, string operands, ports: the instruction says more than its operands.
    Other,
}

/// The operands' form, and the bytes of the first one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) form: Form,
    pub(crate) width: usize,
    /// Bytes of the second operand, if it has a size of its own.
    pub(crate) second_width: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Absent,
    Register,
    HighByte,
    Memory,
    Immediate,
    Other,
}

impl Operands {
    pub(crate) fn of(instruction: &Instruction) -> Self {
        let kinds = [0, 1].map(|operand| kind(instruction, operand));
        let widths = [0, 1].map(|operand| width(instruction, operand));
        let high = kinds.contains(&Kind::HighByte);
        let form = match kinds {
            [Kind::Absent, _] => Form::None,
            [Kind::Register, Kind::Absent] => Form::Register,
            [Kind::HighByte, Kind::Absent] => Form::Byte,
            [Kind::Memory, Kind::Absent] => Form::Memory,
            [Kind::Immediate, Kind::Absent] => Form::Immediate,
            [Kind::Register | Kind::HighByte, Kind::Register | Kind::HighByte] if high => Form::ByteByte,
            [Kind::Register, Kind::Register] => Form::RegisterRegister,
            [Kind::Register, Kind::Memory] => Form::RegisterMemory,
            [Kind::Register, Kind::Immediate] => Form::RegisterImmediate,
            [Kind::Memory, Kind::Register] => Form::MemoryRegister,
            [Kind::Memory, Kind::Immediate] => Form::MemoryImmediate,
            [Kind::HighByte, Kind::Memory] => Form::ByteMemory,
            [Kind::HighByte, Kind::Immediate] => Form::ByteImmediate,
            [Kind::Memory, Kind::HighByte] => Form::MemoryByte,
            _ => Form::Other,
        };
        Self { form, width: widths[0], second_width: widths[1] }
    }
}

fn kind(instruction: &Instruction, operand: u32) -> Kind {
    if operand >= instruction.op_count() {
        return Kind::Absent;
    }
    match instruction.op_kind(operand) {
        OpKind::Register => {
            let register = instruction.op_register(operand);
            if register.is_gpr8() && is_high(register) {
                Kind::HighByte
            } else if register.is_gpr() {
                Kind::Register
            } else {
                Kind::Other
            }
        }
        OpKind::Memory => Kind::Memory,
        kind if is_immediate(kind) => Kind::Immediate,
        _ => Kind::Other,
    }
}

fn width(instruction: &Instruction, operand: u32) -> usize {
    if operand >= instruction.op_count() {
        return 0;
    }
    match instruction.op_kind(operand) {
        OpKind::Register => instruction.op_register(operand).size(),
        OpKind::Memory | OpKind::MemorySegRSI | OpKind::MemoryESRDI => instruction.memory_size().size(),
        _ => 0,
    }
}

pub(crate) const fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

fn is_high(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// A register's number in an [`Op`].
pub(crate) fn register_number(register: Register) -> u8 {
    let number = |register: Register| u8::try_from(register.number()).unwrap_or(NO_REGISTER);
    match register {
        Register::None => NO_REGISTER,
        register if is_high(register) => (number(register) - number(Register::AH)) | HIGH_BYTE,
        register if register.is_gpr() => number(register.full_register()),
        register => number(register),
    }
}

fn segment_number(register: Register) -> u8 {
    match register {
        Register::FS => FS_BASE,
        Register::GS => GS_BASE,
        _ => NO_REGISTER,
    }
}

/// Fills in what the instruction's operands are.
pub(crate) fn place<M, O>(instruction: &Instruction, op: &mut Op<M, O>) {
    let mut registers = [NO_REGISTER; 2];
    for operand in 0..instruction.op_count() {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                if let Some(number) = registers.get_mut(operand as usize) {
                    *number = register_number(instruction.op_register(operand));
                }
            }
            OpKind::Memory => place_memory(instruction, op),
            OpKind::MemorySegRSI => op.segment = segment_number(instruction.memory_segment()),
            OpKind::NearBranch64 => op.immediate = instruction.near_branch64(),
            kind if is_immediate(kind) => op.immediate = instruction.immediate(operand),
            _ => {}
        }
    }
    [op.first, op.second] = registers;
}

fn place_memory<M, O>(instruction: &Instruction, op: &mut Op<M, O>) {
    op.segment = segment_number(instruction.memory_segment());
    if instruction.is_ip_rel_memory_operand() {
        op.displacement = instruction.ip_rel_memory_address();
        return;
    }
    op.base = register_number(instruction.memory_base());
    op.index = register_number(instruction.memory_index());
    op.scale = instruction.memory_index_scale().trailing_zeros().to_le_bytes()[0];
    op.displacement = instruction.memory_displacement64();
}
