//! Ports, exceptions raised on purpose, and instructions that do nothing.

use crate::cpu::{Cpu, Leave, PortAccess};
use crate::exception::Exception;
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{InMemory, Op, Place, Run, Source};
use crate::paging::{Intent, Rights};
use crate::refusal::Reason;
use iced_x86::{Instruction, Mnemonic, OpKind};

const DATA: u8 = 2;
/// Where the task state segment says where its bitmap of ports begins.
const BITMAP_PLACE: u64 = 102;
/// Bits of MXCSR that exist.
const MXCSR_MASK: u64 = 0xffff;

fn nothing<M: Memory, O: Observer>(_: &mut Cpu<M, O>, _: &Op<M, O>) -> Result<(), Leave> {
    Ok(())
}

/// IN and OUT. The outside answers, then the instruction is complete.
fn port<M: Memory, O: Observer, const B: usize, const INPUT: bool, const BY_REGISTER: bool>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let number = if BY_REGISTER { cpu.register::<2>(DATA) } else { op.immediate & 0xff };
    let port = u16::try_from(number).unwrap_or(u16::MAX);
    cpu.check_port(port, B)?;
    cpu.port = Some(PortAccess { port, size: B.to_le_bytes()[0], length: op.length, is_input: INPUT });
    Err(Leave::Port)
}

impl<M: Memory, O: Observer> Cpu<M, O> {
    /// Faults unless IOPL or the bitmap of the task state segment allows `bytes` ports from `port` on.
    fn check_port(&mut self, port: u16, bytes: usize) -> Result<(), Leave> {
        if self.ring() <= self.io_privilege() {
            return Ok(());
        }
        let bitmap = self.task_half(BITMAP_PLACE)?;
        let half = self.task_half(u64::from(bitmap) + u64::from(port) / 8)?;
        let bits = (1_u16 << bytes) - 1;
        if half >> (port % 8) & bits == 0 {
            Ok(())
        } else {
            Err(self.raise(Exception::general_protection(0)))
        }
    }

    /// Two bytes of the task state segment. Like a walk through page tables, this is no access of the program's.
    fn task_half(&mut self, offset: u64) -> Result<u16, Leave> {
        if offset + 1 > u64::from(self.task.limit) {
            return Err(self.raise(Exception::general_protection(0)));
        }
        let mut bytes = [0; 2];
        for (place, byte) in (offset..).zip(&mut bytes) {
            let address = self.task.base.wrapping_add(place);
            let physical = self.translate(address, Intent::Read, Rights::System)?;
            [*byte] = self.memory.read(physical);
        }
        Ok(u16::from_le_bytes(bytes))
    }
}

fn breakpoint<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, _: &Op<M, O>) -> Result<(), Leave> {
    Err(cpu.raise(Exception::breakpoint()))
}

fn interrupt<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let vector = op.immediate.to_le_bytes()[0];
    Err(cpu.raise(Exception::program(vector)))
}

fn undefined<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, _: &Op<M, O>) -> Result<(), Leave> {
    Err(cpu.raise(Exception::invalid_opcode()))
}

/// HLT: at ring 3 it faults; where it would wait for an interrupt, nothing is known of one.
fn halt<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, _: &Op<M, O>) -> Result<(), Leave> {
    if cpu.ring() == 0 {
        return Err(cpu.refuse(Reason::Unknown));
    }
    Err(cpu.raise(Exception::general_protection(0)))
}

fn return_from_event<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    cpu.return_from_event(op)?;
    Err(Leave::Jumped)
}

fn store_control<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let value = u64::from(cpu.mxcsr);
    InMemory::store::<4, M, O>(cpu, op, value)
}

fn load_control<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
    let value = InMemory::load::<4, M, O>(cpu, op)?;
    if value & !MXCSR_MASK != 0 {
        // Which further bits exist differs between processors.
        return Err(cpu.refuse(Reason::Unknown));
    }
    cpu.mxcsr = u32::try_from(value).unwrap_or(0);
    Ok(())
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(instruction: &Instruction) -> Option<Run<M, O>> {
    match instruction.mnemonic() {
        Mnemonic::Nop
        | Mnemonic::Endbr64
        | Mnemonic::Pause
        | Mnemonic::Lfence
        | Mnemonic::Mfence
        | Mnemonic::Sfence
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchnta => Some(nothing::<M, O>),
        Mnemonic::In | Mnemonic::Out => select_port(instruction),
        Mnemonic::Int3 => Some(breakpoint::<M, O>),
        Mnemonic::Int => Some(interrupt::<M, O>),
        Mnemonic::Iretq => Some(return_from_event::<M, O>),
        Mnemonic::Ud2 => Some(undefined::<M, O>),
        Mnemonic::Hlt => Some(halt::<M, O>),
        Mnemonic::Stmxcsr => Some(store_control::<M, O>),
        Mnemonic::Ldmxcsr => Some(load_control::<M, O>),
        _ => None,
    }
}

fn select_port<M: Memory, O: Observer>(instruction: &Instruction) -> Option<Run<M, O>> {
    let input = instruction.mnemonic() == Mnemonic::In;
    let (data, port) = if input { (0, 1) } else { (1, 0) };
    let by_register = instruction.op_kind(port) == OpKind::Register;
    Some(match (instruction.op_register(data).size(), input, by_register) {
        (1, true, false) => self::port::<M, O, 1, true, false>,
        (2, true, false) => self::port::<M, O, 2, true, false>,
        (4, true, false) => self::port::<M, O, 4, true, false>,
        (1, true, true) => self::port::<M, O, 1, true, true>,
        (2, true, true) => self::port::<M, O, 2, true, true>,
        (4, true, true) => self::port::<M, O, 4, true, true>,
        (1, false, false) => self::port::<M, O, 1, false, false>,
        (2, false, false) => self::port::<M, O, 2, false, false>,
        (4, false, false) => self::port::<M, O, 4, false, false>,
        (1, false, true) => self::port::<M, O, 1, false, true>,
        (2, false, true) => self::port::<M, O, 2, false, true>,
        (4, false, true) => self::port::<M, O, 4, false, true>,
        _ => return None,
    })
}
