//! A session as the target of gdb's remote protocol.

use super::connection::READ_ONLY;
use super::monitor;
use super::registers::registers;
use super::session::{Session, Travel};
use super::source::Source;
use super::stops::{Watched, Watchpoint};
use gdbstub::common::Signal;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::reverse_exec::{ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps};
use gdbstub::target::ext::base::singlethread::{
    SingleThreadBase, SingleThreadRangeStepping, SingleThreadRangeSteppingOps, SingleThreadResume,
    SingleThreadResumeOps, SingleThreadSingleStep, SingleThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::exec_file::ExecFileOps;
use gdbstub::target::ext::host_io::HostIoOps;
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;
use gdbstub_arch::x86::reg::X86_64CoreRegs;
use std::convert::Infallible;

/// EFAULT: gdb says that it cannot access memory there.
const NOT_MAPPED: u8 = 14;

/// What the protocol's library drives.
pub(super) struct Debugged<'a, S: Source> {
    pub(super) session: &'a mut Session<S>,
    /// What the debugger wants done and what is not done yet.
    pub(super) travel: Option<Travel>,
    /// The guest's program, for gdb to read its symbols from.
    pub(super) program: Option<&'a [u8]>,
}

impl<S: Source> Debugged<'_, S> {
    fn want(&mut self, travel: Travel) {
        self.travel = Some(travel);
    }
}

impl<S: Source> Target for Debugged<'_, S> {
    type Arch = X86_64_SSE;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, X86_64_SSE, Infallible> {
        BaseOps::SingleThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_exec_file(&mut self) -> Option<ExecFileOps<'_, Self>> {
        if self.program.is_some() { Some(self) } else { None }
    }

    fn support_host_io(&mut self) -> Option<HostIoOps<'_, Self>> {
        if self.program.is_some() { Some(self) } else { None }
    }
}

impl<S: Source> SingleThreadBase for Debugged<'_, S> {
    fn read_registers(&mut self, out: &mut X86_64CoreRegs) -> TargetResult<(), Self> {
        *out = registers(&self.session.cpu());
        Ok(())
    }

    fn write_registers(&mut self, _: &X86_64CoreRegs) -> TargetResult<(), Self> {
        Err(TargetError::Errno(READ_ONLY))
    }

    fn read_addrs(&mut self, address: u64, out: &mut [u8]) -> TargetResult<usize, Self> {
        // The library adds up to the length to the address, for the next piece of a long read.
        let end = address.checked_add(out.len() as u64);
        let read = end.map_or(0, |_| self.session.read(address, out));
        // A piece that is cut short would be followed by the next one without a gap: all or nothing.
        if read == out.len() { Ok(read) } else { Err(TargetError::Errno(NOT_MAPPED)) }
    }

    fn write_addrs(&mut self, _: u64, _: &[u8]) -> TargetResult<(), Self> {
        Err(TargetError::Errno(READ_ONLY))
    }

    fn support_resume(&mut self) -> Option<SingleThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl<S: Source> SingleThreadResume for Debugged<'_, S> {
    /// A recording takes no signals.
    fn resume(&mut self, _: Option<Signal>) -> Result<(), Infallible> {
        self.want(Travel::Forward);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<SingleThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<SingleThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, (), Self>> {
        Some(self)
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, (), Self>> {
        Some(self)
    }
}

impl<S: Source> SingleThreadSingleStep for Debugged<'_, S> {
    fn step(&mut self, _: Option<Signal>) -> Result<(), Infallible> {
        self.want(Travel::Step);
        Ok(())
    }
}

impl<S: Source> SingleThreadRangeStepping for Debugged<'_, S> {
    fn resume_range_step(&mut self, start: u64, end: u64) -> Result<(), Infallible> {
        self.want(Travel::StepWithin(start..end));
        Ok(())
    }
}

impl<S: Source> ReverseStep<()> for Debugged<'_, S> {
    fn reverse_step(&mut self, (): ()) -> Result<(), Infallible> {
        self.want(Travel::StepBack);
        Ok(())
    }
}

impl<S: Source> ReverseCont<()> for Debugged<'_, S> {
    fn reverse_cont(&mut self) -> Result<(), Infallible> {
        self.want(Travel::Backward);
        Ok(())
    }
}

impl<S: Source> Breakpoints for Debugged<'_, S> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl<S: Source> SwBreakpoint for Debugged<'_, S> {
    fn add_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.session.add_breakpoint(address).is_ok())
    }

    fn remove_sw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.session.remove_breakpoint(address))
    }
}

/// The same kind: nothing is written for either.
impl<S: Source> HwBreakpoint for Debugged<'_, S> {
    fn add_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.session.add_breakpoint(address).is_ok())
    }

    fn remove_hw_breakpoint(&mut self, address: u64, _: usize) -> TargetResult<bool, Self> {
        Ok(self.session.remove_breakpoint(address))
    }
}

fn watchpoint(address: u64, bytes: u64, kind: WatchKind) -> Watchpoint {
    let watched = match kind {
        WatchKind::Write => Watched::Writes,
        WatchKind::Read => Watched::Reads,
        WatchKind::ReadWrite => Watched::Accesses,
    };
    Watchpoint { address, bytes, watched }
}

impl<S: Source> HwWatchpoint for Debugged<'_, S> {
    fn add_hw_watchpoint(&mut self, address: u64, bytes: u64, kind: WatchKind) -> TargetResult<bool, Self> {
        Ok(self.session.add_watchpoint(watchpoint(address, bytes, kind)).is_ok())
    }

    fn remove_hw_watchpoint(
        &mut self,
        address: u64,
        bytes: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        Ok(self.session.remove_watchpoint(watchpoint(address, bytes, kind)))
    }
}

impl<S: Source> MonitorCmd for Debugged<'_, S> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Infallible> {
        let command = String::from_utf8_lossy(command);
        // Writing into the answer's buffer cannot fail.
        let _written = monitor::answer(self.session, &command, &mut out);
        Ok(())
    }
}
