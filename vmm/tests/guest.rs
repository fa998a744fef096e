//! Goal: the workload guest runs on KVM, checks itself, and notices any wrong byte. Method: boot it for real, watch its
//! reports, and damage its memory from outside.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod support;

use pageswarm_machine::devices::Phase;
use pageswarm_machine::layout::Layout;
use pageswarm_machine::{PAGE_BYTES, PageNumber, Workload, abi};
use pageswarm_vmm::{DeathReason, PaceMode, VmOptions};
use std::time::Duration;
use support::{MIB, Running, boot, kvm_or_skip, rate};

#[test]
fn all_workloads_boot_and_pass_their_self_check_while_they_write() {
    if !kvm_or_skip("all_workloads_boot") {
        return;
    }
    for workload in Workload::ALL {
        let options = VmOptions { pace: rate(workload.dirty_pages_per_second()), ..VmOptions::default() };
        let mut running = Running::start(boot(64 * MIB, workload), &options);
        let report = running.await_report(|report| report.passes >= 3 || report.wrong_page.is_some());
        assert_eq!((report.wrong_page, report.phase), (None, Phase::Running), "{workload}");
        assert!(report.operations > 0);
        let console = String::from_utf8(running.console.clone()).unwrap();
        assert!(console.ends_with("pageswarm guest: running\n"), "{console:?}");
        running.vm.stop();
        assert_eq!(running.death(), DeathReason::Stopped);
    }
}

/// Flips one bit at `address` in a running guest and gives the page that it then names.
fn damage(address: u64) -> Option<PageNumber> {
    let options = VmOptions { pace: PaceMode::Verify { dirty_first: 20_000 }, ..VmOptions::default() };
    let mut running = Running::start(boot(64 * MIB, Workload::SpecJbb), &options);
    running.await_report(|report| report.passes >= 1);
    let page = PageNumber(u32::try_from(address / abi::PAGE).unwrap());
    let mut bytes = [0; PAGE_BYTES];
    running.vm.ram().unwrap().read(page, &mut bytes);
    bytes[usize::try_from(address % abi::PAGE).unwrap()] ^= 0x10;
    running.vm.ram().unwrap().write(page, &bytes);
    let report = running.await_report(|report| report.phase == Phase::Stopped);
    report.wrong_page
}

#[test]
fn one_wrong_byte_anywhere_is_found_and_its_page_is_named() {
    if !kvm_or_skip("one_wrong_byte") {
        return;
    }
    let layout = Layout::new(64 * MIB).unwrap();
    let data = layout.data_base();
    for address in [
        data,                           // the first data page
        data + 1234 * abi::PAGE + 4095, // the last byte of one in the middle
        64 * MIB - 1,                   // the last byte of RAM
        abi::GDT_BASE + 3,              // descriptors
        abi::TSS_BASE + 4000,           // the I/O bitmap: a bit that is not asked for
        abi::PDPT_BASE + 4000,          // page tables, in an entry that is not used
        abi::PARAMETER_BASE + 4000,     // parameters
        abi::IMAGE_BASE + 0x1ffe,       // the end of the code's last page
        abi::TABLE_BASE + 99 * 8,       // the checksum of data page 99
    ] {
        let named = damage(address).unwrap_or_else(|| panic!("{address:#x} was not noticed"));
        let page = u32::try_from(address / abi::PAGE).unwrap();
        let table = u32::try_from(abi::TABLE_BASE / abi::PAGE).unwrap();
        // A wrong checksum is found at the page that it belongs to, or by the sum over the table.
        let expected = match address {
            _ if page == table => vec![layout.first_data_page().0 + 99, table],
            _ => vec![page],
        };
        assert!(expected.contains(&named.0), "{address:#x} is in page {page}, the guest names {named}");
    }
}

#[test]
fn a_stale_page_with_its_stale_checksum_is_noticed() {
    if !kvm_or_skip("a_stale_page") {
        return;
    }
    let layout = Layout::new(64 * MIB).unwrap();
    let options =
        VmOptions { pace: rate(53_000), interval: Duration::from_secs(3600), ..VmOptions::default() };
    let mut running = Running::start(boot(64 * MIB, Workload::SpecJbb), &options);
    running.await_report(|report| report.phase == Phase::Running);
    running.hold();
    // The guest may be in the middle of a batch; what matters is that both are from before the writes that follow.
    let table = PageNumber(u32::try_from(abi::TABLE_BASE / abi::PAGE).unwrap());
    let read = |page| {
        let mut bytes = [0; PAGE_BYTES];
        running.vm.ram().unwrap().read(page, &mut bytes);
        bytes
    };
    let old_table = read(table);
    let old_pages: Vec<_> =
        (0..512).map(|page| read(PageNumber(layout.first_data_page().0 + page))).collect();
    running.vm.resume().unwrap();
    running.await_report(|report| report.operations > 200_000);
    running.hold();
    for (number, page) in (layout.first_data_page().0..).zip(&old_pages) {
        running.vm.ram().unwrap().write(PageNumber(number), page);
    }
    running.vm.ram().unwrap().write(table, &old_table);
    running.vm.resume().unwrap();
    let report = running.await_report(|report| report.phase == Phase::Stopped);
    assert_eq!(report.wrong_page, Some(table));
}
