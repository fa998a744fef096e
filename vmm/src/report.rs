//! Console text and counters on their way to the parent: bounded, and never in the guest's way.

use crate::limits::CONSOLE_BYTES_MAX;
use pageswarm_machine::devices::Phase;
use pageswarm_machine::{Devices, PageNumber};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The guest's figures as last reported by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What it is doing.
    pub phase: Phase,
    /// Pages it dirtied so far.
    pub operations: u64,
    /// Self-check passes it completed.
    pub passes: u32,
    /// The page in which it found a wrong byte.
    pub wrong_page: Option<PageNumber>,
    /// It is held, and executes nothing until it is resumed.
    pub stands: bool,
}

/// What waits to be sent.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) console: Vec<u8>,
    pub(crate) report: Option<Report>,
}

/// The waiting place.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl Reports {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a console byte, or drops it when too many wait.
    pub(crate) fn console(&self, byte: u8) {
        let mut waiting = self.lock();
        if waiting.console.len() < CONSOLE_BYTES_MAX {
            waiting.console.push(byte);
        }
        self.arrived.notify_one();
    }

    /// Takes note of new figures, and whether the guest stands.
    pub(crate) fn changed(&self, devices: &Devices, stands: bool) {
        self.lock().report = Some(Report {
            phase: devices.phase,
            operations: devices.operations,
            passes: devices.passes,
            wrong_page: devices.wrong_page,
            stands,
        });
        self.arrived.notify_one();
    }

    /// Waits for something to send.
    pub(crate) fn take(&self) -> Waiting {
        let mut waiting = self.lock();
        while waiting.console.is_empty() && waiting.report.is_none() {
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut waiting)
    }
}
