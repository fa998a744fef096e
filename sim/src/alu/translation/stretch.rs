//! The translation of one stretch of instructions.

use super::Accesses;
use super::assembler::{ALWAYS, Assembler, Label, NotEncodable};
use super::hosts::{Hosts, made};
use super::part::{Access, Ends, Part, Seen, with_named_register};
use iced_x86::{Code, Instruction, MemoryOperand, OpKind, Register};

/// Code that can be kept and run.
#[derive(Debug)]
pub(crate) struct Assembled {
    bytes: Vec<u8>,
    exits: Vec<Leaving>,
    round: Option<Done>,
}

/// What a run of some instructions of a stretch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) instructions: u32,
    pub(crate) reads: u32,
    pub(crate) writes: u32,
}

/// How an exit leaves a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaving {
    /// What was done since the stretch's begin, whole rounds left out.
    pub(crate) done: Done,
    pub(crate) ahead: Ahead,
}

/// Where execution goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// At an instruction of the stretch, with what the TLB does not know.
    Inside,
    /// At this address.
    At(u64),
}

impl Assembled {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The exits by their numbers, and what one round does if the stretch goes round.
    pub(crate) fn into_exits(self) -> (Vec<Leaving>, Option<Done>) {
        (self.exits, self.round)
    }
}

/// How many of `instructions`, from the first one on, are one stretch.
pub(crate) fn translatable(instructions: &[Instruction], accesses: Accesses) -> usize {
    let mut registers = 0;
    let mut count = 0;
    for instruction in instructions {
        let Some(part) = Part::of(instruction, accesses) else {
            break;
        };
        registers |= part.registers;
        if !Hosts::suffice(registers) {
            break;
        }
        count += 1;
    }
    count
}

/// Translates `instructions`, all of which are translatable. If it ends in a jump to its own begin, it goes round
/// when `may_loop` is that address.
pub(crate) fn translate(
    instructions: &[Instruction],
    accesses: Accesses,
    may_loop: Option<u64>,
) -> Option<Assembled> {
    let parts: Option<Vec<Part>> =
        instructions.iter().map(|instruction| Part::of(instruction, accesses)).collect();
    let translation = Translation::new(parts?, may_loop)?;
    translation.run().ok()
}

struct Translation {
    parts: Vec<Part>,
    /// Whether the flags behind each part are seen.
    seen: Vec<Seen>,
    hosts: Hosts,
    may_loop: Option<u64>,
    assembler: Assembler,
    exits: Vec<(Label, Leaving)>,
    done: Done,
    /// The frame has the guest's flags.
    saved: bool,
    /// The host's flags are the guest's.
    live: bool,
}

impl Translation {
    fn new(parts: Vec<Part>, may_loop: Option<u64>) -> Option<Self> {
        let registers = parts.iter().fold(0, |all, part| all | part.registers);
        let mut seen = vec![Seen::Yes; parts.len()];
        for behind in (1..parts.len()).rev() {
            seen[behind - 1] = parts[behind].sees_flags(seen[behind]);
        }
        let assembler = Assembler::new();
        let (exits, done) = (Vec::new(), Done::default());
        let hosts = Hosts::allot(registers)?;
        Some(Self { parts, seen, hosts, may_loop, assembler, exits, done, saved: true, live: false })
    }

    fn run(mut self) -> Result<Assembled, NotEncodable> {
        self.hosts.load(&mut self.assembler)?;
        let head = self.assembler.label();
        self.assembler.place(head);
        for index in 0..self.parts.len() {
            self.part(index)?;
        }
        let round = self.end(head);
        self.finish(round)
    }

    fn part(&mut self, index: usize) -> Result<(), NotEncodable> {
        let (part, seen) = (self.parts[index], self.seen[index]);
        if part.ends.is_some() {
            self.done.instructions += 1;
            return Ok(());
        }
        if let Some(access) = part.access {
            self.reach(&part.instruction, access)?;
        }
        if part.needs_flags(seen) {
            self.enliven();
        }
        self.same_instruction(&part.instruction)?;
        if part.flags.modifies {
            self.saved = false;
            self.live = seen == Seen::Yes;
        }
        self.done.instructions += 1;
        if let Some(access) = part.access {
            self.done.reads += u32::from(access.reads);
            self.done.writes += u32::from(access.writes);
        }
        Ok(())
    }

    /// The host's address of the operand in RSI, or leaves before the instruction.
    fn reach(&mut self, instruction: &Instruction, access: Access) -> Result<(), NotEncodable> {
        self.save();
        let address = match self.operand(instruction)? {
            Some(operand) => Instruction::with2(Code::Lea_r64_m, Register::RSI, operand),
            None => {
                Instruction::with2(Code::Mov_r64_imm64, Register::RSI, instruction.memory_displacement64())
            }
        };
        self.assembler.instruction(&made(address)?)?;
        let miss = self.exit(Ahead::Inside);
        self.assembler.look_up(access.table(), access.size, miss);
        self.live = false;
        Ok(())
    }

    /// The address that an operand in memory is made of; `None` where it is a constant.
    fn operand(&self, instruction: &Instruction) -> Result<Option<MemoryOperand>, NotEncodable> {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        if base == Register::RIP || base == Register::None && index == Register::None {
            return Ok(None);
        }
        let displacement = instruction.memory_displacement64().cast_signed();
        // Without a base, a displacement has all its bytes.
        let size = if base == Register::None { 8 } else { 1 };
        let (base, index) = (self.hosts.of(base)?, self.hosts.of(index)?);
        let scale = instruction.memory_index_scale();
        Ok(Some(MemoryOperand::new(base, index, scale, displacement, size, false, Register::None)))
    }

    /// The guest's instruction with the host's registers; its place in memory is where RSI points.
    fn same_instruction(&mut self, instruction: &Instruction) -> Result<(), NotEncodable> {
        use iced_x86::Mnemonic::{Lea, Nop};
        let mut same = *instruction;
        same.set_code(with_named_register(instruction.code()));
        for operand in 0..instruction.op_count() {
            if instruction.op_kind(operand) == OpKind::Register {
                same.set_op_register(operand, self.hosts.of(instruction.op_register(operand))?);
            }
        }
        let has_memory =
            (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory);
        match instruction.mnemonic() {
            Nop => return Ok(()),
            Lea => return self.address(instruction, same),
            _ if has_memory => point(&mut same, MemoryOperand::with_base(Register::RSI)),
            _ => {}
        }
        self.assembler.instruction(&same)
    }

    /// LEA, or a move of the address if it is a constant.
    fn address(&mut self, instruction: &Instruction, mut same: Instruction) -> Result<(), NotEncodable> {
        if let Some(operand) = self.operand(instruction)? {
            point(&mut same, operand);
            return self.assembler.instruction(&same);
        }
        let (register, address) = (same.op0_register(), instruction.memory_displacement64());
        let [a, b, c, d, ..] = address.to_le_bytes();
        let moved = match register.size() {
            8 => Instruction::with2(Code::Mov_r64_imm64, register, address),
            4 => Instruction::with2(Code::Mov_r32_imm32, register, u32::from_le_bytes([a, b, c, d])),
            _ => Instruction::with2(Code::Mov_r16_imm16, register, u32::from_le_bytes([a, b, 0, 0])),
        };
        self.assembler.instruction(&made(moved)?)
    }

    /// Sees to it that the frame has the guest's flags.
    fn save(&mut self) {
        if !self.saved {
            assert!(self.live, "flags that are seen were made as they are seen");
            self.assembler.save_flags();
            self.saved = true;
        }
    }

    /// Sees to it that the host's flags are the guest's.
    fn enliven(&mut self) {
        if !self.live {
            assert!(self.saved, "flags that are needed were kept");
            self.assembler.restore_flags();
            self.live = true;
        }
    }

    fn exit(&mut self, ahead: Ahead) -> Label {
        let label = self.assembler.label();
        self.exits.push((label, Leaving { done: self.done, ahead }));
        label
    }

    /// The jump, if there is one; returns what a round does.
    fn end(&mut self, head: Label) -> Option<Done> {
        self.save();
        let last = *self.parts.last()?;
        let behind = self.exit(Ahead::At(last.instruction.next_ip()));
        let Some(ends) = last.ends else {
            self.assembler.jump(ALWAYS, behind);
            return None;
        };
        let target = last.instruction.near_branch64();
        let goes_round = self.may_loop == Some(target);
        if let Ends::Branch(condition) = ends {
            self.enliven();
            // The condition's opposite.
            self.assembler.jump(&[0x0f, 0x80 | (condition ^ 1)], behind);
        }
        let round = self.done;
        if goes_round {
            self.assembler.go_round(round.instructions, head);
            self.done = Done::default();
        }
        let ahead = self.exit(Ahead::At(target));
        self.assembler.jump(ALWAYS, ahead);
        goes_round.then_some(round)
    }

    /// All exits, and the common end: stores the registers and gives back what the caller wants.
    fn finish(mut self, round: Option<Done>) -> Result<Assembled, NotEncodable> {
        let end = self.assembler.label();
        let exits = std::mem::take(&mut self.exits);
        for (number, (label, _)) in (0..).zip(&exits) {
            self.assembler.place(*label);
            self.assembler.leave(number, end);
        }
        self.assembler.place(end);
        self.hosts.store(&mut self.assembler)?;
        let exits = exits.into_iter().map(|(_, leaving)| leaving).collect();
        Ok(Assembled { bytes: self.assembler.finish(), exits, round })
    }
}

/// Makes `operand` the instruction's place in memory.
fn point(instruction: &mut Instruction, operand: MemoryOperand) {
    instruction.set_segment_prefix(Register::None);
    instruction.set_memory_base(operand.base);
    instruction.set_memory_index(operand.index);
    instruction.set_memory_index_scale(operand.scale);
    instruction.set_memory_displacement64(operand.displacement.cast_unsigned());
    instruction.set_memory_displ_size(operand.displ_size);
}
