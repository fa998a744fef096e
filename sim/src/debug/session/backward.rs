//! Backward: always forward from a snapshot or from an interval's start, to what was there last.

use super::{AtCheckpoints, DebugFailure, Moved, Session, Stop, load};
use crate::debug::source::Source;
use crate::debug::track::Pause;
use crate::interval::ReplayFailure;
use pageswarm_machine::CheckpointIndex;

impl<S: Source> Session<S> {
    /// Goes to the end of the interval before this one. None when there is none, `Interrupted` when it did not come so
    /// far and is where it was.
    fn enter_before(
        &mut self,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Stop>, DebugFailure<S::Error>> {
        let Some(interval) = self.track.index.0.checked_sub(1).map(CheckpointIndex) else {
            return Ok(None);
        };
        if !self.source.has(interval) {
            return Ok(None);
        }
        let mut track = load(&mut self.source, interval)?;
        let failed = |cause| DebugFailure::Replay { interval, cause };
        while track.run(u64::MAX, None).map_err(failed)? != Pause::End {
            if interrupted() {
                return Ok(Some(Stop::Interrupted));
            }
        }
        let (end, start) = (&track.interval.end, &self.track.interval.start);
        if start.cpu != end.cpu || start.devices != end.devices || start.map.root() != end.map.root() {
            return Err(DebugFailure::OtherStart { interval: self.track.index });
        }
        self.track = track;
        Ok(Some(Stop::Stepped))
    }

    pub(super) fn step_back(&mut self, interrupted: &mut dyn FnMut() -> bool) -> Moved<S> {
        // An interval may have no instruction at all.
        while self.track.work() == 0 {
            match self.enter_before(interrupted)? {
                None => return Ok(Stop::Begin),
                Some(Stop::Interrupted) => return Ok(Stop::Interrupted),
                Some(_) => {}
            }
        }
        let work = self.track.work();
        let back = self.before(work);
        back.map_err(|cause| DebugFailure::Replay { interval: self.track.index, cause })?;
        self.track.arm(Some(&self.stops));
        Ok(Stop::Stepped)
    }

    /// Goes to the last moment before `work`, which is a moment and not the first.
    fn before(&mut self, work: u64) -> Result<(), ReplayFailure> {
        // A step is 1 of work or 2: this is that moment, or the one before it.
        self.track.seek(work.saturating_sub(2))?;
        self.track.take_snapshot();
        let from = self.track.work();
        if from + 1 == work {
            return Ok(());
        }
        self.track.step()?;
        if self.track.work() < work { Ok(()) } else { self.track.seek(from) }
    }

    pub(super) fn backward(&mut self, interrupted: &mut dyn FnMut() -> bool) -> Moved<S> {
        let mut first = true;
        loop {
            if self.track.work() == 0 {
                let crosses = first || self.at_checkpoints == AtCheckpoints::Pass;
                if !crosses && self.has_before() {
                    return Ok(Stop::Checkpoint(self.track.index));
                }
                match self.enter_before(interrupted)? {
                    None => return Ok(Stop::Begin),
                    Some(Stop::Interrupted) => return Ok(Stop::Interrupted),
                    Some(_) => {}
                }
            }
            first = self.track.work() == 0;
            let found = self.search_back(interrupted);
            let found = found.map_err(|cause| DebugFailure::Replay { interval: self.track.index, cause })?;
            if let Some(stop) = found {
                return Ok(stop);
            }
        }
    }

    fn has_before(&self) -> bool {
        self.track.index.0.checked_sub(1).is_some_and(|index| self.source.has(CheckpointIndex(index)))
    }

    /// Goes back to the last stop before here, or to the interval's start if there is none: part by part, each of them
    /// forwards from a snapshot, latest first.
    fn search_back(&mut self, interrupted: &mut dyn FnMut() -> bool) -> Result<Option<Stop>, ReplayFailure> {
        let mut until = self.track.work();
        if self.stops.is_empty() {
            self.track.seek(0)?;
            return Ok(None);
        }
        while until > 0 {
            self.track.go_before(until)?;
            let from = self.track.work();
            let Some(found) = self.last_stop(until, interrupted)? else {
                self.track.seek(until)?;
                return Ok(Some(Stop::Interrupted));
            };
            if let Some((work, stop)) = found {
                self.track.seek(work)?;
                return Ok(Some(stop));
            }
            until = from;
        }
        self.track.seek(0)?;
        Ok(None)
    }

    /// The last moment from here up to `until` at which a way back stops. None when interrupted.
    fn last_stop(
        &mut self,
        until: u64,
        interrupted: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Option<(u64, Stop)>>, ReplayFailure> {
        let mut last = None;
        let at_breakpoint = self.stops.has_breakpoint(self.track.machine.simulator.rip());
        if at_breakpoint {
            last = Some((self.track.work(), Stop::Breakpoint));
        }
        self.track.arm(Some(&self.stops));
        loop {
            match self.track.run(until, Some(&self.stops))? {
                Pause::Goal | Pause::End => return Ok(Some(last)),
                Pause::Slice if interrupted() => return Ok(None),
                Pause::Slice => {}
                Pause::Breakpoint => last = Some((self.track.work(), Stop::Breakpoint)),
                Pause::Watched(hit) => {
                    last = Some((self.track.machine.stepped_from(), Stop::Watchpoint(hit)));
                    let here = self.track.work() < until
                        && self.stops.has_breakpoint(self.track.machine.simulator.rip());
                    if here {
                        last = Some((self.track.work(), Stop::Breakpoint));
                    }
                }
            }
        }
    }
}
