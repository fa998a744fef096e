//! Goal: a full disk, a quota or a read-only disk stop intake with a reason and cost nothing that was acknowledged.
//! Method: a small tmpfs that the test mounts; without the right to mount it says SKIP.

use std::path::Path;
use std::process::Command;

use pageswarm_store::{CommitError, DirectoryError, IndexError, OpenError, Store, StoreOptions, WriteError};

use crate::checkpoints::{assert_complete, is_disk_full, write_checkpoint};
use crate::pages::plain_pages;

struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    /// `None`, with a visible reason, where mounting is not allowed.
    fn mount(test: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=40m", "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => return Some(Self { dir }),
            Ok(output) => eprintln!("SKIP: {test}: {}", String::from_utf8_lossy(&output.stderr).trim()),
            Err(error) => eprintln!("SKIP: {test}: mount cannot be run: {error}"),
        }
        None
    }

    fn remount(&self, option: &str) {
        let options = format!("remount,{option}");
        assert!(Command::new("mount").args(["-o", &options]).arg(self.path()).status().unwrap().success());
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Acknowledges checkpoints until one fails; how many were acknowledged, and the failure.
fn write_until_refused(store: &Store) -> (u64, WriteError) {
    for index in 0..200 {
        match write_checkpoint(store, index, || {}) {
            Ok(()) => {}
            Err(CommitError::Write(error)) => return (index, error),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("nothing was refused");
}

#[test]
fn a_full_disk_keeps_what_is_acknowledged_and_room_lets_it_go_on() {
    let Some(disk) = Tmpfs::mount("a_full_disk_keeps_what_is_acknowledged_and_room_lets_it_go_on") else {
        return;
    };
    let store = Store::open(disk.path(), StoreOptions::default()).unwrap();
    let (acknowledged, error) = write_until_refused(&store);
    assert!(is_disk_full(&error), "{error}");
    assert!(acknowledged > 5, "{acknowledged} checkpoints fit");
    (0..acknowledged).for_each(|index| assert_complete(&store, index));
    assert!(store.put_chunks(&plain_pages(900_000..902_000)).is_err());
    drop(store);
    disk.remount("size=120m");
    let store = Store::open(disk.path(), StoreOptions::default()).unwrap();
    (0..acknowledged).for_each(|index| assert_complete(&store, index));
    assert_eq!(store.verify().unwrap().bad_chunk_count, 0);
    write_checkpoint(&store, acknowledged, || {}).unwrap();
    assert_complete(&store, acknowledged);
}

#[test]
fn a_disk_full_store_goes_on_in_the_same_process_once_there_is_room() {
    let Some(disk) = Tmpfs::mount("a_disk_full_store_goes_on_in_the_same_process_once_there_is_room") else {
        return;
    };
    let store = Store::open(disk.path(), StoreOptions::default()).unwrap();
    let error = loop {
        let seeds = store.stats().unwrap().chunks;
        if let Err(error) = store.put_chunks(&plain_pages(seeds..seeds + 2000)) {
            break error;
        }
    };
    assert!(is_disk_full(&error), "{error}");
    // Half of the batch that did not fit had been written: it was taken back.
    let packs = std::fs::metadata(disk.path().join("packs/0000000001.pack")).unwrap();
    assert_eq!(store.stats().unwrap().pack_bytes, packs.len());
    disk.remount("size=120m");
    let chunks = store.stats().unwrap().chunks;
    assert_eq!(store.put_chunks(&plain_pages(chunks..chunks + 500)).unwrap().stored, 500);
    store.sync().unwrap();
    assert_eq!(store.verify().unwrap().chunks_good, chunks + 500);
}

#[test]
fn a_disk_without_room_or_right_to_write_is_refused_in_words() {
    let Some(disk) = Tmpfs::mount("a_disk_without_room_or_right_to_write_is_refused_in_words") else {
        return;
    };
    drop(Store::open(disk.path(), StoreOptions::default()).unwrap());
    let filler = disk.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    let error = Store::open(disk.path(), StoreOptions::default()).unwrap_err();
    let is_full = matches!(
        error,
        OpenError::Directory(DirectoryError::DiskFull { .. }) | OpenError::Index(IndexError::DiskFull)
    );
    assert!(is_full, "{error:?}");
    std::fs::remove_file(&filler).unwrap();
    drop(file);
    disk.remount("ro");
    let error = Store::open(disk.path(), StoreOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Directory(DirectoryError::Denied { .. })), "{error:?}");
    assert!(error.to_string().starts_with("no permission to use"), "{error}");
}

#[test]
fn a_quota_stops_intake_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { quota_bytes: Some(3_000_000) };
    let store = Store::open(dir.path(), options).unwrap();
    let (acknowledged, error) = write_until_refused(&store);
    assert!(matches!(error, WriteError::QuotaReached { quota_bytes: 3_000_000, .. }), "{error}");
    assert!(acknowledged >= 3, "{acknowledged}");
    let stats = store.stats().unwrap();
    assert!(stats.pack_bytes <= 3_000_000 + 4096, "{}", stats.pack_bytes);
    (0..acknowledged).for_each(|index| assert_complete(&store, index));
    assert_eq!(store.put_chunks(&plain_pages(0..1)).unwrap().duplicates, 1);
    store.close().unwrap();
    let store = Store::open(dir.path(), options).unwrap();
    assert!(store.put_chunks(&plain_pages(900_000..900_200)).is_err());
    assert_eq!(store.stats().unwrap().chunks, stats.chunks);
}
