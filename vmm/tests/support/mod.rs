//! What the tests on real KVM share: a visible skip, a VM with its events, and an image rebuilt from checkpoints.

#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses its own part")]

use pageswarm_machine::guest::BootParameters;
use pageswarm_machine::{CheckpointIndex, Devices, PAGE_BYTES, Workload};
use pageswarm_vmm::{
    CaptureKind, Captured, DeathReason, Launcher, Origin, PaceMode, PageBatch, Report, SavedState,
    SharedMemory, Strategy, VmEvent, VmOptions, VmProcess,
};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

pub(crate) const MIB: u64 = 1 << 20;
/// Nothing here takes this long; a test that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// False, with a visible line, where there is no KVM.
pub(crate) fn kvm_or_skip(test: &str) -> bool {
    let found = Path::new("/dev/kvm").exists();
    if !found {
        println!("SKIP: {test}: /dev/kvm does not exist");
    }
    found
}

pub(crate) fn launcher() -> Launcher {
    Launcher { program: env!("CARGO_BIN_EXE_pageswarm-vm").into(), arguments: Vec::new() }
}

pub(crate) fn boot(ram_bytes: u64, workload: Workload) -> Origin {
    Origin::Boot { ram_bytes, parameters: BootParameters { seed: 11, workload } }
}

pub(crate) fn rate(dirty_pages_per_second: u32) -> PaceMode {
    PaceMode::Rate { dirty_pages_per_second, check_pages_per_second: 100_000 }
}

/// Options with a witness at each of the first `count` checkpoints.
pub(crate) fn witnessed(strategy: Strategy, first: u64, count: u64, dir: &Path) -> VmOptions {
    VmOptions {
        strategy,
        first_index: CheckpointIndex(first),
        witness: (first..first + count).collect::<BTreeSet<_>>(),
        witness_dir: dir.to_path_buf(),
        ..VmOptions::default()
    }
}

/// RAM rebuilt from captured pages alone.
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
}

impl Image {
    pub(crate) fn zero(ram_bytes: u64) -> Self {
        Self { bytes: vec![0; usize::try_from(ram_bytes).unwrap()] }
    }

    pub(crate) fn apply(&mut self, vm: &VmProcess, batch: &PageBatch) {
        for &(page, slot) in &batch.pages {
            let start = page.0 as usize * PAGE_BYTES;
            self.bytes[start..start + PAGE_BYTES].copy_from_slice(vm.staged(slot));
        }
    }

    /// Shared memory with this content, as a full restore wants it.
    pub(crate) fn to_memory(&self) -> SharedMemory {
        let memory = SharedMemory::create(self.bytes.len() / PAGE_BYTES).unwrap();
        for (number, page) in (0..).zip(self.bytes.chunks_exact(PAGE_BYTES)) {
            if page.iter().any(|&byte| byte != 0) {
                memory.write(pageswarm_machine::PageNumber(number), page.try_into().unwrap());
            }
        }
        memory
    }

    pub(crate) fn assert_equals(&self, witness: &Path, what: &str) {
        let expected = std::fs::read(witness).unwrap();
        assert_eq!(expected.len(), self.bytes.len());
        let wrong: Vec<usize> = (0..expected.len() / PAGE_BYTES)
            .filter(|page| {
                let range = page * PAGE_BYTES..(page + 1) * PAGE_BYTES;
                expected[range.clone()] != self.bytes[range]
            })
            .collect();
        assert!(wrong.is_empty(), "{what}: {} wrong pages, first {:?}", wrong.len(), wrong.first());
    }
}

/// A VM and its events.
pub(crate) struct Running {
    pub(crate) vm: VmProcess,
    pub(crate) events: Receiver<VmEvent>,
    pub(crate) console: Vec<u8>,
    pub(crate) report: Report,
}

impl Running {
    pub(crate) fn start(origin: Origin, options: &VmOptions) -> Self {
        let (vm, events) = VmProcess::spawn(&launcher(), origin, options).unwrap();
        Self { vm, events, console: Vec::new(), report: Report::default() }
    }

    pub(crate) fn next(&mut self) -> VmEvent {
        let event = match self.events.recv_timeout(PATIENCE) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => {
                panic!("no event for {PATIENCE:?}; last {:?}", self.report)
            }
            Err(RecvTimeoutError::Disconnected) => panic!("the event stream ended without a death"),
        };
        match &event {
            VmEvent::Console(text) => self.console.extend(text),
            VmEvent::Report(report) => self.report = *report,
            _ => {}
        }
        event
    }

    /// Waits for a report that satisfies `enough`, giving captured batches back meanwhile.
    pub(crate) fn await_report(&mut self, enough: impl Fn(&Report) -> bool) -> Report {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.report) {
            assert!(Instant::now() < deadline, "only {:?}", self.report);
            match self.next() {
                VmEvent::Pages(batch) => self.vm.release(batch.batch).unwrap(),
                VmEvent::Captured(captured) => self.vm.release(captured.last.batch).unwrap(),
                VmEvent::Died { reason } => panic!("died: {reason}"),
                VmEvent::Console(_) | VmEvent::Report(_) => {}
            }
        }
        self.report
    }

    /// Makes the guest stand still, and waits until it does.
    pub(crate) fn hold(&mut self) {
        self.report.stands = false;
        self.vm.hold().unwrap();
        self.await_report(|report| report.stands);
    }

    /// Waits for the next checkpoint and applies it to `image`.
    pub(crate) fn checkpoint(&mut self, image: &mut Image) -> Captured {
        let mut fresh = true;
        loop {
            match self.next() {
                VmEvent::Pages(batch) => {
                    image.apply(&self.vm, &batch);
                    fresh = false;
                    self.vm.release(batch.batch).unwrap();
                }
                VmEvent::Captured(captured) => {
                    if captured.kind == CaptureKind::Full && fresh {
                        image.bytes.fill(0);
                    }
                    image.apply(&self.vm, &captured.last);
                    self.vm.release(captured.last.batch).unwrap();
                    return *captured;
                }
                VmEvent::Died { reason } => panic!("died: {reason}"),
                VmEvent::Console(_) | VmEvent::Report(_) => {}
            }
        }
    }

    /// Waits for the end.
    pub(crate) fn death(&mut self) -> DeathReason {
        loop {
            match self.next() {
                VmEvent::Died { reason } => return reason,
                VmEvent::Pages(batch) => drop(self.vm.release(batch.batch)),
                VmEvent::Captured(captured) => drop(self.vm.release(captured.last.batch)),
                VmEvent::Console(_) | VmEvent::Report(_) => {}
            }
        }
    }
}

pub(crate) fn operations(state: &SavedState) -> u64 {
    Devices::decode(&state.devices).unwrap().operations
}

pub(crate) fn passes(state: &SavedState) -> u32 {
    Devices::decode(&state.devices).unwrap().passes
}

/// The value that `percent` of `values` do not exceed.
pub(crate) fn percentile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    values[(values.len() * percent).div_ceil(100).clamp(1, values.len()) - 1]
}
