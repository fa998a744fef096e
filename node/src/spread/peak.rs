//! The highest rate that was seen on a link lately.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// The shortest time over which a rate is taken: long enough for several answers, short enough for a small spread.
const WINDOW: Duration = Duration::from_millis(250);
/// A peak counts for at least this long, and for twice that at most: links change.
const KEPT: Duration = Duration::from_secs(600);

/// Follows a count of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Peak {
    window: (Instant, u64),
    generation: Instant,
    highest: u64,
    before: u64,
}

impl Peak {
    /// Starts with a count of 0.
    #[must_use]
    pub const fn start(now: Instant) -> Self {
        Self { window: (now, 0), generation: now, highest: 0, before: 0 }
    }

    /// Notes the count. To be called often while it rises; what passes between two calls counts as spread evenly.
    pub fn note(&mut self, now: Instant, bytes: u64) {
        let (since, from) = self.window;
        if bytes == from {
            // Nothing passes: what comes next must not be spread over the time before.
            self.window = (now, bytes);
        }
        let elapsed = now.saturating_duration_since(since);
        if bytes == from || elapsed < WINDOW {
            return;
        }
        if now.saturating_duration_since(self.generation) >= KEPT {
            self.before = std::mem::take(&mut self.highest);
            self.generation = now;
        }
        let rate = u128::from(bytes.saturating_sub(from)) * 1_000_000_000 / elapsed.as_nanos();
        self.highest = self.highest.max(u64::try_from(rate).unwrap_or(u64::MAX));
        self.window = (now, bytes);
    }

    /// Bytes a second; `None` if nothing passed.
    #[must_use]
    pub fn bytes_per_s(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.highest.max(self.before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_rate_of_any_window_counts_until_it_is_old() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut peak = Peak::start(start);
        assert_eq!(peak.bytes_per_s(), None);
        peak.note(at(100), 900_000);
        assert_eq!(peak.bytes_per_s(), None, "too short for a rate");
        peak.note(at(250), 1_000_000);
        assert_eq!(peak.bytes_per_s(), NonZeroU64::new(4_000_000));
        peak.note(at(1250), 1_500_000);
        assert_eq!(peak.bytes_per_s(), NonZeroU64::new(4_000_000));
        peak.note(at(600_000), 1_500_000);
        peak.note(at(600_500), 2_000_000);
        assert_eq!(
            peak.bytes_per_s(),
            NonZeroU64::new(4_000_000),
            "half a megabyte in half a second is no peak"
        );
        peak.note(at(1_200_000), 2_000_000);
        peak.note(at(1_201_000), 2_700_000);
        assert_eq!(peak.bytes_per_s(), NonZeroU64::new(1_000_000), "the first peak is forgotten");
    }
}
