//! `pageswarm-netsim --seed N [--nodes N]`: one simulated run, its options first, its verdict last.

use std::process::ExitCode;

use pageswarm_netsim::{Options, run_options};

const USAGE: &str = "usage: pageswarm-netsim --seed N [--nodes N] [--equal MIB RATE_MBIT]
  --seed N              draws everything else
  --nodes N             the publisher included (default 9)
  --equal MIB RATE_MBIT no faults: every node wants the same MIB on equal links of RATE_MBIT Mbit/s";

#[derive(Debug, thiserror::Error)]
enum ArgsError {
    #[error("{0} needs a number")]
    NoNumber(&'static str),
    #[error("--nodes must be from 2 to 512")]
    Nodes,
    #[error("--seed is missing")]
    NoSeed,
    #[error("an argument is not known")]
    Unknown,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, ArgsError> {
    let (mut seed, mut nodes, mut equal) = (None, 9, None);
    while let Some(arg) = args.next() {
        let mut number = |name| {
            let text = args.next().ok_or(ArgsError::NoNumber(name))?;
            text.parse::<u64>().map_err(|_| ArgsError::NoNumber(name))
        };
        match arg.as_str() {
            "--seed" => seed = Some(number("--seed")?),
            "--nodes" => nodes = number("--nodes")?,
            "--equal" => equal = Some((number("--equal")?, number("--equal")?)),
            _ => return Err(ArgsError::Unknown),
        }
    }
    let seed = seed.ok_or(ArgsError::NoSeed)?;
    if !(2..=512).contains(&nodes) {
        return Err(ArgsError::Nodes);
    }
    let nodes = usize::try_from(nodes).map_err(|_| ArgsError::Nodes)?;
    Ok(match equal {
        Some((mib, mbit)) => {
            let bytes = mib.clamp(1, 4096) << 20;
            Options::equal_links(seed, nodes, bytes, mbit.clamp(1, 1_000_000) * 125_000)
        }
        None => Options::from_seed(seed, nodes),
    })
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    println!("{options}");
    let report = run_options(options);
    println!("{report}");
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
