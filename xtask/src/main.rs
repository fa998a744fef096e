//! Developer commands: `cargo xtask ci`, `tidy`, `sim`, `bench NAME`.

#![forbid(unsafe_code)]

mod bench;
mod ci;
mod host;
mod runner;
mod sim;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Developer commands of pageswarm.
#[derive(Debug, Parser)]
#[command(name = "xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every check: build, format, tidiness, lints, documentation, tests, simulations, the demo's function.
    Ci,
    /// Swarms of the product's own engines over simulated links and faults.
    Sim(sim::SimArgs),
    /// House rules that no lint knows.
    Tidy,
    /// Measurements, each compared within one run.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Processes of measurements over a distance, which start them.
    #[command(subcommand, hide = true)]
    Relay(bench::RelayPart),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Ci => ci::run(),
        Command::Sim(args) => sim::run(&args),
        Command::Tidy => tidy::run(),
        Command::Bench(bench) => bench::run(&bench),
        Command::Relay(part) => bench::relay(&part).map(|()| Verdict::Holds),
    };
    match done {
        Ok(verdict) => verdict.exit_code(),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether what was checked holds; what does not was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Holds,
    Fails,
}

impl Verdict {
    const fn of(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Fails }
    }

    const fn exit_code(self) -> ExitCode {
        match self {
            Self::Holds => ExitCode::SUCCESS,
            Self::Fails => ExitCode::FAILURE,
        }
    }
}
