//! How fast one peer answers: its rate, its latency, and how long a silence means trouble.

use std::time::Duration;

use crate::time::{Time, nanos};

/// Taken for the latency of a peer that has not answered yet.
const LATENCY_ASSUMED: Duration = Duration::from_millis(50);
/// Silence allowed to a peer that has not answered yet.
const SILENCE_ASSUMED: Duration = Duration::from_secs(2);
/// Busy time over which one rate sample is taken.
const SAMPLE: u64 = 20_000_000;
/// Taken for the rate of a peer that has not answered yet: 1 MB/s.
const RATE_ASSUMED: u64 = 1_000_000;

/// Estimates from arrivals, smoothed as in RFC 6298 (gains 1/8 and 1/4), in integers.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    rate: Option<u64>,
    latency_ns: Option<u64>,
    /// The least latency seen, drifting up slowly: free of queueing.
    floor_ns: Option<u64>,
    gap_ns: Option<(u64, u64)>,
    sampled_bytes: u64,
    sampled_ns: u64,
    /// Since when the peer owes us bytes: the first request after idleness, or the last arrival.
    owing_since: Option<Time>,
    /// When the first request after idleness was sent, until something arrives.
    first_asked: Option<Time>,
}

impl Pace {
    /// A request was sent.
    pub(crate) fn asked(&mut self, now: Time) {
        if self.owing_since.is_none() {
            self.owing_since = Some(now);
            self.first_asked = Some(now);
        }
    }

    /// Bytes arrived in answer to a request.
    pub(crate) fn arrived(&mut self, now: Time, bytes: u64) {
        let Some(since) = self.owing_since.replace(now) else {
            self.owing_since = None;
            return;
        };
        let gap = nanos(now.since(since));
        if let Some(asked) = self.first_asked.take() {
            let latency = nanos(now.since(asked));
            self.latency_ns = Some(self.latency_ns.map_or(latency, |old| blend(old, latency, 4)));
            let drifted = self.floor_ns.map(|old| blend(old, latency, 64));
            self.floor_ns = Some(drifted.map_or(latency, |floor| floor.min(latency)));
        }
        let (mean, deviation) = self.gap_ns.unwrap_or((gap, gap / 2));
        self.gap_ns = Some((blend(mean, gap, 8), blend(deviation, mean.abs_diff(gap), 4)));
        self.sampled_bytes = self.sampled_bytes.saturating_add(bytes);
        self.sampled_ns = self.sampled_ns.saturating_add(gap);
        if self.sampled_ns >= SAMPLE {
            let rate = self.sampled_bytes.saturating_mul(1_000_000_000) / self.sampled_ns;
            self.rate = Some(self.rate.map_or(rate, |old| blend(old, rate, 4)).max(1));
            self.sampled_bytes = 0;
            self.sampled_ns = 0;
        }
    }

    /// Some other answer came (deferred, refused): the peer lives.
    pub(crate) fn answered(&mut self, now: Time) {
        if self.owing_since.is_some() {
            self.owing_since = Some(now);
            self.first_asked = None;
        }
    }

    /// Nothing is outstanding any more.
    pub(crate) fn idle(&mut self) {
        self.owing_since = None;
        self.first_asked = None;
    }

    /// Bytes per second at which the peer sends to us.
    pub(crate) fn rate(&self) -> u64 {
        self.rate.unwrap_or(RATE_ASSUMED)
    }

    /// Bytes that the peer sends in a time.
    pub(crate) fn bytes_in(&self, span: Duration) -> u64 {
        let bytes = u128::from(self.rate()) * u128::from(nanos(span)) / 1_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Whether a rate was measured.
    pub(crate) fn is_measured(&self) -> bool {
        self.rate.is_some()
    }

    /// Time to the first byte of a request to an idle peer.
    pub(crate) fn latency(&self) -> Duration {
        self.latency_ns.map_or(LATENCY_ASSUMED, Duration::from_nanos)
    }

    /// Time to the first byte without queueing.
    pub(crate) fn latency_floor(&self) -> Duration {
        self.floor_ns.map_or(LATENCY_ASSUMED, Duration::from_nanos)
    }

    /// When the peer's silence becomes a timeout: four mean gaps and four deviations after it last sent.
    pub(crate) fn silent_at(&self, min: Duration, max: Duration) -> Option<Time> {
        let allowed = self.gap_ns.map_or(SILENCE_ASSUMED, |(mean, deviation)| {
            Duration::from_nanos(mean.saturating_add(deviation).saturating_mul(4))
        });
        Some(self.owing_since?.after(allowed.clamp(min, max)))
    }

    /// Expected time until the last of `bytes`, behind `outstanding` bytes, is here.
    pub(crate) fn expected(&self, outstanding: u64, bytes: u64) -> Duration {
        let transfer = outstanding.saturating_add(bytes).saturating_mul(1_000_000) / self.rate();
        self.latency().saturating_add(Duration::from_micros(transfer))
    }

    /// How long to wait for one small urgent answer before asking someone else too.
    pub(crate) fn urgent_patience(&self, min: Duration) -> Duration {
        self.latency().saturating_mul(2).max(min)
    }
}

/// The old estimate moved one part in `parts` towards the sample.
fn blend(old: u64, sample: u64, parts: u64) -> u64 {
    if sample >= old { old.saturating_add((sample - old) / parts) } else { old - (old - sample) / parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_the_arrivals_and_silence_is_noticed_once() {
        let mut pace = Pace::default();
        pace.asked(Time::ZERO);
        for i in 1..=100 {
            pace.arrived(Time::from_millis(i * 10), 100_000);
        }
        assert!((9_000_000..=11_000_000).contains(&pace.rate()), "{}", pace.rate());
        let min = Duration::from_millis(400);
        let silent = pace.silent_at(min, Duration::from_secs(10)).unwrap();
        assert_eq!(silent, Time::from_millis(1400), "the floor binds for regular arrivals");
        pace.idle();
        assert_eq!(pace.silent_at(min, Duration::from_secs(10)), None);
    }
}
