//! A test program without the standard harness: each VM is a process of its own, and that process is the test's own program.

#![allow(unreachable_pub, reason = "the module is part of several programs")]

use crate::recording::vm_process;
use std::process::ExitCode;

/// Runs what the arguments choose of `tests`, or lists them, as runners expect; or is a VM's process.
///
/// # Panics
/// When a test fails: that ends the program.
#[must_use]
pub fn run(tests: &[(&str, fn())]) -> ExitCode {
    if let Some(code) = vm_process() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        // None is ignored.
        for (name, _) in tests.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &str| {
        wanted.is_empty()
            || wanted.iter().any(|part| if has("--exact") { name == **part } else { name.contains(&***part) })
    };
    let mut passed = 0;
    for (name, test) in tests.iter().filter(|(name, _)| chosen(name)) {
        test();
        println!("test {name} ... ok");
        passed += 1;
    }
    println!("test result: ok. {passed} passed; 0 failed; 0 ignored");
    ExitCode::SUCCESS
}
