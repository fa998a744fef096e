//! Goal: the order that survives a power failure: pack synced, then the index's log, then the acknowledgement.
//! Method: a child commits under strace, and its system calls are read. Without strace it says SKIP.

use std::fs;
use std::path::Path;
use std::process::Command;

use pageswarm_store::{Store, StoreOptions};

use crate::checkpoints::write_checkpoint;

const CHILD_DIR: &str = "PAGESWARM_STORE_SYNC_DIR";
const THIS_TEST: &str = "sync_order::a_pack_is_synced_before_its_index_and_both_before_the_acknowledgement";

#[test]
fn a_pack_is_synced_before_its_index_and_both_before_the_acknowledgement() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        let store = Store::open(Path::new(&dir), StoreOptions::default()).unwrap();
        for index in 0..3 {
            write_checkpoint(&store, index, || {}).unwrap();
            println!("\nACKNOWLEDGED");
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let traced = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fsync,fdatasync,write,pwrite64", "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args([THIS_TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir.path().join("store"))
        .output();
    match traced {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let reason = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(reason.contains("ptrace"), "{reason}");
            return eprintln!("SKIP: {THIS_TEST}: {}", reason.trim());
        }
        Err(error) => return eprintln!("SKIP: {THIS_TEST}: strace cannot be run: {error}"),
    }
    let calls = fs::read_to_string(&trace).unwrap();
    assert_eq!(check_order(&calls), 3);
}

/// Follows the calls; how many acknowledgements were covered by syncs in the right order.
fn check_order(calls: &str) -> usize {
    let (mut pack_is_synced, mut log_is_synced, mut acknowledged) = (true, true, 0);
    for call in calls.lines() {
        let on_pack = call.contains(".pack>");
        let on_log = call.contains("/index/") && call.contains(".log>");
        if call.contains("sync(") && call.ends_with("= 0") {
            pack_is_synced |= on_pack;
            log_is_synced |= on_log;
        } else if on_pack {
            pack_is_synced = false;
        } else if on_log {
            assert!(pack_is_synced, "the index is written before its pack is synced: {call}");
            log_is_synced = false;
        } else if call.contains("ACKNOWLEDGED") {
            assert!(pack_is_synced && log_is_synced, "acknowledged before it is synced: {call}");
            acknowledged += 1;
        }
    }
    acknowledged
}
