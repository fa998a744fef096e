//! Random programs run here and by a processor, and everything that they leave behind compared.
//!
//! The interpreter says which instructions it knows, and all of them are drawn from; see [`Lockstep::kinds`]. A
//! difference is narrowed down to the first unit of a few instructions that makes it.

mod chance;
mod difference;
mod program;
mod table;

use crate::memory::{CompleteRam, PageBytes};
use crate::observe::Unobserved;
use crate::refusal::{Refusal, UnsupportedState};
use crate::simulator::{Exit, Simulator};
use crate::stretches::Translation;
use chance::Chance;
pub use difference::{Difference, DifferingByte};
use iced_x86::Register;
use pageswarm_machine::guest::{self, BootParameters, LoadError};
use pageswarm_machine::{CpuState, PAGE_BYTES, PageNumber, Workload};
use program::{CODE, Program, WINDOW, WINDOW_PAGES};
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

/// Why a comparison ended.
#[derive(Debug, thiserror::Error)]
pub enum LockstepError<E> {
    /// The processor and the simulation disagree.
    #[error("processor and simulation differ: {0}")]
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
    /// A given program is too long.
    #[error("program of {bytes} bytes: at most {most} can be compared")]
    Length {
        /// Its length.
        bytes: usize,
        /// The most.
        most: usize,
    },
    /// A program did not end.
    #[error("program {number} of seed {seed:#x} does not end with an output to a port")]
    Endless {
        /// The seed.
        seed: u64,
        /// The program's number.
        number: u64,
    },
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

    /// Compares a program of the caller's: 64-bit code that runs at 0x100000 until its end or its first access to a port.
    ///
    /// RBX, RSI and RDI point into 24 KiB of noise at 0x400000, RSP to the end of that; all else is drawn from `seed`. A
    /// difference is narrowed down by leaving off instructions from the program's end, in the order in which they lie.
    ///
    /// # Errors
    /// At a difference, and when the program is too long or does not run on both sides.
    pub fn run_program(&mut self, seed: u64, code: &[u8]) -> Result<Tally, LockstepError<N::Error>> {
        let most = CODE_PAGES * PAGE_BYTES - program::END.len();
        if code.len() > most {
            return Err(LockstepError::Length { bytes: code.len(), most });
        }
        let program = Program::given(code);
        let instructions = self.compare_program(seed, 0, &program, &mut Chance::new(seed, 0))?;
        Ok(Tally { programs: 1, instructions })
    }

    /// Compares one random program and returns the instructions that it ran.
    fn compare(&mut self, seed: u64, number: u64) -> Result<u64, LockstepError<N::Error>> {
        let mut chance = Chance::new(seed, number);
        let program = Program::random(&mut self.table, &mut chance);
        self.compare_program(seed, number, &program, &mut chance)
    }

    fn compare_program(
        &mut self,
        seed: u64,
        number: u64,
        program: &Program,
        chance: &mut Chance,
    ) -> Result<u64, LockstepError<N::Error>> {
        let start = start(program, chance);
        let window: Vec<PageBytes> = (0..WINDOW_PAGES).map(|_| page_of_noise(chance)).collect();
        let case = Case { seed, number, program, start: &start, window: &window };
        let whole = self.both(&case, program.units.len())?;
        if whole.native == whole.simulated {
            return Ok(whole.instructions);
        }
        Err(LockstepError::Difference(Box::new(self.narrow(&case, whole))))
    }

    /// The difference of the shortest beginning that has one, against the last one before it that has none. A beginning
    /// that does not run says nothing.
    fn narrow(&mut self, case: &Case<'_>, whole: Both) -> Difference {
        let (mut agreed, mut before) = (0, (case.start.clone(), case.window.to_vec()));
        let (mut end, mut differing) = (case.program.units.len(), whole);
        for units in 1..=case.program.units.len() {
            match self.both(case, units) {
                Ok(both) if both.native == both.simulated => (agreed, before) = (units, both.simulated),
                Ok(both) => {
                    (end, differing) = (units, both);
                    break;
                }
                Err(_) => {}
            }
        }
        let units = &case.program.units;
        let (before, window) = before;
        let Both { native, simulated, .. } = differing;
        let mut memory = differing_bytes(&window, &native.1, &simulated.1);
        let differing_bytes = memory.len();
        memory.truncate(difference::BYTES_KEPT);
        Difference {
            seed: (case.seed, case.number),
            rip: CODE + units[..agreed].iter().map(|unit| unit.len() as u64).sum::<u64>(),
            code: units[agreed..end].concat(),
            before,
            native: native.0,
            simulated: simulated.0,
            memory,
            differing_bytes,
        }
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
        // First, because it stops by itself where a program does not end.
        let (interpreted, instructions) = self.simulate(case, &pages, Translation::Never)?;
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

/// The bytes of the window that differ.
fn differing_bytes(
    before: &[PageBytes],
    native: &[PageBytes],
    simulated: &[PageBytes],
) -> Vec<DifferingByte> {
    let [before, native, simulated] = [before, native, simulated].map(<[PageBytes]>::as_flattened);
    let bytes = (WINDOW..).zip(before).zip(native.iter().zip(simulated));
    let all = bytes.map(|((address, before), (native, simulated))| DifferingByte {
        address,
        before: *before,
        native: *native,
        simulated: *simulated,
    });
    all.filter(|byte| byte.native != byte.simulated).collect()
}
