//! Goal: a checkpoint continues as if nothing had happened, restored in full or lazily, with or without the KVM
//! attachment, and what continues can be captured again. Method: real VMs whose guests check all of their memory.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod support;

use pageswarm_machine::{CheckpointIndex, PAGE_BYTES, PageNumber, Workload};
use pageswarm_vmm::{
    Awaited, Background, DeathReason, FilledPages, ImageMemory, LazyFailure, LazyMemory, Origin, PageSource,
    SavedState, SourceError, SpawnError, Strategy, VmFailure, VmOptions, VmProcess,
};
use std::io::{BufRead, BufReader};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use support::{Image, MIB, Running, boot, kvm_or_skip, launcher, operations, passes, rate, witnessed};

const RAM: u64 = 64 * MIB;

/// Boots a guest, lets it work for some checkpoints, kills it, and gives the last checkpoint.
fn checkpointed() -> (Image, SavedState) {
    let options =
        VmOptions { pace: rate(20_000), interval: Duration::from_millis(200), ..VmOptions::default() };
    let mut running = Running::start(boot(RAM, Workload::KernelBuild), &options);
    let mut image = Image::zero(RAM);
    loop {
        let captured = running.checkpoint(&mut image);
        if captured.last.index >= CheckpointIndex(4) && passes(&captured.state) >= 1 {
            return (image, captured.state);
        }
    }
}

/// Three branch checkpoints of a continued VM, each compared with its witness, then two more self-check passes.
fn continues(running: &mut Running, mut image: Image, saved: &SavedState, dir: &std::path::Path) {
    for index in 9..12 {
        let captured = running.checkpoint(&mut image);
        assert_eq!(captured.last.index.0, index);
        assert_eq!(captured.kind, pageswarm_vmm::CaptureKind::Incremental);
        image.assert_equals(&dir.join(format!("{index}.ram")), &format!("branch checkpoint {index}"));
        assert!(operations(&captured.state) >= operations(saved));
    }
    let report =
        running.await_report(|report| report.passes >= passes(saved) + 3 || report.wrong_page.is_some());
    assert_eq!(report.wrong_page, None);
    assert!(report.operations > operations(saved), "the counter went on: {report:?}");
}

fn branch_options(dir: &std::path::Path) -> VmOptions {
    let mut options = witnessed(Strategy::PreCopy, 9, 3, dir);
    options.pace = rate(20_000);
    options.interval = Duration::from_millis(200);
    options
}

#[test]
fn a_full_restore_continues_and_can_be_captured_again() {
    if !kvm_or_skip("full_restore") {
        return;
    }
    let (image, saved) = checkpointed();
    for attachment in [saved.attachment.clone(), Vec::new()] {
        let dir = tempfile::tempdir().unwrap();
        let state = SavedState { attachment, ..saved.clone() };
        let origin = Origin::Restore { ram: image.to_memory(), state };
        let mut running = Running::start(origin, &branch_options(dir.path()));
        continues(&mut running, Image { bytes: image.bytes.clone() }, &saved, dir.path());
    }
}

#[test]
fn clones_of_an_image_begin_at_once_and_none_changes_it() {
    if !kvm_or_skip("clones") {
        return;
    }
    let (image, saved) = checkpointed();
    let mut memory = ImageMemory::create(image.bytes.len() / PAGE_BYTES).unwrap();
    memory.bytes_mut().copy_from_slice(&image.bytes);
    let memory = Arc::new(memory);
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut clones = dirs.each_ref().map(|dir| {
        let origin = Origin::Clone { image: Arc::clone(&memory), state: saved.clone() };
        Running::start(origin, &branch_options(dir.path()))
    });
    assert!(clones.iter().all(|clone| clone.vm.ram().is_none()));
    for (clone, dir) in clones.iter_mut().zip(&dirs) {
        continues(clone, Image { bytes: image.bytes.clone() }, &saved, dir.path());
    }
    assert!(memory.bytes() == image.bytes, "a clone wrote to what others start from");
    drop(clones);
    assert!(Arc::into_inner(memory).is_some(), "whoever has ended has it no more");
}

#[test]
fn a_clone_copied_whole_is_a_checkpoint_of_its_own() {
    if !kvm_or_skip("clone_copied_whole") {
        return;
    }
    let (mut image, saved) = checkpointed();
    let mut memory = ImageMemory::create(image.bytes.len() / PAGE_BYTES).unwrap();
    memory.bytes_mut().copy_from_slice(&image.bytes);
    let dir = tempfile::tempdir().unwrap();
    let options = VmOptions {
        staging_bytes: image.bytes.len() as u64,
        strategy: Strategy::StopAndCopy,
        ..branch_options(dir.path())
    };
    let origin = Origin::Clone { image: Arc::new(memory), state: saved };
    let mut running = Running::start(origin, &options);
    // The first one is against the image.
    running.checkpoint(&mut image);
    let mut whole = Image::zero(RAM);
    let captured = running.checkpoint(&mut whole);
    assert_eq!(captured.kind, pageswarm_vmm::CaptureKind::Full);
    whole.assert_equals(&dir.path().join("10.ram"), "a clone copied whole");
}

#[test]
fn a_state_that_contradicts_itself_is_refused() {
    if !kvm_or_skip("contradiction") {
        return;
    }
    let (image, saved) = checkpointed();
    let mut state = saved.clone();
    // The first general register, after the version byte.
    state.cpu[1] ^= 1;
    let origin = Origin::Restore { ram: image.to_memory(), state };
    let error = VmProcess::spawn(&launcher(), origin, &VmOptions::default()).unwrap_err();
    assert!(matches!(error, SpawnError::Vm(VmFailure::StateDisagrees)), "{error}");
    let state = SavedState { cpu: saved.cpu[1..].to_vec(), ..saved };
    let origin = Origin::Restore { ram: image.to_memory(), state };
    let error = VmProcess::spawn(&launcher(), origin, &VmOptions::default()).unwrap_err();
    assert!(matches!(error, SpawnError::Vm(VmFailure::StartInvalid)), "{error}");
}

/// What a test source does when it is asked for one certain page.
#[derive(Clone, Copy)]
enum Trouble {
    None,
    Refuse(PageNumber),
    Stall(PageNumber),
    /// Has only what the guest waits for.
    NothingAhead,
}

struct ImageSource {
    bytes: Vec<u8>,
    trouble: Trouble,
    /// Where a stalled read waits: for ever, as long as the test lives.
    never: mpsc::Receiver<()>,
}

impl PageSource for ImageSource {
    fn read_pages(
        &mut self,
        first: PageNumber,
        out: &mut [u8],
        awaited: Option<Awaited>,
    ) -> Result<FilledPages, SourceError> {
        let range = first.0 as usize..first.0 as usize + out.len() / PAGE_BYTES;
        let mut filled = FilledPages::first(range.len());
        match self.trouble {
            Trouble::Refuse(page) if awaited.is_some_and(|awaited| awaited.page == page) => {
                return Err(SourceError::Unverified);
            }
            Trouble::Refuse(page) if range.contains(&(page.0 as usize)) => {
                filled = FilledPages::first(page.0 as usize - range.start);
            }
            Trouble::Stall(page) if range.contains(&(page.0 as usize)) => {
                let _ended = self.never.recv();
                return Err(SourceError::Unavailable);
            }
            Trouble::NothingAhead => match awaited {
                Some(Awaited { page, .. }) => {
                    filled = FilledPages::default();
                    filled.insert(page.0 as usize - range.start);
                }
                None => return Ok(FilledPages::default()),
            },
            _ => {}
        }
        out.copy_from_slice(&self.bytes[range.start * PAGE_BYTES..range.end * PAGE_BYTES]);
        Ok(filled)
    }
}

fn lazy(
    image: &Image,
    saved: &SavedState,
    trouble: Trouble,
    background: Background,
    timeout: Duration,
) -> (Origin, mpsc::Sender<()>) {
    let (alive, never) = mpsc::channel();
    let source = Box::new(ImageSource { bytes: image.bytes.clone(), trouble, never });
    let prefetch = (8000..9000).map(PageNumber).collect();
    let memory = LazyMemory { source, prefetch, background, timeout };
    (Origin::LazyRestore { ram_bytes: RAM, state: saved.clone(), memory }, alive)
}

#[test]
fn a_lazy_restore_continues_and_can_be_captured_while_it_is_partly_filled() {
    if !kvm_or_skip("lazy_restore") {
        return;
    }
    let (image, saved) = checkpointed();
    for (background, trouble) in [
        (Background::Fill, Trouble::None),
        (Background::DemandOnly, Trouble::None),
        (Background::Fill, Trouble::NothingAhead),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (origin, _alive) = lazy(&image, &saved, trouble, background, Duration::from_secs(5));
        let mut options = branch_options(dir.path());
        if background == Background::DemandOnly {
            // A witness touches every page, so here the image is compared at the last checkpoint only.
            options.witness = [11].into();
            options.pace = rate(2000);
        }
        let mut running = Running::start(origin, &options);
        let mut copy = Image { bytes: image.bytes.clone() };
        if background == Background::DemandOnly {
            running.checkpoint(&mut copy);
            running.checkpoint(&mut copy);
            running.checkpoint(&mut copy);
            copy.assert_equals(&dir.path().join("11.ram"), "partly filled");
            let wanted = passes(&saved) + 2;
            let report =
                running.await_report(|report| report.passes >= wanted || report.wrong_page.is_some());
            assert_eq!(report.wrong_page, None);
        } else {
            continues(&mut running, copy, &saved, dir.path());
        }
        let stats = running.vm.lazy_stats().unwrap();
        println!(
            "lazy {background:?}: {} faults, p50 {:?} p99 {:?}, {} of {} pages resident, {} prefetched, {} empty reads, \
             complete after {:?}",
            stats.faults,
            stats.fault_times.percentile(50),
            stats.fault_times.percentile(99),
            stats.resident_pages,
            RAM / 4096,
            stats.prefetched_pages,
            stats.prefetch_empty,
            stats.complete_after,
        );
        assert!(stats.faults > 0 && !stats.first_faults.is_empty());
        assert_eq!(
            background == Background::Fill && matches!(trouble, Trouble::None),
            stats.prefetched_pages > 0
        );
    }
}

#[test]
fn a_source_that_refuses_or_stalls_stops_the_vm_with_the_page_and_in_time() {
    if !kvm_or_skip("lazy_trouble") {
        return;
    }
    let (image, saved) = checkpointed();
    let bad = PageNumber(7000);
    let timeout = Duration::from_millis(300);
    for (trouble, background) in [
        (Trouble::Refuse(bad), Background::Fill),
        (Trouble::Stall(bad), Background::Fill),
        (Trouble::Stall(bad), Background::DemandOnly),
    ] {
        let (origin, _alive) = lazy(&image, &saved, trouble, background, timeout);
        let started = Instant::now();
        let mut running = Running::start(origin, &VmOptions { pace: rate(20_000), ..VmOptions::default() });
        let ram = running.vm.ram().unwrap();
        let reason = running.death();
        let DeathReason::Lazy(failure) = reason else { panic!("{reason}") };
        match (trouble, failure) {
            (Trouble::Refuse(_), LazyFailure::Source { page, error }) => {
                assert_eq!((page, error), (bad, SourceError::Unverified));
            }
            (Trouble::Stall(_), LazyFailure::Timeout { page, .. }) => {
                assert!(page <= bad && bad.0 - page.0 < 64, "{page}");
                assert!(running.vm.lazy_stats().unwrap().faults < RAM / 4096);
            }
            _ => panic!("{failure}"),
        }
        // The guest's check reaches the page within a second; then the timeout, then a moment.
        println!("stopped after {:?}: {failure}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(10));
        // Nothing of the page was ever mapped: the shared memory still has a hole there.
        let mut bytes = [1; PAGE_BYTES];
        ram.read(bad, &mut bytes);
        assert!(running.vm.ram().is_none(), "a VM that has ended keeps no memory");
        assert_eq!(bytes, [0; PAGE_BYTES]);
        assert_ne!(image.bytes[7000 * PAGE_BYTES..7001 * PAGE_BYTES], [0; PAGE_BYTES]);
    }
}

#[test]
fn a_killed_child_is_a_death_with_its_signal() {
    if !kvm_or_skip("killed_child") {
        return;
    }
    let mut running = Running::start(boot(RAM, Workload::SpecJbb), &VmOptions::default());
    running.await_report(|report| report.operations > 0);
    let killed =
        std::process::Command::new("kill").arg("-9").arg(running.vm.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(running.death(), DeathReason::Signal { number: 9 });
    assert!(running.vm.release(0).is_err());
}

/// Set for the copy of this test that plays the parent.
const PLAYS_PARENT: &str = "PAGESWARM_TEST_PLAYS_PARENT";

/// True when the process has ended; nobody may have taken note of it yet.
fn has_ended(id: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.is_empty() || stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
}

#[test]
fn a_child_whose_parent_is_killed_ends() {
    if !kvm_or_skip("orphan") {
        return;
    }
    if std::env::var_os(PLAYS_PARENT).is_some() {
        let mut running = Running::start(boot(RAM, Workload::SpecJbb), &VmOptions::default());
        running.await_report(|report| report.operations > 0);
        println!("child {} end", running.vm.id());
        loop {
            running.next();
        }
    }
    let mut parent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_whose_parent_is_killed_ends", "--nocapture"])
        .env(PLAYS_PARENT, "yes")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find(|line| line.contains("child ")).unwrap();
    let id = line.split_whitespace().rev().nth(1).unwrap().to_owned();
    assert!(!has_ended(&id), "{line}");
    parent.kill().unwrap();
    parent.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !has_ended(&id) {
        assert!(Instant::now() < deadline, "process {id} outlives its parent");
        std::thread::yield_now();
    }
}
