//! How hard to try when chunks are encoded: as hard as there are idle processors for.
//!
//! On a slow link the processors idle, and shorter answers are worth their time. On a fast one, or where guests and
//! other nodes share the machine, time is what is short. Both show in how much of the machine is idle.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use pageswarm_checkpoint::Effort;

/// Idle share of all processors, in percent, from which on shorter answers are worth their time.
const IDLE_PERCENT_MIN: u64 = 30;

/// What the kernel counts, in ticks of all processors together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    all: u64,
}

/// Watches how busy the machine is.
#[derive(Debug, Default)]
pub struct EffortGauge {
    last: Mutex<Ticks>,
    is_idle: AtomicBool,
}

impl EffortGauge {
    /// The effort that fits the last sample; [`Effort::Fast`] before there is one.
    #[must_use]
    pub fn effort(&self) -> Effort {
        if self.is_idle.load(Ordering::Relaxed) { Effort::Small } else { Effort::Fast }
    }

    /// Looks how busy the machine was since the last sample; to be called about twice a second.
    pub fn sample(&self) {
        let Some(now) = std::fs::read_to_string("/proc/stat").ok().as_deref().and_then(ticks) else {
            return;
        };
        let last = std::mem::replace(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner), now);
        let (idle, all) = (now.idle.saturating_sub(last.idle), now.all.saturating_sub(last.all));
        self.is_idle.store(all > 0 && idle * 100 >= all * IDLE_PERCENT_MIN, Ordering::Relaxed);
    }
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait and so on; see proc(5).
fn ticks(stat: &str) -> Option<Ticks> {
    let fields: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|n| n.parse().ok()).collect();
    // Waiting for the disk is not idling: shorter answers take more reading. Guest time is counted in user time already.
    let idle = *fields.get(3)?;
    Some(Ticks { idle, all: fields.iter().take(8).sum() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let stat = "cpu  10 1 5 80 4 0 1 2 7 0\ncpu0 1 1 1 1\n";
        assert_eq!(ticks(stat), Some(Ticks { idle: 80, all: 103 }));
        assert_eq!(ticks("intr 5"), None);
    }
}
