//! The next time at which something is due, and what it is.

use crate::output::Wake;
use crate::time::Time;

/// Collects due times; the earliest wins, at a tie the first one offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timers {
    until: Option<Time>,
    why: Wake,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self { until: None, why: Wake::Idle }
    }

    /// Something is due at the time, if any.
    pub(crate) fn offer(&mut self, at: Option<Time>, why: Wake) {
        if let Some(at) = at
            && self.until.is_none_or(|until| at < until)
        {
            self.until = Some(at);
            self.why = why;
        }
    }

    /// Whether the earliest is due.
    pub(crate) fn is_due(&self, now: Time) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// The earliest, and why.
    pub(crate) fn earliest(&self) -> (Option<Time>, Wake) {
        (self.until, self.why)
    }
}
