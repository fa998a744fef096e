//! Goal: gdb itself debugs recorded intervals, forwards, backwards and over checkpoints. Method: record a run of the
//! workload guest on KVM, serve it, let gdb carry out a script, and read what it says.
//!
//! The program runs its own test, because each VM is a process of its own and that process is this program, too.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

#[path = "support/debuggable.rs"]
mod debuggable;
#[path = "support/harness.rs"]
mod harness;
#[path = "support/recording.rs"]
mod recording;

use debuggable::Debuggable;
use pageswarm_machine::{CheckpointIndex, PAGE_BYTES, Workload, guest};
use pageswarm_sim::debug::{Ended, Session, loopback, serve};
use pageswarm_vmm::{PaceMode, Strategy};
use recording::{Plan, Recording, kvm_or_skip, record};
use std::io::Read;
use std::process::{Command, ExitCode, Stdio};

const TEST: &str = "gdb_goes_forward_and_backward";

fn main() -> ExitCode {
    harness::run(&[(TEST, gdb_goes_forward_and_backward)])
}

fn gdb_or_skip(test: &str) -> bool {
    let found = Command::new("gdb").arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIP: {test}: there is no gdb");
    }
    found
}

/// A recording of two intervals with a word that the second one changes, by its address. On a busy machine the guest may
/// not get to run in an interval of a millisecond: such a recording is made again.
fn recorded() -> (Recording, u64) {
    let pace = PaceMode::Rate { dirty_pages_per_second: 53_000, check_pages_per_second: 20_000 };
    let plan = |seed| Plan {
        workload: Workload::SpecJbb,
        pace,
        strategy: Strategy::PreCopy,
        checkpoints: 2,
        interval_us: (1000, 1500),
        seed,
    };
    (44..60)
        .map(|seed| record(&plan(seed)))
        .find_map(|recording| changed_word(&recording).map(|word| (recording, word)))
        .expect("in one of 16 recordings the second interval fills pages")
}

/// Eight bytes that the second interval changes, by their address.
fn changed_word(recording: &Recording) -> Option<u64> {
    let mut ram = recording.ram.clone();
    recording.intervals[0].apply(&mut ram);
    let words = recording.intervals[1].pages.iter().flat_map(|(&page, bytes)| {
        let start = page as usize * PAGE_BYTES;
        let before = ram[start..start + PAGE_BYTES].as_chunks::<8>().0;
        let pairs = before.iter().zip(bytes.as_chunks::<8>().0);
        pairs.enumerate().filter(|(_, (old, new))| old != new).map(move |(place, _)| start + 8 * place)
    });
    // What the guest fills, not its stack and counters.
    words.map(|place| place as u64).find(|&place| place > 0x100_0000)
}

fn gdb_goes_forward_and_backward() {
    if !kvm_or_skip(TEST) || !gdb_or_skip(TEST) {
        return;
    }
    let (recording, word) = recorded();
    let listener = loopback(0).unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let mut session = Session::open(Debuggable(recording), CheckpointIndex(0)).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        serve(&mut session, stream, Some(guest::program(Workload::SpecJbb))).unwrap()
    });
    let said = gdb(&format!("target remote {address}"), word);
    assert_eq!(server.join().unwrap(), Ended::Detached);
    let part = |name: &str| -> &str {
        let begin =
            said.split_once(&format!("=== {name}\n")).unwrap_or_else(|| panic!("no {name} in {said}")).1;
        begin.split_once("\n=== ").map_or(begin, |(part, _)| part)
    };
    let has = |name: &str, text: &str| assert!(part(name).contains(text), "{name} has no {text:?}: {said}");
    has("begin", "in _start ()");
    has("breakpoint", "Breakpoint 1, 0x");
    has("breakpoint", "in runtime::ports::print");
    has("refused", "E.this is a recording");
    has("refused", "Cannot access memory at address 0x7fffffff0000");
    assert_eq!(part("registers"), part("registers again"));
    assert_ne!(part("registers"), part("registers behind"));
    has("before the checkpoint", "interval 0, ");
    has("checkpoint", "interval 1, 0 instructions");
    has("watchpoint", "Hardware watchpoint 2");
    has("watchpoint", "interval 1, ");
    has("watchpoint back", "Hardware watchpoint 2");
    has("checkpoint back", "interval 1, 0 instructions");
    has("over the checkpoint back", "interval 0, ");
    has("over it again", "interval 1, 0 instructions");
    assert_eq!(part("registers at it"), part("registers at it again"));
    has("end", "No more reverse-execution history");
    has("end", "interval 1, ");
    has("begin again", "No more reverse-execution history");
    has("begin again", "interval 0, 0 instructions");
}

/// What gdb is told; CONNECT, WORD and REGISTERS are filled in, and `=== name` begins a part of what it says.
const SCRIPT: &str = "\
set pagination off
set confirm off
set width 0
=== begin
CONNECT
=== breakpoint
rbreak ^runtime::ports::print
continue
=== refused
set $rax = 0x1234
x/gx 0x7fffffff0000
set *(long *) 0x200000 = 1
=== registers
REGISTERS
=== steps
stepi 7
=== registers behind
REGISTERS
=== steps back
reverse-stepi 7
=== registers again
REGISTERS
=== before the checkpoint
monitor where
delete 1
=== checkpoint
continue
monitor where
=== registers at it
REGISTERS
=== watchpoint
watch *(long *) WORD
continue
monitor where
=== watchpoint back
reverse-continue
=== checkpoint back
delete 2
reverse-continue
monitor where
=== over the checkpoint back
reverse-stepi
monitor where
=== over it again
stepi
monitor where
=== registers at it again
REGISTERS
=== end
monitor checkpoints pass
continue
monitor where
=== begin again
reverse-continue
monitor where
=== detached
detach";

/// What gdb says to the script.
fn gdb(connect: &str, word: u64) -> String {
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch"]);
    for line in SCRIPT.lines() {
        let line = match line {
            "CONNECT" => connect.to_owned(),
            "REGISTERS" => "info registers".to_owned(),
            part if part.starts_with('=') => format!("echo \\n{part}\\n"),
            line => line.replace("WORD", &format!("{word:#x}")),
        };
        command.args(["-ex", &line]);
    }
    // One pipe for both, so that what is said stays in order.
    let (mut reader, writer) = std::io::pipe().unwrap();
    command.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut said = Vec::new();
    reader.read_to_end(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    String::from_utf8_lossy(&said).into_owned()
}
