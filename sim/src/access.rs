//! Loads and stores of the guest: the fast way through the soft TLB, and the slow way that fills it.

use crate::cpu::{Cpu, Leave};
use crate::memory::Memory;
use crate::observe::{Access, AccessKind, Observer};
use crate::op::Op;
use crate::paging::{Intent, Rights};
use pageswarm_machine::PAGE_BYTES;

/// Who accesses which place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    rip: u64,
    /// Instructions of the block before this one.
    position: u64,
    address: u64,
}

/// An operand that was read to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    address: u64,
    /// Its place in RAM, unless it crosses a page's end or the TLB must not know it.
    physical: Option<u64>,
}

impl Part {
    pub(crate) fn of_event(rip: u64, address: u64) -> Self {
        Self { rip, position: 0, address }
    }

    #[inline(always)]
    fn of<M, O>(op: &Op<M, O>, address: u64) -> Self {
        Self { rip: op.rip, position: u64::from(op.position), address }
    }
}

/// Whether `bytes` bytes at `address` are on one page.
#[inline(always)]
const fn is_on_one_page(address: u64, bytes: usize) -> bool {
    address & 0xfff <= (PAGE_BYTES - bytes) as u64
}

#[inline(always)]
fn widen<const N: usize>(bytes: [u8; N]) -> u128 {
    let mut wide = [0; 16];
    wide[..N].copy_from_slice(&bytes);
    u128::from_le_bytes(wide)
}

#[inline(always)]
fn number<const B: usize>(bytes: [u8; B]) -> u64 {
    let mut wide = [0; 8];
    wide[..B].copy_from_slice(&bytes);
    u64::from_le_bytes(wide)
}

#[inline(always)]
fn bytes_of<const B: usize>(value: u64) -> [u8; B] {
    let mut bytes = [0; B];
    bytes.copy_from_slice(&value.to_le_bytes()[..B]);
    bytes
}

impl<M: Memory, O: Observer> Cpu<M, O> {
    #[inline(always)]
    fn see<const N: usize>(&mut self, part: Part, physical: u64, kind: AccessKind, bytes: [u8; N]) {
        self.observer.access(Access {
            instruction: self.count + part.position,
            rip: part.rip,
            virtual_address: part.address,
            physical_address: physical,
            size: N.to_le_bytes()[0],
            kind,
            value: widen(bytes),
        });
    }

    /// Loads `B` bytes, at most 8.
    #[inline(always)]
    pub(crate) fn load<const B: usize>(&mut self, op: &Op<M, O>, address: u64) -> Result<u64, Leave> {
        self.load_bytes::<B>(op, address).map(number)
    }

    /// Loads 16 bytes.
    #[inline(always)]
    pub(crate) fn load_vector(&mut self, op: &Op<M, O>, address: u64) -> Result<u128, Leave> {
        self.load_bytes::<16>(op, address).map(u128::from_le_bytes)
    }

    #[inline(always)]
    fn load_bytes<const N: usize>(&mut self, op: &Op<M, O>, address: u64) -> Result<[u8; N], Leave> {
        let part = Part::of(op, address);
        if is_on_one_page(address, N)
            && let Some(physical) = self.tlb.read(address)
        {
            let bytes = self.memory.read(physical);
            self.see(part, physical, AccessKind::Read, bytes);
            return Ok(bytes);
        }
        self.load_part(part, Rights::Current)
    }

    /// Stores the low `B` bytes, at most 8, of a value.
    #[inline(always)]
    pub(crate) fn store<const B: usize>(
        &mut self,
        op: &Op<M, O>,
        address: u64,
        value: u64,
    ) -> Result<(), Leave> {
        self.store_bytes::<B>(op, address, bytes_of(value))
    }

    /// Stores 16 bytes.
    #[inline(always)]
    pub(crate) fn store_vector(&mut self, op: &Op<M, O>, address: u64, value: u128) -> Result<(), Leave> {
        self.store_bytes(op, address, value.to_le_bytes())
    }

    #[inline(always)]
    fn store_bytes<const N: usize>(
        &mut self,
        op: &Op<M, O>,
        address: u64,
        bytes: [u8; N],
    ) -> Result<(), Leave> {
        let part = Part::of(op, address);
        if is_on_one_page(address, N)
            && let Some(physical) = self.tlb.write(address)
        {
            self.memory.write(physical, bytes);
            self.see(part, physical, AccessKind::Write, bytes);
            return Ok(());
        }
        self.store_part(part, bytes, Rights::Current)
    }

    /// Loads an operand that will be written: what forbids the write is noticed before the read.
    #[inline(always)]
    pub(crate) fn open<const B: usize>(&mut self, op: &Op<M, O>, address: u64) -> Result<(u64, Spot), Leave> {
        let part = Part::of(op, address);
        if is_on_one_page(address, B)
            && let Some(physical) = self.tlb.write(address)
        {
            let bytes: [u8; B] = self.memory.read(physical);
            self.see(part, physical, AccessKind::Read, bytes);
            return Ok((number(bytes), Spot { address, physical: Some(physical) }));
        }
        self.may_store::<B>(address)?;
        let bytes = self.load_part::<B>(part, Rights::Current)?;
        Ok((number(bytes), Spot { address, physical: None }))
    }

    /// Stores to an operand from [`Self::open`].
    #[inline(always)]
    pub(crate) fn close<const B: usize>(
        &mut self,
        op: &Op<M, O>,
        spot: Spot,
        value: u64,
    ) -> Result<(), Leave> {
        let part = Part::of(op, spot.address);
        let bytes = bytes_of::<B>(value);
        let Some(physical) = spot.physical else {
            return self.store_part(part, bytes, Rights::Current);
        };
        self.memory.write(physical, bytes);
        self.see(part, physical, AccessKind::Write, bytes);
        Ok(())
    }

    /// Fetches bytes at `address`: as many as `out` has, fewer at the page's end. Nothing behind it is touched, because
    /// whether it is needed depends on the instruction.
    pub(crate) fn fetch(&mut self, address: u64, out: &mut [u8]) -> Result<usize, Leave> {
        let physical = self.translate(address, Intent::Execute, Rights::Current)?;
        let here = out.len().min(PAGE_BYTES - offset(address));
        copy(&self.memory, physical, &mut out[..here]);
        Ok(here)
    }

    #[cold]
    pub(crate) fn load_part<const N: usize>(&mut self, part: Part, rights: Rights) -> Result<[u8; N], Leave> {
        let first = self.translate(part.address, Intent::Read, rights)?;
        if is_on_one_page(part.address, N) {
            if rights == Rights::Current {
                self.tlb.learn_read(part.address, first);
            }
            let bytes = self.memory.read(first);
            self.see(part, first, AccessKind::Read, bytes);
            return Ok(bytes);
        }
        let split = PAGE_BYTES - offset(part.address);
        let second = self.translate(part.address.wrapping_add(split as u64), Intent::Read, rights)?;
        let mut bytes = [0; N];
        copy(&self.memory, first, &mut bytes[..split]);
        copy(&self.memory, second, &mut bytes[split..]);
        self.see_both(part, (first, second), AccessKind::Read, &bytes);
        Ok(bytes)
    }

    #[cold]
    pub(crate) fn store_part<const N: usize>(
        &mut self,
        part: Part,
        bytes: [u8; N],
        rights: Rights,
    ) -> Result<(), Leave> {
        let first = self.translate(part.address, Intent::Write, rights)?;
        if is_on_one_page(part.address, N) {
            if self.before_write(first) && rights == Rights::Current {
                self.tlb.learn_write(part.address, first);
            }
            self.memory.write(first, bytes);
            self.see(part, first, AccessKind::Write, bytes);
            return Ok(());
        }
        let split = PAGE_BYTES - offset(part.address);
        let second = self.translate(part.address.wrapping_add(split as u64), Intent::Write, rights)?;
        self.before_write(first);
        self.before_write(second);
        for (index, byte) in (0..).zip(bytes) {
            let place = if index < split { first + index as u64 } else { second + (index - split) as u64 };
            self.memory.write(place, [byte]);
        }
        self.see_both(part, (first, second), AccessKind::Write, &bytes);
        Ok(())
    }

    /// Raises what a store of `B` bytes would raise.
    #[cold]
    fn may_store<const B: usize>(&mut self, address: u64) -> Result<(), Leave> {
        let first = self.translate(address, Intent::Write, Rights::Current)?;
        if is_on_one_page(address, B) {
            if self.before_write(first) {
                self.tlb.learn_write(address, first);
            }
        } else {
            self.translate(address.wrapping_add(B as u64 - 1), Intent::Write, Rights::Current)?;
        }
        Ok(())
    }

    /// Notes that a page is about to be written. False when it holds decoded code, so that each write must be seen.
    pub(crate) fn before_write(&mut self, physical: u64) -> bool {
        let page = physical >> 12;
        self.written.insert(page);
        let has_code = self.code_pages.contains(page);
        self.code_changed |= has_code;
        !has_code
    }

    fn see_both(&mut self, part: Part, physical: (u64, u64), kind: AccessKind, bytes: &[u8]) {
        let split = PAGE_BYTES - offset(part.address);
        let second = Part { address: part.address.wrapping_add(split as u64), ..part };
        for (part, physical, bytes) in
            [(part, physical.0, &bytes[..split]), (second, physical.1, &bytes[split..])]
        {
            let mut value = [0; 16];
            value[..bytes.len()].copy_from_slice(bytes);
            self.observer.access(Access {
                instruction: self.count + part.position,
                rip: part.rip,
                virtual_address: part.address,
                physical_address: physical,
                size: bytes.len().to_le_bytes()[0],
                kind,
                value: u128::from_le_bytes(value),
            });
        }
    }
}

fn offset(address: u64) -> usize {
    usize::from(u16::try_from(address & 0xfff).unwrap_or(0))
}

fn copy<M: Memory>(memory: &M, physical: u64, out: &mut [u8]) {
    for (place, byte) in (physical..).zip(out) {
        [*byte] = memory.read(place);
    }
}
