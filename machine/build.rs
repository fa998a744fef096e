//! Compiles the guest programs (guest/) with the same compiler, freestanding, each into one static ELF file.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs: a folder of guest/ each.
const PROGRAMS: [&str; 4] = ["paced", "sorting", "tree", "strings"];
/// The paced guest is scalar code only where there is a choice, so that what it costs is what it says.
const SCALAR: [&str; 2] = ["-Cno-vectorize-loops", "-Cno-vectorize-slp"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guest");
    println!("cargo::rerun-if-changed=src/abi.rs");
    println!("cargo::rerun-if-changed=src/content.rs");
    let guest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("guest");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let runtime = out.join("libruntime.rlib");
    let mut library = compiler(&guest.join("runtime/lib.rs"))?;
    library.args(["--crate-name=runtime", "--crate-type=rlib"]).args(SCALAR);
    succeed(library.arg("-o").arg(&runtime))?;
    for program in PROGRAMS {
        let mut compile = compiler(&guest.join(program).join("main.rs"))?;
        compile
            // Symbols stay, for debuggers.
            .args(["--crate-name=guest", "--crate-type=bin", "-Cstrip=debuginfo"])
            .arg(format!("--extern=runtime={}", runtime.display()))
            .args(["-Clink-arg=-nostdlib", "-Clink-arg=-nostartfiles", "-Clink-arg=-static"])
            .args(["-Clink-arg=-Wl,--build-id=none", "-Clink-arg=-Wl,-z,max-page-size=4096"])
            // The compiled core names an unwinder's routine that a program which aborts never calls.
            .arg("-Clink-arg=-Wl,--defsym=rust_eh_personality=0")
            .arg(format!("-Clink-arg=-T{}", guest.join("link.ld").display()));
        if program == "paced" {
            compile.args(SCALAR);
        }
        succeed(compile.arg("-o").arg(out.join(program).with_extension("elf")))?;
    }
    Ok(())
}

fn compiler(source: &Path) -> Result<Command, Box<dyn Error>> {
    let mut command = Command::new(env::var("RUSTC")?);
    command
        .arg(source)
        .args(["--edition=2024", "--target=x86_64-unknown-linux-gnu", "-Dwarnings"])
        .args(["-Copt-level=3", "-Cpanic=abort", "-Crelocation-model=static", "-Cdebuginfo=0"])
        .args(["-Ccodegen-units=1", "-Ctarget-cpu=x86-64", "-Coverflow-checks=off"]);
    Ok(command)
}

fn succeed(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
