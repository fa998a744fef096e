//! Where a session's intervals come from.

use crate::interval::Boundary;
use pageswarm_machine::{CheckpointIndex, EventLog};

/// One recorded interval, without the RAM that it starts from.
#[derive(Clone, Debug)]
pub struct RecordedInterval {
    /// The checkpoint that it begins with.
    pub start: Boundary,
    /// Its inputs.
    pub events: EventLog,
    /// The checkpoint that it ends with.
    pub end: Boundary,
    /// Instructions, iterations of repeated ones and delivered exceptions after which the end is given up.
    pub work_max: u64,
}

/// Gives intervals when a session comes to them.
///
/// It answers for what it gives: that RAM is what the start's page map says, and that all of it is what was recorded.
pub trait Source {
    /// Why an interval cannot be had.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Whether there is an interval of this number. The numbers that there are follow one another.
    fn has(&self, index: CheckpointIndex) -> bool;

    /// The interval of this number, for which [`Self::has`] says yes. It is asked for again each time that the session
    /// enters the interval.
    ///
    /// # Errors
    /// When it cannot be had; the session stays where it is, and may ask again.
    fn interval(&mut self, index: CheckpointIndex) -> Result<RecordedInterval, Self::Error>;

    /// All of RAM at the interval's start. Asked for at the session's beginning and when it goes back over a checkpoint.
    ///
    /// # Errors
    /// As [`Self::interval`].
    fn ram(&mut self, index: CheckpointIndex) -> Result<Vec<u8>, Self::Error>;
}
