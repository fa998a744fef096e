//! Random programs run here and by a processor, and everything that they leave behind compared.
//!
//! The interpreter says which instructions it knows, and all of them are drawn from; see [`Lockstep::kinds`]. A
//! difference is narrowed down to the first unit of a few instructions that makes it.

mod chance;
mod program;
mod table;

use crate::memory::{CompleteRam, PageBytes};
use crate::observe::Unobserved;
use crate::refusal::{Refusal, UnsupportedState};
use crate::simulator::{Exit, Simulator};
use crate::stretches::Translation;
use chance::Chance;
use iced_x86::Register;
use pageswarm_machine::guest::{self, BootParameters, LoadError};
use pageswarm_machine::{CpuState, PAGE_BYTES, PageNumber, Workload};
use program::{CODE, Program, WINDOW, WINDOW_PAGES};
use std::fmt;
use table::Table;

const RAM_BYTES: usize = 64 << 20;
/// Pages that a program and its end take at most.
const CODE_PAGES: usize = 4;
/// Far more than any program here does.
const WORK_MAX: u64 = 1 << 20;

/// A processor to compare with, and the RAM that it works on.
pub trait Native {
    /// Why it did not run a program.
    type Error;

    /// Copies a page in.
    fn write(&mut self, page: PageNumber, bytes: &PageBytes);

    /// Copies a page out.
    fn read(&mut self, page: PageNumber, bytes: &mut PageBytes);

    /// Runs from `start` until an access to a port is complete.
    ///
    /// # Errors
    /// When the program ends in any other way.
    fn run(&mut self, start: &CpuState) -> Result<CpuState, Self::Error>;
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Programs.
    pub programs: u64,
    /// Instructions that they ran.
    pub instructions: u64,
}

/// The first difference of a program.
#[derive(Clone, PartialEq, Eq)]
pub struct Difference {
    /// The program's seed and number.
    pub seed: (u64, u64),
    /// The instructions' address.
    pub rip: u64,
    /// Their bytes.
    pub code: Vec<u8>,
    /// The state before them.
    pub before: CpuState,
    /// The state after them as the processor has it.
    pub native: CpuState,
    /// The state after them as simulated.
    pub simulated: CpuState,
    /// Pages that differ.
    pub pages: Vec<PageNumber>,
}

/// Why a comparison ended.
#[derive(Debug, thiserror::Error)]
pub enum LockstepError<E> {
    /// The processor and the simulation disagree.
    #[error("{0:?}")]
    Difference(Box<Difference>),
    /// The processor did not run a program.
    #[error("program {number} of seed {seed:#x} does not run on the processor")]
    Native {
        /// The seed.
        seed: u64,
        /// The program's number.
        number: u64,
        /// Its bytes, at the guest program's place.
        code: Vec<u8>,
        /// Why.
        #[source]
        cause: E,
    },
    /// The simulation did not run a program.
    #[error("program {number} of seed {seed:#x} was refused")]
    Refused {
        /// The seed.
        seed: u64,
        /// The program's number.
        number: u64,
        /// Why.
        #[source]
        cause: Refusal,
    },
    /// The simulation cannot start.
    #[error(transparent)]
    State(#[from] UnsupportedState),
    /// A program did not end.
    #[error("program {number} of seed {seed:#x} does not end")]
    Endless {
        /// The seed.
        seed: u64,
        /// The program's number.
        number: u64,
    },
}

impl fmt::Debug for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {:#x} program {}: at {:#x} bytes", self.seed.0, self.seed.1, self.rip)?;
        for byte in &self.code {
            write!(f, " {byte:02x}")?;
        }
        let (native, simulated) = (&self.native, &self.simulated);
        writeln!(f)?;
        for (number, before) in self.before.general.iter().enumerate() {
            let (native, simulated) = (native.general[number], simulated.general[number]);
            let mark = if native == simulated { "" } else { "  <--" };
            writeln!(f, "  r{number}: {before:#x}: native {native:#x}, simulated {simulated:#x}{mark}")?;
        }
        for (number, before) in self.before.xmm.iter().enumerate() {
            let (native, simulated) = (native.xmm[number], simulated.xmm[number]);
            if native != simulated {
                let [before, native, simulated] = [*before, native, simulated].map(u128::from_le_bytes);
                writeln!(f, "  xmm{number}: {before:#x}: native {native:#x}, simulated {simulated:#x}")?;
            }
        }
        let (flags, before) = ((native.rflags, simulated.rflags), self.before.rflags);
        writeln!(f, "  rflags: {before:#x}: native {:#x}, simulated {:#x}", flags.0, flags.1)?;
        writeln!(f, "  rip: native {:#x}, simulated {:#x}", native.rip, simulated.rip)?;
        writeln!(f, "  mxcsr: native {:#x}, simulated {:#x}", native.mxcsr, simulated.mxcsr)?;
        let mut others = (native.clone(), simulated.clone());
        for state in [&mut others.0, &mut others.1] {
            (state.general, state.xmm, state.rflags, state.rip, state.mxcsr) =
                ([0; 16], [[0; 16]; 16], 0, 0, 0);
        }
        if others.0 != others.1 {
            writeln!(f, "  {:?}\n  {:?}", others.0, others.1)?;
        }
        write!(f, "  pages that differ: {:?}", self.pages)
    }
}

/// The comparison.
#[derive(Debug)]
pub struct Lockstep<N> {
    native: N,
    ram: CompleteRam,
    table: Table,
}

/// A state and the window's content.
type Outcome = (CpuState, Vec<PageBytes>);

/// What both sides made of one program.
struct Both {
    native: Outcome,
    simulated: Outcome,
    instructions: u64,
}

/// RAM for a processor to compare with: the tables of the guest's layout and room.
///
/// # Errors
/// Never, unless the guest's own layout changed.
pub fn initial_ram() -> Result<Vec<u8>, LoadError> {
    let mut ram = vec![0; RAM_BYTES];
    guest::load(&mut ram, BootParameters { seed: 0, workload: Workload::SpecJbb })?;
    Ok(ram)
}

impl<N: Native> Lockstep<N> {
    /// A comparison with `native`, whose RAM is a copy of `ram`, from [`initial_ram`].
    #[must_use]
    pub fn new(native: N, ram: Vec<u8>) -> Self {
        Self { native, ram: CompleteRam::new(ram), table: Table::new() }
    }

    /// How many kinds of instruction are drawn from (encodings, in the decoder's count), units aside.
    #[must_use]
    pub fn kinds(&self) -> usize {
        self.table.len()
    }

    /// Compares programs of `seed` until at least `instructions` were run.
    ///
    /// # Errors
    /// At the first difference.
    pub fn run(&mut self, seed: u64, instructions: u64) -> Result<Tally, LockstepError<N::Error>> {
        let mut tally = Tally::default();
        while tally.instructions < instructions {
            tally.instructions += self.compare(seed, tally.programs)?;
            tally.programs += 1;
        }
        Ok(tally)
    }

    /// Compares one program and returns the instructions that it ran.
    fn compare(&mut self, seed: u64, number: u64) -> Result<u64, LockstepError<N::Error>> {
        let mut chance = Chance::new(seed, number);
        let program = Program::random(&mut self.table, &mut chance);
        let start = start(&program, &mut chance);
        let window: Vec<PageBytes> = (0..WINDOW_PAGES).map(|_| page_of_noise(&mut chance)).collect();
        let case = Case { seed, number, program: &program, start: &start, window: &window };
        let whole = self.both(&case, program.units.len())?;
        if whole.native == whole.simulated {
            return Ok(whole.instructions);
        }
        let mut before = start.clone();
        let mut rip = CODE;
        for units in 1..=program.units.len() {
            let Both { native, simulated, .. } = self.both(&case, units)?;
            let code = &program.units[units - 1];
            if native != simulated {
                return Err(LockstepError::Difference(Box::new(Difference {
                    seed: (seed, number),
                    rip,
                    code: code.clone(),
                    before,
                    pages: differing_pages(&native.1, &simulated.1),
                    native: native.0,
                    simulated: simulated.0,
                })));
            }
            before = simulated.0;
            rip += code.len() as u64;
        }
        unreachable!("the whole program was compared before, and differed")
    }

    /// What the first `units` units leave behind, on both sides.
    fn both(&mut self, case: &Case<'_>, units: usize) -> Result<Both, LockstepError<N::Error>> {
        let mut code = case.program.code(units);
        code.resize(CODE_PAGES * PAGE_BYTES, 0xcc);
        let window = pages_from(WINDOW, WINDOW_PAGES).zip(case.window);
        let pages = pages_from(CODE, CODE_PAGES as u64).zip(code.as_chunks::<PAGE_BYTES>().0);
        let pages: Vec<(PageNumber, &PageBytes)> = window.chain(pages).collect();
        for (page, bytes) in &pages {
            self.native.write(*page, bytes);
        }
        let (seed, number) = (case.seed, case.number);
        let native = self.native.run(case.start);
        let native = native.map_err(|cause| LockstepError::Native {
            seed,
            number,
            code: case.program.code(units),
            cause,
        })?;
        let mut left = vec![[0; PAGE_BYTES]; case.window.len()];
        for (page, bytes) in pages_from(WINDOW, WINDOW_PAGES).zip(&mut left) {
            self.native.read(page, bytes);
        }
        let native = (native, left);
        let (interpreted, instructions) = self.simulate(case, &pages, Translation::Never)?;
        if interpreted != native {
            return Ok(Both { native, simulated: interpreted, instructions });
        }
        let (translated, _) = self.simulate(case, &pages, Translation::AtOnce)?;
        Ok(Both { native, simulated: translated, instructions })
    }

    /// What the program leaves behind here, and the instructions that it ran.
    fn simulate(
        &mut self,
        case: &Case<'_>,
        pages: &[(PageNumber, &PageBytes)],
        when: Translation,
    ) -> Result<(Outcome, u64), LockstepError<N::Error>> {
        for (page, bytes) in pages {
            let start = page.0 as usize * PAGE_BYTES;
            self.ram.bytes_mut()[start..start + PAGE_BYTES].copy_from_slice(*bytes);
        }
        let (seed, number) = (case.seed, case.number);
        let mut simulator = Simulator::translating(case.start, &mut self.ram, Unobserved, when)?;
        let exit = simulator.run(WORK_MAX).map_err(|cause| LockstepError::Refused { seed, number, cause })?;
        if !matches!(exit, Exit::Output { .. }) {
            return Err(LockstepError::Endless { seed, number });
        }
        let (state, instructions) = (simulator.state(), simulator.instructions());
        drop(simulator);
        let first = usize::try_from(WINDOW).unwrap_or(0);
        let window = self.ram.bytes()[first..][..case.window.len() * PAGE_BYTES].as_chunks().0.to_vec();
        Ok(((state, window), instructions))
    }
}

struct Case<'a> {
    seed: u64,
    number: u64,
    program: &'a Program,
    start: &'a CpuState,
    window: &'a [PageBytes],
}

fn start(program: &Program, chance: &mut Chance) -> CpuState {
    let mut state = CpuState::start(CODE);
    for value in &mut state.general {
        *value = chance.value();
    }
    for register in program.rules.pointers {
        state.general[register.number()] = Program::pointer(chance);
    }
    state.general[Register::RSP.number()] = Program::stack_top();
    for register in &mut state.xmm {
        let [low, high] = [(); 2].map(|()| u128::from(chance.value()));
        *register = (low | high << 64).to_le_bytes();
    }
    state.rflags |= chance.bits() & 0x8d5;
    state
}

fn page_of_noise(chance: &mut Chance) -> PageBytes {
    let mut page = [0; PAGE_BYTES];
    for word in page.as_chunks_mut::<8>().0 {
        *word = chance.value().to_le_bytes();
    }
    page
}

fn pages_from(address: u64, count: u64) -> impl Iterator<Item = PageNumber> {
    let first = u32::try_from(address / PAGE_BYTES as u64).unwrap_or(0);
    (first..).map(PageNumber).take(usize::try_from(count).unwrap_or(0))
}

fn differing_pages(native: &[PageBytes], simulated: &[PageBytes]) -> Vec<PageNumber> {
    let numbers = pages_from(WINDOW, WINDOW_PAGES);
    let differing =
        numbers.zip(native.iter().zip(simulated)).filter(|(_, (native, simulated))| native != simulated);
    differing.map(|(page, _)| page).collect()
}
