//! `cargo xtask ci`: every check in order; all run, and what failed is listed at the end.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::bench::{self, Bench};
use crate::runner::{self, Counts};
use crate::{Verdict, host, sim, tidy};

/// Simulations in one run of the checks.
const SEEDS: u64 = 200;

/// One check's outcome.
struct Outcome {
    name: &'static str,
    took: Duration,
    failure: Option<String>,
}

/// What the checks need and leave behind.
struct Ci {
    root: PathBuf,
    outcomes: Vec<Outcome>,
    /// Checks that could not run here, and why.
    skips: Vec<String>,
}

/// Runs every check.
pub(crate) fn run() -> Result<Verdict> {
    let mut ci = Ci { root: host::root()?, outcomes: Vec::new(), skips: Vec::new() };
    ci.check("format", |root| succeed(host::cargo(root).args(["fmt", "--all", "--check"])));
    ci.check("tidy", |_| holds(tidy::run()?));
    ci.check("build", |root| cargo(root, &["build", "--all-targets"], &[]));
    ci.check("clippy", |root| {
        cargo(root, &["clippy", "--all-targets", "--keep-going"], &["--", "-D", "warnings"])
    });
    ci.check("documentation", document);
    ci.check("fuzz targets", fuzz_targets);
    let mut counts = Counts::default();
    ci.check("tests", |root| {
        counts = runner::run(root)?;
        let unfounded = counts.unfounded_skips();
        ensure!(unfounded.is_empty(), "skipped although it could run: {}", unfounded.join("; "));
        ensure!(counts.content, "{} tests failed", counts.failed);
        Ok(())
    });
    ci.check("documentation tests", document_tests);
    ci.check("simulation twice from one seed", |root| sim::same_twice(sim::first_seed(root)));
    ci.check("simulations", simulations);
    for bench in Bench::quick() {
        match bench.lacks() {
            Some(why) => ci.skip(bench.name(), why),
            None => ci.check(bench.name(), |_| holds(bench::run(&bench)?)),
        }
    }
    Ok(ci.close(&counts))
}

impl Ci {
    fn check(&mut self, name: &'static str, check: impl FnOnce(&Path) -> Result<()>) {
        println!("\n== {name}");
        let start = Instant::now();
        let failure = check(&self.root).err().map(|error| format!("{error:#}"));
        let took = start.elapsed();
        if let Some(why) = &failure {
            println!("{name} FAILED: {why}");
        }
        self.outcomes.push(Outcome { name, took, failure });
    }

    fn skip(&mut self, name: &str, why: &str) {
        println!("\n== {name}\nSKIP: {why}");
        self.skips.push(format!("SKIP: {name}: {why}"));
    }

    /// Prints what took how long, what failed, what was skipped, and the counts, alone on the last line.
    fn close(&self, counts: &Counts) -> Verdict {
        println!("\n== summary");
        for outcome in &self.outcomes {
            let verdict = if outcome.failure.is_some() { "FAILED" } else { "ok" };
            println!("{:<34}{:>8.1} s  {verdict}", outcome.name, outcome.took.as_secs_f64());
        }
        let total: Duration = self.outcomes.iter().map(|outcome| outcome.took).sum();
        println!("{:<34}{:>8.1} s", "all", total.as_secs_f64());
        for outcome in &self.outcomes {
            if let Some(why) = &outcome.failure {
                println!("FAILED: {}: {why}", outcome.name);
            }
        }
        for skip in counts.skips.iter().chain(&self.skips) {
            println!("{skip}");
        }
        for line in &counts.closing {
            println!("{line}");
        }
        let failed = counts.failed.max(self.failed_checks());
        let skipped = counts.skips.len() + self.skips.len();
        println!("{} passed, {failed} failed, {skipped} skipped", counts.really_passed());
        Verdict::of(failed == 0)
    }

    fn failed_checks(&self) -> u64 {
        self.outcomes.iter().filter(|outcome| outcome.failure.is_some()).count() as u64
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| shown.clone())?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

fn holds(verdict: Verdict) -> Result<()> {
    match verdict {
        Verdict::Holds => Ok(()),
        Verdict::Fails => bail!("see above"),
    }
}

/// Always the whole workspace in the one profile: another selection of crates has other features, and RocksDB would
/// be compiled again.
fn cargo(root: &Path, command: &[&str], more: &[&str]) -> Result<()> {
    succeed(host::cargo(root).args(command).args(["--release", "--workspace", "--locked"]).args(more))
}

/// Their corpus is replayed by a test; here it is seen that they can be built.
fn fuzz_targets(root: &Path) -> Result<()> {
    succeed(host::cargo(root).args(["check", "--release", "--locked", "--manifest-path", "fuzz/Cargo.toml"]))
}

fn document(root: &Path) -> Result<()> {
    let mut command = host::cargo(root);
    command.args(["doc", "--release", "--workspace", "--locked", "--no-deps", "--keep-going"]);
    succeed(command.env("RUSTDOCFLAGS", "-D warnings"))
}

fn document_tests(root: &Path) -> Result<()> {
    if !has_document_tests(root)? {
        println!("there are none");
        return Ok(());
    }
    cargo(root, &["test", "--doc"], &[])
}

fn has_document_tests(root: &Path) -> Result<bool> {
    let mut files = Vec::new();
    tidy::collect(root, &mut files)?;
    for file in files {
        if has_tested_code(&std::fs::read_to_string(&file).with_context(|| file.display().to_string())?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether documentation in `text` has a code block that rustdoc compiles.
fn has_tested_code(text: &str) -> bool {
    let documentation =
        text.lines().map(str::trim).filter(|line| line.starts_with("///") || line.starts_with("//!"));
    let mut fences = documentation.filter_map(|line| line[3..].trim().strip_prefix("```"));
    // Every other fence opens a block, and says its language.
    while let Some(language) = fences.next() {
        if matches!(language, "" | "rust" | "no_run" | "should_panic") {
            return true;
        }
        fences.next();
    }
    false
}

fn simulations(root: &Path) -> Result<()> {
    let failed = sim::many(sim::first_seed(root), SEEDS, &[]);
    ensure!(failed.is_empty(), "seeds {failed:?} failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_in_documentation_is_found() {
        assert!(has_tested_code("//! ```text\n//! a\n//! ```\n    /// ```\n    /// a();\n    /// ```\n"));
        assert!(!has_tested_code("//! ```text\n//! a\n//! ```\nfn a() {}\n"));
    }

    #[test]
    fn failed_checks_count_where_no_test_failed() {
        let failed = Outcome { name: "format", took: Duration::ZERO, failure: Some("see above".to_owned()) };
        let ci = Ci { root: PathBuf::new(), outcomes: vec![failed], skips: vec![] };
        assert_eq!(ci.failed_checks(), 1);
        assert_eq!(ci.close(&Counts { passed: 3, content: true, ..Counts::default() }), Verdict::Fails);
    }
}
