//! Goal: no bytes make a decoder panic or read one value in two ways. Method: the checks of the fuzz targets over their
//! corpus, and over every corpus file cut short at each length and with each byte changed. The corpus also holds what
//! the encoders wrote when each format was fixed: a format that changes without a new version is noticed.
//!
//! `PAGESWARM_WRITE_CORPUS=1` writes the seeds that are missing.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

#[path = "../../fuzz/src/decoders.rs"]
mod decoders;
#[path = "../../fuzz/src/seeds.rs"]
mod seeds;

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use pageswarm_sim::Access;
use pageswarm_sim::trace::{ReadError, Trace};

/// Longer files are replayed as they are, and not changed byte for byte.
const CHANGED_BYTES_MAX: usize = 4096;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fuzz/corpus")
}

fn files() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for folder in fs::read_dir(corpus()).unwrap() {
        let folder = folder.unwrap().path();
        let target = folder.file_name().unwrap().to_str().unwrap().to_owned();
        found.extend(fs::read_dir(&folder).unwrap().map(|file| (target.clone(), file.unwrap().path())));
    }
    found.sort();
    found
}

#[test]
fn seeds_are_what_the_encoders_write_today() {
    for (target, name, bytes) in seeds::all() {
        let path = corpus().join(target).join(name);
        if !path.exists() && std::env::var_os("PAGESWARM_WRITE_CORPUS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let kept = fs::read(&path).unwrap();
        // Which bytes zstd chooses is its own affair, and a trace names the program that wrote it; that what was kept is
        // read as it was written is checked by the replay.
        let may_differ = ["chunk", "trace"].contains(&target);
        assert!(kept == bytes || may_differ, "{target}/{name} is encoded in another way than before");
    }
}

#[test]
fn every_target_has_a_corpus_and_a_program() {
    let seeded: BTreeSet<String> = seeds::all().into_iter().map(|(target, _, _)| target.to_owned()).collect();
    let kept: BTreeSet<String> = files().into_iter().map(|(target, _)| target).collect();
    assert_eq!(seeded, kept);
    let manifest = fs::read_to_string(corpus().parent().unwrap().join("Cargo.toml")).unwrap();
    for target in &seeded {
        assert!(manifest.contains(&format!("name = \"{target}\"")), "fuzz/Cargo.toml has no {target}");
    }
}

#[test]
fn the_corpus_is_replayed() {
    for (target, path) in files() {
        decoders::check(&target, &fs::read(&path).unwrap());
    }
}

#[test]
fn the_corpus_is_replayed_cut_short_and_changed() {
    let mut checked = 0_u64;
    for (target, path) in files() {
        let bytes = fs::read(&path).unwrap();
        for end in 0..bytes.len().min(CHANGED_BYTES_MAX) {
            decoders::check(&target, &bytes[..end]);
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[end] ^= flip;
                decoders::check(&target, &changed);
                checked += 1;
            }
        }
    }
    assert!(checked > 10_000, "only {checked} changes were tried");
}

#[test]
fn traces_that_were_kept_have_the_accesses_that_were_traced() {
    let traced = seeds::accesses();
    for (name, values) in [("with_values", true), ("without_values", false)] {
        let bytes = fs::read(corpus().join("trace").join(name)).unwrap();
        let mut trace = Trace::open(Cursor::new(bytes)).unwrap();
        let mut found = Vec::new();
        let visited: Result<(), ReadError> = trace.visit(&(0..=u64::MAX), |access| {
            found.push(*access);
            Ok(())
        });
        visited.unwrap();
        let shown = |access: &Access| Access { value: if values { access.value } else { 0 }, ..*access };
        assert_eq!(found, traced.iter().map(shown).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn what_is_seeded_decodes() {
    // A seed that its decoder refuses would exercise the first branch only.
    for (target, name, bytes) in seeds::all() {
        assert!(decoders::check(target, &bytes), "{target}/{name}");
    }
}
