//! Where the vCPU thread and the copier thread meet: pause orders, holds, and the wish for a boundary.

use crate::capture::{CaptureKind, Collector, Strategy};
use crate::copier::Flush;
use crate::failure::VmFailure;
use crate::processor::StoppedCpu;
use pageswarm_machine::{Devices, EventLog};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What the copier asks the vCPU thread to do while the guest stands still, and what came of it.
#[derive(Debug)]
pub(crate) struct PauseOrder {
    pub(crate) strategy: Strategy,
    pub(crate) kind: CaptureKind,
    pub(crate) collector: Collector,
    /// Where pages go that have no room, if all of them are copied while the guest stands still.
    pub(crate) outlet: Option<Flush>,
    pub(crate) witness: Option<PathBuf>,
    pub(crate) requested_at: Instant,
    pub(crate) stopped_at: Instant,
    pub(crate) resumed_at: Instant,
    pub(crate) figures: PauseFigures,
    pub(crate) stopped: Option<Stopped>,
}

/// Times inside a pause, in nanoseconds, and its residual.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PauseFigures {
    pub(crate) state_ns: u64,
    pub(crate) pause_ns: u64,
    pub(crate) witness_ns: u64,
    pub(crate) residual_pages: u64,
}

/// The machine at the boundary.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) cpu: StoppedCpu,
    pub(crate) devices: Devices,
    pub(crate) log: EventLog,
}

/// The meeting place.
#[derive(Debug)]
pub(crate) struct Gate {
    requested: AtomicBool,
    held: AtomicBool,
    /// How often it was held.
    holds: AtomicU64,
    place: Mutex<Place>,
    changed: Condvar,
}

#[derive(Debug)]
struct Place {
    slot: Slot,
    boundary_wanted: bool,
    /// No interval ends.
    paused: bool,
}

#[derive(Debug)]
enum Slot {
    Idle,
    Requested(Box<PauseOrder>),
    Done(Box<PauseOrder>),
    Gone,
}

impl Gate {
    pub(crate) const fn new() -> Self {
        let place = Place { slot: Slot::Idle, boundary_wanted: false, paused: false };
        Self {
            requested: AtomicBool::new(false),
            held: AtomicBool::new(false),
            holds: AtomicU64::new(0),
            place: Mutex::new(place),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, place: MutexGuard<'a, Place>, until: Option<Instant>) -> MutexGuard<'a, Place> {
        match until {
            None => self.changed.wait(place).unwrap_or_else(PoisonError::into_inner),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                self.changed.wait_timeout(place, left).unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// True when the vCPU thread should look into the gate before it runs the guest on.
    pub(crate) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// vCPU thread: sleeps until `until`, or less when a pause is requested.
    pub(crate) fn sleep_until(&self, until: Instant) {
        let mut place = self.lock();
        while !self.is_requested() && Instant::now() < until {
            place = self.wait(place, Some(until));
        }
    }

    /// vCPU thread: whether the guest may not run now.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// vCPU thread: how often the VM was held; a hold may end and begin again while nobody looks.
    pub(crate) fn holds(&self) -> u64 {
        self.holds.load(Ordering::SeqCst)
    }

    /// vCPU thread: waits while the VM is held as it was at that count, but no longer than until a pause is requested.
    pub(crate) fn wait_while_held(&self, hold: u64) {
        let mut place = self.lock();
        while !self.is_requested() && self.is_held() && self.holds() == hold {
            place = self.wait(place, None);
        }
    }

    /// vCPU thread: asks for a boundary and waits for its pause, or until the VM is held.
    pub(crate) fn wait_for_request(&self) {
        self.want_boundary();
        let mut place = self.lock();
        while !self.is_requested() && !self.is_held() {
            place = self.wait(place, None);
        }
    }

    /// vCPU thread: asks for a boundary now rather than at the interval's end.
    pub(crate) fn want_boundary(&self) {
        self.lock().boundary_wanted = true;
        self.changed.notify_all();
    }

    /// vCPU thread: the pause order, when there is one.
    pub(crate) fn take_request(&self) -> Option<Box<PauseOrder>> {
        let mut place = self.lock();
        self.requested.store(false, Ordering::SeqCst);
        match std::mem::replace(&mut place.slot, Slot::Idle) {
            Slot::Requested(order) => Some(order),
            other => {
                place.slot = other;
                None
            }
        }
    }

    /// vCPU thread: hands the order back. `resumed_at` is taken after the other thread was woken, so that the wake
    /// counts as part of the pause.
    pub(crate) fn give_back(&self, order: Box<PauseOrder>) {
        let mut place = self.lock();
        place.slot = Slot::Done(order);
        self.changed.notify_all();
        if let Slot::Done(order) = &mut place.slot {
            order.resumed_at = Instant::now();
        }
    }

    /// vCPU thread: says that it will answer no more.
    pub(crate) fn leave(&self) {
        self.lock().slot = Slot::Gone;
        self.changed.notify_all();
    }

    /// Stops the guest before its next instruction after the present batch, or lets it go on.
    pub(crate) fn hold(&self, hold: Hold) {
        let mut place = self.lock();
        place.paused = hold == Hold::Pause;
        if hold != Hold::Run {
            self.holds.fetch_add(1, Ordering::SeqCst);
        }
        self.held.store(hold != Hold::Run, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Copier: waits for `until` or for a wanted boundary, whichever is first. False when the vCPU thread has left.
    pub(crate) fn wait_boundary(&self, until: Option<Instant>) -> bool {
        let mut place = self.lock();
        loop {
            if matches!(place.slot, Slot::Gone) {
                return false;
            }
            if place.paused {
                place = self.wait(place, None);
                continue;
            }
            if place.boundary_wanted || until.is_some_and(|until| Instant::now() >= until) {
                place.boundary_wanted = false;
                return true;
            }
            place = self.wait(place, until);
        }
    }

    /// Copier: has the vCPU thread carry out `order`; `kick` makes it look. `None` when it has left.
    pub(crate) fn pause(&self, order: Box<PauseOrder>, kick: impl FnOnce()) -> Option<Box<PauseOrder>> {
        let mut place = self.lock();
        if matches!(place.slot, Slot::Gone) {
            return None;
        }
        place.slot = Slot::Requested(order);
        self.requested.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        drop(place);
        kick();
        let mut place = self.lock();
        loop {
            match std::mem::replace(&mut place.slot, Slot::Idle) {
                Slot::Done(order) => return Some(order),
                Slot::Gone => {
                    place.slot = Slot::Gone;
                    return None;
                }
                other => place.slot = other,
            }
            place = self.wait(place, None);
        }
    }
}

/// Whether the guest may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Stand,
    /// It stands, and no checkpoint is taken of it meanwhile.
    Pause,
    Run,
}

/// A thread's last word.
pub(crate) type Ended = Result<(), VmFailure>;
