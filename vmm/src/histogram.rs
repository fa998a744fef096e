//! A small histogram of times: eight steps for each power of two, so a percentile is right within an eighth.

use std::time::Duration;

const STEPS: usize = 8;
const BUCKETS: usize = 64 * STEPS;

/// Counts of times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    /// Counts one time.
    pub fn record(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
    }

    /// How many times were counted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.total
    }

    /// The time that `percent` of all counted times do not exceed, rounded up by at most an eighth.
    #[must_use]
    pub fn percentile(&self, percent: u8) -> Option<Duration> {
        let wanted = (self.total * u64::from(percent.min(100))).div_ceil(100).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(Duration::from_nanos(bucket_top(bucket)))
    }
}

fn bucket(nanoseconds: u64) -> usize {
    if nanoseconds < STEPS as u64 {
        return usize::try_from(nanoseconds).unwrap_or(0);
    }
    let power = nanoseconds.ilog2();
    let step = usize::try_from(nanoseconds >> (power - 3) & 7).unwrap_or(0);
    (power as usize - 2) * STEPS + step
}

fn bucket_top(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (power, step) = (bucket / STEPS + 2, (bucket % STEPS) as u64);
    // At most 2^64 - 1: in wide arithmetic, then cut.
    let top = (u128::from(STEPS as u64 + step + 1) << (power - 3)) - 1;
    u64::try_from(top).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_say() {
        for value in
            (0..64).flat_map(|power| [1_u64 << power, (1_u64 << power) - 1, (1_u64 << power) / 3 * 4])
        {
            let top = bucket_top(bucket(value));
            assert!(top >= value && top - value <= value / 8, "{value} {top}");
        }
    }

    #[test]
    fn percentiles_of_known_times() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(50), None);
        for microseconds in 1..=1000 {
            histogram.record(Duration::from_micros(microseconds));
        }
        for (percent, exact) in [(50, 500), (99, 990), (100, 1000)] {
            let found = histogram.percentile(percent).unwrap();
            let exact = Duration::from_micros(exact);
            assert!(found >= exact && found <= exact * 9 / 8, "{percent} {found:?}");
        }
    }
}
