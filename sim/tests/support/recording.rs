//! Recordings of guests on KVM: every checkpoint of a run, with all that a replay of each interval needs.

#![allow(dead_code, clippy::allow_attributes, reason = "tests and examples use their own parts")]
#![allow(unreachable_pub, reason = "the module is part of several programs")]

use pageswarm_checkpoint::{Birth, ChunkRef, Generation, PageMap, chunk_hashes, map::Slot, zero_page_hash};
use pageswarm_machine::content::Random;
use pageswarm_machine::guest::{self, BootParameters};
use pageswarm_machine::{CpuState, Devices, EventLog, PAGE_BYTES, PageNumber, Workload};
use pageswarm_sim::{Boundary, CompleteRam};
use pageswarm_vmm::{
    Captured, Launcher, Origin, PaceMode, PageBatch, Strategy, VmEvent, VmOptions, VmProcess,
};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// The argument with which a program that records is started as the VM's process.
pub const VM_PROCESS: &str = "vm-process";
/// RAM of every recorded guest.
pub const RAM_BYTES: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// What to record.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub workload: Workload,
    pub pace: PaceMode,
    pub strategy: Strategy,
    /// Checkpoints after the boot.
    pub checkpoints: usize,
    /// Intervals are drawn between these.
    pub interval_us: (u64, u64),
    pub seed: u64,
}

impl Plan {
    /// Several times the stated rate, so that the guest seldom waits, and short intervals.
    #[must_use]
    pub const fn of_jobs(workload: Workload, checkpoints: usize, seed: u64) -> Self {
        let pace = PaceMode::Rate { dirty_pages_per_second: 80_000, check_pages_per_second: 40_000 };
        // The guest stands still while it is copied, so that intervals stay short however busy the machine is.
        let strategy = Strategy::IncrementalStopAndCopy;
        Self { workload, pace, strategy, checkpoints, interval_us: (100, 6_000), seed }
    }
}

/// One interval and the checkpoint at its end.
#[derive(Debug)]
pub struct Recorded {
    pub events: EventLog,
    /// Pages captured.
    pub pages: BTreeMap<u32, Box<[u8; PAGE_BYTES]>>,
    pub end: Boundary,
    /// Wall time on KVM, the guest's waiting among it.
    pub interval_ns: u64,
}

/// A run: RAM and state at boot, then its intervals.
#[derive(Debug)]
pub struct Recording {
    pub ram: Vec<u8>,
    pub start: Boundary,
    pub intervals: Vec<Recorded>,
}

/// A guest that is being recorded.
#[derive(Debug)]
pub struct Recorder {
    vm: VmProcess,
    events: Receiver<VmEvent>,
    random: Random,
    interval_us: (u64, u64),
    /// The pages at the last checkpoint.
    map: PageMap,
}

/// Serves one VM if this process was started for that.
pub fn vm_process() -> Option<ExitCode> {
    if std::env::args().nth(1).as_deref() != Some(VM_PROCESS) {
        return None;
    }
    let control = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    let served = pageswarm_vmm::child::serve(UnixStream::from(control), None);
    Some(if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// False, with a visible line, where there is no KVM.
pub fn kvm_or_skip(test: &str) -> bool {
    let found = Path::new("/dev/kvm").exists();
    if !found {
        println!("SKIP: {test}: /dev/kvm does not exist");
    }
    found
}

impl Recorder {
    /// Boots the guest; also gives its RAM and its state at that moment.
    ///
    /// # Panics
    /// When the VM does not start.
    #[must_use]
    pub fn boot(plan: &Plan) -> (Self, Vec<u8>, Boundary) {
        let parameters = BootParameters { seed: plan.seed, workload: plan.workload };
        let mut ram = vec![0; usize::try_from(RAM_BYTES).unwrap()];
        let cpu = guest::load(&mut ram, parameters).unwrap();
        let map = map_of(&PageMap::zero(u32::try_from(ram.len() / PAGE_BYTES).unwrap()), &pages_of(&ram));
        let start = Boundary { cpu, devices: Devices::default(), map: map.clone() };
        let program = std::env::current_exe().unwrap();
        let launcher = Launcher { program, arguments: vec![VM_PROCESS.into()] };
        let options = VmOptions {
            pace: plan.pace,
            strategy: plan.strategy,
            interval: Duration::from_micros(plan.interval_us.1),
            ..VmOptions::default()
        };
        let origin = Origin::Boot { ram_bytes: RAM_BYTES, parameters };
        let (vm, events) = VmProcess::spawn(&launcher, origin, &options).unwrap();
        let random = Random::new(plan.seed, 1);
        (Self { vm, events, random, interval_us: plan.interval_us, map }, ram, start)
    }

    /// Records the next interval, which ends at a random moment. Between two calls the guest waits: what is done with a
    /// checkpoint makes no interval longer.
    ///
    /// # Panics
    /// When the VM fails.
    pub fn next(&mut self) -> Recorded {
        self.vm.resume().unwrap();
        let (least, most) = self.interval_us;
        let interval = Duration::from_micros(least + self.random.draw() % (most - least + 1));
        self.vm.set_interval(interval).unwrap();
        let (captured, pages) = checkpoint(&self.vm, &self.events);
        self.vm.pause().unwrap();
        self.map = map_of(&self.map, &pages);
        let end = Boundary {
            cpu: CpuState::decode(&captured.state.cpu).unwrap(),
            devices: Devices::decode(&captured.state.devices).unwrap(),
            map: self.map.clone(),
        };
        let events = EventLog::decode(&captured.events).unwrap();
        Recorded { events, pages, end, interval_ns: captured.figures.interval_ns }
    }
}

/// Runs the guest and keeps every checkpoint.
///
/// # Panics
/// When the VM fails.
#[must_use]
pub fn record(plan: &Plan) -> Recording {
    let (mut recorder, ram, start) = Recorder::boot(plan);
    let intervals = (0..plan.checkpoints).map(|_| recorder.next()).collect();
    Recording { ram, start, intervals }
}

type Pages = BTreeMap<u32, Box<[u8; PAGE_BYTES]>>;

fn checkpoint(vm: &VmProcess, events: &Receiver<VmEvent>) -> (Captured, Pages) {
    let mut pages = Pages::new();
    loop {
        match events.recv_timeout(PATIENCE).expect("a checkpoint in time") {
            VmEvent::Pages(batch) => take(vm, &batch, &mut pages),
            VmEvent::Captured(captured) => {
                take(vm, &captured.last, &mut pages);
                return (*captured, pages);
            }
            VmEvent::Died { reason } => panic!("died: {reason}"),
            VmEvent::Console(_) | VmEvent::Report(_) => {}
        }
    }
}

fn take(vm: &VmProcess, batch: &PageBatch, pages: &mut Pages) {
    for &(page, slot) in &batch.pages {
        pages.insert(page.0, Box::new(*vm.staged(slot)));
    }
    vm.release(batch.batch).unwrap();
}

fn pages_of(ram: &[u8]) -> Pages {
    let pages = ram.as_chunks::<PAGE_BYTES>().0;
    let filled = (0..).zip(pages).filter(|(_, page)| page.iter().any(|&byte| byte != 0));
    filled.map(|(number, page)| (number, Box::new(*page))).collect()
}

fn map_of(before: &PageMap, pages: &Pages) -> PageMap {
    let contents: Vec<&[u8]> = pages.values().map(|page| page.as_slice()).collect();
    let slot = |hash| {
        let source = ChunkRef { generation: Generation(0), birth: Birth(0) };
        if hash == zero_page_hash() { Slot::Zero } else { Slot::Chunk { source, hash } }
    };
    let hashes = chunk_hashes(&contents).into_iter().map(slot);
    let changes: Vec<(PageNumber, Slot)> = pages.keys().map(|&page| PageNumber(page)).zip(hashes).collect();
    before.with(&changes)
}

impl Recorded {
    /// Makes RAM at the interval's start what it is at its end.
    pub fn apply(&self, ram: &mut [u8]) {
        for (&page, bytes) in &self.pages {
            let start = page as usize * PAGE_BYTES;
            ram[start..start + PAGE_BYTES].copy_from_slice(bytes.as_slice());
        }
    }
}

/// RAM for a replay.
#[must_use]
pub fn copy_of(ram: &[u8]) -> CompleteRam {
    CompleteRam::new(ram.to_vec())
}
