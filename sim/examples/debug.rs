//! Records some intervals of a workload guest on KVM and serves them to gdb:
//!
//!     cargo run --release -p pageswarm-sim --example debug
//!     gdb -ex "target remote 127.0.0.1:PORT"

#![expect(clippy::unwrap_used, reason = "an example that cannot go on ends")]

#[path = "../tests/support/debuggable.rs"]
mod debuggable;
#[path = "../tests/support/recording.rs"]
mod recording;

use debuggable::Debuggable;
use pageswarm_machine::{CheckpointIndex, Workload, guest};
use pageswarm_sim::debug::{Ended, Session, loopback, serve};
use pageswarm_vmm::{PaceMode, Strategy};
use recording::Plan;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = recording::vm_process() {
        return code;
    }
    if !recording::kvm_or_skip("debug") {
        return ExitCode::SUCCESS;
    }
    let plan = Plan {
        workload: Workload::SpecJbb,
        pace: PaceMode::Rate { dirty_pages_per_second: 53_000, check_pages_per_second: 20_000 },
        strategy: Strategy::PreCopy,
        checkpoints: 20,
        interval_us: (10_000, 20_000),
        seed: 41,
    };
    let mut session = Session::open(Debuggable(recording::record(&plan)), CheckpointIndex(0)).unwrap();
    let listener = loopback(0).unwrap();
    let address = listener.local_addr().unwrap();
    println!("20 intervals, from the boot on: gdb -ex \"target remote {address}\"");
    loop {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        match serve(&mut session, stream, Some(guest::program(Workload::SpecJbb))) {
            Ok(Ended::Killed) => return ExitCode::SUCCESS,
            Ok(Ended::Detached) => println!("gdb detached; it finds the session where it left it"),
            Err(error) => println!("gdb is gone: {error}"),
        }
    }
}
