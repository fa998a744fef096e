//! What becomes of a VM whose checkpoints are not taken as fast as it makes them.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::Machine;
use crate::backlog::{self, Backlog};
use crate::node::Node;

/// Between two looks at the backlog.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The shortest wait that counts as being behind.
const BEHIND_MIN: Duration = Duration::from_secs(1);
/// A lengthened interval is at most so many times the one that was set.
const LENGTHENED_TIMES_MAX: u32 = 32;

/// What is done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenBehind {
    /// The interval grows, and shrinks again.
    #[default]
    Lengthen,
    /// The VM stands still until less than half of what is too much is left.
    Pause,
    /// Checkpoints are recorded and kept here, and not announced or offered until less than half of what is too much is
    /// left.
    DropDistribution,
    /// Nothing: the VM goes on as it was set, and its checkpoints wait on this node's disk.
    KeepPace,
}

/// No such way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected lengthen, pause, drop-distribution or keep-pace")]
pub struct UnknownWay;

impl WhenBehind {
    /// Its name on the command line and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lengthen => "lengthen",
            Self::Pause => "pause",
            Self::DropDistribution => "drop-distribution",
            Self::KeepPace => "keep-pace",
        }
    }
}

impl FromStr for WhenBehind {
    type Err = UnknownWay;

    fn from_str(text: &str) -> Result<Self, UnknownWay> {
        let all = [Self::Lengthen, Self::Pause, Self::DropDistribution, Self::KeepPace];
        all.into_iter().find(|way| way.name() == text).ok_or(UnknownWay)
    }
}

/// How a VM is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drive {
    /// What is done when it is behind.
    pub way: WhenBehind,
    /// The interval that was set.
    pub interval_set: Duration,
    /// The interval now.
    pub interval: Duration,
    /// Whether more waits than may.
    pub is_behind: bool,
    /// What waits.
    pub backlog: Backlog,
}

/// What the VM is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    SetInterval(Duration),
    Pause,
    Resume,
}

impl Drive {
    /// A VM that is not behind.
    #[must_use]
    pub fn new(way: WhenBehind, interval: Duration) -> Self {
        Self { way, interval_set: interval, interval, is_behind: false, backlog: Backlog::default() }
    }

    /// The wait from which on the VM is behind: two intervals as set, and a second at least.
    #[must_use]
    pub fn behind_from(&self) -> Duration {
        self.interval_set.saturating_mul(2).max(BEHIND_MIN)
    }

    /// Whether the guest is made to stand still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.way == WhenBehind::Pause && self.is_behind
    }

    /// Whether checkpoints are kept from others.
    #[must_use]
    pub fn is_withholding(&self) -> bool {
        self.way == WhenBehind::DropDistribution && self.is_behind
    }

    /// Takes in what waits now.
    fn note(&mut self, backlog: Backlog) -> Option<Order> {
        let (before, wait) = (*self, backlog.wait());
        self.backlog = backlog;
        // Behind until half of it is gone, so that it does not turn to and fro.
        let bound = if self.is_behind { self.behind_from() / 2 } else { self.behind_from() };
        self.is_behind = wait >= bound;
        match self.way {
            WhenBehind::Lengthen => {
                let most = self.interval_set.saturating_mul(LENGTHENED_TIMES_MAX);
                let longer = (self.interval + self.interval / 8).max(self.interval_set);
                let shorter = (self.interval - self.interval / 8).max(self.interval_set);
                self.interval = if self.is_behind { longer.min(most) } else { shorter };
                (self.interval != before.interval).then_some(Order::SetInterval(self.interval))
            }
            WhenBehind::Pause if self.is_behind && !before.is_behind => Some(Order::Pause),
            WhenBehind::Pause if !self.is_behind && before.is_behind => Some(Order::Resume),
            WhenBehind::Pause | WhenBehind::DropDistribution | WhenBehind::KeepPace => None,
        }
    }
}

/// Looks at the VM's backlog and does what it was told to about it, until the VM has ended.
pub(super) async fn keep(node: Arc<Node>, machine: Arc<Machine>) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while machine.ended().is_none() {
        tick.tick().await;
        let (looking, of) = (Arc::clone(&node), Arc::clone(&machine));
        let looked = tokio::task::spawn_blocking(move || {
            let lineage = of.lineage.and_then(|id| looking.lineages.get(&id))?;
            Some(backlog::look(&looking, &lineage, of.process.unreleased()))
        });
        let Ok(Some(backlog)) = looked.await else {
            continue;
        };
        let order = machine.drive(|drive| drive.note(backlog));
        let told = match order {
            None => Ok(()),
            Some(Order::SetInterval(interval)) => machine.process.set_interval(interval),
            Some(Order::Pause) => machine.process.pause(),
            Some(Order::Resume) => machine.process.resume(),
        };
        if let Err(error) = told {
            // The VM's own end says why.
            tracing::debug!(vm = machine.id, %error, "vm is not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(ms: u64) -> Backlog {
        Backlog { to_send_bytes: 1, to_send: Duration::from_millis(ms), ..Backlog::default() }
    }

    fn drive(way: WhenBehind) -> Drive {
        Drive::new(way, Duration::from_millis(800))
    }

    #[test]
    fn an_interval_grows_while_behind_and_comes_back() {
        let mut drive = drive(WhenBehind::Lengthen);
        assert_eq!(drive.note(waiting(1599)), None);
        assert_eq!(drive.note(waiting(1600)), Some(Order::SetInterval(Duration::from_millis(900))));
        assert!(drive.is_behind);
        assert!(
            matches!(drive.note(waiting(801)), Some(Order::SetInterval(longer)) if longer > Duration::from_millis(1000))
        );
        for _ in 0..100 {
            drive.note(waiting(60_000));
        }
        assert_eq!(drive.interval, Duration::from_millis(800) * LENGTHENED_TIMES_MAX);
        assert_eq!(drive.note(waiting(60_000)), None, "it grows no further");
        for _ in 0..100 {
            drive.note(waiting(799));
        }
        assert_eq!((drive.interval, drive.is_behind), (Duration::from_millis(800), false));
    }

    #[test]
    fn a_vm_is_paused_once_and_resumed_when_half_is_gone() {
        let mut drive = drive(WhenBehind::Pause);
        let orders = [1600, 1700, 801, 799, 1599, 1600].map(|ms| drive.note(waiting(ms)));
        assert_eq!(orders, [Some(Order::Pause), None, None, Some(Order::Resume), None, Some(Order::Pause)]);
        assert_eq!(drive.interval, drive.interval_set);
    }

    #[test]
    fn what_is_withheld_needs_no_order() {
        let mut drive = drive(WhenBehind::DropDistribution);
        assert_eq!(drive.note(waiting(5000)), None);
        assert!(drive.is_withholding() && !drive.is_paused());
        assert_eq!(drive.note(waiting(0)), None);
        assert!(!drive.is_withholding());
    }

    #[test]
    fn keeping_pace_is_told_and_changes_nothing() {
        let mut drive = drive(WhenBehind::KeepPace);
        assert_eq!([5000, 9000, 0].map(|wait| drive.note(waiting(wait))), [None; 3]);
        assert_eq!(drive.interval, drive.interval_set);
        assert_eq!(drive.note(waiting(5000)), None);
        assert!(drive.is_behind && !drive.is_paused() && !drive.is_withholding());
    }

    #[test]
    fn short_intervals_do_not_make_a_short_wait_too_long() {
        assert_eq!(Drive::new(WhenBehind::Pause, Duration::from_millis(10)).behind_from(), BEHIND_MIN);
        assert_eq!("drop-distribution".parse(), Ok(WhenBehind::DropDistribution));
        assert_eq!("keep-pace".parse(), Ok(WhenBehind::KeepPace));
        assert_eq!("stop".parse::<WhenBehind>(), Err(UnknownWay));
    }
}
