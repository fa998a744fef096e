//! A decoded instruction, ready to run, and its operands.

use crate::access::Spot;
use crate::cpu::{Cpu, Leave, NO_REGISTER};
use crate::memory::Memory;
use crate::observe::Observer;

/// What runs an instruction.
pub(crate) type Run<M, O> = fn(&mut Cpu<M, O>, &Op<M, O>) -> Result<(), Leave>;

/// Set in a register's number: its bits 8 to 15 (AH, CH, DH, BH).
pub(crate) const HIGH_BYTE: u8 = 32;

/// A decoded instruction.
#[derive(Debug)]
pub(crate) struct Op<M, O> {
    pub(crate) run: Run<M, O>,
    /// Its address.
    pub(crate) rip: u64,
    /// Of the memory operand; complete for one relative to RIP.
    pub(crate) displacement: u64,
    /// The immediate operand, sign-extended, or where a branch goes.
    pub(crate) immediate: u64,
    /// Numbers of the registers that the memory operand's address is made of.
    pub(crate) base: u8,
    pub(crate) index: u8,
    pub(crate) scale: u8,
    pub(crate) segment: u8,
    /// Numbers of the registers that are the first and the second operand.
    pub(crate) first: u8,
    pub(crate) second: u8,
    /// Bytes of the instruction.
    pub(crate) length: u8,
    /// Instructions of its block before it.
    pub(crate) position: u8,
}

impl<M, O> Clone for Op<M, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M, O> Copy for Op<M, O> {}

impl<M, O> Op<M, O> {
    pub(crate) const fn new(run: Run<M, O>, rip: u64) -> Self {
        Self {
            run,
            rip,
            displacement: 0,
            immediate: 0,
            base: NO_REGISTER,
            index: NO_REGISTER,
            scale: 0,
            segment: NO_REGISTER,
            first: 0,
            second: 0,
            length: 0,
            position: 0,
        }
    }

    /// Where the next instruction is.
    #[inline(always)]
    pub(crate) fn next(&self) -> u64 {
        self.rip.wrapping_add(u64::from(self.length))
    }
}

impl<M: Memory, O: Observer> Cpu<M, O> {
    /// The memory operand's address without its segment's base.
    #[inline(always)]
    pub(crate) fn offset(&self, op: &Op<M, O>) -> u64 {
        let index = self.register::<8>(op.index) << (op.scale & 7);
        self.register::<8>(op.base).wrapping_add(index).wrapping_add(op.displacement)
    }

    /// The memory operand's virtual address.
    #[inline(always)]
    pub(crate) fn address(&self, op: &Op<M, O>) -> u64 {
        self.offset(op).wrapping_add(self.register::<8>(op.segment))
    }

    /// A byte register, AH to BH among them.
    #[inline(always)]
    fn any_byte(&self, number: u8) -> u64 {
        let shift = if number & HIGH_BYTE == 0 { 0 } else { 8 };
        self.register::<8>(number) >> shift & 0xff
    }

    #[inline(always)]
    fn set_any_byte(&mut self, number: u8, value: u64) {
        if number & HIGH_BYTE == 0 {
            self.set_register::<1>(number, value);
        } else {
            let rest = self.register::<8>(number) & !0xff00;
            self.set_register::<8>(number, rest | (value & 0xff) << 8);
        }
    }
}

/// An operand that is read.
pub(crate) trait Source {
    fn load<const B: usize, M: Memory, O: Observer>(cpu: &mut Cpu<M, O>, op: &Op<M, O>)
    -> Result<u64, Leave>;
}

/// An operand that is written, and maybe read before.
pub(crate) trait Place: Source {
    /// What the read leaves for the write.
    type Opened: Copy;

    fn open<const B: usize, M: Memory, O: Observer>(
        cpu: &mut Cpu<M, O>,
        op: &Op<M, O>,
    ) -> Result<(u64, Self::Opened), Leave>;

    fn close<const B: usize, M: Memory, O: Observer>(
        cpu: &mut Cpu<M, O>,
        op: &Op<M, O>,
        opened: Self::Opened,
        value: u64,
    ) -> Result<(), Leave>;

    /// Writes without having read.
    fn store<const B: usize, M: Memory, O: Observer>(
        cpu: &mut Cpu<M, O>,
        op: &Op<M, O>,
        value: u64,
    ) -> Result<(), Leave>;
}

/// The memory operand.
pub(crate) struct InMemory;
/// The immediate operand.
pub(crate) struct Immediate;

impl Source for InMemory {
    #[inline(always)]
    fn load<const B: usize, M: Memory, O: Observer>(
        cpu: &mut Cpu<M, O>,
        op: &Op<M, O>,
    ) -> Result<u64, Leave> {
        let address = cpu.address(op);
        cpu.load::<B>(op, address)
    }
}

impl Place for InMemory {
    type Opened = Spot;

    #[inline(always)]
    fn open<const B: usize, M: Memory, O: Observer>(
        cpu: &mut Cpu<M, O>,
        op: &Op<M, O>,
    ) -> Result<(u64, Spot), Leave> {
        let address = cpu.address(op);
        cpu.open::<B>(op, address)
    }

    #[inline(always)]
    fn close<const B: usize, M: Memory, O: Observer>(
        cpu: &mut Cpu<M, O>,
        op: &Op<M, O>,
        opened: Spot,
        value: u64,
    ) -> Result<(), Leave> {
        cpu.close::<B>(op, opened, value)
    }

    #[inline(always)]
    fn store<const B: usize, M: Memory, O: Observer>(
        cpu: &mut Cpu<M, O>,
        op: &Op<M, O>,
        value: u64,
    ) -> Result<(), Leave> {
        let address = cpu.address(op);
        cpu.store::<B>(op, address, value)
    }
}

impl Source for Immediate {
    #[inline(always)]
    fn load<const B: usize, M: Memory, O: Observer>(_: &mut Cpu<M, O>, op: &Op<M, O>) -> Result<u64, Leave> {
        Ok(crate::alu::low::<B>(op.immediate))
    }
}

/// A register operand: `$read` and `$write` take its number from `$number`.
macro_rules! register_operand {
    ($(#[$note:meta])* $name:ident, $number:ident, $read:expr, $write:expr) => {
        $(#[$note])*
        pub(crate) struct $name;

        impl Source for $name {
            #[inline(always)]
            fn load<const B: usize, M: Memory, O: Observer>(
                cpu: &mut Cpu<M, O>,
                op: &Op<M, O>,
            ) -> Result<u64, Leave> {
                Ok($read(cpu, op.$number))
            }
        }

        impl Place for $name {
            type Opened = ();

            #[inline(always)]
            fn open<const B: usize, M: Memory, O: Observer>(
                cpu: &mut Cpu<M, O>,
                op: &Op<M, O>,
            ) -> Result<(u64, ()), Leave> {
                Ok(($read(cpu, op.$number), ()))
            }

            #[inline(always)]
            fn close<const B: usize, M: Memory, O: Observer>(
                cpu: &mut Cpu<M, O>,
                op: &Op<M, O>,
                (): (),
                value: u64,
            ) -> Result<(), Leave> {
                $write(cpu, op.$number, value);
                Ok(())
            }

            #[inline(always)]
            fn store<const B: usize, M: Memory, O: Observer>(
                cpu: &mut Cpu<M, O>,
                op: &Op<M, O>,
                value: u64,
            ) -> Result<(), Leave> {
                $write(cpu, op.$number, value);
                Ok(())
            }
        }
    };
}

register_operand!(
    /// The first operand, a register that is no AH, CH, DH or BH.
    First, first, Cpu::register::<B>, Cpu::set_register::<B>
);
register_operand!(
    /// The second operand, likewise.
    Second, second, Cpu::register::<B>, Cpu::set_register::<B>
);
register_operand!(
    /// The first operand, any byte register.
    FirstByte, first, Cpu::any_byte, Cpu::set_any_byte
);
register_operand!(
    /// The second operand, any byte register.
    SecondByte, second, Cpu::any_byte, Cpu::set_any_byte
);
