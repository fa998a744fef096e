//! The cache of decoded code: straight stretches of instructions, found by where they begin.

use crate::alu::translation::{Accesses, NotKept};
use crate::cpu::{Cpu, Leave};
use crate::decode::{Decoded, Follows, decode};
use crate::execute::quiet::FlagUse;
use crate::limits::{BLOCK_INSTRUCTIONS, BLOCK_PLACES, INSTRUCTION_BYTES, INSTRUCTIONS_KEPT};
use crate::memory::Memory;
use crate::observe::Observer;
use crate::op::Op;
use crate::paging::{Intent, Rights};
use crate::refusal::Reason;
use crate::stretches::{Choice, Stretches, Translated, Translation};
use iced_x86::{Decoder, DecoderOptions, Instruction};
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
    pub(crate) translated: Translated,
}

const NOT_TRANSLATED: Translated = Translated::NotYet { runs: 0 };
const NO_BLOCK: Block = Block { rip: 0, next: 0, start: 0, length: 0, translated: NOT_TRANSLATED };

/// Where a block is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(usize);

/// All decoded code.
#[derive(Debug)]
pub(crate) struct Cache<M, O> {
    places: Box<[Block]>,
    ops: Vec<Op<M, O>>,
    /// What each of them was decoded from: memory may have been mapped anew since.
    bytes: Vec<[u8; INSTRUCTION_BYTES]>,
    pub(crate) stretches: Stretches,
}

impl<M: Memory, O: Observer> Cache<M, O> {
    pub(crate) fn new(when: Translation) -> Self {
        let places = vec![NO_BLOCK; BLOCK_PLACES].into_boxed_slice();
        let (ops, bytes) = (Vec::with_capacity(INSTRUCTIONS_KEPT), Vec::with_capacity(INSTRUCTIONS_KEPT));
        Self { places, ops, bytes, stretches: Stretches::new(when) }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        if !self.ops.is_empty() {
            self.places.fill(NO_BLOCK);
            self.ops.clear();
            self.bytes.clear();
            self.stretches.clear();
        }
    }

    /// Sees to it that the block at the processor's RIP is decoded, and translated if it is time to; gives its place.
    /// Where its first instruction cannot run, that is the answer.
    #[inline(always)]
    pub(crate) fn locate(&mut self, cpu: &mut Cpu<M, O>) -> Result<Place, Leave> {
        let at = place(cpu.rip);
        let is_ready = match self.find(cpu.rip) {
            Some(block) if !matches!(block.translated, Translated::NotYet { .. }) => true,
            Some(_) => !self.is_due(cpu.rip),
            None => false,
        };
        if !is_ready {
            self.prepare(cpu)?;
        }
        Ok(Place(at))
    }

    /// The block at a place that [`Self::locate`] has just given. It is not copied: a processor waits long for bytes that
    /// it wrote in parts and reads as a whole, and this is done for each block that runs.
    #[inline(always)]
    pub(crate) fn block(&self, place: Place) -> &Block {
        &self.places[place.0]
    }

    /// The block that begins at `rip`, if it is known.
    #[inline(always)]
    fn find(&self, rip: u64) -> Option<&Block> {
        let block = &self.places[place(rip)];
        (block.rip == rip && block.length > 0).then_some(block)
    }

    /// The block's instructions.
    #[inline(always)]
    pub(crate) fn ops(&self, block: &Block) -> &[Op<M, O>] {
        let start = block.start as usize;
        &self.ops[Range { start, end: start + block.length as usize }]
    }

    #[cold]
    fn prepare(&mut self, cpu: &mut Cpu<M, O>) -> Result<(), Leave> {
        let block = match self.find(cpu.rip) {
            Some(block) => *block,
            None => self.decode(cpu, BLOCK_INSTRUCTIONS)?,
        };
        if self.is_due(cpu.rip) {
            self.translate(cpu, block);
            if self.find(cpu.rip).is_none() {
                self.decode(cpu, BLOCK_INSTRUCTIONS)?;
            }
        }
        Ok(())
    }

    /// Decodes the block at the processor's RIP, of at most so many instructions. Where its first one cannot run,
    /// that is the answer; where a later one cannot, the block ends before it.
    fn decode(&mut self, cpu: &mut Cpu<M, O>, most: usize) -> Result<Block, Leave> {
        if self.ops.len() + BLOCK_INSTRUCTIONS > INSTRUCTIONS_KEPT {
            self.clear();
        }
        let start = self.ops.len();
        let mut rip = cpu.rip;
        let mut flags = Vec::with_capacity(BLOCK_INSTRUCTIONS);
        while self.ops.len() - start < most {
            let position = self.ops.len() - start;
            if position > 0 && (cpu.breakpoint == Some(rip) || rip >> 12 != cpu.rip >> 12) {
                break;
            }
            let ((mut op, follows, uses), bytes) = match decode_at(cpu, rip, position) {
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
            self.bytes.push(bytes);
            flags.push(uses);
            rip = op.next();
            if follows == Follows::Elsewhere {
                break;
            }
        }
        Ok(self.keep(cpu.rip, rip, start, &flags))
    }

    /// The block at `rip` has the instructions from `start` on.
    fn keep(&mut self, rip: u64, next: u64, start: usize, flags: &[FlagUse<M, O>]) -> Block {
        quieten(&mut self.ops[start..], flags);
        let length = u32::try_from(self.ops.len() - start).expect("a block is short");
        let start = u32::try_from(start).expect("the limit on instructions is small");
        let block = Block { rip, next, start, length, translated: NOT_TRANSLATED };
        self.places[place(rip)] = block;
        block
    }

    /// Makes the block end behind its first `most` instructions, where their flags are seen again. False if there is no
    /// room: then everything is forgotten.
    fn shorten(&mut self, block: Block, most: usize) -> bool {
        if self.ops.len() + most > INSTRUCTIONS_KEPT {
            self.clear();
            return false;
        }
        let (start, mut flags, mut rip) = (self.ops.len(), Vec::with_capacity(most), block.rip);
        for at in block.start as usize..block.start as usize + most {
            let (bytes, position) = (self.bytes[at], self.ops[at].position);
            let Decoded::Op(mut op, _, uses) = decode(&bytes, rip) else {
                unreachable!("these bytes were decoded before");
            };
            op.position = position;
            self.ops.push(op);
            self.bytes.push(bytes);
            flags.push(uses);
            rip = op.next();
        }
        self.keep(block.rip, rip, start, &flags);
        true
    }

    /// Notes that the block at `rip` runs once more; whether it is time to translate it.
    #[inline(always)]
    fn is_due(&mut self, rip: u64) -> bool {
        let Translated::NotYet { runs } = &mut self.places[place(rip)].translated else {
            return false;
        };
        *runs = runs.saturating_add(1);
        self.stretches.is_due(*runs)
    }

    /// Makes a stretch of the block at the processor's RIP, or of its first part. What of it can be none stays a
    /// block, which ends where the next stretch may begin.
    fn translate(&mut self, cpu: &mut Cpu<M, O>, block: Block) {
        let direct = !cpu.observer.wants_each() && cpu.memory.in_one_piece().is_some();
        let accesses = if direct { Accesses::Direct } else { Accesses::Interpreted };
        let mut instructions = self.instructions(block);
        let choice = self.stretches.choose(&instructions, accesses);
        if let Choice::First(most) | Choice::Behind(most) = choice
            && most < instructions.len()
        {
            instructions.truncate(most);
            if !self.shorten(block, most) {
                return;
            }
        }
        let may_loop = (cpu.breakpoint != Some(block.rip)).then_some(block.rip);
        let translated = match choice {
            Choice::First(_) => self.stretches.add(&instructions, accesses, may_loop),
            Choice::Behind(_) | Choice::Nothing => Ok(Translated::Never),
        };
        match translated {
            Ok(translated) => self.places[place(block.rip)].translated = translated,
            Err(NotKept::NoMemory) => self.places[place(block.rip)].translated = Translated::Never,
            Err(NotKept::Full) => self.clear(),
        }
    }

    /// The block's instructions as the translator reads them: those that the interpreter runs, whatever is mapped
    /// at their addresses by now.
    fn instructions(&self, block: Block) -> Vec<Instruction> {
        let start = block.start as usize;
        let bytes = &self.bytes[Range { start, end: start + block.length as usize }];
        let decode = |(op, bytes): (&Op<M, O>, &[u8; INSTRUCTION_BYTES])| {
            let own = &bytes[..usize::from(op.length)];
            Decoder::with_ip(64, own, op.rip, DecoderOptions::NONE).decode()
        };
        self.ops(&block).iter().zip(bytes).map(decode).collect()
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
) -> Result<(Located<M, O>, [u8; INSTRUCTION_BYTES]), Leave> {
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
            Ok(((op, follows, flags), bytes))
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
