//! Goal: what random programs avoid is right, too: exceptions and their handlers, and code that changes itself. Method:
//! fixed programs whose expected ends are written down here, simulated, and run on KVM where there is one.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use pageswarm_machine::cpu::Table;
use pageswarm_machine::{CpuState, PAGE_BYTES, PageNumber};
use pageswarm_sim::lockstep::initial_ram;
use pageswarm_sim::{CompleteRam, Exit, Reason, Simulator, Unobserved};
use pageswarm_vmm::BareMachine;
use std::path::Path;

const CODE: u64 = 0x10_0000;
/// The handler of exception 0; those of the others follow, so that RIP at the end says which it was.
const HANDLERS: u64 = 0x10_2000;
const HANDLER_BYTES: u64 = 16;
const GATES: u64 = 0x18_0000;
const STACK: u64 = 0x40_0000;
const STACK_TOP: u64 = STACK + 0xf00;
/// OUT 0x10, AL ends every program.
const END: &[u8] = &[0xe6, 0x10];

/// A program, the code of the handlers of all exceptions, and what must have happened at the end.
struct Case {
    name: &'static str,
    code: &'static [u8],
    handler: &'static [u8],
    /// RIP at the end.
    rip: u64,
    /// The words on the stack from the top down, flags left out: error code if any, RIP, CS, then RSP and SS.
    pushed: &'static [u64],
    /// RSP at the exception.
    stack: u64,
    /// CR2 at the end.
    fault_address: u64,
    /// Whether every KVM does what the manual says.
    native: Native,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Native {
    AsInTheManual,
    /// A KVM that runs ring 3 under its own kernel's flags shows those (IF) to PUSHFQ, and delivers INT n with RIP on
    /// the instruction. A guest that depends on either cannot be recorded there.
    OnHardwareOnly,
}

const UNMAPPED: u64 = 0x7fff_ffff_f000;
const TO_UNMAPPED: [u8; 10] = [0x48, 0xb8, 0x00, 0xf0, 0xff, 0xff, 0xff, 0x7f, 0x00, 0x00];

/// A program that ends in the handler of an exception.
const fn case(name: &'static str, vector: u64, code: &'static [u8], pushed: &'static [u64]) -> Case {
    Case {
        name,
        code,
        handler: END,
        rip: handler(vector) + 2,
        pushed,
        stack: STACK_TOP,
        fault_address: 0,
        native: Native::AsInTheManual,
    }
}

const fn handler(vector: u64) -> u64 {
    HANDLERS + vector * HANDLER_BYTES
}

fn cases() -> Vec<Case> {
    let unmapped = |name, code, pushed| Case { fault_address: UNMAPPED, ..case(name, 14, code, pushed) };
    vec![
        case("ud2", 6, &[0x0f, 0x0b], &[CODE, 0x33]),
        case("int3", 3, &[0xcc], &[CODE + 1, 0x33]),
        Case { native: Native::OnHardwareOnly, ..case("int 0x20", 32, &[0xcd, 0x20], &[CODE + 2, 0x33]) },
        case("division by zero", 0, &[0x31, 0xc9, 0xf7, 0xf1], &[CODE + 2, 0x33]),
        case("hlt at ring 3", 13, &[0xf4], &[0, CODE, 0x33]),
        case("movaps of an odd address", 13, &[0x0f, 0x28, 0x44, 0x24, 0x01], &[0, CODE, 0x33]),
        unmapped("load of an unmapped address", joined([0x48, 0x8b, 0x00]), &[4, CODE + 10, 0x33]),
        unmapped("store to an unmapped address", joined([0x48, 0x89, 0x00]), &[6, CODE + 10, 0x33]),
        unmapped("addition to an unmapped address", joined([0x48, 0x01, 0x00]), &[6, CODE + 10, 0x33]),
        unmapped("jump to an unmapped address", joined([0xff, 0xe0, 0x90]), &[4, UNMAPPED, 0x33]),
        Case {
            // ADD [RSP], 2; IRETQ.
            handler: &[0x48, 0x83, 0x04, 0x24, 0x02, 0x48, 0xcf],
            rip: CODE + 5,
            ..case("a handler that returns behind the instruction", 6, &[0x0f, 0x0b, 0x90, 0xe6, 0x10], &[])
        },
        Case {
            // PUSHFQ; POP RAX; OUT.
            rip: CODE + 4,
            native: Native::OnHardwareOnly,
            ..case("flags on the stack", 0, &[0x9c, 0x58, 0xe6, 0x10], &[])
        },
        Case {
            handler: &[0x48, 0xcf],
            rip: CODE + 4,
            ..case("a breakpoint that returns", 3, &[0xcc, 0x90, 0xe6, 0x10], &[])
        },
        Case {
            rip: CODE + 12,
            // MOV BYTE [RIP+2], 0xc9 makes DEC ECX of INC ECX.
            ..case(
                "code that changes the instruction behind the next",
                0,
                &[0xc6, 0x05, 0x02, 0x00, 0x00, 0x00, 0xc9, 0x90, 0xff, 0xc1, 0xe6, 0x10],
                &[],
            )
        },
    ]
}

/// Accesses and jumps to addresses that are not canonical.
fn cases_beyond() -> Vec<Case> {
    vec![
        case(
            "load by RBP that is not canonical",
            12,
            beyond(0xbd, [0x48, 0x8b, 0x45, 0]),
            &[0, CODE + 10, 0x33],
        ),
        case(
            "load by RAX that is not canonical",
            13,
            beyond(0xb8, [0x48, 0x8b, 0, 0x90]),
            &[0, CODE + 10, 0x33],
        ),
        case(
            "push through RBP that is not canonical",
            12,
            beyond(0xbd, [0xff, 0x75, 0, 0x90]),
            &[0, CODE + 10, 0x33],
        ),
        case(
            "RBP as an index that is not canonical",
            13,
            beyond(0xbd, [0x48, 0x8b, 0x04, 0x2b]),
            &[0, CODE + 10, 0x33],
        ),
        case(
            "leave from RBP that is not canonical",
            12,
            beyond(0xbd, [0xc9, 0x90, 0x90, 0x90]),
            &[0, CODE + 10, 0x33],
        ),
        case(
            "jump to a place that is not canonical",
            13,
            beyond(0xb8, [0xff, 0xe0, 0x90, 0x90]),
            &[0, CODE + 10, 0x33],
        ),
        case(
            "call of a place that is not canonical",
            13,
            beyond(0xb8, [0xff, 0xd0, 0x90, 0x90]),
            &[0, CODE + 10, 0x33],
        ),
        Case {
            stack: STACK_TOP - 8,
            ..case(
                "return to a place that is not canonical",
                13,
                beyond(0xb8, [0x50, 0xc3, 0x90, 0x90]),
                &[0, CODE + 11, 0x33],
            )
        },
    ]
}

/// A load of the unmapped address into RAX, then `last`; leaked, as a case's code is.
fn joined(last: [u8; 3]) -> &'static [u8] {
    Vec::leak([&TO_UNMAPPED[..], &last].concat())
}

/// A load of an address that is not canonical into the register of `opcode`, then `last`; leaked, as above.
fn beyond(opcode: u8, last: [u8; 4]) -> &'static [u8] {
    Vec::leak([&[0x48, opcode][..], &(1_u64 << 63).to_le_bytes(), &last].concat())
}

fn put(ram: &mut [u8], address: u64, bytes: &[u8]) {
    let start = usize::try_from(address).unwrap();
    ram[start..start + bytes.len()].copy_from_slice(bytes);
}

/// Trap gates to the handler at ring 3 for all vectors.
fn prepare(case: &Case) -> (CpuState, Vec<u8>) {
    let mut ram = initial_ram().unwrap();
    for vector in 0..256_u64 {
        let target = handler(vector);
        put(&mut ram, target, case.handler);
        let lower = target & 0xffff | 0x33 << 16 | 0xef00 << 32 | (target >> 16 & 0xffff) << 48;
        put(&mut ram, GATES + 16 * vector, &lower.to_le_bytes());
        put(&mut ram, GATES + 16 * vector + 8, &(target >> 32).to_le_bytes());
    }
    put(&mut ram, CODE, case.code);
    let mut state = CpuState::start(CODE);
    state.general[4] = STACK_TOP;
    state.idt = Table { base: GATES, limit: 0xfff };
    (state, ram)
}

fn simulate(case: &Case) -> (CpuState, [u8; PAGE_BYTES]) {
    let (state, ram) = prepare(case);
    let mut simulator = Simulator::new(&state, CompleteRam::new(ram), Unobserved).unwrap();
    let exit = simulator.run(1000).unwrap_or_else(|refusal| panic!("{}: {refusal:?}", case.name));
    assert!(matches!(exit, Exit::Output { port: 0x10, size: 1, .. }), "{}: {exit:?}", case.name);
    let start = usize::try_from(STACK).unwrap();
    let stack = *simulator.memory().bytes()[start..].first_chunk().unwrap();
    (simulator.state(), stack)
}

#[test]
fn simulated_programs_end_as_written_down() {
    for case in cases().into_iter().chain(cases_beyond()) {
        let (state, stack) = simulate(&case);
        assert_eq!(state.rip, case.rip, "{}", case.name);
        assert_eq!(state.control[1], case.fault_address, "{}", case.name);
        let top = usize::try_from(state.general[4] - STACK).unwrap();
        let words: Vec<u64> =
            stack[top..].as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        assert_eq!(words[..case.pushed.len()], *case.pushed, "{}", case.name);
        if case.name.starts_with("code that changes") {
            assert_eq!(state.general[1], 0xffff_ffff, "{}", case.name);
        }
        if !case.pushed.is_empty() {
            assert_eq!(words[case.pushed.len() + 1..][..2], [case.stack, 0x2b], "{}", case.name);
        }
    }
}

#[test]
fn the_processor_ends_them_alike() {
    if !Path::new("/dev/kvm").exists() {
        println!("SKIP: programs: /dev/kvm does not exist");
        return;
    }
    let (mut alike, mut failures) = (0, Vec::new());
    for case in cases().into_iter().chain(cases_beyond()).filter(|case| case.native == Native::AsInTheManual)
    {
        let (state, ram) = prepare(&case);
        let mut machine = BareMachine::new(&ram).unwrap();
        let native = match machine.run(&state) {
            Ok(native) => native,
            Err(failure) => {
                failures.push(format!("{}: {failure}", case.name));
                continue;
            }
        };
        let mut stack = [0; PAGE_BYTES];
        machine.read(PageNumber(u32::try_from(STACK / PAGE_BYTES as u64).unwrap()), &mut stack);
        let simulated = simulate(&case);
        if simulated.0 != native {
            failures.push(format!("{}:\n  {:x?}\n  {native:x?}", case.name, simulated.0));
        }
        let differing: Vec<_> = (0..PAGE_BYTES).filter(|&at| stack[at] != simulated.1[at]).collect();
        if let Some(&at) = differing.first() {
            let at = at & !7;
            failures.push(format!(
                "{}: the stack at {differing:x?}: simulated {:x?}, native {:x?}",
                case.name,
                &simulated.1[at..at + 8],
                &stack[at..at + 8]
            ));
        }
        alike += 1;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{alike} programs end on KVM as simulated");
}

#[test]
fn an_unknown_instruction_stops_with_its_bytes_and_address() {
    // FLD1 behind a NOP.
    let code: &[u8] = &[0x90, 0xd9, 0xe8, 0x90];
    let (state, ram) = prepare(&case("fld1", 0, code, &[]));
    let mut simulator = Simulator::new(&state, CompleteRam::new(ram), Unobserved).unwrap();
    let refusal = simulator.run(1000).unwrap_err();
    assert_eq!((refusal.reason, refusal.rip), (Reason::Unknown, CODE + 1));
    assert!(refusal.code().starts_with(&[0xd9, 0xe8]));
    assert_eq!(simulator.instructions(), 1);
    assert_eq!(simulator.state().rip, CODE + 1);
}
