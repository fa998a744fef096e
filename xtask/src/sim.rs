//! `cargo xtask sim`: swarms of the product's own engines over simulated links, disks and faults.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::{Verdict, host};

/// Which runs.
#[derive(Debug, clap::Args)]
pub(crate) struct SimArgs {
    /// Draws everything else.
    #[arg(long)]
    seed: u64,
    /// Nodes, the publisher included.
    #[arg(long)]
    nodes: Option<u64>,
    /// So many runs, each with the next seed; only those that fail are shown.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// Options for `pageswarm-netsim`, after `--`; `-- --help` lists them.
    #[arg(last = true)]
    options: Vec<String>,
}

/// Runs them.
pub(crate) fn run(args: &SimArgs) -> Result<Verdict> {
    let mut options: Vec<String> = Vec::new();
    options.extend(args.nodes.iter().flat_map(|nodes| ["--nodes".to_owned(), nodes.to_string()]));
    options.extend(args.options.iter().cloned());
    if args.seeds == 1 {
        let status = netsim(args.seed)?.args(&options).status().context("pageswarm-netsim")?;
        return Ok(Verdict::of(status.success()));
    }
    Ok(Verdict::of(many(args.seed, args.seeds, &options).is_empty()))
}

/// Runs seeds from `first` on, prints what fails, and returns the seeds that failed.
pub(crate) fn many(first: u64, seeds: u64, options: &[String]) -> Vec<u64> {
    let mut failed = Vec::new();
    for seed in (0..seeds).map(|number| first.wrapping_add(number)) {
        if let Err(error) = one(seed, options) {
            println!("{error:#}");
            failed.push(seed);
        }
    }
    println!("{seeds} seeds from {first}: {} failed", failed.len());
    failed
}

/// The same seed twice gives the same bytes.
pub(crate) fn same_twice(seed: u64) -> Result<()> {
    ensure!(one(seed, &[])? == one(seed, &[])?, "seed {seed} gave two different runs");
    println!("seed {seed}: the same bytes twice");
    Ok(())
}

/// Each commit explores other seeds; a tree without history explores the first ones.
pub(crate) fn first_seed(root: &Path) -> u64 {
    let head = Command::new("git").current_dir(root).args(["rev-parse", "HEAD"]).output();
    let text = head.map(|output| output.stdout).unwrap_or_default();
    let digits: String = String::from_utf8_lossy(&text).chars().take(8).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(1)
}

/// How many times the bound's time a run takes.
pub(crate) fn over_bound(seed: u64, options: &[String]) -> Result<f64> {
    let output = one(seed, options)?;
    let text = String::from_utf8_lossy(&output);
    let said = text.lines().find_map(|line| line.strip_prefix("makespan ")?.split_once(", over bound "));
    let (_, over_bound) = said.context("pageswarm-netsim does not say how long it took")?;
    over_bound.parse().with_context(|| format!("pageswarm-netsim says {over_bound}"))
}

fn one(seed: u64, options: &[String]) -> Result<Vec<u8>> {
    let output = netsim(seed)?.args(options).output().context("pageswarm-netsim")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "seed {seed}: {}\n{text}", output.status);
    Ok(output.stdout)
}

fn netsim(seed: u64) -> Result<Command> {
    let mut command = Command::new(host::program("pageswarm-netsim")?);
    command.args(["--seed", &seed.to_string()]).stdin(Stdio::null());
    Ok(command)
}
