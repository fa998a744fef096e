//! What the parent learns of a VM: its messages as events, and why it ended.

use crate::captured::{Captured, PageBatch};
use crate::failure::VmFailure;
use crate::lazy::LazyFailure;
use crate::limits::EXIT_TIMEOUT;
use crate::origin::Ram;
use crate::protocol::ToParent;
use crate::report::Report;
use crate::socket;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Why a VM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeathReason {
    /// [`crate::VmProcess::stop`] was called.
    #[error("vm was stopped")]
    Stopped,
    /// The VM failed and said why.
    #[error(transparent)]
    Failure(VmFailure),
    /// Its memory could not be filled.
    #[error(transparent)]
    Lazy(LazyFailure),
    /// Its process was killed.
    #[error("vm process was ended by signal {number}")]
    Signal {
        /// The signal.
        number: i32,
    },
    /// Its process ended without saying why.
    #[error("vm process ended with code {code}")]
    Exited {
        /// The exit code.
        code: i32,
    },
    /// Its process said something that it cannot say, and was killed.
    #[error("vm process broke the control protocol")]
    Protocol,
}

/// What a VM does, in order.
#[derive(Clone, Debug)]
pub enum VmEvent {
    /// Bytes that the guest wrote to its console.
    Console(Vec<u8>),
    /// The guest's figures changed.
    Report(Report),
    /// Part of a checkpoint, sent ahead because the staging area was full.
    Pages(PageBatch),
    /// A complete checkpoint.
    Captured(Box<Captured>),
    /// The end; nothing follows.
    Died {
        /// Why.
        reason: DeathReason,
    },
}

/// The child process and why it will have ended.
#[derive(Debug)]
pub(crate) struct EndOfChild {
    pub(crate) child: Mutex<Child>,
    pub(crate) reason: Mutex<Option<DeathReason>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EndOfChild {
    /// Kills the child for `reason`, unless it already has another.
    pub(crate) fn kill(&self, reason: DeathReason) {
        lock(&self.reason).get_or_insert(reason);
        // Fails only when the child has already ended.
        let _ended = lock(&self.child).kill();
    }

    /// Waits for the child, which has closed its socket, and gives the final reason.
    fn wait(&self) -> DeathReason {
        let deadline = Instant::now() + EXIT_TIMEOUT;
        let mut child = lock(&self.child);
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                _ => {
                    let _ended = child.kill();
                    break child.wait().ok();
                }
            }
        };
        drop(child);
        let told = *lock(&self.reason);
        told.unwrap_or_else(|| {
            status.map_or(DeathReason::Protocol, |status: ExitStatus| match status.signal() {
                Some(number) => DeathReason::Signal { number },
                None => DeathReason::Exited { code: status.code().unwrap_or(-1) },
            })
        })
    }
}

/// Captured batches that the parent was told of and has not released, by number.
pub(crate) type StagedBatches = BTreeMap<u64, StagedBatch>;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StagedBatch {
    pub(crate) pages: u64,
    pub(crate) since: Instant,
}

/// The thread that turns messages into events.
pub(crate) struct Reader {
    pub(crate) reading: UnixStream,
    pub(crate) sender: SyncSender<VmEvent>,
    pub(crate) end: Arc<EndOfChild>,
    pub(crate) staged: Arc<Mutex<StagedBatches>>,
    pub(crate) ram: Arc<Mutex<Option<Ram>>>,
    pub(crate) pages: usize,
    pub(crate) slots: usize,
}

impl Reader {
    pub(crate) fn run(self) {
        while let Ok(Some(frame)) = socket::receive(&self.reading) {
            let event = match ToParent::decode(&frame.bytes) {
                Ok(ToParent::Console(text)) => VmEvent::Console(text),
                Ok(ToParent::Report(report)) => VmEvent::Report(report),
                Ok(ToParent::Pages(batch)) if self.possible(&batch) => VmEvent::Pages(batch),
                Ok(ToParent::Captured(captured)) if self.possible(&captured.last) => {
                    VmEvent::Captured(captured)
                }
                Ok(ToParent::Failed(failure)) => {
                    lock(&self.end.reason).get_or_insert(DeathReason::Failure(failure));
                    continue;
                }
                _ => {
                    self.end.kill(DeathReason::Protocol);
                    break;
                }
            };
            self.note_staged(&event);
            if self.sender.send(event).is_err() {
                // Nobody listens; the VM's owner has gone or will say so itself.
                return;
            }
        }
        let reason = self.end.wait();
        // Whoever keeps the VM for its figures keeps no memory with them.
        lock(&self.ram).take();
        // Nobody listens any more otherwise.
        let _heard = self.sender.send(VmEvent::Died { reason });
    }

    /// Before the event is passed on: whoever takes it may release its batch at once.
    fn note_staged(&self, event: &VmEvent) {
        let batch = match event {
            VmEvent::Pages(batch) => batch,
            VmEvent::Captured(captured) => &captured.last,
            VmEvent::Console(_) | VmEvent::Report(_) | VmEvent::Died { .. } => return,
        };
        let staged = StagedBatch { pages: batch.pages.len() as u64, since: Instant::now() };
        lock(&self.staged).insert(batch.batch, staged);
    }

    fn possible(&self, batch: &PageBatch) -> bool {
        batch.pages.iter().all(|&(page, slot)| (page.0 as usize) < self.pages && (slot as usize) < self.slots)
    }
}
