//! The two clocks of a node: wall time for people and certificates, a monotonic one for the engine.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pageswarm_swarm::Time;

/// Counts from when the node started.
#[derive(Clone, Copy, Debug)]
pub struct EngineClock {
    start: Instant,
}

impl EngineClock {
    /// Starts at zero.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The engine's now.
    #[must_use]
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The instant at which the engine's clock shows `time`.
    #[must_use]
    pub fn instant(&self, time: Time) -> Instant {
        self.start + Duration::from_nanos(time.0)
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since 1970.
#[must_use]
pub fn unix_s() -> u64 {
    unix_ms() / 1000
}
