//! The cache of decoded code: straight stretches of instructions, found by where they begin.

use crate::cpu::{Cpu, Leave};
use crate::decode::{Decoded, Follows, decode};
use crate::execute::quiet::FlagUse;
use crate::limits::{BLOCK_INSTRUCTIONS, BLOCK_PLACES, INSTRUCTION_BYTES, INSTRUCTIONS_KEPT};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::Op;
use crate::paging::{Intent, Rights};
use crate::refusal::Reason;
use std::ops::Range;

/// Instructions that run one after the other, unless one of them leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// Where it begins.
    pub(crate) rip: u64,
    /// Where execution goes on behind it.
    pub(crate) next: u64,
    start: u32,
    pub(crate) length: u32,
}

const NO_BLOCK: Block = Block { rip: 0, next: 0, start: 0, length: 0 };

/// All decoded code.
#[derive(Debug)]
pub(crate) struct Cache<M, O> {
    places: Box<[Block]>,
    ops: Vec<Op<M, O>>,
}

impl<M: Memory, O: Observer> Cache<M, O> {
    pub(crate) fn new() -> Self {
        let places = vec![NO_BLOCK; BLOCK_PLACES].into_boxed_slice();
        Self { places, ops: Vec::with_capacity(INSTRUCTIONS_KEPT) }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        if !self.ops.is_empty() {
            self.places.fill(NO_BLOCK);
            self.ops.clear();
        }
    }

    /// The block that begins at `rip`, if it is known.
    #[inline(always)]
    pub(crate) fn find(&self, rip: u64) -> Option<Block> {
        let block = self.places[place(rip)];
        (block.rip == rip && block.length > 0).then_some(block)
    }

    /// The block's instructions.
    #[inline(always)]
    pub(crate) fn ops(&self, block: Block) -> &[Op<M, O>] {
        let start = block.start as usize;
        &self.ops[Range { start, end: start + block.length as usize }]
    }

    /// Decodes the block at the processor's RIP. Where its first instruction cannot run, that is the answer;
    /// where a later one cannot, the block ends before it.
    pub(crate) fn decode(&mut self, cpu: &mut Cpu<M, O>) -> Result<Block, Leave> {
        if self.ops.len() + BLOCK_INSTRUCTIONS > INSTRUCTIONS_KEPT {
            self.clear();
        }
        let start = self.ops.len();
        let mut rip = cpu.rip;
        let mut flags = Vec::with_capacity(BLOCK_INSTRUCTIONS);
        while self.ops.len() - start < BLOCK_INSTRUCTIONS {
            let position = self.ops.len() - start;
            if position > 0 && (cpu.breakpoint == Some(rip) || rip >> 12 != cpu.rip >> 12) {
                break;
            }
            let (mut op, follows, uses) = match decode_at(cpu, rip, position) {
                Ok(decoded) => decoded,
                Err(leave) if position == 0 => return Err(leave),
                Err(_) => {
                    // It will be met again, as the first of a block, if it is met at all.
                    cpu.raised = None;
                    cpu.refused = None;
                    break;
                }
            };
            op.position = u8::try_from(position).expect("a block has fewer than 256 instructions");
            self.ops.push(op);
            flags.push(uses);
            rip = op.next();
            if follows == Follows::Elsewhere {
                break;
            }
        }
        quieten(&mut self.ops[start..], &flags);
        let length = u32::try_from(self.ops.len() - start).expect("a block is short");
        let start = u32::try_from(start).expect("the limit on instructions is small");
        let block = Block { rip: cpu.rip, next: rip, start, length };
        self.places[place(cpu.rip)] = block;
        Ok(block)
    }
}

#[inline(always)]
fn place(rip: u64) -> usize {
    let mixed = rip ^ rip >> 14;
    mixed.to_le_bytes().first_chunk::<4>().map_or(0, |low| u32::from_le_bytes(*low) as usize) % BLOCK_PLACES
}

/// Lets instructions whose flags nobody sees do without them. Behind a block they are seen.
fn quieten<M: Memory, O: Observer>(ops: &mut [Op<M, O>], flags: &[FlagUse<M, O>]) {
    let mut unseen = false;
    for (op, uses) in ops.iter_mut().zip(flags).rev() {
        if unseen && let Some(quiet) = uses.quiet {
            op.run = quiet;
        }
        unseen = uses.hides(unseen);
    }
}

/// A decoded instruction, what follows it, and its flags.
type Located<M, O> = (Op<M, O>, Follows, FlagUse<M, O>);

fn decode_at<M: Memory, O: Observer>(
    cpu: &mut Cpu<M, O>,
    rip: u64,
    position: usize,
) -> Result<Located<M, O>, Leave> {
    let mut bytes = [0; INSTRUCTION_BYTES];
    let fetched = cpu.fetch(rip, &mut bytes)?;
    let mut decoded = decode(&bytes[..fetched], rip);
    if matches!(decoded, Decoded::Cut) && position == 0 {
        let more = cpu.fetch(rip.wrapping_add(fetched as u64), &mut bytes[fetched..])?;
        decoded = decode(&bytes[..fetched + more], rip);
    }
    match decoded {
        Decoded::Op(op, follows, flags) => {
            cpu.keep_as_code(rip)?;
            cpu.keep_as_code(op.next().wrapping_sub(1))?;
            Ok((op, follows, flags))
        }
        Decoded::Refused(reason) => Err(cpu.refuse(reason)),
        // Behind others it is the next block's first: its second page is touched when it runs, not before.
        Decoded::Cut => Err(cpu.refuse(Reason::Unknown)),
    }
}

impl<M: Memory, O: Observer> Cpu<M, O> {
    /// Sees to it that a write to the page of `address` is noticed.
    fn keep_as_code(&mut self, address: u64) -> Result<(), Leave> {
        let page = self.translate(address, Intent::Execute, Rights::Current)? >> 12;
        if !self.code_pages.contains(page) {
            self.code_pages.insert(page);
            self.tlb.clear_writes();
        }
        Ok(())
    }
}
