//! Goal: the dependency arrows of ARCHITECTURE.md hold. Method: cargo's own dependency tree, and a search of sources.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each crate may use of the others, directly or not: the arrows, followed to their end.
const ARROWS: [(&str, &[&str]); 8] = [
    ("checkpoint", &[]),
    ("machine", &["checkpoint"]),
    ("swarm", &["checkpoint"]),
    ("store", &["checkpoint"]),
    ("vmm", &["machine", "checkpoint"]),
    // What sim records for its own tests and examples comes from vmm, but nothing that is built of it does.
    ("sim", &["machine", "checkpoint"]),
    ("netsim", &["swarm", "checkpoint"]),
    ("node", &["sim", "checkpoint", "machine", "store", "swarm", "vmm"]),
];

/// What the crates without I/O must build without, even indirectly.
const IO: [&str; 6] = ["tokio", "libp2p", "quinn", "rocksdb", "mio", "async-std"];

/// Where `unsafe` may be: the guest's own program has no system to be safe on, and the interpreter's arithmetic is done
/// by the host's instructions.
const UNSAFE_ALLOWED: [&str; 3] = ["vmm", "machine/guest", "sim/src/alu"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Names of all crates that `pageswarm-NAME` is built of, itself included.
fn built_of(name: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["--target", "x86_64-unknown-linux-gnu", "--package"])
        .arg(format!("pageswarm-{name}"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<String> =
        text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(names.contains(&format!("pageswarm-{name}")), "{text}");
    names
}

#[test]
fn crates_use_each_other_along_the_arrows_only() {
    for (name, allowed) in ARROWS {
        let mut allowed: BTreeSet<String> =
            allowed.iter().map(|other| format!("pageswarm-{other}")).collect();
        allowed.insert(format!("pageswarm-{name}"));
        let used: BTreeSet<String> =
            built_of(name).into_iter().filter(|other| other.starts_with("pageswarm-")).collect();
        let against: Vec<&String> = used.difference(&allowed).collect();
        assert!(against.is_empty(), "{name} uses {against:?}");
    }
}

#[test]
fn crates_without_io_reach_no_runtime_network_or_database() {
    for name in ["checkpoint", "machine", "sim", "swarm", "netsim"] {
        let used = built_of(name);
        let found: Vec<&&str> = IO.iter().filter(|io| used.contains(**io)).collect();
        assert!(found.is_empty(), "{name} reaches {found:?}");
    }
}

#[test]
fn only_the_store_has_the_database() {
    let holders: Vec<&str> =
        ARROWS.into_iter().map(|(name, _)| name).filter(|name| direct(name).contains("rocksdb")).collect();
    assert_eq!(holders, ["store"]);
}

/// The first keys of a crate's dependency sections.
fn direct(name: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") {
            found.extend(line.split(['.', ' ', '=']).next().filter(|key| !key.is_empty()).map(str::to_owned));
        }
    }
    found
}

#[test]
fn unsafe_code_is_in_its_rooms_only() {
    let mut counts: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for folder in ARROWS.map(|(name, _)| name).into_iter().chain(["tests", "xtask", "fuzz"]) {
        count_unsafe(&root().join(folder), &mut counts);
    }
    let allowed = |path: &Path| UNSAFE_ALLOWED.iter().any(|room| path.starts_with(root().join(room)));
    let outside: Vec<&PathBuf> = counts.keys().filter(|path| !allowed(path)).collect();
    assert!(outside.is_empty(), "{outside:?}");
    assert!(!counts.is_empty(), "the search finds nothing, not even where it must");
}

fn count_unsafe(folder: &Path, counts: &mut BTreeMap<PathBuf, usize>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            count_unsafe(&path, counts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let found = text.lines().filter(|line| has_unsafe(line)).count();
            if found > 0 {
                counts.insert(path, found);
            }
        }
    }
}

/// Whether a line, outside of comments and texts, opens something unsafe.
fn has_unsafe(line: &str) -> bool {
    let line = line.replace("\\\"", "");
    let code: Vec<&str> = line.split("//").next().unwrap_or_default().split('"').step_by(2).collect();
    let code = code.join("\"\"");
    let openers = [" {", "{", " fn ", " impl ", " trait ", " extern ", "("];
    code.match_indices("unsafe").any(|(at, word)| {
        let before = code[..at].chars().next_back();
        let alone = before.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        alone && openers.iter().any(|opener| code[at + word.len()..].starts_with(opener))
    })
}

#[test]
fn the_search_for_unsafe_code_knows_its_forms() {
    for line in ["    unsafe { a() };", "unsafe fn a() {}", "unsafe impl A for B {}", "#[unsafe(no_mangle)]"]
    {
        assert!(has_unsafe(line), "{line}");
    }
    for line in ["// unsafe { a() }", "#![forbid(unsafe_code)]", "let unsafe_calls = 1;", "\"unsafe {\""] {
        assert!(!has_unsafe(line), "{line}");
    }
}
