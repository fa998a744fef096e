//! The vCPU thread: runs the guest, answers its ports, logs its inputs, and does the work of a pause inline.

use crate::capture::{Capture, CollectError};
use crate::failure::{Call, GuestExit, VmFailure};
use crate::gate::{Gate, PauseOrder, Stopped};
use crate::image_file::ImageFile;
use crate::limits::EVENT_MARGIN;
use crate::memory::SharedMemory;
use crate::pace::Pace;
use crate::processor::{Ports, Processor};
use crate::report::Reports;
use kvm_ioctls::VcpuExit;
use pageswarm_machine::devices::{Effect, Input, Phase};
use pageswarm_machine::event::{EVENTS_MAX, Event, EventSize};
use pageswarm_machine::{Devices, EventLog, PAGE_BYTES};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Port reads that a log has room for before its memory must grow.
const EVENTS_USUAL: usize = 16 << 10;
/// Pages of one write of a witness image: 4 MiB.
const WITNESS_WRITE_PAGES: usize = 1024;

/// The guest and everything that its thread alone uses.
#[derive(Debug)]
pub(crate) struct Vcpu {
    pub(crate) processor: Processor,
    pub(crate) outside: Outside,
    pub(crate) gate: Arc<Gate>,
    pub(crate) ram: Arc<SharedMemory>,
}

/// The port devices and what answers them.
#[derive(Debug)]
pub(crate) struct Outside {
    devices: Devices,
    log: EventLog,
    /// The log that takes over at the next boundary.
    spare: EventLog,
    pace: Pace,
    clock_start_ns: u64,
    started: Instant,
    reports: Arc<Reports>,
}

impl Outside {
    pub(crate) fn new(devices: Devices, pace: Pace, reports: Arc<Reports>) -> Self {
        let clock_start_ns = devices.clock_ns;
        Self {
            devices,
            log: EventLog::with_capacity(EVENTS_USUAL),
            spare: EventLog::with_capacity(EVENTS_USUAL),
            pace,
            clock_start_ns,
            started: Instant::now(),
            reports,
        }
    }

    /// Reports whether the guest stands.
    fn tell(&self, stands: bool) {
        self.reports.changed(&self.devices, stands);
    }

    /// Answers an in.
    fn input(&mut self, port: u16, bytes: &mut [u8], gate: &Gate) -> Result<(), VmFailure> {
        let failure = VmFailure::Port { port };
        let input = self.devices.input(port, bytes.len()).map_err(|_| failure)?;
        let value = match input {
            Input::Pace => self.pace.answer(self.devices.phase, gate),
            Input::ClockLow => low_half(self.clock_ns()),
            Input::ClockHigh => low_half(self.clock_ns() >> 32),
        };
        bytes.copy_from_slice(&value.to_le_bytes());
        self.devices.answered(input, value);
        let event = Event { port, size: EventSize::Long, value };
        self.log.push(event).map_err(|_| failure)
    }

    fn clock_ns(&self) -> u64 {
        let since = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.clock_start_ns.wrapping_add(since)
    }

    /// Takes an out.
    fn output(&mut self, port: u16, bytes: &[u8], gate: &Gate) -> Result<(), VmFailure> {
        let before = self.devices.phase;
        match self.devices.output(port, bytes).map_err(|_| VmFailure::Port { port })? {
            Effect::Quiet => {}
            Effect::Console(byte) => self.reports.console(byte),
            Effect::Reported => self.tell(false),
        }
        if before == Phase::Filling && self.devices.phase == Phase::Running {
            // The base image is complete: a good moment for the first checkpoint.
            gate.want_boundary();
        }
        Ok(())
    }
}

fn low_half(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).expect("32 bits")
}

impl Vcpu {
    /// Runs until something fails.
    pub(crate) fn run(mut self) -> VmFailure {
        let failure = loop {
            if let Err(failure) = self.between_runs().and_then(|()| self.step()) {
                break failure;
            }
        };
        self.gate.leave();
        failure
    }

    fn between_runs(&mut self) -> Result<(), VmFailure> {
        let is_full = |outside: &Outside| outside.log.events().len() >= EVENTS_MAX - EVENT_MARGIN;
        // Of each hold it is told once that the guest stands.
        let mut told = None;
        loop {
            if self.gate.is_held() {
                let hold = self.gate.holds();
                if told.replace(hold) != Some(hold) {
                    self.outside.tell(true);
                }
                self.gate.wait_while_held(hold);
            } else if is_full(&self.outside) {
                self.gate.wait_for_request();
            }
            if self.gate.is_requested()
                && let Some(order) = self.gate.take_request()
            {
                self.pause(order)?;
            }
            if !self.gate.is_held() && !is_full(&self.outside) {
                break;
            }
        }
        if told.is_some() {
            self.outside.tell(false);
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), VmFailure> {
        let gate = &self.gate;
        let machine = match &mut self.processor {
            Processor::Kvm(machine) => machine,
            Processor::Interpreted { interpreter, .. } => {
                return interpreter.run(&mut Gated { outside: &mut self.outside, gate });
            }
        };
        let exit = match machine.vcpu.run() {
            Ok(VcpuExit::IoIn(port, bytes)) => return self.outside.input(port, bytes, gate),
            Ok(VcpuExit::IoOut(port, bytes)) => return self.outside.output(port, bytes, gate),
            Ok(VcpuExit::Intr) => {
                machine.vcpu.set_kvm_immediate_exit(0);
                return Ok(());
            }
            Ok(VcpuExit::Shutdown) => GuestExit::TripleFault,
            Ok(VcpuExit::InternalError) => GuestExit::Internal,
            Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..) | VcpuExit::MemoryFault { .. }) => {
                GuestExit::OutsideRam
            }
            Ok(_) => GuestExit::Other,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                machine.vcpu.set_kvm_immediate_exit(0);
                return Ok(());
            }
            Err(error) => {
                return Err(VmFailure::System { call: Call::Run, errno: error.errno() });
            }
        };
        Err(machine.guest_failure(exit))
    }

    /// Carries out a pause order. A residual that does not fit leaves the order without a `stopped` machine.
    fn pause(&mut self, mut order: Box<PauseOrder>) -> Result<(), VmFailure> {
        order.stopped_at = Instant::now();
        let cpu = self.processor.save()?;
        let saved_at = Instant::now();
        let copied = match &mut order.outlet {
            None => order.strategy.while_stopped(&mut order.collector),
            Some(outlet) => order.collector.copy_standing(outlet),
        };
        match copied {
            Ok(residual) => {
                order.figures.residual_pages = residual;
                self.outside.spare.clear();
                let log = std::mem::replace(&mut self.outside.log, std::mem::take(&mut self.outside.spare));
                let devices = self.outside.devices.clone();
                order.stopped = Some(Stopped { cpu, devices, log });
            }
            Err(CollectError::OutOfSlots) => order.stopped = None,
            Err(CollectError::System(error)) => {
                return Err(VmFailure::system(Call::DirtyLog, &error));
            }
        }
        let copied_at = Instant::now();
        order.figures.state_ns = nanoseconds(order.stopped_at, saved_at);
        order.figures.pause_ns = nanoseconds(order.stopped_at, copied_at);
        if let (Some(path), Some(_)) = (&order.witness, &order.stopped) {
            write_witness(path, &self.ram).map_err(|error| VmFailure::system(Call::Witness, &error))?;
            order.figures.witness_ns = nanoseconds(copied_at, Instant::now());
        }
        let took_log = order.stopped.is_some();
        self.gate.give_back(order);
        if took_log {
            // Outside the pause clock by a few microseconds; the guest itself waits for nothing but this allocation.
            self.outside.spare = EventLog::with_capacity(EVENTS_USUAL);
        }
        Ok(())
    }
}

/// The outside, as an interpreter sees it.
struct Gated<'a> {
    outside: &'a mut Outside,
    gate: &'a Gate,
}

impl Ports for Gated<'_> {
    fn input(&mut self, port: u16, bytes: &mut [u8]) -> Result<(), VmFailure> {
        self.outside.input(port, bytes, self.gate)
    }

    fn output(&mut self, port: u16, bytes: &[u8]) -> Result<(), VmFailure> {
        self.outside.output(port, bytes, self.gate)
    }
}

/// Nanoseconds from `from` to `to`.
pub(crate) fn nanoseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

/// Writes all of RAM to a new file: independent evidence of what the checkpoint must equal. On lazily filled RAM this
/// faults in every page, so it takes as long as filling takes.
fn write_witness(path: &Path, ram: &SharedMemory) -> io::Result<()> {
    let file = ImageFile::create(path)?;
    for first in (0..ram.pages()).step_by(WITNESS_WRITE_PAGES) {
        let from = ram.base().wrapping_add(first * PAGE_BYTES);
        let pages = WITNESS_WRITE_PAGES.min(ram.pages() - first);
        // SAFETY: the range lies in the mapping, and the guest, its only writer, stands still in this thread.
        let bytes = unsafe { std::slice::from_raw_parts(from, pages * PAGE_BYTES) };
        file.write_pages_at(bytes, first)?;
    }
    file.sync()
}
