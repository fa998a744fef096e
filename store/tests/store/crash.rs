//! Goal: an acknowledged checkpoint survives. Method: a real child process is killed in the middle of its work, and
//! a copy of a running store is robbed of bytes that were never synced.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use pageswarm_checkpoint::CheckpointIndex;
use pageswarm_store::{Store, StoreOptions};

use crate::checkpoints::{assert_complete, write_checkpoint};
use crate::pages::{LINEAGE, noise, plain_pages};

const CHILD_DIR: &str = "PAGESWARM_STORE_CRASH_DIR";
const THIS_TEST: &str = "crash::acknowledged_checkpoints_survive_sigkill";

#[test]
fn acknowledged_checkpoints_survive_sigkill() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        write_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    let mut killed_between = 0;
    for round in 0..8_usize {
        // Six lines a checkpoint: the kill lands in another part of the work each round.
        let (last, unfinished) = run_and_kill(dir.path(), 9 + round * 5);
        assert!(last > acknowledged, "round {round} acknowledged nothing");
        acknowledged = last;
        killed_between += usize::from(unfinished);
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        (0..acknowledged).for_each(|index| assert_complete(&store, index));
        let report = store.verify().unwrap();
        assert_eq!((report.bad_chunk_count, report.bad_object_count), (0, 0), "round {round}");
        assert_eq!(store.open_report().damaged_count, 0);
        assert_eq!(store.open_report().short_packs, []);
        assert_eq!(store.stats().unwrap().chunks, report.chunks_good);
    }
    assert!(killed_between > 0, "no kill landed inside a checkpoint");
}

/// The child: goes on where the store ends, and says what it has done.
fn write_until_killed(dir: &Path) -> ! {
    let store = Store::open(dir, StoreOptions::default()).unwrap();
    let next = store.latest(LINEAGE).unwrap().map_or(0, |latest| latest.index.0 + 1);
    let mut out = std::io::stdout();
    for index in next.. {
        write_checkpoint(&store, index, || {
            println!("\nPART");
        })
        .unwrap();
        writeln!(out, "\nACKNOWLEDGED {index}").unwrap();
        out.flush().unwrap();
    }
    unreachable!("a test kills this process long before");
}

/// Lets a child work until it has said so many things, kills it, and returns how many checkpoints are acknowledged
/// and whether one was under way.
fn run_and_kill(dir: &Path, lines: usize) -> (u64, bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([THIS_TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut acknowledged = 0;
    let mut under_way = false;
    let mut take = |line: &str| match line.strip_prefix("ACKNOWLEDGED ") {
        Some(index) => {
            acknowledged = index.parse::<u64>().unwrap() + 1;
            under_way = false;
        }
        None => under_way |= line == "PART",
    };
    said.by_ref()
        .filter(|line| line == "PART" || line.starts_with("ACK"))
        .take(lines)
        .for_each(|line| take(&line));
    child.kill().unwrap();
    // What it managed to say between the last line read and its death counts too.
    said.for_each(|line| take(&line));
    assert!(!child.wait().unwrap().success());
    (acknowledged, under_way)
}

#[test]
fn acknowledged_checkpoints_survive_the_loss_of_all_unsynced_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
    write_checkpoint(&store, 0, || {}).unwrap();
    write_checkpoint(&store, 1, || {}).unwrap();
    let pack = Path::new("packs/0000000001.pack");
    let synced = fs::metadata(dir.path().join(pack)).unwrap().len();
    store.put_chunks(&plain_pages(90_000..90_300)).unwrap();
    let written = fs::metadata(dir.path().join(pack)).unwrap().len();
    assert!(written > synced + 300 * 4096);
    for round in 0..12_u64 {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        // What a disk keeps of unsynced writes is any prefix with any holes.
        let length = synced + (written - synced) * round / 11;
        let file = fs::OpenOptions::new().read(true).write(true).open(copy.path().join(pack)).unwrap();
        file.set_len(length).unwrap();
        let hole = length.saturating_sub(8000 + 4096 * (round % 3)).max(synced);
        if round % 2 == 1 && hole < length {
            let bytes = noise(round, usize::try_from((length - hole).min(5000)).unwrap());
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes, hole).unwrap();
        }
        drop(file);
        let reopened = Store::open(copy.path(), StoreOptions::default()).unwrap();
        assert_complete(&reopened, 0);
        assert_complete(&reopened, 1);
        let report = reopened.verify().unwrap();
        assert_eq!(report.bad_chunk_count, 0, "round {round}: {:?}", report.bad_chunks);
        assert_eq!(reopened.open_report().short_packs, [], "round {round}");
        assert_eq!(reopened.latest(LINEAGE).unwrap().unwrap().index, CheckpointIndex(1));
        // And it goes on.
        write_checkpoint(&reopened, 2, || {}).unwrap();
        assert_complete(&reopened, 2);
    }
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
