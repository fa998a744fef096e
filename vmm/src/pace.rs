//! How much work the guest is told to do, and when.

use crate::gate::Gate;
use crate::limits::{PACE_BACKLOG, PACE_BATCH, PACE_IDLE, VERIFY_CHECK_PAGES};
use pageswarm_machine::devices::Phase;
use std::time::Instant;

/// How the guest is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaceMode {
    /// At these rates, in batches of about a millisecond.
    Rate {
        /// Pages to dirty per second.
        dirty_pages_per_second: u32,
        /// Pages to self-check per second.
        check_pages_per_second: u32,
    },
    /// Dirty so many pages, then check everything over and over, as fast as possible.
    Verify {
        /// Pages to dirty first.
        dirty_first: u32,
    },
}

/// A rate's account: work that became due and was given out.
#[derive(Clone, Copy, Debug)]
struct Account {
    per_second: u64,
    /// Work due and not given out, in pages times 10^9.
    due: u64,
}

impl Account {
    const fn new(per_second: u32) -> Self {
        Self { per_second: per_second as u64, due: 0 }
    }

    /// Pages to give out after `elapsed_ns` more.
    fn draw(&mut self, elapsed_ns: u64) -> u32 {
        const NANO: u64 = 1_000_000_000;
        let backlog_ns = u64::try_from(PACE_BACKLOG.as_nanos()).unwrap_or(NANO);
        let grown = elapsed_ns.min(backlog_ns).saturating_mul(self.per_second);
        let most = backlog_ns.saturating_mul(self.per_second).min(0xffff * NANO);
        self.due = self.due.saturating_add(grown).min(most);
        let pages = self.due / NANO;
        self.due %= NANO;
        u32::try_from(pages).unwrap_or(0xffff)
    }
}

/// The pace device's outside.
#[derive(Debug)]
pub(crate) struct Pace {
    work: Work,
    last: Instant,
}

#[derive(Debug)]
enum Work {
    Rate { dirty: Account, check: Account },
    Verify { dirty_left: u32 },
}

impl Pace {
    pub(crate) fn new(mode: PaceMode) -> Self {
        let work = match mode {
            PaceMode::Rate { dirty_pages_per_second, check_pages_per_second } => Work::Rate {
                dirty: Account::new(dirty_pages_per_second),
                check: Account::new(check_pages_per_second),
            },
            PaceMode::Verify { dirty_first } => Work::Verify { dirty_left: dirty_first },
        };
        Self { work, last: Instant::now() }
    }

    /// Waits until work is due, or less when a pause is requested, and gives the pace port's value.
    pub(crate) fn answer(&mut self, phase: Phase, gate: &Gate) -> u32 {
        if phase == Phase::Stopped {
            gate.sleep_until(Instant::now() + PACE_IDLE);
            return 0;
        }
        match &mut self.work {
            Work::Rate { dirty, check } => {
                gate.sleep_until(self.last + PACE_BATCH);
                let now = Instant::now();
                let elapsed = u64::try_from((now - self.last).as_nanos()).unwrap_or(u64::MAX);
                self.last = now;
                dirty.draw(elapsed) | check.draw(elapsed) << 16
            }
            Work::Verify { dirty_left } => {
                let dirty = (*dirty_left).min(VERIFY_CHECK_PAGES);
                *dirty_left -= dirty;
                if dirty > 0 { dirty } else { VERIFY_CHECK_PAGES << 16 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_met_exactly_in_batches_of_any_length() {
        let mut account = Account::new(53_000);
        let (mut given, mut elapsed) = (0_u64, 0_u64);
        for step in [1_000_003, 999_999, 17, 4_000_000, 1].into_iter().cycle().take(5000) {
            elapsed += step;
            given += u64::from(account.draw(step));
        }
        assert_eq!(given, elapsed * 53_000 / 1_000_000_000);
    }

    #[test]
    fn a_long_standstill_is_caught_up_on_only_in_part() {
        assert_eq!(Account::new(53_000).draw(10_000_000_000), 53_000 / 20);
        assert_eq!(Account::new(u32::MAX).draw(10_000_000_000), 0xffff);
    }

    #[test]
    fn verifying_dirties_first_and_then_only_checks() {
        let (mut pace, gate) = (Pace::new(PaceMode::Verify { dirty_first: 3000 }), Gate::new());
        let answers: Vec<u32> = (0..4).map(|_| pace.answer(Phase::Running, &gate)).collect();
        assert_eq!(answers, [2048, 952, 2048 << 16, 2048 << 16]);
    }
}
