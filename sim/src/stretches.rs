//! The translated stretches of the cache's blocks: when a block becomes one, and how it runs.

use crate::alu::translation::{
    Accesses, Ahead, CodeMemory, Done, Entry, Leaving, Machine, NotKept, translatable, translate,
};
use crate::cpu::Cpu;
use crate::limits::{QUIET_STRETCH_INSTRUCTIONS_MIN, RUNS_BEFORE_TRANSLATION, STRETCH_INSTRUCTIONS_MIN};
use crate::memory::Memory;
use crate::observe::Observer;
use iced_x86::Instruction;

/// When code is translated. What is simulated does not depend on it, only how long that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Never.
    Never,
    /// When it has run often enough to be worth it.
    WhenWarm,
    /// Before it runs for the first time, whatever that costs.
    AtOnce,
}

/// What a block is to the translator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Translated {
    NotYet {
        /// How often it was interpreted.
        runs: u16,
    },
    Never,
    /// The stretch of this number.
    As(u32),
}

/// Which part of a block becomes a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// So many instructions from the first one on.
    First(usize),
    /// None of the first so many, but what is behind them.
    Behind(usize),
    Nothing,
}

#[derive(Debug)]
struct Stretch {
    entry: Entry,
    exits: Box<[Leaving]>,
    /// What one round does.
    round: Done,
}

/// All stretches.
#[derive(Debug)]
pub(crate) struct Stretches {
    when: Translation,
    code: CodeMemory,
    stretches: Vec<Stretch>,
}

impl Stretches {
    pub(crate) const fn new(when: Translation) -> Self {
        Self { when, code: CodeMemory::new(), stretches: Vec::new() }
    }

    pub(crate) fn clear(&mut self) {
        self.code.clear();
        self.stretches.clear();
    }

    /// Whether a block that was interpreted so often is to be translated.
    #[inline(always)]
    pub(crate) const fn is_due(&self, runs: u16) -> bool {
        match self.when {
            Translation::Never => false,
            Translation::WhenWarm => runs >= RUNS_BEFORE_TRANSLATION,
            Translation::AtOnce => true,
        }
    }

    /// What of a block's instructions to translate.
    pub(crate) fn choose(&self, instructions: &[Instruction], accesses: Accesses) -> Choice {
        let least = match (self.when, accesses) {
            (Translation::AtOnce, _) => 1,
            (_, Accesses::Direct) => STRETCH_INSTRUCTIONS_MIN,
            (_, Accesses::Interpreted) => QUIET_STRETCH_INSTRUCTIONS_MIN,
        };
        let is_enough = |at: &usize| translatable(&instructions[*at..], accesses) >= least;
        let count = translatable(instructions, accesses);
        if count >= least {
            return Choice::First(count);
        }
        (count + 1..instructions.len()).find(is_enough).map_or(Choice::Nothing, Choice::Behind)
    }

    /// Translates `instructions`; they may go round if they jump to `may_loop`.
    pub(crate) fn add(
        &mut self,
        instructions: &[Instruction],
        accesses: Accesses,
        may_loop: Option<u64>,
    ) -> Result<Translated, NotKept> {
        let Some(assembled) = translate(instructions, accesses, may_loop) else {
            return Ok(Translated::Never);
        };
        let entry = match self.code.keep(&assembled) {
            Ok(entry) => entry,
            Err(NotKept::Full) => return Err(NotKept::Full),
            Err(NotKept::NoMemory) => {
                // Nor will there be any later.
                self.when = Translation::Never;
                return Err(NotKept::NoMemory);
            }
        };
        let number = u32::try_from(self.stretches.len()).expect("their code is bounded");
        let (exits, round) = assembled.into_exits();
        self.stretches.push(Stretch {
            entry,
            exits: exits.into_boxed_slice(),
            round: round.unwrap_or_default(),
        });
        Ok(Translated::As(number))
    }

    /// Runs a stretch, at whose begin the processor is, with `budget` work allowed. If it was left before one of its
    /// instructions, returns which: those before it are not counted yet, because they belong to the block that runs.
    #[inline(always)]
    pub(crate) fn run<M: Memory, O: Observer>(
        &self,
        cpu: &mut Cpu<M, O>,
        number: u32,
        budget: u64,
    ) -> Option<u32> {
        let stretch = &self.stretches[number as usize];
        let machine = Machine {
            registers: &mut cpu.registers,
            status: &mut cpu.status,
            tlb: &cpu.tlb,
            ram: cpu.memory.in_one_piece().unwrap_or_default(),
        };
        let Some((exit, work)) = self.code.run(stretch.entry, machine, budget) else {
            return Some(0);
        };
        let Leaving { done, ahead } = stretch.exits[exit as usize];
        let (mut reads, mut writes) = (u64::from(done.reads), u64::from(done.writes));
        if work > 0 {
            let rounds = work / u64::from(stretch.round.instructions);
            reads += rounds * u64::from(stretch.round.reads);
            writes += rounds * u64::from(stretch.round.writes);
            cpu.count += work;
        }
        if reads + writes > 0 {
            cpu.observer.unseen(reads, writes);
        }
        match ahead {
            Ahead::Inside => Some(done.instructions),
            Ahead::At(rip) => {
                cpu.count += u64::from(done.instructions);
                cpu.rip = rip;
                None
            }
        }
    }
}
