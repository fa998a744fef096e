//! String instructions and their repetition.

use crate::alu;
use crate::cpu::{Cpu, Leave};
use crate::limits::REPEATS_AT_ONCE;
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{Op, Run};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

const ACCUMULATOR: u8 = 0;
const COUNTER: u8 = 1;
const SOURCE: u8 = 6;
const DESTINATION: u8 = 7;

/// No prefix.
const ONCE: u8 = 0;
/// REP, or REPE for instructions that compare.
const WHILE_EQUAL: u8 = 1;
/// REPNE.
const WHILE_DIFFERENT: u8 = 2;
/// JZ's number.
const ZERO: u8 = 4;

/// One iteration.
trait Step {
    /// Whether REPE and REPNE look at ZF.
    const COMPARES: bool;

    fn step<M: Memory, O: Observer, const B: usize>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave>;
}

struct Move;
struct Store;
struct Load;
struct Scan;
struct Compare;

#[inline(always)]
fn source<M: Memory, O: Observer, const B: usize>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<u64, Leave> {
    let address = cpu.register::<8>(SOURCE).wrapping_add(cpu.register::<8>(op.segment));
    cpu.load::<B>(op, address)
}

#[inline(always)]
fn advance<M: Memory, O: Observer, const B: usize>(cpu: &mut Cpu<M, O>, register: u8) {
    let place = cpu.register::<8>(register);
    let bytes = B as u64;
    let place = if cpu.goes_down() { place.wrapping_sub(bytes) } else { place.wrapping_add(bytes) };
    cpu.set_register::<8>(register, place);
}

impl Step for Move {
    const COMPARES: bool = false;

    #[inline(always)]
    fn step<M: Memory, O: Observer, const B: usize>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
        let value = source::<M, O, B>(cpu, op)?;
        cpu.store::<B>(op, cpu.register::<8>(DESTINATION), value)?;
        advance::<M, O, B>(cpu, SOURCE);
        advance::<M, O, B>(cpu, DESTINATION);
        Ok(())
    }
}

impl Step for Store {
    const COMPARES: bool = false;

    #[inline(always)]
    fn step<M: Memory, O: Observer, const B: usize>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
        cpu.store::<B>(op, cpu.register::<8>(DESTINATION), cpu.register::<B>(ACCUMULATOR))?;
        advance::<M, O, B>(cpu, DESTINATION);
        Ok(())
    }
}

impl Step for Load {
    const COMPARES: bool = false;

    #[inline(always)]
    fn step<M: Memory, O: Observer, const B: usize>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
        let value = source::<M, O, B>(cpu, op)?;
        cpu.set_register::<B>(ACCUMULATOR, value);
        advance::<M, O, B>(cpu, SOURCE);
        Ok(())
    }
}

impl Step for Scan {
    const COMPARES: bool = true;

    #[inline(always)]
    fn step<M: Memory, O: Observer, const B: usize>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
        let value = cpu.load::<B>(op, cpu.register::<8>(DESTINATION))?;
        (_, cpu.status) = alu::subtract::<B>(cpu.register::<B>(ACCUMULATOR), value, cpu.status);
        advance::<M, O, B>(cpu, DESTINATION);
        Ok(())
    }
}

impl Step for Compare {
    const COMPARES: bool = true;

    #[inline(always)]
    fn step<M: Memory, O: Observer, const B: usize>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<(), Leave> {
        let left = source::<M, O, B>(cpu, op)?;
        let right = cpu.load::<B>(op, cpu.register::<8>(DESTINATION))?;
        (_, cpu.status) = alu::subtract::<B>(left, right, cpu.status);
        advance::<M, O, B>(cpu, SOURCE);
        advance::<M, O, B>(cpu, DESTINATION);
        Ok(())
    }
}

/// Runs the instruction, or a part of its repetitions: where it stands still, its registers say how far it is.
fn run<X: Step, M: Memory, O: Observer, const B: usize, const R: u8>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    if R == ONCE {
        return X::step::<M, O, B>(cpu, op);
    }
    let most = if cpu.breakpoint == Some(op.rip) { 1 } else { REPEATS_AT_ONCE };
    for _ in 0..most {
        let left = cpu.register::<8>(COUNTER);
        if left == 0 {
            return Ok(());
        }
        X::step::<M, O, B>(cpu, op)?;
        cpu.set_register::<8>(COUNTER, left - 1);
        cpu.repeats += 1;
        let ends = X::COMPARES && cpu.status.holds::<ZERO>() != (R == WHILE_EQUAL);
        if ends || left == 1 {
            return Ok(());
        }
        if cpu.code_changed {
            break;
        }
    }
    Err(Leave::Again)
}

macro_rules! by_repetition {
    ($step:ty, $bytes:literal, $repetition:expr) => {
        match $repetition {
            ONCE => Some(run::<$step, M, O, $bytes, ONCE> as Run<M, O>),
            WHILE_EQUAL => Some(run::<$step, M, O, $bytes, WHILE_EQUAL> as Run<M, O>),
            _ => Some(run::<$step, M, O, $bytes, WHILE_DIFFERENT> as Run<M, O>),
        }
    };
}

fn by_width<X: Step, M: Memory, O: Observer>(bytes: usize, repetition: u8) -> Option<Run<M, O>> {
    match bytes {
        1 => by_repetition!(X, 1, repetition),
        2 => by_repetition!(X, 2, repetition),
        4 => by_repetition!(X, 4, repetition),
        8 => by_repetition!(X, 8, repetition),
        _ => None,
    }
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(instruction: &Instruction) -> Option<Run<M, O>> {
    let is_string = (0..instruction.op_count())
        .any(|operand| matches!(instruction.op_kind(operand), OpKind::MemorySegRSI | OpKind::MemoryESRDI));
    if !is_string {
        return None;
    }
    let bytes = instruction.memory_size().size();
    let has_other_segment = matches!(instruction.segment_prefix(), Register::FS | Register::GS);
    let repetition = match (instruction.has_rep_prefix(), instruction.has_repne_prefix()) {
        (true, _) => WHILE_EQUAL,
        (_, true) => WHILE_DIFFERENT,
        _ => ONCE,
    };
    match instruction.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq => {
            by_width::<Move, M, O>(bytes, repetition)
        }
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => {
            by_width::<Load, M, O>(bytes, repetition)
        }
        Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => {
            by_width::<Compare, M, O>(bytes, repetition)
        }
        _ if has_other_segment => None,
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
            by_width::<Store, M, O>(bytes, repetition)
        }
        Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => {
            by_width::<Scan, M, O>(bytes, repetition)
        }
        _ => None,
    }
}
