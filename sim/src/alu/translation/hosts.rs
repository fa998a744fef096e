//! Which of the host's registers hold which of the guest's, and how they are loaded and stored.

use super::assembler::{Assembler, NotEncodable};
use super::executable::field;
use iced_x86::{Code, IcedError, Instruction, MemoryOperand, Register};

/// Numbers of the host's registers that hold registers of the guest. RAX, RSI, RBP and RSP have other work.
const HOSTS: [u8; 12] = [1, 2, 7, 8, 9, 10, 11, 3, 12, 13, 14, 15];
/// RBX and R12 to R15: who calls wants them back.
const CALLEE_SAVED: [u8; 5] = [3, 12, 13, 14, 15];

/// The host's register for each of the guest's that is used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hosts([Option<u8>; 16]);

impl Hosts {
    /// Whether there are enough for the registers of these bits.
    pub(super) const fn suffice(registers: u16) -> bool {
        registers.count_ones() as usize <= HOSTS.len()
    }

    /// Each register of the guest has its namesake where that is free: RCX counts shifts, and nothing else can.
    pub(super) fn allot(registers: u16) -> Option<Self> {
        let is_used = |guest: &u8| registers >> guest & 1 != 0;
        let mut hosts = [None; 16];
        for guest in HOSTS.into_iter().filter(is_used) {
            hosts[usize::from(guest)] = Some(guest);
        }
        let mut free = HOSTS.into_iter().filter(|host| !is_used(host));
        for guest in (0..16).filter(|guest| is_used(guest) && !HOSTS.contains(guest)) {
            hosts[usize::from(guest)] = Some(free.next()?);
        }
        Some(Self(hosts))
    }

    /// The host's register for one of the guest's, of the same width.
    pub(super) fn of(&self, register: Register) -> Result<Register, NotEncodable> {
        if register == Register::None {
            return Ok(register);
        }
        let number = self.0[register.full_register().number() & 15].ok_or(NotEncodable)?;
        let number = u32::from(number);
        Ok(match register.size() {
            8 => Register::RAX + number,
            4 => Register::EAX + number,
            2 => Register::AX + number,
            // Numbers 4 to 7 are AH to BH in the decoder's order; SPL to DIL are behind them.
            _ if number < 4 => Register::AL + number,
            _ => Register::SPL + (number - 4),
        })
    }

    /// A function's begin: saves what the caller wants back, takes the frame, and loads the registers.
    pub(super) fn load(&self, assembler: &mut Assembler) -> Result<(), NotEncodable> {
        // PUSH RBP.
        assembler.bytes(&[0x55]);
        for host in self.callee_saved() {
            stack(assembler, 0x50, host);
        }
        // MOV RBP, RDI; MOV RAX, [RBP+REGISTERS].
        assembler.bytes(&[0x48, 0x89, 0xfd, 0x48, 0x8b, 0x45, field::REGISTERS]);
        for (host, place) in self.places(Register::RAX) {
            assembler.instruction(&made(Instruction::with2(Code::Mov_r64_rm64, host, place))?)?;
        }
        Ok(())
    }

    /// A function's end: stores the registers and returns what is in EAX.
    pub(super) fn store(&self, assembler: &mut Assembler) -> Result<(), NotEncodable> {
        // MOV RSI, [RBP+REGISTERS].
        assembler.bytes(&[0x48, 0x8b, 0x75, field::REGISTERS]);
        for (host, place) in self.places(Register::RSI) {
            assembler.instruction(&made(Instruction::with2(Code::Mov_rm64_r64, place, host))?)?;
        }
        for host in self.callee_saved().rev() {
            stack(assembler, 0x58, host);
        }
        // POP RBP; RET.
        assembler.bytes(&[0x5d, 0xc3]);
        Ok(())
    }

    /// The registers in use, each with its place in the guest's state, which `base` has the address of.
    fn places(&self, base: Register) -> impl Iterator<Item = (Register, MemoryOperand)> {
        let used = (0..).zip(self.0).filter_map(|(guest, host)| Some((guest, host?)));
        used.map(move |(guest, host): (i64, u8)| {
            (Register::RAX + u32::from(host), MemoryOperand::with_base_displ(base, 8 * guest))
        })
    }

    fn callee_saved(self) -> impl DoubleEndedIterator<Item = u8> {
        CALLEE_SAVED.into_iter().filter(move |&saved| self.0.contains(&Some(saved)))
    }
}

/// PUSH and POP, whose opcodes have the register in them.
fn stack(assembler: &mut Assembler, opcode: u8, host: u8) {
    if host >= 8 {
        assembler.bytes(&[0x41]);
    }
    assembler.bytes(&[opcode | host & 7]);
}

/// An instruction that is made here, if its operands fit it.
pub(super) fn made(instruction: Result<Instruction, IcedError>) -> Result<Instruction, NotEncodable> {
    instruction.map_err(|_| NotEncodable)
}
