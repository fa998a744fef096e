//! Goal: what each capture strategy costs the guest, measured side by side. Method: the SPECjbb workload in 256 MiB,
//! a checkpoint every half second; prints the figures and keeps the order between the strategies.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod support;

use pageswarm_machine::Workload;
use pageswarm_vmm::{PaceMode, Strategy, VmOptions};
use support::{Image, MIB, Running, boot, kvm_or_skip, percentile};

#[test]
fn pauses_and_rates_at_256_mib_and_53_000_pages_per_second() {
    if !kvm_or_skip("pauses") {
        return;
    }
    let mut p50 = Vec::new();
    for (strategy, count) in
        [(Strategy::StopAndCopy, 12), (Strategy::IncrementalStopAndCopy, 16), (Strategy::PreCopy, 40)]
    {
        let options = VmOptions {
            pace: PaceMode::Rate { dirty_pages_per_second: 53_000, check_pages_per_second: 20_000 },
            strategy,
            staging_bytes: 512 * MIB,
            ..VmOptions::default()
        };
        let mut running = Running::start(boot(256 * MIB, Workload::SpecJbb), &options);
        let mut image = Image::zero(256 * MIB);
        running.checkpoint(&mut image);
        let figures: Vec<_> = (0..count).map(|_| running.checkpoint(&mut image).figures).collect();
        let all = |of: fn(&pageswarm_vmm::CaptureFigures) -> u64| figures.iter().map(of).collect::<Vec<_>>();
        let micro = |of, percent| percentile(&mut all(of), percent) as f64 / 1000.0;
        let pages: u64 = all(|figures| figures.dirty_pages).iter().sum();
        let nanoseconds: u64 = all(|figures| figures.interval_ns).iter().sum();
        let by_log = pages as f64 * 1e9 / nanoseconds as f64;
        let told = all(|figures| figures.pages_told).iter().sum::<u64>() as f64 * 1e9 / nanoseconds as f64;
        println!(
            "{strategy:?}: {count} checkpoints, pause us p50 {:.0} p99 {:.0}, state p50 {:.0}, kick p50 {:.0} p99 {:.0}, \
             residual pages p50 {}, precopy ms p50 {:.1}, interval ms p50 {:.0}, pages/s told {told:.0}, captured {by_log:.0}",
            micro(|figures| figures.pause_ns, 50),
            micro(|figures| figures.pause_ns, 99),
            micro(|figures| figures.state_ns, 50),
            micro(|figures| figures.kick_ns, 50),
            micro(|figures| figures.kick_ns, 99),
            percentile(&mut all(|figures| figures.residual_pages), 50),
            micro(|figures| figures.precopy_ns, 50) / 1000.0,
            micro(|figures| figures.interval_ns, 50) / 1000.0,
        );
        if strategy != Strategy::StopAndCopy {
            assert!(told >= 0.9 * 53_000.0, "{told}");
            assert!(by_log >= 0.9 * 53_000.0, "{by_log}");
        }
        p50.push(micro(|figures| figures.pause_ns, 50));
        running.vm.stop();
        running.death();
    }
    // In one run on one machine, so that only the strategy differs.
    assert!(p50[2] * 5.0 < p50[1] && p50[1] < p50[0], "{p50:?}");
}
