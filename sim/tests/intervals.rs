//! Goal: a replay finds its interval's end wherever that is, from hashes alone and over RAM that is filled while it runs,
//! and reports everything else as an error. Method: the interpreter itself is the recorder, stopped at chosen moments;
//! the replay knows nothing of how often it ran.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use pageswarm_checkpoint::{
    Birth, ChunkRef, Generation, PageMap, chunk_hash, chunk_hashes, map::Slot, zero_page_hash,
};
use pageswarm_machine::cpu::Table;
use pageswarm_machine::devices::Input;
use pageswarm_machine::event::{Event, EventSize};
use pageswarm_machine::guest::{self, BootParameters};
use pageswarm_machine::{CheckpointIndex, CpuState, Devices, EventLog, PAGE_BYTES, PageNumber, Workload};
use pageswarm_sim::memory::PageBytes;
use pageswarm_sim::{
    Access, AccessKind, Boundary, CompleteRam, Exit, Interval, Memory, Observer, PageUnavailable, Reason,
    ReplayFailure, Simulator, Unobserved, replay, replay_while,
};

const RAM_BYTES: usize = 64 << 20;
const CODE: u64 = 0x10_0000;
const WORK_MAX: u64 = 1_000_000_000;

/// A start, an end and the inputs between.
struct Recorded {
    start: Boundary,
    ram: Vec<u8>,
    events: EventLog,
    end: Boundary,
}

impl Recorded {
    fn interval(&self) -> Interval<'_> {
        let (start, events, end) = (&self.start, &self.events, &self.end);
        Interval { index: CheckpointIndex(7), start, events, end, work_max: WORK_MAX }
    }

    fn ram(&self) -> CompleteRam {
        CompleteRam::new(self.ram.clone())
    }
}

fn map_of(ram: &[u8]) -> PageMap {
    let contents: Vec<&[u8]> = ram.chunks(PAGE_BYTES).collect();
    let source = ChunkRef { generation: Generation(0), birth: Birth(0) };
    let slots = chunk_hashes(&contents).into_iter().map(|hash| match hash {
        hash if hash == zero_page_hash() => Slot::Zero,
        hash => Slot::Chunk { source, hash },
    });
    let changes: Vec<_> = (0..).map(PageNumber).zip(slots).collect();
    PageMap::zero(u32::try_from(ram.len() / PAGE_BYTES).unwrap()).with(&changes)
}

/// Runs the workload guest from its first instruction; each boundary is after so many instructions more.
fn record_guest(boundaries: &[u64]) -> Vec<Recorded> {
    let mut ram = vec![0; RAM_BYTES];
    let parameters = BootParameters { seed: 3, workload: Workload::SpecJbb };
    let state = guest::load(&mut ram, parameters).unwrap();
    let mut start = Boundary { cpu: state.clone(), devices: Devices::default(), map: map_of(&ram) };
    let mut simulator = Simulator::new(&state, CompleteRam::new(ram.clone()), Unobserved).unwrap();
    let (mut devices, mut events, mut goal) = (Devices::default(), EventLog::default(), 0);
    let mut recorded = Vec::new();
    for more in boundaries {
        goal += more;
        while step(&mut simulator, goal, &mut devices, &mut events) {}
        let after = simulator.memory().bytes().to_vec();
        let end = Boundary { cpu: simulator.state(), devices: devices.clone(), map: map_of(&after) };
        let before = std::mem::replace(&mut ram, after);
        let log = std::mem::take(&mut events);
        recorded.push(Recorded { start, ram: before, events: log, end: end.clone() });
        start = end;
    }
    recorded
}

/// False when so much work is done.
fn step(
    simulator: &mut Simulator<CompleteRam, Unobserved>,
    goal: u64,
    devices: &mut Devices,
    events: &mut EventLog,
) -> bool {
    match simulator.run(goal).unwrap() {
        Exit::Done => return false,
        Exit::Input { port, size } => {
            let input = devices.input(port, size).unwrap();
            let value = if input == Input::Pace { 40 | 30 << 16 } else { 9 };
            devices.answered(input, value);
            simulator.answer(value);
            events.push(Event { port, size: EventSize::Long, value }).unwrap();
        }
        Exit::Output { port, size, value } => {
            devices.output(port, &value.to_le_bytes()[..size]).unwrap();
        }
        other @ Exit::Breakpoint => panic!("{other:?}"),
    }
    true
}

/// A program alone in RAM, at its start and when it met the instruction at `stop` for the `times`th time.
fn record_program(code: &[u8], stop: u64, times: usize) -> Recorded {
    let mut ram = vec![0; RAM_BYTES];
    guest::load(&mut ram, BootParameters { seed: 0, workload: Workload::SpecJbb }).unwrap();
    let place = usize::try_from(CODE).unwrap();
    ram[place..place + code.len()].copy_from_slice(code);
    let state = CpuState::start(CODE);
    let mut simulator = Simulator::new(&state, CompleteRam::new(ram.clone()), Unobserved).unwrap();
    simulator.stop_at(stop);
    for _ in 0..times {
        assert_eq!(simulator.run(WORK_MAX).unwrap(), Exit::Breakpoint);
    }
    let boundary = |cpu, ram: &[u8]| Boundary { cpu, devices: Devices::default(), map: map_of(ram) };
    let end = boundary(simulator.state(), simulator.memory().bytes());
    Recorded { start: boundary(state, &ram), ram, events: EventLog::default(), end }
}

#[test]
fn ends_are_found_wherever_they_are() {
    // The first fills RAM; the others end in the midst of work, some after a few instructions.
    let recorded = record_guest(&[200_000_000, 60, 99, 150_001, 1_234_567, 3_000_000]);
    for (number, interval) in recorded.iter().enumerate() {
        let replayed = replay(&interval.interval(), interval.ram(), Unobserved)
            .unwrap_or_else(|error| panic!("{number}: {:?}", error.cause));
        assert_eq!(replayed.cpu, interval.end.cpu);
        assert_eq!(replayed.devices, interval.end.devices);
        assert_eq!(map_of(replayed.memory.bytes()).root(), interval.end.map.root());
        let changed: Vec<PageNumber> =
            interval.end.map.changes_from(&interval.start.map).into_iter().map(|(page, _)| page).collect();
        assert_eq!(replayed.changed, changed);
        assert!(changed.iter().all(|page| replayed.written.contains(page)));
    }
}

#[test]
fn an_end_that_only_ram_tells_is_found() {
    // L: INC QWORD [0x300000]; JMP L. Registers are the same each time.
    let code = [0x48, 0xff, 0x04, 0x25, 0x00, 0x00, 0x30, 0x00, 0xeb, 0xf6];
    for times in [1, 2, 5000] {
        let recorded = record_program(&code, CODE, times);
        let replayed = replay(&recorded.interval(), recorded.ram(), Unobserved).unwrap();
        let begun = if times == 1 { 0 } else { 2 * (times as u64 - 1) };
        assert_eq!(replayed.instructions, begun);
        assert!(replayed.comparisons <= 2, "{}", replayed.comparisons);
    }
}

#[test]
fn an_end_within_a_repeated_instruction_is_found() {
    // MOV EDI, 0x300000; MOV ECX, 0x2000; INC EAX; REP STOSB; JMP back to the first.
    let code = [0xbf, 0, 0, 0x30, 0, 0xb9, 0, 0x20, 0, 0, 0xff, 0xc0, 0xf3, 0xaa, 0xeb, 0xf0];
    for times in [1, 2, 0x1000, 0x2000, 0x2001, 0x5123] {
        let recorded = record_program(&code, CODE + 12, times);
        let replayed = replay(&recorded.interval(), recorded.ram(), Unobserved).unwrap();
        assert_eq!(replayed.cpu.general[1], recorded.end.cpu.general[1]);
        assert_eq!(replayed.memory.bytes().len(), RAM_BYTES);
        assert!(map_of(replayed.memory.bytes()).root() == recorded.end.map.root(), "{times}");
    }
}

/// RAM whose pages come when they are wanted; what was not made present may not be looked at.
struct Lazy {
    source: Vec<u8>,
    ram: CompleteRam,
    present: Vec<bool>,
    missing: Option<PageNumber>,
}

impl Lazy {
    fn new(source: Vec<u8>, missing: Option<PageNumber>) -> Self {
        let pages = source.len() / PAGE_BYTES;
        let ram = CompleteRam::new(vec![0xee; source.len()]);
        Self { source, ram, present: vec![false; pages], missing }
    }

    fn check(&self, address: u64) {
        let page = usize::try_from(address).unwrap() / PAGE_BYTES;
        assert!(self.present[page], "page {page} is looked at before it is there");
    }
}

impl Memory for Lazy {
    fn pages(&self) -> u32 {
        self.ram.pages()
    }

    fn make_present(&mut self, page: PageNumber) -> Result<(), PageUnavailable> {
        if self.missing == Some(page) {
            return Err(PageUnavailable { page });
        }
        let index = page.0 as usize;
        if !std::mem::replace(&mut self.present[index], true) {
            let range = index * PAGE_BYTES..(index + 1) * PAGE_BYTES;
            self.ram.bytes_mut()[range.clone()].copy_from_slice(&self.source[range]);
        }
        Ok(())
    }

    fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        self.check(address);
        self.ram.read(address)
    }

    fn write<const N: usize>(&mut self, address: u64, bytes: [u8; N]) {
        self.check(address);
        self.ram.write(address, bytes);
    }

    fn page(&self, page: PageNumber) -> &PageBytes {
        self.check(u64::from(page.0) * PAGE_BYTES as u64);
        self.ram.page(page)
    }
}

#[test]
fn memory_may_be_filled_while_it_is_used() {
    let recorded = record_guest(&[200_000_000, 400_000]).pop().unwrap();
    let memory = Lazy::new(recorded.ram.clone(), None);
    let replayed = replay(&recorded.interval(), memory, Unobserved).unwrap();
    let present = replayed.memory.present.iter().filter(|present| **present).count();
    assert!(present < 2000, "{present} pages were wanted");
    assert!(replayed.written.iter().all(|page| replayed.memory.present[page.0 as usize]));

    let missing = replayed.written[0];
    let memory = Lazy::new(recorded.ram.clone(), Some(missing));
    let error = replay(&recorded.interval(), memory, Unobserved).err().unwrap();
    assert_eq!(error.interval, CheckpointIndex(7));
    let ReplayFailure::Refused(refusal) = error.cause else { panic!("{:?}", error.cause) };
    assert_eq!(refusal.reason, Reason::Page(PageUnavailable { page: missing }));
}

#[test]
fn what_leads_elsewhere_is_an_error() {
    let mut recorded = record_guest(&[200_000_000, 400_000]).pop().unwrap();
    let right = recorded.end.clone();
    // One wrong hash: the guest goes on asking for inputs that the log has not.
    let source = ChunkRef { generation: Generation(0), birth: Birth(0) };
    recorded.end.map =
        right.map.with(&[(PageNumber(9000), Slot::Chunk { source, hash: chunk_hash(b"other") })]);
    let failure =
        |recorded: &Recorded| replay(&recorded.interval(), recorded.ram(), Unobserved).err().unwrap().cause;
    assert!(matches!(failure(&recorded), ReplayFailure::BeyondLog { .. }));
    recorded.end = right.clone();
    recorded.end.cpu.general[9] ^= 1;
    assert!(matches!(failure(&recorded), ReplayFailure::BeyondLog { .. }));
    recorded.end = right;
    let mut events = recorded.events.events().to_vec();
    events[0].port += 4;
    recorded.events = EventLog::default();
    events.into_iter().for_each(|event| recorded.events.push(event).unwrap());
    assert!(matches!(failure(&recorded), ReplayFailure::OtherInput { number: 0, .. }));
}

#[test]
fn work_without_end_is_given_up() {
    let recorded = {
        let mut recorded = record_program(&[0xeb, 0xfe], CODE, 1);
        recorded.end.cpu.general[0] = 1;
        recorded
    };
    let interval = Interval { work_max: 10_000, ..recorded.interval() };
    let failure = replay(&interval, recorded.ram(), Unobserved).err().unwrap().cause;
    assert!(matches!(failure, ReplayFailure::EndNotReached { .. }), "{failure:?}");
}

/// An undefined instruction whose handler is itself: no instruction is ever completed.
fn endless_exceptions() -> Recorded {
    const GATES: u64 = 0x18_0000;
    let mut recorded = record_program(&[0xeb, 0xfe], CODE, 1);
    let mut put = |address: u64, bytes: &[u8]| {
        let start = usize::try_from(address).unwrap();
        recorded.ram[start..start + bytes.len()].copy_from_slice(bytes);
    };
    let gate = CODE & 0xffff | 0x33 << 16 | 0xef00 << 32 | (CODE >> 16 & 0xffff) << 48;
    put(CODE, &[0x0f, 0x0b]);
    put(GATES + 16 * 6, &gate.to_le_bytes());
    recorded.start.cpu.idt = Table { base: GATES, limit: 0xfff };
    recorded.start.cpu.general[4] = 0x200_0000;
    recorded.end.cpu.general[0] = 1;
    recorded
}

#[test]
fn exceptions_without_end_are_given_up() {
    let recorded = endless_exceptions();
    let interval = Interval { work_max: 10_000, ..recorded.interval() };
    let failure = replay(&interval, recorded.ram(), Unobserved).err().unwrap().cause;
    assert!(matches!(failure, ReplayFailure::EndNotReached { instructions: 0, .. }), "{failure:?}");
}

#[test]
fn a_replay_that_nobody_waits_for_stops() {
    let mut recorded = record_program(&[0xeb, 0xfe], CODE, 1);
    recorded.end.cpu.general[0] = 1;
    for recorded in [recorded, endless_exceptions()] {
        let mut questions = 0;
        let go_on = || {
            questions += 1;
            questions < 4
        };
        let stopped = replay_while(&recorded.interval(), recorded.ram(), Unobserved, go_on);
        let failure = stopped.err().unwrap().cause;
        assert!(matches!(failure, ReplayFailure::Stopped { .. }), "{failure:?}");
        assert_eq!(questions, 4);
    }
}

/// Keeps everything that it sees.
struct Seen(Vec<Access>);

impl Observer for Seen {
    fn access(&mut self, access: Access) {
        self.0.push(access);
    }
}

#[test]
fn an_observer_sees_every_access() {
    // MOV EBX, 0x300ffc; ADD QWORD [RBX], 5 across a page's end; MOVUPS XMM0, [RBX-12]; PUSH RBX; OUT 0x10, AL.
    let code =
        [0xbb, 0xfc, 0x0f, 0x30, 0x00, 0x48, 0x83, 0x03, 0x05, 0x0f, 0x10, 0x43, 0xf4, 0x53, 0xe6, 0x10];
    let mut ram = vec![0; RAM_BYTES];
    guest::load(&mut ram, BootParameters { seed: 0, workload: Workload::SpecJbb }).unwrap();
    let place = usize::try_from(CODE).unwrap();
    ram[place..place + code.len()].copy_from_slice(&code);
    ram[0x30_0ffc..0x30_1004].copy_from_slice(&0x1122_3344_5566_7788_u64.to_le_bytes());
    let state = CpuState::start(CODE);
    let mut simulator = Simulator::new(&state, CompleteRam::new(ram), Seen(Vec::new())).unwrap();
    assert!(matches!(simulator.run(100).unwrap(), Exit::Output { .. }));
    let (_, Seen(seen)) = simulator.into_parts();
    let access = |instruction, rip: u64, address: u64, size, kind, value| Access {
        instruction,
        rip: CODE + rip,
        virtual_address: address,
        physical_address: address,
        size,
        kind,
        value,
    };
    let (read, write) = (AccessKind::Read, AccessKind::Write);
    assert_eq!(
        seen,
        [
            access(1, 5, 0x30_0ffc, 4, read, 0x5566_7788),
            access(1, 5, 0x30_1000, 4, read, 0x1122_3344),
            access(1, 5, 0x30_0ffc, 4, write, 0x5566_778d),
            access(1, 5, 0x30_1000, 4, write, 0x1122_3344),
            access(2, 9, 0x30_0ff0, 16, read, 0x5566_778d << 96),
            access(3, 13, state.general[4] - 8, 8, write, 0x30_0ffc),
        ]
    );
}
