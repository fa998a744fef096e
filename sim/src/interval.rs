//! The replay of one interval: from a checkpoint and the interval's event log to the checkpoint at its end.
//!
//! Nothing says after how many instructions an interval ends, so its end is found: once all logged inputs were
//! given, the first moment at which every register, every device and every page is as in the checkpoint is taken
//! for it. With no further input, an equal state that came first is as good: what follows would only come again.

use crate::landmark::Landmark;
use crate::memory::Memory;
use crate::observe::{Access, AccessKind, Observer};
use crate::refusal::{Refusal, UnsupportedState};
use crate::simulator::{Exit, Simulator};
use pageswarm_checkpoint::PageMap;
use pageswarm_machine::devices::PortError;
use pageswarm_machine::event::{Event, EventSize};
use pageswarm_machine::{CheckpointIndex, CpuState, Devices, EventLog, PageNumber};

/// A checkpoint's state, apart from what its pages hold.
#[derive(Clone, Debug)]
pub struct Boundary {
    /// The processor.
    pub cpu: CpuState,
    /// The port devices.
    pub devices: Devices,
    /// The hashes of all pages.
    pub map: PageMap,
}

/// An interval to be replayed.
#[derive(Clone, Copy, Debug)]
pub struct Interval<'a> {
    /// Its number.
    pub index: CheckpointIndex,
    /// The checkpoint that it begins with.
    pub start: &'a Boundary,
    /// Its inputs.
    pub events: &'a EventLog,
    /// The checkpoint that it ends with.
    pub end: &'a Boundary,
    /// Instructions, iterations of repeated ones and delivered exceptions after which the end is given up.
    pub work_max: u64,
}

/// What a replay that reached its end found.
#[derive(Debug)]
pub struct Replayed<M, O> {
    /// Instructions; a repeated string instruction is one.
    pub instructions: u64,
    /// Iterations of repeated string instructions.
    pub repeats: u64,
    /// Accesses to memory that were reads.
    pub reads: u64,
    /// Accesses to memory that were writes.
    pub writes: u64,
    /// The processor at the end: equal to the checkpoint's.
    pub cpu: CpuState,
    /// The devices at the end: equal to the checkpoint's.
    pub devices: Devices,
    /// Pages whose content the interval changed, ascending.
    pub changed: Vec<PageNumber>,
    /// Pages that were written, with other content or the same, ascending.
    pub written: Vec<PageNumber>,
    /// Times at which all registers were as at the end and RAM was compared page by page.
    pub comparisons: u64,
    /// RAM at the end.
    pub memory: M,
    /// The observer.
    pub observer: O,
}

/// Why an interval was not replayed.
#[derive(Debug, thiserror::Error)]
#[error("interval {} was not replayed", interval.0)]
pub struct ReplayError {
    /// Its number.
    pub interval: CheckpointIndex,
    /// Why.
    #[source]
    pub cause: ReplayFailure,
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub enum ReplayFailure {
    /// The start cannot be simulated.
    #[error(transparent)]
    State(#[from] UnsupportedState),
    /// RAM and page maps have different sizes.
    #[error("memory and page maps have different sizes")]
    Sizes,
    /// An instruction cannot be simulated.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The guest used a port that no device has.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The guest reads something else than the log says.
    #[error(
        "guest reads {size} bytes from port {port:#x} at input {number}, where the log has another input"
    )]
    OtherInput {
        /// How many inputs were given before.
        number: u64,
        /// The port.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: usize,
    },
    /// The guest asks for more than the log has: the end was passed without being met.
    #[error("guest asks for more than {inputs} logged inputs: the end is not on its way")]
    BeyondLog {
        /// Inputs in the log.
        inputs: u64,
    },
    /// The caller did not want to go on.
    #[error("stopped after {instructions} instructions")]
    Stopped {
        /// Instructions done.
        instructions: u64,
    },
    /// The work allowed is done.
    #[error("end not reached after {instructions} instructions; {wrong_pages} pages differ from it")]
    EndNotReached {
        /// Instructions done.
        instructions: u64,
        /// Pages known to differ from the end when last looked at.
        wrong_pages: u64,
    },
}

/// Counts accesses and passes them on.
#[derive(Debug)]
struct Counted<O> {
    reads: u64,
    writes: u64,
    observer: O,
}

impl<O: Observer> Observer for Counted<O> {
    #[inline(always)]
    fn access(&mut self, access: Access) {
        match access.kind {
            AccessKind::Read => self.reads += 1,
            AccessKind::Write => self.writes += 1,
        }
        self.observer.access(access);
    }

    #[inline(always)]
    fn wants_each(&self) -> bool {
        self.observer.wants_each()
    }

    #[inline(always)]
    fn unseen(&mut self, reads: u64, writes: u64) {
        self.reads += reads;
        self.writes += writes;
        self.observer.unseen(reads, writes);
    }
}

/// Replays an interval in `memory`, which holds what the start's map says.
///
/// # Errors
/// When an instruction is not known, the guest leaves the logged way, or the end is not reached; the error names the
/// interval.
pub fn replay<M: Memory, O: Observer>(
    interval: &Interval<'_>,
    memory: M,
    observer: O,
) -> Result<Replayed<M, O>, ReplayError> {
    replay_while(interval, memory, observer, || true)
}

/// The same, as long as `go_on` says so: it is asked every 100,000 instructions, which a guest can make last a second
/// or two, and not longer.
///
/// # Errors
/// As [`replay`], and [`ReplayFailure::Stopped`].
pub fn replay_while<M: Memory, O: Observer>(
    interval: &Interval<'_>,
    memory: M,
    observer: O,
    go_on: impl FnMut() -> bool,
) -> Result<Replayed<M, O>, ReplayError> {
    Replay::new(interval, memory, observer)
        .and_then(|replay| replay.run(go_on))
        .map_err(|cause| ReplayError { interval: interval.index, cause })
}

/// Work between two questions whether to go on.
const SLICE: u64 = 100_000;

struct Replay<'a, M, O> {
    interval: &'a Interval<'a>,
    simulator: Simulator<M, Counted<O>>,
    devices: Devices,
    landmark: Landmark,
    given: usize,
}

impl<'a, M: Memory, O: Observer> Replay<'a, M, O> {
    fn new(interval: &'a Interval<'a>, memory: M, observer: O) -> Result<Self, ReplayFailure> {
        let (start, end) = (interval.start, interval.end);
        if start.map.pages() != end.map.pages() || memory.pages() != end.map.pages() {
            return Err(ReplayFailure::Sizes);
        }
        let counted = Counted { reads: 0, writes: 0, observer };
        let mut replay = Self {
            interval,
            simulator: Simulator::new(&start.cpu, memory, counted)?,
            devices: start.devices.clone(),
            landmark: Landmark::new(&start.map, &end.map),
            given: 0,
        };
        replay.look_out_for_end();
        Ok(replay)
    }

    /// The end can only come once every input was given.
    fn look_out_for_end(&mut self) {
        if self.given == self.interval.events.events().len() {
            self.simulator.stop_at(self.interval.end.cpu.rip);
        }
    }

    fn run(mut self, mut go_on: impl FnMut() -> bool) -> Result<Replayed<M, O>, ReplayFailure> {
        let mut asked_at = 0;
        loop {
            if self.simulator.work() >= asked_at {
                if !go_on() {
                    return Err(ReplayFailure::Stopped { instructions: self.simulator.instructions() });
                }
                asked_at = self.simulator.work() + SLICE;
            }
            match self.simulator.run(self.interval.work_max.min(asked_at))? {
                Exit::Input { port, size } => self.input(port, size)?,
                Exit::Output { port, size, value } => {
                    self.devices.output(port, &value.to_le_bytes()[..size])?;
                }
                Exit::Breakpoint if self.is_at_end() => return Ok(self.finish()),
                Exit::Breakpoint => {}
                Exit::Done if self.simulator.work() < self.interval.work_max => {}
                Exit::Done => {
                    return Err(ReplayFailure::EndNotReached {
                        instructions: self.simulator.instructions(),
                        wrong_pages: self.landmark.wrong_pages(),
                    });
                }
            }
        }
    }

    fn input(&mut self, port: u16, size: usize) -> Result<(), ReplayFailure> {
        let input = self.devices.input(port, size)?;
        let Some(event) = self.interval.events.events().get(self.given) else {
            return Err(ReplayFailure::BeyondLog { inputs: self.given as u64 });
        };
        if event.port != port || bytes_of(event) != size {
            return Err(ReplayFailure::OtherInput { number: self.given as u64, port, size });
        }
        self.devices.answered(input, event.value);
        self.simulator.answer(event.value);
        self.given += 1;
        self.look_out_for_end();
        Ok(())
    }

    /// What differs most often is looked at first.
    fn is_at_end(&mut self) -> bool {
        let end = &self.interval.end;
        [1, 0, 2, 6, 7, 8].into_iter().all(|n| self.simulator.general(n) == end.cpu.general[n])
            && self.devices == end.devices
            && self.simulator.state() == end.cpu
            && self.landmark.is_reached(&mut self.simulator)
    }

    fn finish(self) -> Replayed<M, O> {
        let (start, end) = (&self.interval.start.map, &self.interval.end.map);
        let differs = |page: &PageNumber| {
            start.get(*page).map(|slot| slot.hash()) != end.get(*page).map(|slot| slot.hash())
        };
        let written = self.simulator.written_pages();
        let changed = written.iter().copied().filter(differs).collect();
        let (instructions, repeats) = (self.simulator.instructions(), self.simulator.repeats());
        let cpu = self.simulator.state();
        let (memory, counted) = self.simulator.into_parts();
        Replayed {
            instructions,
            repeats,
            reads: counted.reads,
            writes: counted.writes,
            cpu,
            devices: self.devices,
            changed,
            written,
            comparisons: self.landmark.comparisons,
            memory,
            observer: counted.observer,
        }
    }
}

pub(crate) const fn bytes_of(event: &Event) -> usize {
    match event.size {
        EventSize::Byte => 1,
        EventSize::Word => 2,
        EventSize::Long => 4,
    }
}
