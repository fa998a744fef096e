//! The test runner: nextest where it is installed, else `cargo test`; what it counted, and which tests said SKIP.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::host;

/// What a test run came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// The runner's closing lines.
    pub(crate) closing: Vec<String>,
    /// `SKIP: test: reason`, from tests that could not run here; they count as passed in the runner.
    pub(crate) skips: Vec<String>,
    /// Whether the runner itself was content.
    pub(crate) content: bool,
}

impl Counts {
    /// Tests that passed because they checked something.
    pub(crate) fn really_passed(&self) -> u64 {
        self.passed.saturating_sub(self.skips.len() as u64)
    }

    /// Skips for the lack of something that is there.
    pub(crate) fn unfounded_skips(&self) -> Vec<&str> {
        let chromium = host::in_path("chromium") && host::in_path("chromedriver");
        let there = [
            ("/dev/kvm", host::kvm_is_usable()),
            ("chromium", chromium),
            ("chromedriver", chromium),
            ("strace", host::in_path("strace")),
            ("/dev/net/tun", Path::new("/dev/net/tun").exists()),
            ("/dev/userfaultfd", Path::new("/dev/userfaultfd").exists()),
            ("dockerd", host::in_path("dockerd")),
            ("debootstrap", host::in_path("debootstrap")),
            ("gdb", host::in_path("gdb")),
            ("no ip:", host::in_path("ip")),
        ];
        let unfounded = |line: &&str| there.iter().any(|(what, is_there)| *is_there && line.contains(what));
        self.skips.iter().map(String::as_str).filter(unfounded).collect()
    }
}

/// Runs all tests, showing what the runner shows.
pub(crate) fn run(root: &Path) -> Result<Counts> {
    let mut cargo = host::cargo(root);
    if host::in_path("cargo-nextest") {
        let junit = root.join("target/nextest/ci/junit.xml");
        if junit.exists() {
            std::fs::remove_file(&junit).context("report of an earlier run")?;
        }
        cargo.args([
            "nextest",
            "run",
            "--release",
            "--workspace",
            "--locked",
            "--profile",
            "ci",
            "--no-tests",
            "pass",
        ]);
        let (content, lines) = tee_errors(&mut cargo)?;
        let mut counts = of_nextest(&lines, content);
        if let Ok(report) = std::fs::read_to_string(&junit) {
            counts.skips = skips_in_report(&report);
        }
        return Ok(counts);
    }
    println!("cargo-nextest is not installed: `cargo test` runs the tests, one program after the other");
    cargo.args(["test", "--release", "--workspace", "--locked", "--no-fail-fast", "--all-targets"]);
    // Guests and nodes want the machine for themselves, and only nextest can be told which tests those are.
    cargo.args(["--", "--test-threads=1", "--show-output"]);
    let (content, lines) = tee_output(&mut cargo)?;
    Ok(of_cargo_test(&lines, content))
}

fn tee_errors(command: &mut Command) -> Result<(bool, Vec<String>)> {
    let mut child = command.stderr(Stdio::piped()).spawn().context("cargo")?;
    let stream = child.stderr.take().context("standard error of cargo")?;
    let lines = tee(stream, |line| eprintln!("{line}"))?;
    Ok((child.wait()?.success(), lines))
}

fn tee_output(command: &mut Command) -> Result<(bool, Vec<String>)> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cargo")?;
    let stream = child.stdout.take().context("standard output of cargo")?;
    let lines = tee(stream, |line| println!("{line}"))?;
    Ok((child.wait()?.success(), lines))
}

/// Shows every line and keeps those that counts are read from.
fn tee(stream: impl Read, show: impl Fn(&str)) -> Result<Vec<String>> {
    let mut kept = Vec::new();
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches(['\n', '\r']);
        show(text);
        if ["Summary [", "test result: ", "SKIP: "].iter().any(|word| text.contains(word)) {
            kept.push(text.to_owned());
        }
        line.clear();
    }
    Ok(kept)
}

/// Reads `Summary [ 1.2s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 0 skipped`.
fn of_nextest(lines: &[String], content: bool) -> Counts {
    let closing: Vec<String> = lines.iter().filter(|line| line.contains("Summary [")).cloned().collect();
    let summary = closing.last().cloned().unwrap_or_default();
    let failed = ["failed", "timed out", "exec failed"].map(|word| before(&summary, word)).iter().sum();
    Counts { passed: before(&summary, "passed"), failed, closing, skips: Vec::new(), content }
}

/// Adds up `test result: ok. 3 passed; 0 failed; ...` lines.
fn of_cargo_test(lines: &[String], content: bool) -> Counts {
    let results: Vec<&String> = lines.iter().filter(|line| line.contains("test result: ")).collect();
    let sum = |word| results.iter().map(|line| before(line, word)).sum();
    Counts {
        passed: sum("passed"),
        failed: sum("failed"),
        closing: results.last().map(|line| (*line).clone()).into_iter().collect(),
        skips: skip_lines(lines.iter().map(String::as_str))
            .into_iter()
            .map(|why| format!("SKIP: {why}"))
            .collect(),
        content,
    }
}

/// The number before `word` in a list such as `7 passed (1 slow), 1 failed`; 0 if it is not there.
fn before(text: &str, word: &str) -> u64 {
    let parts = text.split([',', ';', ':', '.']);
    let found = parts.filter_map(|part| part.trim().split_once(' ')).find(|(number, rest)| {
        let rest = rest.split(" (").next().unwrap_or(rest);
        rest == word && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    found.and_then(|(number, _)| number.parse().ok()).unwrap_or(0)
}

/// The tests in a JUnit report that printed a SKIP line, each with its reasons.
fn skips_in_report(report: &str) -> Vec<String> {
    let cases = report.split("<testcase ").skip(1);
    cases
        .filter_map(|case| {
            let reasons = skip_lines(case.lines());
            let name = case.split('"').nth(1).unwrap_or("a test");
            (!reasons.is_empty()).then(|| format!("SKIP: {name}: {}", reasons.join("; ")))
        })
        .collect()
}

/// What lines say after `SKIP: `.
fn skip_lines<'text>(lines: impl Iterator<Item = &'text str>) -> Vec<&'text str> {
    let said = lines.filter_map(|line| line.split_once("SKIP: ").map(|(_, reason)| reason));
    said.map(|reason| reason.split("</").next().unwrap_or(reason).trim()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_nextest_is_counted() {
        let line = "     Summary [  12.3s] 10/12 tests run: 7 passed (1 slow, 1 flaky), 2 failed, 1 timed out, 2 skipped";
        let counts = of_nextest(&[line.to_owned()], false);
        assert_eq!((counts.passed, counts.failed, counts.content), (7, 3, false));
        assert_eq!(of_nextest(&[], true), Counts { content: true, ..Counts::default() });
    }

    #[test]
    fn results_of_cargo_test_are_added_up() {
        let lines = [
            "test result: ok. 3 passed; 0 failed; 0 ignored",
            "test result: FAILED. 4 passed; 1 failed; 0 ignored",
        ];
        let counts = of_cargo_test(&lines.map(str::to_owned), false);
        assert_eq!((counts.passed, counts.failed), (7, 1));
    }

    #[test]
    fn a_skipped_test_is_found_in_a_report_and_does_not_count_as_passed() {
        let report = "<testsuite><testcase name=\"a\">ok</testcase>\n<testcase name=\"b\"><system-out>\nSKIP: no such device\n\
            SKIP: this takes root</system-out></testcase>\n<testcase name=\"c\">SKIP: no such device</testcase>";
        let counts = Counts { passed: 5, skips: skips_in_report(report), ..Counts::default() };
        assert_eq!(counts.skips, ["SKIP: b: no such device; this takes root", "SKIP: c: no such device"]);
        assert_eq!(counts.really_passed(), 3);
    }
}
