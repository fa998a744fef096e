//! A small program, recorded by the interpreter in intervals of chosen length: what tests debug.

use crate::debug::source::{RecordedInterval, Source};
use crate::memory::CompleteRam;
use crate::{Boundary, Exit, Simulator, Unobserved};
use pageswarm_checkpoint::{Birth, ChunkRef, Generation, PageMap, chunk_hashes, map::Slot, zero_page_hash};
use pageswarm_machine::content::Random;
use pageswarm_machine::cpu::Table;
use pageswarm_machine::event::{Event, EventSize};
use pageswarm_machine::guest::{self, BootParameters};
use pageswarm_machine::{CheckpointIndex, CpuState, Devices, EventLog, PAGE_BYTES, PageNumber, Workload};

const RAM_BYTES: usize = 4 << 20;
pub(super) const CODE: u64 = 0x10_0000;
const HANDLER: u64 = 0x10_1000;
const GATES: u64 = 0x18_0000;
pub(super) const DATA: u64 = 0x30_0000;
pub(super) const STACK_TOP: u64 = 0x31_0000;
/// Pages that the program writes: its code, its data, its stack.
pub(super) const PAGES: [u32; 4] = [0x100, 0x300, 0x301, 0x30f];
/// The first of the recorded intervals.
pub(super) const FIRST: u64 = 3;

/// Fills, counts, reads an input, writes the console, has an exception, changes its own code, and begins anew.
const PROGRAM: [u8; 53] = [
    0xbf, 0x00, 0x00, 0x30, 0x00, // mov edi, DATA
    0xb9, 0x25, 0x00, 0x00, 0x00, // mov ecx, 37
    0xf3, 0xaa, // rep stosb
    0x48, 0xff, 0xc3, // inc rbx
    0x89, 0xda, // mov edx, ebx
    0x81, 0xe2, 0xf8, 0x0f, 0x00, 0x00, // and edx, 0xff8
    0x48, 0x01, 0x9a, 0x00, 0x10, 0x30, 0x00, // add [rdx + DATA + 0x1000], rbx
    0x66, 0xba, 0x14, 0x05, // mov dx, PORT_CLOCK_LOW
    0xed, // in eax, dx
    0x66, 0xba, 0xf8, 0x03, // mov dx, PORT_CONSOLE
    0xee, // out dx, al
    0x0f, 0x0b, // ud2
    0x88, 0x1c, 0x25, 0x32, 0x00, 0x10, 0x00, // mov [CODE + 50], bl
    0xb0, 0x00, // mov al, 0
    0xeb, 0xcb, // jmp CODE
];
/// Where instructions begin, the handler's among them.
pub(super) const INSTRUCTIONS: [u64; 8] =
    [CODE, CODE + 10, CODE + 12, CODE + 23, CODE + 34, CODE + 40, CODE + 51, HANDLER + 5];

/// Intervals in memory.
pub(in crate::debug) struct Held(pub(super) Vec<(RecordedInterval, Vec<u8>)>);

#[derive(Debug, thiserror::Error)]
#[error("not held")]
pub(in crate::debug) struct NotHeld;

impl Held {
    fn get(&self, index: CheckpointIndex) -> Option<&(RecordedInterval, Vec<u8>)> {
        self.0.get(usize::try_from(index.0.checked_sub(FIRST)?).ok()?)
    }
}

impl Source for Held {
    type Error = NotHeld;

    fn has(&self, index: CheckpointIndex) -> bool {
        self.get(index).is_some()
    }

    fn interval(&mut self, index: CheckpointIndex) -> Result<RecordedInterval, NotHeld> {
        self.get(index).map(|(interval, _)| interval.clone()).ok_or(NotHeld)
    }

    fn ram(&mut self, index: CheckpointIndex) -> Result<Vec<u8>, NotHeld> {
        self.get(index).map(|(_, ram)| ram.clone()).ok_or(NotHeld)
    }
}

pub(super) fn map_of(ram: &[u8]) -> PageMap {
    let contents: Vec<&[u8]> = ram.chunks(PAGE_BYTES).collect();
    let source = ChunkRef { generation: Generation(0), birth: Birth(0) };
    let slots = chunk_hashes(&contents).into_iter().map(|hash| match hash {
        hash if hash == zero_page_hash() => Slot::Zero,
        hash => Slot::Chunk { source, hash },
    });
    let changes: Vec<_> = (0..).map(PageNumber).zip(slots).collect();
    PageMap::zero(u32::try_from(ram.len() / PAGE_BYTES).unwrap()).with(&changes)
}

/// The program's machine before its first instruction.
fn boot(program: &[u8]) -> (CpuState, Vec<u8>) {
    let mut ram = vec![0; 64 << 20];
    guest::load(&mut ram, BootParameters { seed: 0, workload: Workload::SpecJbb }).unwrap();
    ram.truncate(RAM_BYTES);
    let mut put = |address: u64, bytes: &[u8]| {
        let start = usize::try_from(address).unwrap();
        ram[start..start + bytes.len()].copy_from_slice(bytes);
    };
    put(CODE, program);
    // ADD QWORD [RSP], 2; IRETQ.
    put(HANDLER, &[0x48, 0x83, 0x04, 0x24, 0x02, 0x48, 0xcf]);
    let gate = HANDLER & 0xffff | 0x33 << 16 | 0xef00 << 32 | (HANDLER >> 16 & 0xffff) << 48;
    put(GATES + 16 * 6, &gate.to_le_bytes());
    let mut cpu = CpuState::start(CODE);
    cpu.idt = Table { base: GATES, limit: 0xfff };
    cpu.general[4] = STACK_TOP;
    (cpu, ram)
}

/// Intervals that each end after so much more work, or a little later.
pub(in crate::debug) fn record(works: &[u64]) -> Held {
    record_program(&PROGRAM, works)
}

/// The same without the instruction that changes the code, which makes it slow: for many instructions.
pub(in crate::debug) fn record_long(works: &[u64]) -> Held {
    let mut program = PROGRAM;
    program[42..49].copy_from_slice(&[0x0f, 0x1f, 0x80, 0, 0, 0, 0]);
    record_program(&program, works)
}

fn record_program(program: &[u8], works: &[u64]) -> Held {
    let (cpu, mut ram) = boot(program);
    let mut simulator = Simulator::new(&cpu, CompleteRam::new(ram.clone()), Unobserved).unwrap();
    let mut devices = Devices::default();
    let mut start = Boundary { cpu, devices: devices.clone(), map: map_of(&ram) };
    let (mut goal, mut random, mut intervals) = (0, Random::new(1, 2), Vec::new());
    for work in works {
        goal += work;
        let mut events = EventLog::default();
        loop {
            match simulator.run(goal).unwrap() {
                Exit::Done => break,
                Exit::Input { port, size } => {
                    let value = u32::try_from(random.draw() >> 32).unwrap();
                    let input = devices.input(port, size).unwrap();
                    devices.answered(input, value);
                    simulator.answer(value);
                    events.push(Event { port, size: EventSize::Long, value }).unwrap();
                }
                Exit::Output { port, size, value } => {
                    devices.output(port, &value.to_le_bytes()[..size]).unwrap();
                }
                Exit::Breakpoint => unreachable!("there is none"),
            }
        }
        let after = simulator.memory().bytes().to_vec();
        let end = Boundary { cpu: simulator.state(), devices: devices.clone(), map: map_of(&after) };
        let before = std::mem::replace(&mut ram, after);
        let interval = RecordedInterval { start, events, end: end.clone(), work_max: 1 << 40 };
        intervals.push((interval, before));
        start = end;
    }
    Held(intervals)
}
