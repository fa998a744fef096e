//! Goal: a directory is opened by one process that understands it, or refused in words. Method: try.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use pageswarm_store::{DirectoryError, HolderId, OpenError, STORE_VERSION, Store, StoreOptions};

use crate::pages::plain_pages;

fn refusal(dir: &std::path::Path) -> DirectoryError {
    match Store::open(dir, StoreOptions::default()) {
        Err(OpenError::Directory(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_second_opener_learns_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    let error = refusal(dir.path());
    let own = std::process::id();
    assert!(
        matches!(error, DirectoryError::Locked { holder: HolderId(Some(holder)), .. } if holder == own),
        "{error}"
    );
    assert!(error.to_string().ends_with(&format!("is in use by process {own}")), "{error}");
    drop(store);
    Store::open(dir.path(), StoreOptions::default()).unwrap();
}

#[test]
fn a_newer_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path(), StoreOptions::default()).unwrap());
    fs::write(dir.path().join("VERSION"), format!("pageswarm-store {}\n", STORE_VERSION + 8)).unwrap();
    let told = refusal(dir.path()).to_string();
    let newer = STORE_VERSION + 8;
    let expected = format!(
        "was written by a newer pageswarm (store version {newer}, this one knows {STORE_VERSION}): \
         upgrade, or use another directory"
    );
    assert!(told.ends_with(&expected), "{told}");
}

#[test]
fn garbage_for_a_version_and_foreign_directories_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path(), StoreOptions::default()).unwrap());
    for garbage in ["", "pageswarm-store", "pageswarm-store 0", "something 1", "pageswarm-store 1x"] {
        fs::write(dir.path().join("VERSION"), garbage).unwrap();
        assert!(matches!(refusal(dir.path()), DirectoryError::VersionUnreadable { .. }), "{garbage:?}");
    }
    let foreign = tempfile::tempdir().unwrap();
    fs::write(foreign.path().join("letter.txt"), "dear").unwrap();
    assert!(matches!(refusal(foreign.path()), DirectoryError::NotAStore { .. }));
    assert!(!foreign.path().join("packs").exists());
}

#[test]
fn files_are_for_their_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("new/store");
    let store = Store::open(&root, StoreOptions::default()).unwrap();
    store.put_chunks(&plain_pages(0..1)).unwrap();
    let mode = |name: &str| fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode(""), mode("packs"), mode("index")], [0o700; 3]);
    assert_eq!([mode("VERSION"), mode("LOCK"), mode("packs/0000000001.pack")], [0o600; 3]);
}

#[test]
fn a_creation_that_was_interrupted_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("LOCK"), "").unwrap();
    fs::write(dir.path().join("VERSION.new"), "pagesw").unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    store.put_chunks(&plain_pages(0..1)).unwrap();
    store.close().unwrap();
    fs::write(dir.path().join("packs/0000000002.pack"), "PSpa").unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    assert_eq!(store.open_report().torn_bytes, 4);
    assert_eq!(store.stats().unwrap().packs, 1);
}
