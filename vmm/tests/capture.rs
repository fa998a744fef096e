//! Goal: a checkpoint is the machine at one instant, whatever the strategy. Method: rebuild RAM from captured pages
//! alone and compare every byte with an image that the VM's process wrote itself in the same pause.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod support;

use pageswarm_machine::cpu::CPU_STATE_BYTES;
use pageswarm_machine::{CpuState, Devices, EventLog, Workload};
use pageswarm_vmm::{CaptureKind, PaceMode, Strategy, VmOptions};
use std::time::Duration;
use support::{Image, MIB, Running, boot, kvm_or_skip, rate, witnessed};

fn every_checkpoint_equals_its_witness(strategy: Strategy, staging_bytes: u64, pace: PaceMode) {
    const COUNT: u64 = 6;
    let dir = tempfile::tempdir().unwrap();
    let mut options = witnessed(strategy, 40, COUNT, dir.path());
    options.pace = pace;
    options.interval = Duration::from_millis(150);
    options.staging_bytes = staging_bytes;
    let mut running = Running::start(boot(64 * MIB, Workload::SpecJbb), &options);
    let mut image = Image::zero(64 * MIB);
    let mut inputs_before = None;
    for index in 40..40 + COUNT {
        let captured = running.checkpoint(&mut image);
        assert_eq!(captured.last.index.0, index);
        let full = index == 40 || strategy == Strategy::StopAndCopy;
        assert_eq!(captured.kind == CaptureKind::Full, full);
        image.assert_equals(&dir.path().join(format!("{index}.ram")), &format!("{strategy:?} {index}"));
        assert_eq!(CpuState::decode(&captured.state.cpu).unwrap().encode().len(), CPU_STATE_BYTES);
        let devices = Devices::decode(&captured.state.devices).unwrap();
        assert_eq!(devices.wrong_page, None);
        let log = EventLog::decode(&captured.events).unwrap();
        // The first boundary comes before the guest's first input.
        assert!(index == 40 || !log.events().is_empty());
        // The log has every input of its interval and no other: the device counts them too.
        let logged = u64::try_from(log.events().len()).unwrap();
        let before = inputs_before.replace(devices.inputs);
        assert!(before.is_none_or(|before| before + logged == devices.inputs), "{index}: {logged} events");
    }
}

#[test]
fn pre_copy_is_exact() {
    if kvm_or_skip("pre_copy") {
        every_checkpoint_equals_its_witness(Strategy::PreCopy, 256 * MIB, rate(53_000));
    }
}

#[test]
fn pre_copy_is_exact_with_a_staging_area_far_below_the_dirty_set() {
    if kvm_or_skip("pre_copy_small") {
        every_checkpoint_equals_its_witness(Strategy::PreCopy, 12 * MIB, rate(53_000));
    }
}

#[test]
fn pre_copy_is_exact_for_a_guest_that_writes_about_as_fast_as_it_can() {
    if kvm_or_skip("pre_copy_fast") {
        let pace = PaceMode::Rate { dirty_pages_per_second: 250_000, check_pages_per_second: 0 };
        every_checkpoint_equals_its_witness(Strategy::PreCopy, 128 * MIB, pace);
    }
}

#[test]
fn stop_and_copy_is_exact() {
    if kvm_or_skip("stop_and_copy") {
        every_checkpoint_equals_its_witness(Strategy::StopAndCopy, 128 * MIB, rate(53_000));
    }
}

#[test]
fn stop_and_copy_names_a_page_that_became_zero() {
    if !kvm_or_skip("stop_and_copy_zero") {
        return;
    }
    let options = VmOptions {
        strategy: Strategy::StopAndCopy,
        pace: rate(1000),
        interval: Duration::from_millis(100),
        staging_bytes: 64 * MIB,
        ..VmOptions::default()
    };
    let mut running = Running::start(boot(64 * MIB, Workload::SpecJbb), &options);
    let mut image = Image::zero(64 * MIB);
    // What is zero in the first checkpoint is not named there.
    let (page, _) = *running.checkpoint(&mut image).last.pages.last().unwrap();
    running.vm.ram().unwrap().write(page, &[0; 4096]);
    running.checkpoint(&mut image);
    let later = running.checkpoint(&mut image);
    assert!(later.last.pages.iter().any(|(named, _)| *named == page), "{page} is not named");
}

#[test]
fn incremental_stop_and_copy_is_exact() {
    if kvm_or_skip("incremental_stop_and_copy") {
        every_checkpoint_equals_its_witness(Strategy::IncrementalStopAndCopy, 128 * MIB, rate(53_000));
    }
}

#[test]
fn incremental_stop_and_copy_is_exact_when_a_pause_must_be_given_up() {
    if kvm_or_skip("incremental_stop_and_copy_small") {
        every_checkpoint_equals_its_witness(Strategy::IncrementalStopAndCopy, 12 * MIB, rate(53_000));
    }
}

#[test]
fn a_parent_that_keeps_its_slots_lengthens_the_interval_and_nothing_else() {
    if !kvm_or_skip("back_pressure") {
        return;
    }
    let options = VmOptions {
        pace: rate(20_000),
        interval: Duration::from_millis(100),
        staging_bytes: 72 * MIB,
        ..VmOptions::default()
    };
    let mut running = Running::start(boot(64 * MIB, Workload::SpecJbb), &options);
    let mut kept = Vec::new();
    // The first checkpoint is about 50 MiB; the staging area is full after a few more.
    let deadline = std::time::Instant::now() + Duration::from_secs(3);
    while let Ok(event) =
        running.events.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now()))
    {
        match event {
            pageswarm_vmm::VmEvent::Captured(captured) => kept.push(captured.last.batch),
            pageswarm_vmm::VmEvent::Pages(batch) => kept.push(batch.batch),
            pageswarm_vmm::VmEvent::Report(report) => running.report = report,
            _ => {}
        }
    }
    let before = running.report.operations;
    for batch in kept {
        running.vm.release(batch).unwrap();
    }
    let mut image = Image::zero(64 * MIB);
    let late = running.checkpoint(&mut image);
    assert!(late.figures.lengthened_ns > 1_000_000_000, "{:?}", late.figures);
    assert!(late.figures.interval_ns > late.figures.lengthened_ns);
    assert!(before > 20_000, "the guest went on working: {before}");
    let next = running.checkpoint(&mut image);
    assert!(next.figures.interval_ns < 1_000_000_000, "{:?}", next.figures);
}
