//! House rules that no lint knows: every file says what it owns, no leftovers, no rooms for odds and ends.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::{Verdict, host};

const LINES_MAX: usize = 800;
/// Written in halves, because this file is searched too.
const FORBIDDEN: [&str; 7] = [
    concat!("FIX", "ME"),
    concat!("dbg", "!("),
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("unbounded", "_channel("),
    concat!("mpsc::unbo", "unded("),
    concat!("channel::unbo", "unded("),
];
const NAMES_OF_NOTHING: [&str; 5] = ["utils.rs", "common.rs", "helpers.rs", "manager.rs", "misc.rs"];

/// Checks every source file of the tree and prints what breaks a rule.
pub(crate) fn run() -> Result<Verdict> {
    let root = host::root()?;
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    let mut faults = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let name = file.strip_prefix(&root).unwrap_or(file);
        faults.extend(check(name, &text));
    }
    for fault in &faults {
        println!("{fault}");
    }
    println!("tidy: {} files, {} faults", files.len(), faults.len());
    Ok(Verdict::of(faults.is_empty()))
}

/// Every `.rs` file below `dir`, except what builds leave behind.
pub(crate) fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .and_then(Iterator::collect::<Result<_, _>>)
        .with_context(|| dir.display().to_string())?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && name != "target" {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn check(name: &Path, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let shown = name.display();
    if !text.starts_with("//! ") {
        faults.push(format!("{shown}:1: does not start with `//!` and what it owns"));
    }
    for (number, line) in (1..).zip(text.lines()) {
        for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
            faults.push(format!("{shown}:{number}: has `{word}`"));
        }
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        faults.push(format!("{shown}: {lines} lines, the limit is {LINES_MAX}"));
    }
    let file_name = name.file_name().unwrap_or_default().to_string_lossy();
    if NAMES_OF_NOTHING.contains(&file_name.as_ref()) {
        faults.push(format!("{shown}: the name does not say what is inside"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(name: &str, text: &str) -> usize {
        check(Path::new(name), text).len()
    }

    #[test]
    fn a_tidy_file_has_no_faults() {
        assert_eq!(faults("store/src/chunk.rs", "//! Chunks.\n\nfn a() {}\n"), 0);
    }

    #[test]
    fn each_rule_is_noticed() {
        assert_eq!(faults("a.rs", "fn a() {}\n"), 1);
        for word in FORBIDDEN {
            assert_eq!(faults("a.rs", &format!("//! A.\n{word}\n")), 1, "{word}");
        }
        assert_eq!(faults("a.rs", &format!("//! A.\n{}", "\n".repeat(LINES_MAX))), 1);
        for name in NAMES_OF_NOTHING {
            assert_eq!(faults(&format!("a/{name}"), "//! A.\n"), 1, "{name}");
        }
    }
}
