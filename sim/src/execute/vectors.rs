//! SSE2 instructions on two vectors.

use crate::alu::{self, Vector, with_vectors};
use crate::cpu::{Cpu, Leave};
use crate::exception::Exception;
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::{Op, Run};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// The second operand of a vector instruction.
trait VectorSource {
    fn load<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<u128, Leave>;
}

struct FromRegister;
struct FromMemory;
struct FromImmediate;

impl VectorSource for FromRegister {
    #[inline(always)]
    fn load<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<u128, Leave> {
        Ok(cpu.vector(op.second))
    }
}

impl VectorSource for FromMemory {
    #[inline(always)]
    fn load<M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<u128, Leave> {
        let address = cpu.aligned_address(op)?;
        cpu.load_vector(op, address)
    }
}

impl VectorSource for FromImmediate {
    #[inline(always)]
    fn load<M: Memory, O: Observer>(_: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<u128, Leave> {
        Ok(u128::from(op.immediate & 0xff))
    }
}

impl<M: Memory, O: Observer> Cpu<M, O> {
    /// The vector register's value.
    #[inline(always)]
    pub(crate) fn vector(&self, number: u8) -> u128 {
        self.vectors[usize::from(number & 15)]
    }

    #[inline(always)]
    pub(crate) fn set_vector(&mut self, number: u8, value: u128) {
        self.vectors[usize::from(number & 15)] = value;
    }

    /// The memory operand's address, which must be a multiple of 16.
    #[inline(always)]
    pub(crate) fn aligned_address(&mut self, op: &Op<M, O>) -> Result<u64, Leave> {
        let address = self.address(op);
        if address.is_multiple_of(16) {
            Ok(address)
        } else {
            Err(self.raise(Exception::general_protection(0)))
        }
    }
}

fn change<X: Vector, S: VectorSource, M: Memory, O: Observer>(
    cpu: &mut Cpu<M, O>,
    op: &Op<M, O>,
) -> Result<(), Leave> {
    let right = S::load(cpu, op)?;
    let value = X::apply(cpu.vector(op.first), right);
    cpu.set_vector(op.first, value);
    Ok(())
}

fn by_source<X: Vector, M: Memory, O: Observer>(instruction: &Instruction) -> Option<Run<M, O>> {
    if !instruction.op_register(0).is_xmm() {
        // The forms on MMX registers.
        return None;
    }
    match instruction.op_kind(1) {
        OpKind::Register => Some(change::<X, FromRegister, M, O>),
        OpKind::Memory => Some(change::<X, FromMemory, M, O>),
        OpKind::Immediate8 => Some(change::<X, FromImmediate, M, O>),
        _ => None,
    }
}

/// What runs an instruction of this family.
pub(crate) fn select<M: Memory, O: Observer>(instruction: &Instruction) -> Option<Run<M, O>> {
    macro_rules! choose {
        ($($name:ident $mnemonic:literal),*) => {
            match instruction.mnemonic() {
                $(Mnemonic::$name => by_source::<alu::$name, M, O>(instruction),)*
                _ => None,
            }
        };
    }
    with_vectors!(choose)
}
