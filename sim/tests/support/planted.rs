//! A program with planted double fetches, and with what looks like them: what it fetches twice is known because every
//! function of it was drawn from a list that says so.

#![allow(dead_code, clippy::allow_attributes, reason = "tests and examples use their own parts")]
#![allow(unreachable_pub, reason = "the module is part of several programs")]

use pageswarm_machine::CpuState;
use pageswarm_machine::content::Random;
use pageswarm_sim::analysis::Regions;
use pageswarm_sim::lockstep::initial_ram;
use pageswarm_sim::{Access, CompleteRam, Exit, Observer, Simulator};

const MAIN: u64 = 0x10_0000;
const OTHERS: u64 = 0x11_0000;
const READER: u64 = 0x12_0000;
const SHARED: u64 = 0x50_0000;
const STACK_TOP: u64 = 0x40_0f00;
/// Bytes from one function or message to the next.
const STRIDE: u64 = 64;
/// MOV EAX, [RDI]; MOV ECX, [RDI].
const LOAD: [u8; 2] = [0x8b, 0x07];
const LOAD_AGAIN: [u8; 2] = [0x8b, 0x0f];
const RETURN: u8 = 0xc3;

/// What one function of the reader does with the message at RDI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Reads a word twice.
    Twice,
    /// Reads a word, calls other code that changes it, reads it again.
    ChangedBetween,
    /// Reads a word, then one byte of it.
    PartAgain,
    /// Reads 16 bytes at once, then a word of them.
    CopiedThenUsed,
    /// Calls the same small function of the reader twice.
    ByOneHelper,
    /// Waits for a word to change: it is fetched again, and nothing is wrong with it.
    Waits,
    Once,
    /// Reads once in each of two calls.
    InTwoCalls,
    /// Reads, writes, and reads what it wrote.
    OwnWriteBetween,
    /// Adds to a word, then reads it.
    AddsThenReads,
    OtherWords,
    /// Reads its own stack twice.
    OwnStack,
    /// Other code reads twice.
    NotTheReader,
    /// Calls other code, which calls another function of the reader; both read once.
    NestedCall,
}

impl Case {
    pub const ALL: [Self; 14] = [
        Self::Twice,
        Self::ChangedBetween,
        Self::PartAgain,
        Self::CopiedThenUsed,
        Self::ByOneHelper,
        Self::Waits,
        Self::Once,
        Self::InTwoCalls,
        Self::OwnWriteBetween,
        Self::AddsThenReads,
        Self::OtherWords,
        Self::OwnStack,
        Self::NotTheReader,
        Self::NestedCall,
    ];
}

/// A planted pair of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planted {
    pub case: Case,
    pub first_rip: u64,
    pub second_rip: u64,
}

/// The program.
#[derive(Debug)]
pub struct Program {
    pub ram: Vec<u8>,
    pub planted: Vec<Planted>,
    main: Vec<u8>,
    others_end: u64,
    reader_end: u64,
}

fn put(ram: &mut [u8], address: u64, bytes: &[u8]) {
    let start = usize::try_from(address).unwrap();
    ram[start..start + bytes.len()].copy_from_slice(bytes);
}

/// MOV RAX, target; CALL RAX.
fn call(target: u64) -> Vec<u8> {
    [&[0x48, 0xb8][..], &target.to_le_bytes(), &[0xff, 0xd0]].concat()
}

impl Program {
    /// `cases` functions, each drawn and called once.
    pub fn new(seed: u64, cases: u64) -> Self {
        let mut program = Self {
            ram: initial_ram().unwrap(),
            planted: Vec::new(),
            main: Vec::new(),
            others_end: OTHERS,
            reader_end: READER,
        };
        let mut random = Random::new(seed, 0);
        for number in 0..cases {
            let message = SHARED + STRIDE * number;
            put(&mut program.ram, message, &random.draw().to_le_bytes());
            let case = Case::ALL[usize::try_from(random.draw() % Case::ALL.len() as u64).unwrap()];
            let function = program.function(case);
            program.main.extend([0x48, 0xbf]);
            program.main.extend(message.to_le_bytes());
            let times = if case == Case::InTwoCalls { 2 } else { 1 };
            (0..times).for_each(|_| program.main.extend(call(function)));
        }
        // OUT 0x10, AL ends it.
        program.main.extend([0xe6, 0x10]);
        assert!(MAIN + program.main.len() as u64 <= OTHERS && program.others_end <= READER);
        put(&mut program.ram, MAIN, &program.main);
        program
    }

    pub fn regions(&self) -> Regions {
        Regions { reader: READER..self.reader_end, shared: SHARED..SHARED + 0x10_0000 }
    }

    fn other(&mut self, code: &[u8]) -> u64 {
        put(&mut self.ram, self.others_end, code);
        self.others_end += STRIDE;
        self.others_end - STRIDE
    }

    fn reader(&mut self, code: &[u8]) -> u64 {
        put(&mut self.ram, self.reader_end, code);
        self.reader_end += STRIDE;
        self.reader_end - STRIDE
    }

    /// Writes what a case needs; gives the function that the program's main part calls.
    fn function(&mut self, case: Case) -> u64 {
        let here = self.reader_end;
        let mut plant = |first: u64, second: u64| {
            self.planted.push(Planted { case, first_rip: here + first, second_rip: here + second });
        };
        let code = match case {
            Case::Twice => {
                plant(0, 2);
                [&LOAD[..], &LOAD_AGAIN, &[RETURN]].concat()
            }
            Case::ChangedBetween => {
                plant(0, 14);
                // INC DWORD [RDI].
                let writer = self.other(&[0xff, 0x07, RETURN]);
                [&LOAD[..], &call(writer), &LOAD_AGAIN, &[RETURN]].concat()
            }
            Case::PartAgain => {
                plant(0, 2);
                // MOVZX ECX, BYTE [RDI + 2].
                [&LOAD[..], &[0x0f, 0xb6, 0x4f, 0x02, RETURN]].concat()
            }
            Case::CopiedThenUsed => {
                plant(0, 3);
                // MOVUPS XMM0, [RDI]; MOV EAX, [RDI + 8].
                vec![0x0f, 0x10, 0x07, 0x8b, 0x47, 0x08, RETURN]
            }
            Case::ByOneHelper => {
                plant(0, 0);
                let helper = self.reader(&[LOAD[0], LOAD[1], RETURN]);
                [&call(helper)[..], &call(helper), &[RETURN]].concat()
            }
            // MOV ECX, 3; CMP DWORD [RDI], 0; LOOP to the comparison.
            Case::Waits => vec![0xb9, 3, 0, 0, 0, 0x83, 0x3f, 0x00, 0xe2, 0xfb, RETURN],
            Case::Once | Case::InTwoCalls => vec![LOAD[0], LOAD[1], RETURN],
            // MOV [RDI], EAX.
            Case::OwnWriteBetween => [&LOAD[..], &[0x89, 0x07], &LOAD_AGAIN, &[RETURN]].concat(),
            // ADD DWORD [RDI], 1.
            Case::AddsThenReads => [&[0x83, 0x07, 0x01][..], &LOAD, &[RETURN]].concat(),
            // MOV ECX, [RDI + 4].
            Case::OtherWords => [&LOAD[..], &[0x8b, 0x4f, 0x04, RETURN]].concat(),
            // PUSH RAX; MOV EAX, [RSP]; MOV ECX, [RSP]; POP RAX.
            Case::OwnStack => vec![0x50, 0x8b, 0x04, 0x24, 0x8b, 0x0c, 0x24, 0x58, RETURN],
            Case::NotTheReader => {
                return self.other(&[&LOAD[..], &LOAD_AGAIN, &[RETURN]].concat());
            }
            Case::NestedCall => {
                let inner = self.reader(&[LOAD[0], LOAD[1], RETURN]);
                let between = self.other(&[&call(inner)[..], &[RETURN]].concat());
                [&LOAD[..], &call(between), &[RETURN]].concat()
            }
        };
        self.reader(&code)
    }

    /// Runs it: all accesses in order, and the number of instructions.
    pub fn accesses(&self) -> (Vec<Access>, u64) {
        let mut state = CpuState::start(MAIN);
        state.general[4] = STACK_TOP;
        let ram = CompleteRam::new(self.ram.clone());
        let mut simulator = Simulator::new(&state, ram, Seen::default()).unwrap();
        let exit = simulator.run(10_000_000).unwrap();
        assert!(matches!(exit, Exit::Output { port: 0x10, .. }), "{exit:?}");
        let instructions = simulator.instructions();
        (simulator.into_parts().1.accesses, instructions)
    }
}

/// Keeps all accesses.
#[derive(Debug, Default)]
struct Seen {
    accesses: Vec<Access>,
}

impl Observer for Seen {
    fn access(&mut self, access: Access) {
        self.accesses.push(access);
    }
}
