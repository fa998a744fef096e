//! What `monitor COMMAND` answers in gdb.

use super::session::{AtCheckpoints, DebugFailure, Session};
use super::source::Source;
use std::error::Error;
use std::fmt::{self, Write};

const HELP: &str = "\
monitor where                   interval, instructions, inputs, and why the session could not move on
monitor checkpoints stop|pass   whether continue and reverse-continue stop at each checkpoint
monitor system                  what info registers does not show: control registers, tables, bases
monitor physical ADDRESS        the guest-physical address that a virtual one is mapped to
";

/// Carries a command out, and writes what there is to say.
pub(super) fn answer<S: Source>(session: &mut Session<S>, command: &str, out: &mut dyn Write) -> fmt::Result {
    let words: Vec<&str> = command.split_whitespace().take(3).collect();
    match words[..] {
        ["where"] => whereabouts(session, out),
        ["checkpoints", "stop"] => set(session, AtCheckpoints::Stop, out),
        ["checkpoints", "pass"] => set(session, AtCheckpoints::Pass, out),
        ["system"] => system(session, out),
        ["physical", address] => physical(session, address, out),
        _ => out.write_str(HELP),
    }
}

fn set<S: Source>(session: &mut Session<S>, choice: AtCheckpoints, out: &mut dyn Write) -> fmt::Result {
    session.at_checkpoints = choice;
    let does = if choice == AtCheckpoints::Stop { "stop at" } else { "pass" };
    writeln!(out, "continue and reverse-continue {does} checkpoints")
}

fn whereabouts<S: Source>(session: &Session<S>, out: &mut dyn Write) -> fmt::Result {
    let (moment, cpu, (given, inputs)) = (session.moment(), session.cpu(), session.inputs());
    writeln!(
        out,
        "interval {}, {} instructions after checkpoint {} ({} with iterations and exceptions), rip {:#x}, {given} of \
         {inputs} inputs given",
        moment.interval.0, moment.instructions, moment.interval.0, moment.work, cpu.rip
    )?;
    if let Some(failure) = session.failure() {
        explain(failure, out)?;
    }
    let (snapshots, bytes) = session.snapshots();
    writeln!(
        out,
        "{snapshots} snapshots keep {} KiB beside {} MiB of RAM",
        bytes >> 10,
        session.ram_bytes() >> 20
    )
}

fn explain<E: Error>(failure: &DebugFailure<E>, out: &mut dyn Write) -> fmt::Result {
    write!(out, "stopped: {failure}")?;
    let mut cause = failure.source();
    while let Some(error) = cause {
        write!(out, ": {error}")?;
        cause = error.source();
    }
    writeln!(out)
}

fn system<S: Source>(session: &Session<S>, out: &mut dyn Write) -> fmt::Result {
    let cpu = session.cpu();
    let [cr0, cr2, cr3, cr4] = cpu.control;
    writeln!(out, "cr0 {cr0:#x} cr2 {cr2:#x} cr3 {cr3:#x} cr4 {cr4:#x} efer {:#x}", cpu.efer)?;
    writeln!(out, "fs.base {:#x} gs.base {:#x}", cpu.segments[4].base, cpu.segments[5].base)?;
    writeln!(
        out,
        "gdt {:#x}+{:#x} idt {:#x}+{:#x} tr {:#x} at {:#x}",
        cpu.gdt.base, cpu.gdt.limit, cpu.idt.base, cpu.idt.limit, cpu.task.selector, cpu.task.base
    )
}

fn physical<S: Source>(session: &Session<S>, address: &str, out: &mut dyn Write) -> fmt::Result {
    let digits = address.strip_prefix("0x").unwrap_or(address);
    let Ok(address) = u64::from_str_radix(digits, 16) else {
        return writeln!(out, "an address is hexadecimal");
    };
    match session.physical(address) {
        Some(physical) => writeln!(out, "{address:#x} is at {physical:#x}"),
        None => writeln!(out, "{address:#x} is not mapped"),
    }
}
