//! How fast chunks come in, all peers together: how much is kept asked for follows from it.

use std::time::Duration;

use crate::time::{Time, nanos};

/// Time over which one sample is taken.
const SAMPLE: Duration = Duration::from_millis(20);

/// The node's rate of arrivals: the largest lately, which a pause lowers by an eighth a sample.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    rate: u64,
    since: Time,
    bytes: u64,
}

impl Intake {
    /// Bytes arrived.
    pub(crate) fn arrived(&mut self, now: Time, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        let span = now.since(self.since);
        if span >= SAMPLE {
            let sample = u128::from(self.bytes) * 1_000_000_000 / u128::from(nanos(span));
            let sample = u64::try_from(sample).unwrap_or(u64::MAX);
            self.rate = sample.max(self.rate - self.rate / 8);
            self.since = now;
            self.bytes = 0;
        }
    }

    /// The time in which so many bytes come in.
    pub(crate) fn span_of(&self, bytes: u64) -> Duration {
        Duration::from_micros(bytes.saturating_mul(1_000_000) / self.rate.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_at_once_and_falls_slowly() {
        let mut intake = Intake::default();
        for i in 1..=100 {
            intake.arrived(Time::from_millis(i), 100_000);
        }
        let span = intake.span_of(2_000_000).as_millis();
        assert!((19..=21).contains(&span), "at 100 MB/s: {span}");
        for i in 1..=50 {
            intake.arrived(Time::from_millis(1000 + 30 * i), 10);
        }
        assert!(intake.span_of(2_000_000) > Duration::from_secs(10));
    }
}
