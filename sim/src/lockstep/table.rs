//! Random single instructions: every one that the interpreter knows, with random operands that keep to the rules.
//!
//! The rules are what makes a program end and compare: memory operands lie in a window of RAM, registers that point
//! there are never written, and nothing jumps, faults, or touches the stack pointer.

use super::chance::Chance;
use crate::decode::{Decoded, Follows, decode};
use crate::memory::CompleteRam;
use crate::observe::Unobserved;
use iced_x86::{
    Code, Encoder, EncodingKind, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpCodeOperandKind, OpKind, Register,
};

/// Tries to find operands that keep to the rules.
const TRIES: u32 = 24;
/// How far a memory operand may be from its pointer, either way.
pub(crate) const REACH: i64 = 256;

const GENERAL: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// What a program's instructions may use.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Registers that point into the window.
    pub(crate) pointers: [Register; 3],
    /// A register that no instruction writes, if a loop counts in one.
    pub(crate) counter: Option<Register>,
}

impl Rules {
    fn protects(&self, register: Register) -> bool {
        let full = register.full_register();
        full == Register::RSP || self.pointers.contains(&full) || self.counter == Some(full)
    }

    /// A general register that may be written.
    pub(crate) fn free(&self, chance: &mut Chance) -> Register {
        loop {
            let register = chance.pick(&GENERAL);
            if !self.protects(register) {
                return register;
            }
        }
    }
}

/// The instructions to choose from.
pub(crate) struct Table {
    codes: Vec<Code>,
    encoder: Encoder,
    information: InstructionInfoFactory,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("codes", &self.codes.len()).finish_non_exhaustive()
    }
}

impl Table {
    pub(crate) fn new() -> Self {
        let mut table =
            Self { codes: Vec::new(), encoder: Encoder::new(64), information: InstructionInfoFactory::new() };
        let mut chance = Chance::new(0, 0);
        let rules = Rules { pointers: [Register::RBX, Register::RBP, Register::R13], counter: None };
        let known = |code: &Code| is_plain(*code) && table.attempts(*code, &rules, &mut chance).is_some();
        let codes: Vec<Code> = Code::values().filter(known).collect();
        table.codes = codes;
        table
    }

    /// How many kinds of instruction there are.
    pub(crate) fn len(&self) -> usize {
        self.codes.len()
    }

    /// A random instruction's bytes.
    pub(crate) fn draw(&mut self, rules: &Rules, chance: &mut Chance) -> Vec<u8> {
        loop {
            let code = chance.pick(&self.codes);
            if let Some(bytes) = self.attempts(code, rules, chance) {
                return bytes;
            }
        }
    }

    fn attempts(&mut self, code: Code, rules: &Rules, chance: &mut Chance) -> Option<Vec<u8>> {
        (0..TRIES).find_map(|_| {
            let mut setup = Vec::new();
            let instruction = build(code, rules, chance, &mut setup)?;
            if !self.keeps(&instruction, rules) {
                return None;
            }
            let mut bytes = self.encode(&setup)?;
            let own = self.encode(&[instruction])?;
            let known = decode::<CompleteRam, Unobserved>(&own, 0);
            matches!(known, Decoded::Op(_, Follows::Next, _)).then(|| {
                bytes.extend(own);
                bytes
            })
        })
    }

    /// Whether it writes no protected register.
    fn keeps(&mut self, instruction: &Instruction, rules: &Rules) -> bool {
        let used = self.information.info(instruction);
        used.used_registers().iter().all(|used| {
            let reads = matches!(used.access(), OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
            reads || !rules.protects(used.register())
        })
    }

    /// The bytes of instructions that do not depend on where they are.
    pub(crate) fn encode(&mut self, instructions: &[Instruction]) -> Option<Vec<u8>> {
        let encoded = instructions.iter().all(|instruction| self.encoder.encode(instruction, 0).is_ok());
        // Of an instruction that has no encoding a part may be there; it must not come before the next one.
        let bytes = self.encoder.take_buffer();
        encoded.then_some(bytes)
    }
}

/// Whether a code can stand anywhere in a straight line. The rest is in units of its own.
fn is_plain(code: Code) -> bool {
    let legacy = code.encoding() == EncodingKind::Legacy && code.op_code().mode64();
    let special = matches!(
        code.mnemonic(),
        Mnemonic::Push
            | Mnemonic::Pop
            | Mnemonic::Pushfq
            | Mnemonic::Popfq
            | Mnemonic::Leave
            | Mnemonic::Div
            | Mnemonic::Idiv
            | Mnemonic::In
            | Mnemonic::Out
            | Mnemonic::Hlt
            | Mnemonic::Ud2
            | Mnemonic::Std
            | Mnemonic::Ldmxcsr
    );
    let strings = code.op_code().op_kinds().iter().any(|kind| {
        matches!(kind, OpCodeOperandKind::seg_rSI | OpCodeOperandKind::es_rDI | OpCodeOperandKind::seg_rDI)
    });
    legacy && !special && !strings && code.flow_control() == FlowControl::Next
}

/// The instruction with random operands; `setup` gets what must run before it.
fn build(
    code: Code,
    rules: &Rules,
    chance: &mut Chance,
    setup: &mut Vec<Instruction>,
) -> Option<Instruction> {
    let mut instruction = Instruction::default();
    instruction.set_code(code);
    let kinds = code.op_code().op_kinds();
    let locks = code.op_code().can_use_lock_prefix() && chance.one_in(3);
    // A locked access across two cache lines stops a program where the host forbids it.
    let aligned = locks || code.mnemonic() == Mnemonic::Xchg || needs_alignment(&instruction);
    let step = if aligned { 16 } else { 1 };
    for (operand, kind) in (0..).zip(kinds) {
        if let Some(register) = register(*kind, chance) {
            instruction.set_op_kind(operand, OpKind::Register);
            instruction.set_op_register(operand, register);
        } else if let Some(immediate) = immediate(*kind) {
            instruction.set_op_kind(operand, immediate);
            let value = if *kind == OpCodeOperandKind::imm8_const_1 { 1 } else { chance.value() };
            set_immediate(&mut instruction, operand, immediate, value);
        } else if is_memory(*kind) {
            instruction.set_op_kind(operand, OpKind::Memory);
            set_memory(&mut instruction, step, rules, chance, setup)?;
        } else {
            return None;
        }
    }
    let is_memory_first = !kinds.is_empty() && instruction.op0_kind() == OpKind::Memory;
    instruction.set_has_lock_prefix(locks && is_memory_first);
    bound_bit_number(&instruction, rules, chance, setup)?;
    Some(instruction)
}

/// A memory operand that takes a bit's number from a register reaches as far as that number says.
fn bound_bit_number(
    instruction: &Instruction,
    rules: &Rules,
    chance: &mut Chance,
    setup: &mut Vec<Instruction>,
) -> Option<()> {
    let is_bit =
        matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc);
    if is_bit && instruction.op0_kind() == OpKind::Memory && instruction.op1_kind() == OpKind::Register {
        let register = instruction.op1_register().full_register();
        let is_index = instruction.memory_index() == register;
        if rules.protects(register) || is_index {
            return None;
        }
        setup.push(move_signed(register, chance.below(4000).cast_signed() - 2000)?);
    }
    Some(())
}

/// A move of a signed 32-bit number to all of a register.
pub(crate) fn move_signed(register: Register, value: i64) -> Option<Instruction> {
    Instruction::with2(Code::Mov_rm64_imm32, register, i32::try_from(value).ok()?).ok()
}

fn register(kind: OpCodeOperandKind, chance: &mut Chance) -> Option<Register> {
    use OpCodeOperandKind as Kind;
    let either = chance.one_in(2);
    let number = u32::try_from(chance.below(16)).unwrap_or(0);
    let of = |first: Register| Some(first + number);
    match kind {
        Kind::r8_reg | Kind::r8_opcode => Some(byte(chance)),
        Kind::r8_or_mem if either => Some(byte(chance)),
        Kind::r16_reg | Kind::r16_rm | Kind::r16_opcode => of(Register::AX),
        Kind::r32_reg | Kind::r32_rm | Kind::r32_opcode => of(Register::EAX),
        Kind::r64_reg | Kind::r64_rm | Kind::r64_opcode => of(Register::RAX),
        Kind::r16_or_mem if either => of(Register::AX),
        Kind::r32_or_mem if either => of(Register::EAX),
        Kind::r64_or_mem if either => of(Register::RAX),
        Kind::xmm_reg | Kind::xmm_rm => of(Register::XMM0),
        Kind::xmm_or_mem if either => of(Register::XMM0),
        Kind::al => Some(Register::AL),
        Kind::cl => Some(Register::CL),
        Kind::ax => Some(Register::AX),
        Kind::eax => Some(Register::EAX),
        Kind::rax => Some(Register::RAX),
        _ => None,
    }
}

/// AL to R15B, AH to BH among them.
fn byte(chance: &mut Chance) -> Register {
    Register::AL + u32::try_from(chance.below(20)).unwrap_or(0)
}

const fn is_memory(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind as Kind;
    matches!(
        kind,
        Kind::mem
            | Kind::r8_or_mem
            | Kind::r16_or_mem
            | Kind::r32_or_mem
            | Kind::r64_or_mem
            | Kind::xmm_or_mem
    )
}

const fn immediate(kind: OpCodeOperandKind) -> Option<OpKind> {
    use OpCodeOperandKind as Kind;
    Some(match kind {
        Kind::imm8 | Kind::imm8_const_1 => OpKind::Immediate8,
        Kind::imm8sex16 => OpKind::Immediate8to16,
        Kind::imm8sex32 => OpKind::Immediate8to32,
        Kind::imm8sex64 => OpKind::Immediate8to64,
        Kind::imm16 => OpKind::Immediate16,
        Kind::imm32 => OpKind::Immediate32,
        Kind::imm32sex64 => OpKind::Immediate32to64,
        Kind::imm64 => OpKind::Immediate64,
        _ => return None,
    })
}

fn set_immediate(instruction: &mut Instruction, operand: u32, kind: OpKind, value: u64) {
    let value = match kind {
        OpKind::Immediate8 => value & 0xff,
        OpKind::Immediate16 => value & 0xffff,
        OpKind::Immediate32 => value & 0xffff_ffff,
        OpKind::Immediate8to16 | OpKind::Immediate8to32 | OpKind::Immediate8to64 => {
            i64::from(value.to_le_bytes()[0].cast_signed()).cast_unsigned()
        }
        OpKind::Immediate32to64 => crate::alu::signed::<4>(value),
        _ => value,
    };
    instruction.set_immediate_u64(operand, value);
}

/// A memory operand by a pointer, sometimes with an index, which `setup` then bounds; a multiple of `step`.
fn set_memory(
    instruction: &mut Instruction,
    step: i64,
    rules: &Rules,
    chance: &mut Chance,
    setup: &mut Vec<Instruction>,
) -> Option<()> {
    let mut distance = chance.below(2 * REACH.cast_unsigned()).cast_signed() - REACH;
    instruction.set_memory_base(chance.pick(&rules.pointers));
    if chance.one_in(3) {
        let index = rules.free(chance);
        let scale = 1 << chance.below(4);
        // At most 256 bytes, or 512 where operands are aligned.
        let most = if step == 1 { 32 } else { 4 };
        let count = chance.below(2 * most).cast_signed() - most.cast_signed();
        setup.push(move_signed(index, count * step)?);
        instruction.set_memory_index(index);
        instruction.set_memory_index_scale(scale);
    } else {
        instruction.set_memory_index_scale(1);
    }
    distance -= distance.rem_euclid(step);
    instruction.set_memory_displacement64(distance.cast_unsigned());
    instruction.set_memory_displ_size(8);
    Some(())
}

/// 16-byte operands fault where they are not aligned, but for the moves that say so.
fn needs_alignment(instruction: &Instruction) -> bool {
    let unaligned = matches!(instruction.mnemonic(), Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu);
    !unaligned && instruction.memory_size().size() >= 16
}
