//! Which instructions are translated, and what matters about each: its registers, its access, its flags.

use super::Accesses;
use super::assembler::Table;
use super::executable::WIDEST;
use crate::paging::is_canonical;
use iced_x86::{Code, ConditionCode, FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits};

/// The six arithmetic flags.
const STATUS_FLAGS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// An instruction that is translated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) instruction: Instruction,
    pub(super) access: Option<Access>,
    pub(super) flags: Flags,
    pub(super) ends: Option<Ends>,
    /// General registers that it names, a bit each.
    pub(super) registers: u16,
}

/// An access to memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) size: usize,
    pub(super) reads: bool,
    pub(super) writes: bool,
}

impl Access {
    /// What is written must be found writable, even if it is read first.
    pub(super) const fn table(self) -> Table {
        if self.writes { Table::Writes } else { Table::Reads }
    }
}

/// What an instruction has to do with the arithmetic flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    pub(super) reads: bool,
    pub(super) modifies: bool,
    /// It sets all of them, whatever they were. All others leave some, or leave undefined what may depend on them.
    pub(super) sets_all: bool,
}

/// How a stretch ends in an instruction.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ends {
    Jump,
    /// With the condition's number.
    Branch(u8),
}

impl Part {
    /// `None` for what is not translated.
    pub(super) fn of(instruction: &Instruction, accesses: Accesses) -> Option<Self> {
        if instruction.has_lock_prefix() || instruction.has_rep_prefix() || instruction.has_repne_prefix() {
            return None;
        }
        let ends = match instruction.flow_control() {
            FlowControl::Next => None,
            _ => Some(ends(instruction)?),
        };
        if ends.is_none() && !is_translated(instruction) {
            return None;
        }
        let mut registers = 0;
        for operand in 0..instruction.op_count() {
            registers |= named(instruction, operand)?;
        }
        let access = match access(instruction) {
            Some(_) if accesses == Accesses::Interpreted => return None,
            Some(access) if access.size == 0 || access.size > WIDEST => return None,
            access => access,
        };
        let modified = instruction.rflags_modified() & STATUS_FLAGS;
        let flags = Flags {
            reads: instruction.rflags_read() & STATUS_FLAGS != 0,
            modifies: modified != 0,
            sets_all: sets_all(instruction.mnemonic()),
        };
        let instruction = *instruction;
        Some(Self { instruction, access, flags, ends, registers })
    }

    /// Whether the flags before it are seen, if those after it are (`after`) or are not.
    pub(super) const fn sees_flags(&self, after: Seen) -> Seen {
        // Leaving before it, the interpreter sees them.
        if self.access.is_some() || self.flags.reads {
            return Seen::Yes;
        }
        if self.flags.sets_all { Seen::No } else { after }
    }

    /// Whether it needs the host's flags to be the guest's.
    pub(super) const fn needs_flags(&self, after: Seen) -> bool {
        self.flags.reads || self.flags.modifies && !self.flags.sets_all && matches!(after, Seen::Yes)
    }
}

/// Whether somebody looks at flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    No,
    Yes,
}

const fn sets_all(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{Add, And, Cmp, Or, Sub, Test, Xor};
    matches!(mnemonic, Add | Sub | And | Or | Xor | Cmp | Test)
}

/// Instructions on general registers, immediates and one place in memory, with no operand that is not written.
fn is_translated(instruction: &Instruction) -> bool {
    use Mnemonic::{
        Adc, Add, And, Bswap, Cmp, Dec, Imul, Inc, Lea, Mov, Movsx, Movsxd, Movzx, Neg, Nop, Not,
    };
    use Mnemonic::{Or, Rol, Ror, Sar, Sbb, Shl, Shr, Sub, Test, Xor};
    let mnemonic = instruction.mnemonic();
    let is_simple = matches!(
        mnemonic,
        Adc | Add
            | And
            | Bswap
            | Cmp
            | Dec
            | Inc
            | Lea
            | Mov
            | Movsx
            | Movsxd
            | Movzx
            | Neg
            | Nop
            | Not
            | Or
            | Rol
            | Ror
            | Sar
            | Sbb
            | Shl
            | Shr
            | Sub
            | Test
            | Xor
    );
    let is_wide_product = mnemonic == Imul && instruction.op_count() == 1;
    // What a condition decides, but for jumps: SETcc and CMOVcc.
    let is_conditional = instruction.condition_code() != ConditionCode::None;
    !has_long_address(instruction.code())
        && (is_simple || is_conditional || mnemonic == Imul && !is_wide_product)
}

fn is_setcc(instruction: &Instruction) -> bool {
    instruction.condition_code() != ConditionCode::None && instruction.op_count() == 1
}

/// MOV with an address of 64 bits has no operand that could be another.
const fn has_long_address(code: Code) -> bool {
    use Code::{Mov_AL_moffs8, Mov_AX_moffs16, Mov_EAX_moffs32, Mov_RAX_moffs64};
    use Code::{Mov_moffs8_AL, Mov_moffs16_AX, Mov_moffs32_EAX, Mov_moffs64_RAX};
    matches!(code, Mov_AL_moffs8 | Mov_AX_moffs16 | Mov_EAX_moffs32 | Mov_RAX_moffs64)
        || matches!(code, Mov_moffs8_AL | Mov_moffs16_AX | Mov_moffs32_EAX | Mov_moffs64_RAX)
}

fn ends(instruction: &Instruction) -> Option<Ends> {
    if instruction.op_count() == 0 || instruction.op_kind(0) != OpKind::NearBranch64 {
        return None;
    }
    // One that leads to where no code can be is interpreted, because it faults itself.
    if !is_canonical(instruction.near_branch64()) {
        return None;
    }
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch => Some(Ends::Jump),
        FlowControl::ConditionalBranch if instruction.is_jcc_short_or_near() => {
            // The decoder counts the conditions from 1.
            Some(Ends::Branch(instruction.condition_code() as u8 - 1))
        }
        _ => None,
    }
}

/// The registers that an operand names; `None` where it is no operand that can be translated.
fn named(instruction: &Instruction, operand: u32) -> Option<u16> {
    match instruction.op_kind(operand) {
        OpKind::Register => bit(instruction.op_register(operand)),
        OpKind::Memory => {
            let segment = instruction.memory_segment();
            if matches!(segment, Register::FS | Register::GS) {
                return None;
            }
            let base = match instruction.memory_base() {
                Register::None | Register::RIP => 0,
                base => bit64(base)?,
            };
            let index = match instruction.memory_index() {
                Register::None => 0,
                index => bit64(index)?,
            };
            Some(base | index)
        }
        OpKind::NearBranch64 => Some(0),
        kind if crate::operands::is_immediate(kind) => Some(0),
        _ => None,
    }
}

fn bit64(register: Register) -> Option<u16> {
    if register.is_gpr64() { bit(register) } else { None }
}

/// AH to BH have no counterpart in other registers.
fn bit(register: Register) -> Option<u16> {
    let is_high = matches!(register, Register::AH | Register::BH | Register::CH | Register::DH);
    (register.is_gpr() && !is_high).then(|| 1 << register.full_register().number())
}

fn access(instruction: &Instruction) -> Option<Access> {
    use Mnemonic::{Cmp, Lea, Mov, Nop, Test};
    let mnemonic = instruction.mnemonic();
    let operand =
        (0..instruction.op_count()).find(|&operand| instruction.op_kind(operand) == OpKind::Memory)?;
    if matches!(mnemonic, Lea | Nop) {
        return None;
    }
    let writes = operand == 0 && !matches!(mnemonic, Cmp | Test);
    let only_writes = mnemonic == Mov || is_setcc(instruction);
    let reads = !(writes && only_writes);
    Some(Access { size: instruction.memory_size().size(), reads, writes })
}

/// The encoding that names its register, of one that has the accumulator in its opcode.
pub(super) const fn with_named_register(code: Code) -> Code {
    macro_rules! named {
        ($($short:ident => $long:ident),*) => {
            match code {
                $(Code::$short => Code::$long,)*
                other => other,
            }
        };
    }
    named!(
        Add_AL_imm8 => Add_rm8_imm8, Add_AX_imm16 => Add_rm16_imm16, Add_EAX_imm32 => Add_rm32_imm32,
        Add_RAX_imm32 => Add_rm64_imm32, Or_AL_imm8 => Or_rm8_imm8, Or_AX_imm16 => Or_rm16_imm16,
        Or_EAX_imm32 => Or_rm32_imm32, Or_RAX_imm32 => Or_rm64_imm32, Adc_AL_imm8 => Adc_rm8_imm8,
        Adc_AX_imm16 => Adc_rm16_imm16, Adc_EAX_imm32 => Adc_rm32_imm32, Adc_RAX_imm32 => Adc_rm64_imm32,
        Sbb_AL_imm8 => Sbb_rm8_imm8, Sbb_AX_imm16 => Sbb_rm16_imm16, Sbb_EAX_imm32 => Sbb_rm32_imm32,
        Sbb_RAX_imm32 => Sbb_rm64_imm32, And_AL_imm8 => And_rm8_imm8, And_AX_imm16 => And_rm16_imm16,
        And_EAX_imm32 => And_rm32_imm32, And_RAX_imm32 => And_rm64_imm32, Sub_AL_imm8 => Sub_rm8_imm8,
        Sub_AX_imm16 => Sub_rm16_imm16, Sub_EAX_imm32 => Sub_rm32_imm32, Sub_RAX_imm32 => Sub_rm64_imm32,
        Xor_AL_imm8 => Xor_rm8_imm8, Xor_AX_imm16 => Xor_rm16_imm16, Xor_EAX_imm32 => Xor_rm32_imm32,
        Xor_RAX_imm32 => Xor_rm64_imm32, Cmp_AL_imm8 => Cmp_rm8_imm8, Cmp_AX_imm16 => Cmp_rm16_imm16,
        Cmp_EAX_imm32 => Cmp_rm32_imm32, Cmp_RAX_imm32 => Cmp_rm64_imm32, Test_AL_imm8 => Test_rm8_imm8,
        Test_AX_imm16 => Test_rm16_imm16, Test_EAX_imm32 => Test_rm32_imm32, Test_RAX_imm32 => Test_rm64_imm32
    )
}
