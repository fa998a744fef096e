//! Compiles the guest program (guest/) with the same compiler, freestanding, into one static ELF file.

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=guest");
    println!("cargo::rerun-if-changed=src/abi.rs");
    println!("cargo::rerun-if-changed=src/content.rs");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?).join("guest.elf");
    let status = Command::new(env::var("RUSTC")?)
        .arg(root.join("guest/main.rs"))
        .args(["--edition=2024", "--crate-name=guest", "--crate-type=bin"])
        .args(["--target=x86_64-unknown-linux-gnu", "-Dwarnings"])
        .args(["-Copt-level=3", "-Cpanic=abort", "-Crelocation-model=static", "-Cdebuginfo=0"])
        .args(["-Ccodegen-units=1", "-Ctarget-cpu=x86-64", "-Coverflow-checks=off"])
        // Symbols stay, for debuggers.
        .arg("-Cstrip=debuginfo")
        // Scalar code only where there is a choice: an interpreter of this guest stays small.
        .args(["-Cno-vectorize-loops", "-Cno-vectorize-slp"])
        .args(["-Clink-arg=-nostdlib", "-Clink-arg=-nostartfiles", "-Clink-arg=-static"])
        .args(["-Clink-arg=-Wl,--build-id=none", "-Clink-arg=-Wl,-z,max-page-size=4096"])
        // The compiled core names an unwinder's routine that a program which aborts never calls.
        .arg("-Clink-arg=-Wl,--defsym=rust_eh_personality=0")
        .arg(format!("-Clink-arg=-T{}", root.join("guest/link.ld").display()))
        .arg("-o")
        .arg(&out)
        .status()?;
    if !status.success() {
        return Err(format!("the guest program did not compile: {status}").into());
    }
    Ok(())
}
