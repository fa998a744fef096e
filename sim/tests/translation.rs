//! Goal: nothing that is simulated depends on whether code is translated, above all where translated code is left in its
//! midst: faults, code that changes itself, breakpoints, work that is used up. Method: programs that loop until that
//! happens, interpreted, translated at once and translated when warm; processor, RAM and counts are compared with each
//! other, and processor and RAM with KVM where there is one.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use pageswarm_machine::cpu::Table;
use pageswarm_machine::{CpuState, PAGE_BYTES, PageNumber};
use pageswarm_sim::lockstep::initial_ram;
use pageswarm_sim::{Access, AccessKind, CompleteRam, Exit, Observer, Simulator, Translation, Unobserved};
use pageswarm_vmm::BareMachine;
use std::path::Path;

const CODE: u64 = 0x10_0000;
const HANDLER: u64 = 0x10_2000;
const GATES: u64 = 0x18_0000;
const STACK_TOP: u64 = 0x20_0000;
/// Of the tables' page directory, the entry that maps 80 MiB and up, where no RAM is.
const ALIAS_ENTRY: usize = 0x7000 + 40 * 8;
const WAYS: [Translation; 3] = [Translation::Never, Translation::WhenWarm, Translation::AtOnce];
/// OUT 0x10, AL.
const END: [u8; 2] = [0xe6, 0x10];

/// A program in parts, and what must be in RAX and CR2 at its end.
struct Case {
    name: &'static str,
    code: Vec<u8>,
    rax: u64,
    fault_address: u64,
}

fn case(name: &'static str, parts: &[&[u8]], rax: u64, fault_address: u64) -> Case {
    Case { name, code: parts.concat(), rax, fault_address }
}

fn cases() -> Vec<Case> {
    vec![
        // MOV EBX, 0x300000; L: MOV RAX, [RBX]; ADD RCX, RAX; ADD RBX, 0x10000; ADD EAX, 0x7fffffff; JMP L.
        case(
            "a load that faults in the midst of rounds",
            &[
                &[0xbb, 0, 0, 0x30, 0, 0x48, 0x8b, 0x03, 0x48, 0x01, 0xc1, 0x48, 0x81, 0xc3, 0, 0, 1, 0],
                &[0x05, 0xff, 0xff, 0xff, 0x7f, 0xeb, 0xec],
            ],
            0x7fff_ffff,
            0x400_0000,
        ),
        // MOV EBX, 0x300000; MOV EAX, 0; L: INC EAX; NEG ECX; ADD [RBX], EBX; LEA RBX, [RBX+0x8000]; JMP L.
        case(
            "an addition to memory that faults, with flags of the instruction before",
            &[
                &[0xbb, 0, 0, 0x30, 0, 0xb8, 0, 0, 0, 0, 0xff, 0xc0, 0xf7, 0xd9, 0x01, 0x1b],
                &[0x48, 0x8d, 0x9b, 0, 0x80, 0, 0, 0xeb, 0xf1],
            ],
            (0x400_0000 - 0x30_0000) / 0x8000 + 1,
            0x400_0000,
        ),
        // XOR EAX, EAX; MOV ECX, 1000; L: CMP ECX, 300; JNE S; MOV BYTE [S+1], 0xc8 (INC EAX becomes DEC EAX);
        // S: INC EAX; DEC ECX; JNZ L.
        case(
            "code that changes the stretch behind it",
            &[
                &[0x31, 0xc0, 0xb9, 0xe8, 3, 0, 0, 0x81, 0xf9, 0x2c, 1, 0, 0, 0x75, 7],
                &[0xc6, 0x05, 1, 0, 0, 0, 0xc8, 0xff, 0xc0, 0xff, 0xc9, 0x75, 0xeb],
                &END,
            ],
            400,
            0,
        ),
        case("code that changes the stretch that it is in", &[&changes_itself(0)], 400, 0),
        case("code that is changed at its other address", &[&changes_itself(0x500_0000)], 400, 0),
        // MOV EBX, 0x300fe0; MOV ECX, 64; L: ADD RAX, [RBX]; MOV [RBX+0x2000], RAX; ADC BYTE [RBX+1], 7; INC RBX;
        // DEC ECX; JNZ L.
        case(
            "accesses across a page's end",
            &[
                &[0xbb, 0xe0, 0x0f, 0x30, 0, 0xb9, 64, 0, 0, 0, 0x48, 0x03, 0x03, 0x48, 0x89, 0x83, 0, 0x20],
                &[0, 0, 0x80, 0x53, 1, 7, 0x48, 0xff, 0xc3, 0xff, 0xc9, 0x75, 0xe9, 0xb8, 5, 0, 0, 0],
                &END,
            ],
            5,
            0,
        ),
        // MOV EBX, 0x3fffe00; XOR EAX, EAX; L: INC EAX; ADD RDX, [RBX]; MOV [RBX], DL; INC RBX; JMP L.
        case(
            "the end of RAM",
            &[
                &[0xbb, 0, 0xfe, 0xff, 3, 0x31, 0xc0, 0xff, 0xc0, 0x48, 0x03, 0x13, 0x88, 0x13],
                &[0x48, 0xff, 0xc3, 0xeb, 0xf4],
            ],
            0x200 - 8 + 2,
            0x400_0000,
        ),
    ]
}

/// XOR EAX, EAX; MOV ECX, 1000; MOV EBX, 0x300000; L: MOV RDX, P+1+offset; CMP ECX, 300; CMOVE RBX, RDX;
/// MOV BYTE [RBX], 0xc8; P: INC EAX; DEC ECX; JNZ L.
fn changes_itself(offset: u64) -> Vec<u8> {
    let place = (CODE + 36 + offset).to_le_bytes();
    [
        &[0x31, 0xc0, 0xb9, 0xe8, 3, 0, 0, 0xbb, 0, 0, 0x30, 0, 0x48, 0xba][..],
        &place,
        &[0x81, 0xf9, 0x2c, 1, 0, 0, 0x48, 0x0f, 0x44, 0xda, 0xc6, 0x03, 0xc8],
        &[0xff, 0xc0, 0xff, 0xc9, 0x75, 0xe3],
        &END,
    ]
    .concat()
}

fn put(ram: &mut [u8], address: u64, bytes: &[u8]) {
    let start = usize::try_from(address).unwrap();
    ram[start..start + bytes.len()].copy_from_slice(bytes);
}

/// Gates to a handler that ends the program, and 2 MiB of low RAM once more at 80 MiB.
fn prepare(code: &[u8]) -> (CpuState, Vec<u8>) {
    let mut ram = initial_ram().unwrap();
    for vector in 0..256_u64 {
        let lower = HANDLER & 0xffff | 0x33 << 16 | 0xef00 << 32 | (HANDLER >> 16 & 0xffff) << 48;
        put(&mut ram, GATES + 16 * vector, &lower.to_le_bytes());
    }
    ram.copy_within(0x7000..0x7008, ALIAS_ENTRY);
    put(&mut ram, CODE, code);
    put(&mut ram, HANDLER, &END);
    let mut state = CpuState::start(CODE);
    state.general[4] = STACK_TOP;
    state.idt = Table { base: GATES, limit: 0xfff };
    (state, ram)
}

/// What a program left behind.
#[derive(PartialEq)]
struct Left {
    state: CpuState,
    ram: Vec<u8>,
    counts: (u64, u64),
    written: Vec<PageNumber>,
}

fn simulate(case: &Case, when: Translation) -> Left {
    let (state, ram) = prepare(&case.code);
    let mut simulator = Simulator::translating(&state, CompleteRam::new(ram), Unobserved, when).unwrap();
    let exit = simulator.run(10_000_000).unwrap_or_else(|refusal| panic!("{}: {refusal:?}", case.name));
    assert!(matches!(exit, Exit::Output { port: 0x10, .. }), "{}: {exit:?}", case.name);
    Left {
        state: simulator.state(),
        ram: simulator.memory().bytes().to_vec(),
        counts: (simulator.instructions(), simulator.repeats()),
        written: simulator.written_pages(),
    }
}

#[test]
fn programs_end_alike_whether_translated_or_not() {
    for case in cases() {
        let interpreted = simulate(&case, Translation::Never);
        assert_eq!(interpreted.state.general[0], case.rax, "{}", case.name);
        assert_eq!(interpreted.state.control[1], case.fault_address, "{}", case.name);
        assert!(interpreted.counts.0 > 300, "{}: too short to become warm", case.name);
        for when in WAYS {
            let left = simulate(&case, when);
            assert_eq!(left.state, interpreted.state, "{} {when:?}", case.name);
            assert_eq!(left.counts, interpreted.counts, "{} {when:?}", case.name);
            assert_eq!(left.written, interpreted.written, "{} {when:?}", case.name);
            assert!(left.ram == interpreted.ram, "{} {when:?}: RAM", case.name);
        }
    }
}

#[test]
fn the_processor_ends_them_alike() {
    if !Path::new("/dev/kvm").exists() {
        println!("SKIP: translation: /dev/kvm does not exist");
        return;
    }
    for case in cases() {
        let (state, ram) = prepare(&case.code);
        let mut machine = BareMachine::new(&ram).unwrap();
        let native = machine.run(&state).unwrap_or_else(|failure| panic!("{}: {failure}", case.name));
        let left = simulate(&case, Translation::AtOnce);
        assert_eq!(left.state, native, "{}", case.name);
        for (number, simulated) in (0..).zip(left.ram.as_chunks::<PAGE_BYTES>().0) {
            let mut page = [0; PAGE_BYTES];
            machine.read(PageNumber(number), &mut page);
            assert!(page == *simulated, "{}: page {number}", case.name);
        }
    }
}

/// What was decoded stays what runs when other code is mapped at its address and nothing tells so. A processor may do
/// either, so that none is asked.
#[test]
fn code_that_is_mapped_anew_before_it_is_warm_makes_no_difference() {
    // MOV ECX, 200; L: CMP ECX, 160; JNE S; MOV QWORD [ALIAS_ENTRY], 6 MiB and its rights; S: MOV EDX, 0x5110000;
    // CALL RDX; DEC ECX; JNZ L.
    let program = [
        &[0xb9, 200, 0, 0, 0, 0x81, 0xf9, 160, 0, 0, 0, 0x75, 12][..],
        &[0x48, 0xc7, 0x04, 0x25, 0x40, 0x71, 0, 0, 0xe7, 0, 0x60, 0],
        &[0xba, 0, 0, 0x11, 5, 0xff, 0xd2, 0xff, 0xc9, 0x75, 0xe1],
        &END,
    ]
    .concat();
    // ADD RAX, 1, four times; RET.
    let before = [&[0x48, 0x83, 0xc0, 1].repeat(4)[..], &[0xc3]].concat();
    // INC EAX; JMP to the next, three times; MOV RAX, [RBX]; NOP; RET.
    let after = [&[0xff, 0xc0, 0xeb, 0].repeat(3)[..], &[0x48, 0x8b, 0x03, 0x90, 0xc3]].concat();
    let (state, mut ram) = prepare(&program);
    put(&mut ram, 0x11_0000, &before);
    put(&mut ram, 0x71_0000, &after);
    let ways = WAYS.map(|when| {
        let memory = CompleteRam::new(ram.clone());
        let mut simulator = Simulator::translating(&state, memory, Unobserved, when).unwrap();
        assert!(matches!(simulator.run(100_000), Ok(Exit::Output { .. })));
        (simulator.state(), simulator.instructions())
    });
    assert_eq!(ways[0].0.general[0], 4 * 200);
    assert_eq!(ways[0], ways[1]);
    assert_eq!(ways[0], ways[2]);
}

/// MOV EBX, 0x300000; MOV ECX, 1000; L: ADD [RBX], RCX; ADD RAX, [RBX]; LEA RDX, [RAX+RCX]; XOR RDX, RAX;
/// DEC ECX; JNZ L.
fn sums() -> Vec<u8> {
    [
        &[0xbb, 0, 0, 0x30, 0, 0xb9, 0xe8, 3, 0, 0, 0x48, 0x01, 0x0b, 0x48, 0x03, 0x03][..],
        &[0x48, 0x8d, 0x14, 0x08, 0x48, 0x31, 0xc2, 0xff, 0xc9, 0x75, 0xef],
        &END,
    ]
    .concat()
}
/// Where the loop of [`sums`] begins.
const LOOP: u64 = CODE + 10;

#[test]
fn a_breakpoint_in_translated_code_stops_each_time_and_may_be_moved() {
    let (state, ram) = prepare(&sums());
    for place in [LOOP, LOOP + 3, LOOP + 13, LOOP + 15] {
        let ways = WAYS.map(|when| {
            let mut simulator =
                Simulator::translating(&state, CompleteRam::new(ram.clone()), Unobserved, when).unwrap();
            let mut stops = Vec::new();
            simulator.stop_at(place);
            loop {
                match simulator.run(u64::MAX).unwrap() {
                    Exit::Breakpoint => stops.push((simulator.state(), simulator.instructions())),
                    exit => break assert!(matches!(exit, Exit::Output { .. }), "{exit:?}"),
                }
                if stops.len() == 300 {
                    simulator.stop_at(LOOP + 6);
                }
            }
            stops
        });
        assert!(ways[0].len() >= 999, "{}", ways[0].len());
        assert_eq!(ways[0], ways[1], "{place:#x}");
        assert_eq!(ways[0], ways[2], "{place:#x}");
    }
}

#[test]
fn going_round_ends_with_the_block_that_uses_up_the_work() {
    let (state, ram) = prepare(&sums());
    let mut simulator =
        Simulator::translating(&state, CompleteRam::new(ram), Unobserved, Translation::AtOnce).unwrap();
    // Two instructions, then rounds of six.
    for work in (1..6000).step_by(7) {
        assert_eq!(simulator.run(work).unwrap(), Exit::Done);
        let done = simulator.instructions();
        assert!((work..work + 8).contains(&done), "{done} for {work}");
        if done > 8 {
            assert_eq!((done - 2) % 6, 0, "{done}");
            assert_eq!(simulator.state().general[1], 1000 - (done - 2) / 6);
        }
    }
}

/// Counts, and sees each access or does not.
struct Counts {
    each: bool,
    reads: u64,
    writes: u64,
    untold: u64,
}

impl Observer for Counts {
    fn access(&mut self, access: Access) {
        match access.kind {
            AccessKind::Read => self.reads += 1,
            AccessKind::Write => self.writes += 1,
        }
    }

    fn wants_each(&self) -> bool {
        self.each
    }

    fn unseen(&mut self, reads: u64, writes: u64) {
        self.reads += reads;
        self.writes += writes;
        self.untold += reads + writes;
    }
}

#[test]
fn accesses_of_translated_code_are_counted_and_those_wanted_are_told() {
    let mut programs: Vec<Vec<u8>> = cases().into_iter().map(|case| case.code).collect();
    programs.push(sums());
    let mut untold = 0;
    for code in programs {
        let (state, ram) = prepare(&code);
        let [each, unseen] = [true, false].map(|each| {
            let counts = Counts { each, reads: 0, writes: 0, untold: 0 };
            let memory = CompleteRam::new(ram.clone());
            let mut simulator =
                Simulator::translating(&state, memory, counts, Translation::WhenWarm).unwrap();
            assert!(matches!(simulator.run(u64::MAX).unwrap(), Exit::Output { .. }));
            simulator.into_parts().1
        });
        assert_eq!((each.reads, each.writes), (unseen.reads, unseen.writes));
        assert_eq!(each.untold, 0);
        untold += unseen.untold;
    }
    // Had nothing been translated, all would have been told.
    assert!(untold > 4000, "{untold}");
}

#[test]
fn more_code_than_is_kept_is_forgotten_and_translated_again() {
    // MOV EBX, 0x300000; many ADD [RBX], EBX; twice: INC ECX; CMP ECX, 2; JNE back.
    const ADDITIONS: usize = 200_000;
    let mut code = vec![0xbb, 0, 0, 0x30, 0];
    code.extend([0x01, 0x1b].repeat(ADDITIONS));
    code.extend([0xff, 0xc1, 0x83, 0xf9, 2, 0x0f, 0x85]);
    let back = -i32::try_from(2 * ADDITIONS + 11).unwrap();
    code.extend(back.to_le_bytes());
    code.extend(END);
    let mut ram = initial_ram().unwrap();
    put(&mut ram, CODE, &code);
    let state = CpuState::start(CODE);
    for when in WAYS {
        let memory = CompleteRam::new(ram.clone());
        let mut simulator = Simulator::translating(&state, memory, Unobserved, when).unwrap();
        assert!(matches!(simulator.run(u64::MAX).unwrap(), Exit::Output { .. }));
        let expected = 0x30_0000_u32.wrapping_mul(2 * u32::try_from(ADDITIONS).unwrap());
        assert_eq!(simulator.memory().bytes()[0x30_0000..0x30_0004], expected.to_le_bytes(), "{when:?}");
    }
}
