//! A session: a position in the time of consecutive intervals, and the ways to move it forward and backward.

mod backward;
#[cfg(test)]
pub(super) mod recorded;
#[cfg(test)]
mod walks;

use super::source::Source;
use super::stops::{Hit, StopError, Stops, Watchpoint};
use super::track::{Pause, Track};
use super::translate;
use crate::interval::ReplayFailure;
use pageswarm_machine::{CheckpointIndex, CpuState, PAGE_BYTES};
use std::ops::Range;

/// A moment: between two steps of one interval. A checkpoint's moment is the start of the interval that follows it, if
/// the session has that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// The interval.
    pub interval: CheckpointIndex,
    /// Instructions, iterations of repeated ones and delivered exceptions since the interval's start.
    pub work: u64,
    /// Instructions since the interval's start; a repeated one is one.
    pub instructions: u64,
}

/// A way to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Travel {
    /// Forward by one step: an instruction, an iteration of a repeated one, or the delivery of an exception.
    Step,
    /// Forward by one step, and on as long as RIP is in this range.
    StepWithin(Range<u64>),
    /// Forward to what stops.
    Forward,
    /// Backward by one step.
    StepBack,
    /// Backward to what stops.
    Backward,
}

/// Whether travelling stops at each checkpoint that it comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AtCheckpoints {
    /// It does.
    #[default]
    Stop,
    /// It goes on if there is a further interval.
    Pass,
}

/// Why a session stopped moving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The step is done.
    Stepped,
    /// RIP is at a breakpoint.
    Breakpoint,
    /// A watched access was just made; or, backwards, is what the next instruction would make.
    Watchpoint(Hit),
    /// This checkpoint's moment is reached.
    Checkpoint(CheckpointIndex),
    /// Nothing is before this moment.
    Begin,
    /// Nothing is behind this moment.
    End,
    /// The caller did not want to go on.
    Interrupted,
    /// The session cannot move further; [`Session::failure`] says why.
    Failed,
}

/// Why a session cannot move, or not begin.
#[derive(Debug, thiserror::Error)]
pub enum DebugFailure<E: std::error::Error + 'static> {
    /// There is no such interval.
    #[error("there is no interval {}", interval.0)]
    Unknown {
        /// Its number.
        interval: CheckpointIndex,
    },
    /// An interval cannot be had.
    #[error("interval {} cannot be had", interval.0)]
    Source {
        /// Its number.
        interval: CheckpointIndex,
        /// Why.
        #[source]
        cause: E,
    },
    /// An interval cannot be simulated further.
    #[error("interval {} cannot be simulated further", interval.0)]
    Replay {
        /// Its number.
        interval: CheckpointIndex,
        /// Why.
        #[source]
        cause: ReplayFailure,
    },
    /// An interval does not start with the state that the one before it ends with.
    #[error("interval {} does not start with the state that the one before it ends with", interval.0)]
    OtherStart {
        /// Its number.
        interval: CheckpointIndex,
    },
}

type Moved<S> = Result<Stop, DebugFailure<<S as Source>::Error>>;

/// A session. It keeps in memory: the RAM of one interval, the pages that its snapshots keep (at most 256 MiB, or one
/// version of each page that the interval wrote, and what was written since the last), and twice that while it goes back
/// over a checkpoint.
#[derive(Debug)]
pub struct Session<S: Source> {
    source: S,
    track: Track,
    stops: Stops,
    /// What travelling does at checkpoints.
    pub at_checkpoints: AtCheckpoints,
    failure: Option<DebugFailure<S::Error>>,
}

impl<S: Source> Session<S> {
    /// A session at the start of an interval.
    ///
    /// # Errors
    /// When the interval cannot be had or not be simulated.
    pub fn open(mut source: S, interval: CheckpointIndex) -> Result<Self, DebugFailure<S::Error>> {
        let track = load(&mut source, interval)?;
        let (stops, at_checkpoints, failure) = (Stops::default(), AtCheckpoints::default(), None);
        Ok(Self { source, track, stops, at_checkpoints, failure })
    }

    /// Where the session is.
    #[must_use]
    pub fn moment(&self) -> Moment {
        let done = self.track.machine.done();
        Moment { interval: self.track.index, work: done.work, instructions: done.instructions }
    }

    /// The processor.
    #[must_use]
    pub fn cpu(&self) -> CpuState {
        self.track.machine.simulator.state()
    }

    /// Copies guest memory from a virtual address on, up to the first byte that is not mapped; says how many bytes that
    /// are. No page table is changed by it, and all that is mapped can be read, whoever may read it in the guest.
    pub fn read(&self, address: u64, out: &mut [u8]) -> usize {
        translate::read(&self.track, self.cpu().control[2], address, out)
    }

    /// The guest-physical address of a virtual one, if it is mapped.
    #[must_use]
    pub fn physical(&self, address: u64) -> Option<u64> {
        translate::physical(&self.track, self.cpu().control[2], address)
    }

    /// Inputs that were given since the interval's start, and how many it has.
    #[must_use]
    pub fn inputs(&self) -> (usize, usize) {
        (self.track.machine.given(), self.track.interval.events.events().len())
    }

    /// Snapshots of this interval, and the bytes of pages that they keep.
    #[must_use]
    pub fn snapshots(&self) -> (usize, usize) {
        self.track.kept()
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        u64::from(self.track.interval.start.map.pages()) * PAGE_BYTES as u64
    }

    /// Why the last [`Stop::Failed`] was.
    #[must_use]
    pub const fn failure(&self) -> Option<&DebugFailure<S::Error>> {
        self.failure.as_ref()
    }

    /// Makes travelling stop where RIP is this. Guest memory is not changed for it.
    ///
    /// # Errors
    /// When there are too many.
    pub fn add_breakpoint(&mut self, address: u64) -> Result<(), StopError> {
        self.stops.add_breakpoint(address)
    }

    /// Removes a breakpoint. False when there was none.
    pub fn remove_breakpoint(&mut self, address: u64) -> bool {
        self.stops.remove_breakpoint(address)
    }

    /// Makes travelling stop at accesses.
    ///
    /// # Errors
    /// When there are too many, or it covers no range.
    pub fn add_watchpoint(&mut self, watchpoint: Watchpoint) -> Result<(), StopError> {
        self.stops.add_watchpoint(watchpoint)
    }

    /// Removes a watchpoint. False when there was none.
    pub fn remove_watchpoint(&mut self, watchpoint: Watchpoint) -> bool {
        self.stops.remove_watchpoint(watchpoint)
    }

    /// Removes all breakpoints and watchpoints.
    pub fn clear_stops(&mut self) {
        self.stops.clear();
    }

    /// Moves until something stops it. `interrupted` is asked every few milliseconds of work, and ends it by saying yes:
    /// forwards where the session is then, backwards where nothing that stops was passed.
    ///
    /// When it fails, the session is at the last moment that can be reached, and can go back from there.
    pub fn travel(&mut self, travel: &Travel, interrupted: &mut dyn FnMut() -> bool) -> Stop {
        self.failure = None;
        let moved = match travel {
            Travel::Step => self.step(),
            Travel::StepWithin(range) => self.step_within(range, interrupted),
            Travel::Forward => self.forward(interrupted),
            Travel::StepBack => self.step_back(interrupted),
            Travel::Backward => self.backward(interrupted),
        };
        moved.unwrap_or_else(|failure| {
            self.failure = Some(failure);
            Stop::Failed
        })
    }

    /// Crosses checkpoints as long as this is an interval's end and another follows. False at the end of all. An
    /// interval may have no instruction at all, so several may be crossed.
    fn leave_end(&mut self) -> Result<bool, DebugFailure<S::Error>> {
        loop {
            let here = self.track.index;
            if !self.track.meets_end() {
                return Ok(true);
            }
            let interval = CheckpointIndex(here.0.saturating_add(1));
            if interval == here || !self.source.has(interval) {
                return Ok(false);
            }
            self.cross(interval)?;
        }
    }

    fn cross(&mut self, interval: CheckpointIndex) -> Result<(), DebugFailure<S::Error>> {
        let failed = |cause| DebugFailure::Source { interval, cause };
        let next = self.source.interval(interval).map_err(failed)?;
        let end = &self.track.interval.end;
        let start = &next.start;
        if start.cpu != end.cpu || start.devices != end.devices || start.map.root() != end.map.root() {
            return Err(DebugFailure::OtherStart { interval });
        }
        self.track.go_on_with(interval, next).map_err(|cause| DebugFailure::Replay { interval, cause })
    }

    fn step(&mut self) -> Moved<S> {
        if !self.leave_end()? {
            return Ok(Stop::End);
        }
        self.track.arm(Some(&self.stops));
        let (from, stepped) = (self.track.work(), self.track.step());
        if let Err(cause) = stepped {
            return Err(self.recover(from, cause));
        }
        let hit = self.track.machine.simulator.observer_mut().hit.take();
        self.leave_end()?;
        Ok(hit.map_or(Stop::Stepped, Stop::Watchpoint))
    }

    fn step_within(&mut self, range: &Range<u64>, interrupted: &mut dyn FnMut() -> bool) -> Moved<S> {
        let mut steps = 0_u32;
        loop {
            match self.step()? {
                Stop::Stepped => {}
                other => return Ok(other),
            }
            let rip = self.track.machine.simulator.rip();
            if !range.contains(&rip) {
                return Ok(Stop::Stepped);
            }
            if self.stops.has_breakpoint(rip) {
                return Ok(Stop::Breakpoint);
            }
            steps = steps.wrapping_add(1);
            if steps.is_multiple_of(1 << 16) && interrupted() {
                return Ok(Stop::Interrupted);
            }
        }
    }

    fn forward(&mut self, interrupted: &mut dyn FnMut() -> bool) -> Moved<S> {
        if !self.leave_end()? {
            return Ok(Stop::End);
        }
        loop {
            self.track.arm(Some(&self.stops));
            let stops = (!self.stops.is_empty()).then_some(&self.stops);
            let from = self.track.work();
            let paused = match self.track.run(u64::MAX, stops) {
                Ok(paused) => paused,
                Err(cause) => return Err(self.recover(from, cause)),
            };
            match paused {
                Pause::Slice | Pause::Goal => {}
                Pause::Breakpoint => return Ok(Stop::Breakpoint),
                Pause::Watched(hit) => {
                    self.leave_end()?;
                    return Ok(Stop::Watchpoint(hit));
                }
                Pause::End if !self.leave_end()? => return Ok(Stop::End),
                Pause::End if self.stops.has_breakpoint(self.track.machine.simulator.rip()) => {
                    return Ok(Stop::Breakpoint);
                }
                Pause::End if self.at_checkpoints == AtCheckpoints::Stop => {
                    return Ok(Stop::Checkpoint(self.track.index));
                }
                Pause::End => {}
            }
            if interrupted() {
                return Ok(Stop::Interrupted);
            }
        }
    }

    /// Goes to the last moment that can be reached, after a failure on the way from `from`.
    fn recover(&mut self, from: u64, cause: ReplayFailure) -> DebugFailure<S::Error> {
        let reached = self.track.work();
        // The instruction that failed may have done a part of its work, and a run of several says not where it was.
        let sought = self.track.go_before(reached).map_err(ReplayFailure::from);
        if sought.and_then(|()| self.track.seek(reached)).is_err() {
            // Not even there.
            let _unreached = self.track.seek(from);
        }
        DebugFailure::Replay { interval: self.track.index, cause }
    }
}

fn load<S: Source>(source: &mut S, interval: CheckpointIndex) -> Result<Track, DebugFailure<S::Error>> {
    if !source.has(interval) {
        return Err(DebugFailure::Unknown { interval });
    }
    let failed = |cause| DebugFailure::Source { interval, cause };
    let recorded = source.interval(interval).map_err(failed)?;
    let ram = source.ram(interval).map_err(failed)?;
    Track::new(interval, recorded, ram).map_err(|cause| DebugFailure::Replay { interval, cause })
}
