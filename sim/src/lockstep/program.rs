//! Random programs: single instructions, and units of several that jump, loop, divide, repeat or use the stack.

use super::chance::Chance;
use super::table::{Rules, Table, move_signed};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};
use pageswarm_machine::abi;

/// Where the program is.
pub(crate) const CODE: u64 = abi::IMAGE_BASE;
/// The window that memory operands are in, and the stack at its end.
pub(crate) const WINDOW: u64 = 0x40_0000;
/// Pages of the window.
pub(crate) const WINDOW_PAGES: u64 = 6;
/// Pages at the window's end for the stack.
const STACK_PAGES: u64 = 1;
/// Bytes that a pointer keeps from the window's ends.
const MARGIN: u64 = 1536;
const UNITS: u64 = 96;
/// OUT 0x10, AL ends a program.
pub(crate) const END: [u8; 2] = [0xe6, 0x10];

/// A program in parts that can be left off from the end.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) rules: Rules,
    pub(crate) units: Vec<Vec<u8>>,
    /// How often it runs: the second time around, the pages that it uses are known.
    rounds: usize,
}

impl Program {
    /// The first `units` units, as often as the program has rounds, and the end.
    pub(crate) fn code(&self, units: usize) -> Vec<u8> {
        let mut code: Vec<u8> = self.units[..units].concat().repeat(self.rounds);
        code.extend(END);
        code
    }

    /// Code of the caller's, an instruction a unit; a byte that begins none is a unit of its own.
    pub(crate) fn given(code: &[u8]) -> Self {
        let rules = Rules { pointers: [Register::RBX, Register::RSI, Register::RDI], counter: None };
        let mut decoder = Decoder::with_ip(64, code, CODE, DecoderOptions::NONE);
        let (mut units, mut start) = (Vec::new(), 0);
        while start < code.len() {
            let length = match decoder.decode() {
                instruction if instruction.is_invalid() => 1,
                instruction => instruction.len(),
            };
            units.push(code[start..start + length].to_vec());
            start += length;
            if decoder.set_position(start).is_err() {
                break;
            }
        }
        Self { rules, units, rounds: 1 }
    }

    pub(crate) fn random(table: &mut Table, chance: &mut Chance) -> Self {
        const POINTERS: [Register; 9] = [
            Register::RBX,
            Register::RBP,
            Register::RSI,
            Register::RDI,
            Register::R8,
            Register::R9,
            Register::R12,
            Register::R13,
            Register::R15,
        ];
        let pointers = loop {
            let [a, b, c] = [(); 3].map(|()| chance.pick(&POINTERS));
            if a != b && b != c && a != c {
                break [a, b, c];
            }
        };
        let mut program = Self { rules: Rules { pointers, counter: None }, units: Vec::new(), rounds: 2 };
        while (program.units.len() as u64) < UNITS {
            let unit = program.unit(table, chance);
            program.units.extend(unit);
        }
        program
    }

    /// An address for a pointer: often close to a page's end.
    pub(crate) fn pointer(chance: &mut Chance) -> u64 {
        let pages = WINDOW_PAGES - STACK_PAGES;
        let page = WINDOW + chance.below(pages - 1) * abi::PAGE;
        let inside =
            if chance.one_in(2) { abi::PAGE - 128 + chance.below(256) } else { chance.below(abi::PAGE) };
        (page + inside).clamp(WINDOW + MARGIN, WINDOW + pages * abi::PAGE - MARGIN) & !15
    }

    pub(crate) fn stack_top() -> u64 {
        WINDOW + WINDOW_PAGES * abi::PAGE - 256
    }

    fn unit(&mut self, table: &mut Table, chance: &mut Chance) -> Option<Vec<u8>> {
        match chance.below(24) {
            0 => self.branch(table, chance),
            1 => self.repeat(table, chance),
            2 | 3 => self.divide(table, chance),
            4 => self.string(table, chance),
            5 => self.stack(table, chance),
            6 => self.call(table, chance),
            7 => self.flags(table, chance),
            8 => self.control(table, chance),
            _ => Some(table.draw(&self.rules, chance)),
        }
    }

    /// A condition, JRCXZ or a plain jump over one instruction.
    fn branch(&self, table: &mut Table, chance: &mut Chance) -> Option<Vec<u8>> {
        let over = table.draw(&self.rules, chance);
        let distance = u8::try_from(over.len()).ok()?;
        let condition = chance.below(16).to_le_bytes()[0];
        let mut unit = match chance.below(6) {
            0 => vec![0xe3, distance],
            1 => vec![0xeb, distance],
            2 => vec![0x0f, 0x80 | condition, distance, 0, 0, 0],
            _ => vec![0x70 | condition, distance],
        };
        unit.extend(over);
        Some(unit)
    }

    /// A loop of a few rounds, by LOOP or by DEC and JNZ.
    fn repeat(&mut self, table: &mut Table, chance: &mut Chance) -> Option<Vec<u8>> {
        self.rules.counter = Some(Register::RCX);
        if self.rules.pointers.contains(&Register::RCX) {
            return None;
        }
        let mut unit = table.encode(&[move_signed(Register::RCX, 1 + chance.below(6).cast_signed())?])?;
        let body = [(); 2].map(|()| table.draw(&self.rules, chance)).concat();
        self.rules.counter = None;
        unit.extend(&body);
        let back = |bytes: usize| Some(i8::try_from(bytes).ok()?.checked_neg()?.cast_unsigned());
        match chance.below(3) {
            // LOOPNE may end the loop early, LOOPE too.
            0 => unit.extend([0xe0 + chance.below(3).to_le_bytes()[0], back(body.len() + 2)?]),
            1 => unit.extend([0xe2, back(body.len() + 2)?]),
            _ => unit.extend([0xff, 0xc9, 0x75, back(body.len() + 4)?]),
        }
        Some(unit)
    }

    /// A division whose quotient fits: by a register or by memory, of any width.
    fn divide(&self, table: &mut Table, chance: &mut Chance) -> Option<Vec<u8>> {
        if self.rules.pointers.contains(&Register::RDX) {
            return None;
        }
        let divisor = loop {
            let register = self.rules.free(chance);
            if register != Register::RAX && register != Register::RDX {
                break register;
            }
        };
        let number = u32::try_from(divisor.number()).ok()?;
        let (signed, width) = (chance.one_in(2), chance.below(4));
        // Every width's low part is positive, and larger than what RDX holds.
        let value = chance.bits() & 0x5f5f_5f5f_5f5f_5f5f | 0x2020_2020_2020_2020;
        let dividend = if width == 0 { chance.below(2000) } else { chance.bits() };
        let upper = if signed && width > 0 {
            chance.below(4).cast_signed() - 2
        } else {
            chance.below(4).cast_signed()
        };
        let code = match (signed, width) {
            (false, 0) => Code::Div_rm8,
            (false, 1) => Code::Div_rm16,
            (false, 2) => Code::Div_rm32,
            (false, _) => Code::Div_rm64,
            (true, 0) => Code::Idiv_rm8,
            (true, 1) => Code::Idiv_rm16,
            (true, 2) => Code::Idiv_rm32,
            (true, _) => Code::Idiv_rm64,
        };
        let operand = match width {
            0 if number < 4 => Register::AL + number,
            // SPL to R15B come after AH to BH.
            0 => Register::SPL + (number - 4),
            1 => Register::AX + number,
            2 => Register::EAX + number,
            _ => divisor,
        };
        table.encode(&[
            Instruction::with2(Code::Mov_r64_imm64, divisor, value).ok()?,
            Instruction::with2(Code::Mov_r64_imm64, Register::RAX, dividend).ok()?,
            move_signed(Register::RDX, upper)?,
            Instruction::with1(code, operand).ok()?,
        ])
    }

    /// A string instruction, repeated or not, up or down.
    fn string(&self, table: &mut Table, chance: &mut Chance) -> Option<Vec<u8>> {
        const OPCODES: [u8; 10] = [0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf];
        let uses = [Register::RSI, Register::RDI, Register::RCX, Register::RAX];
        if uses.iter().any(|register| self.rules.pointers.contains(register)) {
            return None;
        }
        let place = |chance: &mut Chance| Self::pointer(chance).wrapping_add(chance.below(8));
        let mut unit = table.encode(&[
            Instruction::with2(Code::Mov_r64_imm64, Register::RSI, place(chance)).ok()?,
            Instruction::with2(Code::Mov_r64_imm64, Register::RDI, place(chance)).ok()?,
            move_signed(Register::RCX, chance.below(40).cast_signed())?,
        ])?;
        // STD or CLD.
        unit.push(0xfc + chance.below(2).to_le_bytes()[0]);
        let operand_size: &[u8] = chance.pick(&[&[], &[0x66]]);
        unit.extend(operand_size);
        let repetition: &[u8] = chance.pick(&[&[], &[0xf3], &[0xf2]]);
        unit.extend(repetition);
        let wide: &[u8] = if operand_size.is_empty() { chance.pick(&[&[], &[0x48]]) } else { &[] };
        unit.extend(wide);
        unit.push(chance.pick(&OPCODES));
        unit.push(0xfc);
        Some(unit)
    }

    /// A push and a pop.
    fn stack(&self, table: &mut Table, chance: &mut Chance) -> Option<Vec<u8>> {
        let pointer = chance.pick(&self.rules.pointers);
        let memory = iced_x86::MemoryOperand::with_base_displ(pointer, chance.below(256).cast_signed());
        let pushed = match chance.below(4) {
            0 => Instruction::with1(Code::Push_rm64, memory).ok()?,
            1 => Instruction::with1(Code::Pushq_imm32, i32::try_from(chance.below(1 << 31)).ok()?).ok()?,
            2 => Instruction::with1(Code::Pushq_imm8, -5).ok()?,
            _ => Instruction::with1(Code::Push_r64, self.rules.free(chance)).ok()?,
        };
        let popped = if chance.one_in(3) {
            Instruction::with1(Code::Pop_rm64, memory).ok()?
        } else {
            Instruction::with1(Code::Pop_r64, self.rules.free(chance)).ok()?
        };
        table.encode(&[pushed, popped])
    }

    /// A call to what follows, whose return leads behind it; or a frame that is left again.
    fn call(&self, table: &mut Table, chance: &mut Chance) -> Option<Vec<u8>> {
        let inside = table.draw(&self.rules, chance);
        let distance = u8::try_from(inside.len() + 1).ok()?;
        if chance.one_in(3) {
            let free = self.rules.free(chance);
            if self.rules.pointers.contains(&Register::RBP) || free == Register::RBP {
                return None;
            }
            // MOV RBP, RSP; PUSH free; LEAVE takes the free register's value as RBP, 8 bytes up again by LEA.
            let mut unit = vec![0x48, 0x8d, 0x6c, 0x24, 0xf8];
            unit.extend(table.encode(&[Instruction::with1(Code::Push_r64, free).ok()?])?);
            unit.extend([0xc9]);
            return Some(unit);
        }
        // CALL over the jump; JMP over the callee; the callee; RET.
        let mut unit = vec![0xe8, 2, 0, 0, 0, 0xeb, distance];
        unit.extend(inside);
        unit.push(0xc3);
        Some(unit)
    }

    /// Arithmetic flags and the direction from the stack.
    fn flags(&self, table: &mut Table, chance: &mut Chance) -> Option<Vec<u8>> {
        let value = i32::try_from(chance.bits() & 0x8d5 | 2).ok()?;
        let mut unit = table.encode(&[Instruction::with1(Code::Pushq_imm32, value).ok()?])?;
        unit.push(0x9d);
        Some(unit)
    }

    /// MXCSR from memory, exceptions masked.
    fn control(&self, table: &mut Table, chance: &mut Chance) -> Option<Vec<u8>> {
        let memory = iced_x86::MemoryOperand::with_base_displ(chance.pick(&self.rules.pointers), 64);
        let value = u32::try_from(chance.bits() & 0xe03f | 0x1f80).ok()?;
        table.encode(&[
            Instruction::with2(Code::Mov_rm32_imm32, memory, value).ok()?,
            Instruction::with1(Code::Ldmxcsr_m32, memory).ok()?,
        ])
    }
}
