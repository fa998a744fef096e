//! The copier thread: decides when an interval ends, copies while the guest runs, and sends the checkpoint.

use crate::capture::{Capture, CaptureKind, CollectError, Collector, Outlet, Strategy};
use crate::captured::{CaptureFigures, Captured, PageBatch, SavedState};
use crate::child::Outbox;
use crate::failure::{Call, VmFailure};
use crate::gate::{Ended, Gate, PauseFigures, PauseOrder};
use crate::kvm::kick_signal;
use crate::processor::ProcessorKind;
use crate::protocol::{Residency, ToParent};
use crate::staging::Staging;
use crate::vcpu::nanoseconds;
use pageswarm_machine::{CheckpointIndex, PageNumber};
use std::collections::BTreeSet;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the copier is told once.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) processor: ProcessorKind,
    pub(crate) strategy: Strategy,
    pub(crate) residency: Residency,
    pub(crate) first_kind: CaptureKind,
    pub(crate) first_index: u64,
    pub(crate) witness_dir: PathBuf,
    pub(crate) witness: BTreeSet<u64>,
    pub(crate) pages_per_second_set: u64,
    pub(crate) pages_told_before: u64,
}

/// The copier thread's state.
#[derive(Debug)]
pub(crate) struct Copier {
    pub(crate) plan: Plan,
    pub(crate) gate: Arc<Gate>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) staging: Arc<Staging>,
    pub(crate) interval_ns: Arc<AtomicU64>,
    /// Never joined, so that its thread id stays valid for the signal.
    pub(crate) vcpu: JoinHandle<()>,
}

/// Hands pages over in the middle of a checkpoint.
#[derive(Debug)]
pub(crate) struct Flush {
    index: CheckpointIndex,
    staging: Arc<Staging>,
    outbox: Arc<Outbox>,
    flushed: u64,
}

impl Outlet for Flush {
    fn flush(&mut self, pages: Vec<(PageNumber, u32)>) -> io::Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        self.flushed += pages.len() as u64;
        let batch = self.staging.hand_over(pages.iter().map(|&(_, slot)| slot).collect());
        self.outbox.send(&ToParent::Pages(PageBatch { batch, index: self.index, pages }))
    }
}

/// What was learned before the pause that succeeded.
#[derive(Debug, Default)]
struct Before {
    precopy: Duration,
    rounds: u64,
    retries: u64,
    flushed: u64,
}

impl Copier {
    /// Takes checkpoints until the vCPU thread has left.
    ///
    /// # Errors
    /// When a checkpoint cannot be taken; the VM must not go on without.
    pub(crate) fn run(self, mut collector: Collector, mut due: Option<Instant>) -> Ended {
        let mut index = CheckpointIndex(self.plan.first_index);
        let mut kind = self.plan.first_kind;
        let mut last_boundary = Instant::now();
        let mut told = self.plan.pages_told_before;
        let mut lead = Duration::ZERO;
        while self.gate.wait_boundary(due.map(|due| due.checked_sub(lead).unwrap_or(due))) {
            let mut before = Before::default();
            collector.waited = Duration::ZERO;
            let Some(mut order) = self.checkpoint(index, kind, collector, &mut before)? else {
                return Ok(());
            };
            let mut figures = figures(&order, &before);
            figures.interval_ns = nanoseconds(last_boundary, order.stopped_at);
            // The time of a witness belongs to no interval: the guest cannot run in it.
            last_boundary = order.stopped_at + Duration::from_nanos(figures.witness_ns);
            figures.pages_per_second_set = self.plan.pages_per_second_set;
            told = self.send(index, &mut order, figures, told, before.flushed)?;
            let interval = Duration::from_nanos(self.interval_ns.load(Ordering::Relaxed));
            if order.kind == CaptureKind::Incremental {
                // Begin so much earlier that the pause, not the copying, falls on the interval's end.
                lead = before.precopy.saturating_sub(order.collector.waited).min(interval / 2);
            }
            due = Some(last_boundary + interval);
            collector = order.collector;
            index = index.next();
            kind = self.next_kind();
        }
        Ok(())
    }

    fn next_kind(&self) -> CaptureKind {
        match (self.plan.strategy, self.plan.residency) {
            // Complete RAM copied whole stands for itself; partly filled RAM never does.
            (Strategy::StopAndCopy, Residency::Complete | Residency::Cloned) => CaptureKind::Full,
            _ => CaptureKind::Incremental,
        }
    }

    /// Copies and pauses until a pause succeeds. `None` when the vCPU thread has left.
    fn checkpoint(
        &self,
        index: CheckpointIndex,
        kind: CaptureKind,
        mut collector: Collector,
        before: &mut Before,
    ) -> Result<Option<Box<PauseOrder>>, VmFailure> {
        let started = Instant::now();
        let is_interpreted = self.plan.processor == ProcessorKind::Interpreter;
        if kind == CaptureKind::Full && (is_interpreted || self.plan.strategy != Strategy::StopAndCopy) {
            collector.want_all().map_err(|error| failure(&error))?;
        }
        let (staging, outbox) = (Arc::clone(&self.staging), Arc::clone(&self.outbox));
        let mut outlet = Some(Flush { index, staging, outbox, flushed: 0 });
        loop {
            if let Some(outlet) = outlet.as_mut().filter(|_| !is_interpreted) {
                let rounds = self.plan.strategy.while_running(&mut collector, outlet);
                before.rounds += u64::from(rounds.map_err(|error| failure(&error))?);
                before.precopy = started.elapsed();
                before.flushed = outlet.flushed;
            }
            let mut order = self.order(index, kind, collector);
            order.outlet = outlet.take_if(|_| is_interpreted);
            let signal = || {
                // SAFETY: the handle was never joined or dropped, so the id names that thread, ended or not.
                unsafe { libc::pthread_kill(self.vcpu.as_pthread_t(), kick_signal()) };
            };
            let Some(order) = self.gate.pause(order, signal) else {
                return Ok(None);
            };
            if let Some(outlet) = &order.outlet {
                before.flushed = outlet.flushed;
            }
            if order.stopped.is_some() {
                return Ok(Some(order));
            }
            before.retries += 1;
            (collector, outlet) = (order.collector, order.outlet.or(outlet));
        }
    }

    fn order(&self, index: CheckpointIndex, kind: CaptureKind, collector: Collector) -> Box<PauseOrder> {
        let witness = self.plan.witness.contains(&index.0);
        let now = Instant::now();
        Box::new(PauseOrder {
            strategy: self.plan.strategy,
            kind,
            collector,
            outlet: None,
            witness: witness.then(|| self.plan.witness_dir.join(format!("{index}.ram"))),
            requested_at: now,
            stopped_at: now,
            resumed_at: now,
            figures: PauseFigures::default(),
            stopped: None,
        })
    }

    /// Sends the checkpoint; gives the pages that the guest was told to dirty until now.
    fn send(
        &self,
        index: CheckpointIndex,
        order: &mut PauseOrder,
        mut figures: CaptureFigures,
        told: u64,
        flushed: u64,
    ) -> Result<u64, VmFailure> {
        let stopped = order.stopped.take().expect("only a successful pause is sent");
        let mut pages = order.collector.take_pages();
        figures.dirty_pages = flushed + pages.len() as u64;
        figures.pages_told = stopped.devices.pages_told.wrapping_sub(told);
        let is_first = index.0 == self.plan.first_index;
        if order.kind == CaptureKind::Full && is_first && flushed == 0 {
            // A later one must name pages that have become zero. Once a batch is out, a page may be zero now and something else there, so it must be named.
            order.collector.drop_zero_pages(&mut pages);
        }
        let batch = self.staging.hand_over(pages.iter().map(|&(_, slot)| slot).collect());
        let captured = Captured {
            last: PageBatch { batch, index, pages },
            kind: order.kind,
            state: SavedState {
                cpu: stopped.cpu.canonical().encode(),
                devices: stopped.devices.encode(),
                attachment: stopped.cpu.attachment(),
            },
            events: stopped.log.encode(),
            figures,
        };
        let sent = self.outbox.send(&ToParent::Captured(Box::new(captured)));
        sent.map_err(|error| VmFailure::system(Call::Control, &error))?;
        Ok(stopped.devices.pages_told)
    }
}

fn figures(order: &PauseOrder, before: &Before) -> CaptureFigures {
    let whole = nanoseconds(order.stopped_at, order.resumed_at);
    CaptureFigures {
        pause_ns: whole.saturating_sub(order.figures.witness_ns).max(order.figures.pause_ns),
        kick_ns: nanoseconds(order.requested_at, order.stopped_at),
        state_ns: order.figures.state_ns,
        precopy_ns: u64::try_from(before.precopy.as_nanos()).unwrap_or(u64::MAX),
        lengthened_ns: u64::try_from(order.collector.waited.as_nanos()).unwrap_or(u64::MAX),
        witness_ns: order.figures.witness_ns,
        rounds: before.rounds,
        retries: before.retries,
        residual_pages: order.figures.residual_pages,
        ..CaptureFigures::default()
    }
}

fn failure(error: &CollectError) -> VmFailure {
    match error {
        CollectError::OutOfSlots => VmFailure::System { call: Call::DirtyLog, errno: libc::ENOBUFS },
        CollectError::System(error) => VmFailure::system(Call::DirtyLog, error),
    }
}
