//! `pageswarm sim lockstep`: the same code on this host's processor and in the interpreter.

use std::path::PathBuf;

use pageswarm_machine::{CpuState, PageNumber};
use pageswarm_sim::lockstep::{Lockstep, LockstepError, Native, Tally, initial_ram};
use pageswarm_sim::memory::PageBytes;
use pageswarm_vmm::{BareMachine, VmFailure};

use super::print;
use crate::exit::{ExitCode, Failure};
use crate::report;

/// What to run on both.
#[derive(Debug, clap::Args)]
pub struct LockstepArgs {
    /// Draws the programs, and the registers and the memory that they start with.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Compare random programs until so many instructions were run.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub instructions: u64,
    /// Compare this program instead: flat 64-bit code, run at 0x100000 in ring 3 to its end or its first access to a
    /// port. RBX, RSI and RDI point into 24 KiB of noise, RSP to the end of it.
    #[arg(long, value_name = "FILE", conflicts_with = "instructions")]
    pub program: Option<PathBuf>,
}

/// This host's processor, through KVM.
struct Kvm(BareMachine);

impl Native for Kvm {
    type Error = VmFailure;

    fn write(&mut self, page: PageNumber, bytes: &PageBytes) {
        self.0.write(page, bytes);
    }

    fn read(&mut self, page: PageNumber, bytes: &mut PageBytes) {
        self.0.read(page, bytes);
    }

    fn run(&mut self, start: &CpuState) -> Result<CpuState, VmFailure> {
        self.0.run(start)
    }
}

/// Carries out the command. It takes a processor's time, so it must not run on a thread of the runtime.
///
/// # Errors
///
/// [`Failure`]: a check that failed where they differ, with everything about the first difference.
pub fn run(args: &LockstepArgs) -> Result<(), Failure> {
    let failed =
        |error: &(dyn std::error::Error + 'static)| Failure::new(ExitCode::Failed, report::chain(error));
    let program = args.program.as_ref().map(std::fs::read).transpose().map_err(|error| failed(&error))?;
    let ram = initial_ram().map_err(|error| failed(&error))?;
    let native = BareMachine::new(&ram).map_err(|failure| native_failure(&failure))?;
    let mut lockstep = Lockstep::new(Kvm(native), ram);
    let kinds = lockstep.kinds();
    let compared = match &program {
        Some(code) => lockstep.run_program(args.seed, code),
        None => lockstep.run(args.seed, args.instructions),
    };
    match compared {
        Ok(Tally { programs, instructions }) => {
            let of = if program.is_some() { String::new() } else { format!(" of {kinds} kinds") };
            print::line(&format!(
                "{instructions} instructions{of} in {programs} programs: processor and simulation agree on every register, \
                 flag and byte"
            ))
        }
        Err(LockstepError::Difference(difference)) => {
            Err(Failure::new(ExitCode::CheckFailed, format!("processor and simulation differ: {difference}")))
        }
        Err(LockstepError::Native { cause, .. }) => Err(native_failure(&cause)),
        Err(error @ LockstepError::Refused { .. }) => {
            Err(Failure::new(ExitCode::NotSimulated, report::chain(&error)))
        }
        Err(error @ LockstepError::Length { .. }) => {
            Err(Failure::new(ExitCode::Usage, report::chain(&error)))
        }
        Err(error) => Err(failed(&error)),
    }
}

fn native_failure(failure: &VmFailure) -> Failure {
    let code = match failure {
        VmFailure::KvmMissing | VmFailure::KvmDenied => ExitCode::NoKvm,
        _ => ExitCode::Failed,
    };
    Failure::new(code, report::chain(failure))
}
