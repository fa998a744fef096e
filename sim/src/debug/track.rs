//! One interval under debugging: a machine that goes forward through it, exactly as far as wanted, and back again.
//!
//! Going back is going to a snapshot and forward from there. Time is work as the simulator counts it: instructions,
//! iterations of repeated ones, and delivered exceptions. Moments are between two steps, and a step is 1 of work, or 2.

use super::machine::{Machine, Stand};
use super::snapshots::Snapshots;
use super::source::RecordedInterval;
use super::stops::{Hit, Stops};
use super::undo::UndoRam;
use crate::interval::ReplayFailure;
use crate::landmark::Landmark;
use crate::limits::{DEBUG_SLICE, RUN_MARGIN, SNAPSHOT_WORK, SNAPSHOT_WORK_MIN};
use crate::memory::Memory;
use crate::refusal::UnsupportedState;
use pageswarm_machine::{CheckpointIndex, PAGE_BYTES, PageNumber};

/// Why [`Track::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// Time to look around.
    Slice,
    /// The goal is reached; a breakpoint there is not told.
    Goal,
    /// RIP is at a breakpoint.
    Breakpoint,
    /// The last step made a watched access.
    Watched(Hit),
    /// The interval's end is reached.
    End,
}

#[derive(Debug)]
pub(super) struct Track {
    pub(super) index: CheckpointIndex,
    pub(super) interval: RecordedInterval,
    pub(super) machine: Machine,
    snapshots: Snapshots,
    landmark: Option<Landmark>,
    /// All moments up to this work are known not to be the end.
    searched: Option<u64>,
    /// The end's work, once it was reached.
    end_at: Option<u64>,
}

impl Track {
    /// The interval at its start, with RAM as it is there.
    pub(super) fn new(
        index: CheckpointIndex,
        interval: RecordedInterval,
        ram: Vec<u8>,
    ) -> Result<Self, ReplayFailure> {
        let pages = interval.start.map.pages();
        if ram.len() != pages as usize * PAGE_BYTES || interval.end.map.pages() != pages {
            return Err(ReplayFailure::Sizes);
        }
        let start = Stand::start(interval.start.cpu.clone(), interval.start.devices.clone());
        Ok(Self {
            index,
            machine: Machine::new(start.clone(), UndoRam::new(ram))?,
            interval,
            snapshots: Snapshots::new(start),
            landmark: None,
            searched: None,
            end_at: None,
        })
    }

    /// Makes this the track of the next interval, at its start, which is equal to where this one is.
    pub(super) fn go_on_with(
        &mut self,
        index: CheckpointIndex,
        interval: RecordedInterval,
    ) -> Result<(), ReplayFailure> {
        if interval.end.map.pages() != self.ram().pages() {
            return Err(ReplayFailure::Sizes);
        }
        let start = Stand::start(interval.start.cpu.clone(), interval.start.devices.clone());
        // What led back is of the interval that is left.
        drop(self.machine.simulator.memory_mut().mark());
        self.machine.set(start.clone())?;
        (self.index, self.interval, self.snapshots) = (index, interval, Snapshots::new(start));
        (self.landmark, self.searched, self.end_at) = (None, None, None);
        Ok(())
    }

    pub(super) fn ram(&self) -> &UndoRam {
        self.machine.simulator.memory()
    }

    pub(super) fn work(&self) -> u64 {
        self.machine.work()
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.end_at == Some(self.work())
    }

    /// Snapshots, and the bytes that they keep.
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.snapshots.count(), self.snapshots.bytes() + self.ram().written().count() * PAGE_BYTES)
    }

    /// Makes single steps look for watched accesses, or for none.
    pub(super) fn arm(&mut self, stops: Option<&Stops>) {
        self.machine.simulator.observer_mut().arm(stops.map_or(&[], Stops::watchpoints));
    }

    /// Goes to the last snapshot before `work`.
    pub(super) fn go_before(&mut self, work: u64) -> Result<(), UnsupportedState> {
        let stand = self.snapshots.go_before(work, self.machine.simulator.memory_mut());
        self.landmark = None;
        self.machine.set(stand)
    }

    /// Goes to the first moment whose work is at least `work`, which has been passed before.
    pub(super) fn seek(&mut self, work: u64) -> Result<(), ReplayFailure> {
        if work < self.work() {
            self.go_before(work + 1)?;
        }
        self.arm(None);
        while self.run(work, None)? == Pause::Slice {}
        Ok(())
    }

    pub(super) fn take_snapshot(&mut self) {
        if self.snapshots.last_work() < self.work() {
            let stand = self.machine.stand();
            self.snapshots.take(stand, self.machine.simulator.memory_mut());
        }
    }

    /// One step. True when it led to the end.
    pub(super) fn step(&mut self) -> Result<bool, ReplayFailure> {
        self.machine.step(&self.interval.events)?;
        Ok(self.meets_end())
    }

    /// Goes forward for a while, not beyond the first moment whose work is at least `goal`, nor beyond the interval's
    /// end. With `stops`, it also pauses at them, but not at a breakpoint where it begins; [`Self::arm`] comes first.
    pub(super) fn run(&mut self, goal: u64, stops: Option<&Stops>) -> Result<Pause, ReplayFailure> {
        if self.work() >= goal {
            return Ok(Pause::Goal);
        }
        if self.is_at_end() || self.meets_end() {
            return Ok(Pause::End);
        }
        if self.work() >= self.interval.work_max {
            return Err(ReplayFailure::EndNotReached {
                instructions: self.machine.done().instructions,
                wrong_pages: self.landmark.as_ref().map_or(0, Landmark::wrong_pages),
            });
        }
        let due = self.snapshot_due(goal);
        if self.work() >= due {
            self.take_snapshot();
        }
        let exact = goal.min(self.end_at.unwrap_or(u64::MAX));
        let slice =
            self.work().saturating_add(DEBUG_SLICE).min(self.snapshot_due(goal)).min(self.interval.work_max);
        match stops {
            None if exact - self.work() > RUN_MARGIN => self.run_blocks(slice.min(exact - RUN_MARGIN), exact),
            _ => self.run_steps(slice, exact, stops),
        }
    }

    /// When the next snapshot is due on the way to `goal`: near it they are closer together, because who went back one
    /// step often does it again.
    fn snapshot_due(&self, goal: u64) -> u64 {
        let last = self.snapshots.last_work();
        let left = goal.saturating_sub(last);
        if left > 2 * SNAPSHOT_WORK {
            last + SNAPSHOT_WORK
        } else if left > SNAPSHOT_WORK_MIN {
            last + left * 3 / 4
        } else {
            u64::MAX
        }
    }

    fn run_blocks(&mut self, work: u64, exact: u64) -> Result<Pause, ReplayFailure> {
        if self.may_end() {
            self.machine.look_out_for(self.interval.end.cpu.rip);
        }
        let paused = self.machine.run(work, &self.interval.events)?;
        assert!(self.work() <= exact, "a run goes no further than its margin");
        if paused && self.meets_end() { Ok(Pause::End) } else { Ok(Pause::Slice) }
    }

    fn run_steps(&mut self, slice: u64, exact: u64, stops: Option<&Stops>) -> Result<Pause, ReplayFailure> {
        let end_rip = self.interval.end.cpu.rip;
        loop {
            self.machine.step(&self.interval.events)?;
            let (rip, work) = (self.machine.simulator.rip(), self.machine.work());
            let is_end =
                if self.end_at.is_some() { work >= exact && self.is_at_end() } else { rip == end_rip };
            let hit = self.machine.simulator.observer_mut().hit.take();
            if is_end && self.meets_end() {
                return Ok(hit.map_or(Pause::End, Pause::Watched));
            }
            if let Some(hit) = hit {
                return Ok(Pause::Watched(hit));
            }
            if work >= exact {
                return Ok(Pause::Goal);
            }
            if stops.is_some_and(|stops| stops.has_breakpoint(rip)) {
                return Ok(Pause::Breakpoint);
            }
            if work >= slice {
                return Ok(Pause::Slice);
            }
        }
    }

    /// The end can only come once every input was given.
    fn may_end(&self) -> bool {
        self.end_at.is_none() && self.machine.given() == self.interval.events.events().len()
    }

    /// Whether this is the end. Every moment at the end's RIP has to be asked for when it comes for the first time.
    pub(super) fn meets_end(&mut self) -> bool {
        let work = self.work();
        if self.end_at.is_some() {
            return self.is_at_end();
        }
        if !self.may_end() || self.searched.is_some_and(|searched| work <= searched) {
            return false;
        }
        self.searched = Some(work);
        let (end, simulator) = (&self.interval.end, &mut self.machine.simulator);
        let alike = simulator.rip() == end.cpu.rip
            && [1, 0, 2, 6, 7, 8].into_iter().all(|n| simulator.general(n) == end.cpu.general[n])
            && *self.machine.devices() == end.devices
            && self.machine.simulator.state() == end.cpu;
        if alike && self.has_end_ram() {
            self.end_at = Some(work);
        }
        self.end_at.is_some()
    }

    fn has_end_ram(&mut self) -> bool {
        let simulator = &mut self.machine.simulator;
        if self.landmark.is_none() {
            // This simulator may have begun at a snapshot, and knows nothing of what was written before.
            let before: Vec<PageNumber> =
                self.snapshots.written().chain(simulator.memory().written()).collect();
            simulator.note_written(before.into_iter());
        }
        let (start, end) = (&self.interval.start.map, &self.interval.end.map);
        self.landmark.get_or_insert_with(|| Landmark::new(start, end)).is_reached(simulator)
    }

    /// A page as it is now, if there is one of this number.
    pub(super) fn page(&self, page: u64) -> Option<&crate::memory::PageBytes> {
        let page = u32::try_from(page).ok().filter(|&page| page < self.ram().pages())?;
        Some(self.ram().page(PageNumber(page)))
    }
}
