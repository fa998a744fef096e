//! A recording as a source of intervals for a debugging session.

#![allow(unreachable_pub, reason = "the module is part of several programs")]

use crate::recording::Recording;
use pageswarm_machine::CheckpointIndex;
use pageswarm_sim::debug::{RecordedInterval, Source};

/// More than any interval of a recording can hold.
const WORK_MAX: u64 = 50_000_000_000;

/// All intervals of a recording, the first of them interval 0.
#[derive(Debug)]
pub struct Debuggable(pub Recording);

/// An interval that was not recorded.
#[derive(Debug, thiserror::Error)]
#[error("was not recorded")]
pub struct NotRecorded;

impl Debuggable {
    fn place(&self, index: CheckpointIndex) -> Option<usize> {
        usize::try_from(index.0).ok().filter(|&place| place < self.0.intervals.len())
    }
}

impl Source for Debuggable {
    type Error = NotRecorded;

    fn has(&self, index: CheckpointIndex) -> bool {
        self.place(index).is_some()
    }

    fn interval(&mut self, index: CheckpointIndex) -> Result<RecordedInterval, NotRecorded> {
        let place = self.place(index).ok_or(NotRecorded)?;
        let before = place.checked_sub(1).map(|before| &self.0.intervals[before].end);
        let start = before.unwrap_or(&self.0.start).clone();
        let recorded = &self.0.intervals[place];
        let (events, end) = (recorded.events.clone(), recorded.end.clone());
        Ok(RecordedInterval { start, events, end, work_max: WORK_MAX })
    }

    fn ram(&mut self, index: CheckpointIndex) -> Result<Vec<u8>, NotRecorded> {
        let place = self.place(index).ok_or(NotRecorded)?;
        let mut ram = self.0.ram.clone();
        self.0.intervals[..place].iter().for_each(|interval| interval.apply(&mut ram));
        Ok(ram)
    }
}
