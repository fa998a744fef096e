//! `cargo xtask bench demo`: the demo's own JSON, judged again here against the promises.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Destination;
use super::report::{Figure, Report};
use crate::host::{self, Machine};

const DOWNTIME_P50_US_MAX: u64 = 500;
const RATE_PERCENT_MIN: u64 = 90;
const WALL_MS_MAX: u64 = 90_000;
const CHECKPOINTS_MIN: u64 = 40;
/// Small and short: for its function only, no time of it is judged.
const QUICK: [&str; 8] =
    ["--nodes", "2", "--checkpoints", "6", "--memory", "64MiB", "--workload", "kernel-build"];

/// How to run it.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct DemoArgs {
    /// A small demo of which only the function is judged.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    pub(crate) destination: Destination,
    /// Options for `pageswarm demo`, after `--`.
    #[arg(last = true)]
    options: Vec<String>,
}

impl DemoArgs {
    pub(crate) fn quick() -> Self {
        Self { quick: true, ..Self::default() }
    }

    fn command(&self) -> String {
        let quick = if self.quick { " --quick" } else { "" };
        let options =
            if self.options.is_empty() { String::new() } else { format!(" -- {}", self.options.join(" ")) };
        format!("cargo xtask bench demo{quick}{options}")
    }
}

/// What of the demo's JSON is judged.
#[derive(Debug, Deserialize)]
struct Outcome {
    nodes: u64,
    memory_bytes: u64,
    interval_ms: u64,
    checkpoints_wanted: u64,
    took_ms: u64,
    downtime_us: Percentiles,
    rate_set: u64,
    rate_achieved: u64,
    heads: Vec<Head>,
    followed: Vec<Followed>,
    publisher_sent_bytes: u64,
    union_bytes: u64,
    bound: Bound,
    links: Links,
    vm_failure: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Links {
    ratio_permille: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Percentiles {
    p50: u64,
    p99: u64,
    max: u64,
}

#[derive(Debug, Deserialize)]
struct Head {
    index: u64,
    state_root: String,
}

#[derive(Debug, Deserialize)]
struct Followed {
    index: u64,
    state_root: Option<String>,
    self_check: Option<SelfCheck>,
    bytes_equal: Option<bool>,
    failure: Option<String>,
}

#[derive(Debug, Deserialize)]
struct SelfCheck {
    holds: bool,
}

#[derive(Debug, Deserialize)]
struct Bound {
    ratio_permille: u64,
}

/// Runs the demo and judges it.
pub(super) fn measure(args: &DemoArgs) -> Result<Report> {
    let mut demo = Command::new(host::program("pageswarm")?);
    demo.args(["demo", "--json"]).stdin(Stdio::null()).stderr(Stdio::inherit());
    if args.quick {
        demo.args(QUICK);
    }
    let output = demo.args(&args.options).output().context("pageswarm demo")?;
    let whole: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("the demo said nothing that can be read, and ended with {}", output.status)
    })?;
    let outcome: Outcome =
        serde_json::from_value(whole.clone()).context("the demo's JSON has another shape")?;
    // The demo judges itself too; what it says is read below, and the two must agree.
    println!("the demo ended with {}", output.status);
    let mut figures = figures(&outcome, output.status.success());
    if args.quick {
        figures = figures
            .into_iter()
            .map(|figure| if is_function(&figure) { figure } else { figure.unjudged() })
            .collect();
    }
    Ok(Report {
        name: "demo",
        command: args.command(),
        machine: Machine::here()?,
        date: host::today()?,
        figures,
        outcome: whole,
    })
}

const PROVEN: &str = "checkpoints rebuilt and proven";
const EQUAL: &str = "checkpoints compared byte for byte by another program";
const OWN_VERDICT: &str = "the demo's own verdict";
/// Checkpoints that the demo has compared, if it takes as many.
const COMPARED: u64 = 10;

fn is_function(figure: &Figure) -> bool {
    [PROVEN, EQUAL].contains(&figure.name)
}

fn figures(outcome: &Outcome, is_good_by_itself: bool) -> Vec<Figure> {
    let faults = faults(outcome);
    for fault in &faults {
        println!("{fault}");
    }
    let (proven, wanted) =
        (outcome.followed.len() - faults.len().min(outcome.followed.len()), outcome.checkpoints_wanted);
    let compared = outcome.followed.iter().filter(|one| one.bytes_equal == Some(true)).count() as u64;
    let to_compare = COMPARED.min(wanted);
    let percent = outcome.rate_achieved * 100 / outcome.rate_set.max(1);
    let downtime = &outcome.downtime_us;
    let wall = format!("{:.1} s", outcome.took_ms as f64 / 1000.0);
    let mut figures = vec![
        Figure::judged(
            PROVEN,
            format!("{proven} of {wanted}"),
            "all",
            faults.is_empty() && proven as u64 == wanted,
        ),
        Figure::judged(EQUAL, format!("{compared} of {to_compare}"), "all", compared == to_compare),
        Figure::judged(
            OWN_VERDICT,
            if is_good_by_itself { "all holds" } else { "something does not hold" }.to_owned(),
            "all holds",
            is_good_by_itself,
        ),
        Figure::judged(
            "downtime p50",
            milliseconds(downtime.p50),
            format!("at most {}", milliseconds(DOWNTIME_P50_US_MAX)),
            downtime.p50 <= DOWNTIME_P50_US_MAX,
        ),
        Figure::stated("downtime p99", milliseconds(downtime.p99)),
        Figure::stated("downtime max", milliseconds(downtime.max)),
        Figure::judged(
            "dirty rate",
            format!("{} of {} pages/s set, {percent} %", outcome.rate_achieved, outcome.rate_set),
            format!("at least {RATE_PERCENT_MIN} %"),
            percent >= RATE_PERCENT_MIN,
        ),
    ];
    figures.push(if outcome.is_default() {
        Figure::judged("wall time", wall, "at most 90 s", outcome.took_ms <= WALL_MS_MAX)
    } else {
        Figure::stated("wall time", wall)
    });
    figures.push(Figure::stated(
        "publisher egress over the union of what nodes lacked",
        ratio(outcome.publisher_sent_bytes * 1000 / outcome.union_bytes.max(1)),
    ));
    figures.push(Figure::stated("time over the recording", ratio(outcome.bound.ratio_permille)));
    let over_links = outcome.links.ratio_permille.map_or_else(|| "not known".to_owned(), ratio);
    figures.push(Figure::stated("time over the bound of the links", over_links));
    figures
}

impl Outcome {
    /// The run that the promised wall time is for.
    const fn is_default(&self) -> bool {
        let usual = self.nodes == 4 && self.memory_bytes == 256 << 20 && self.interval_ms == 500;
        usual && self.checkpoints_wanted == CHECKPOINTS_MIN
    }
}

/// What does not hold, a line for each checkpoint; not the demo's own verdict, but made of what it reports.
fn faults(outcome: &Outcome) -> Vec<String> {
    let promised: BTreeMap<u64, &str> =
        outcome.heads.iter().map(|head| (head.index, head.state_root.as_str())).collect();
    let mut faults: Vec<String> = outcome
        .followed
        .iter()
        .filter_map(|checkpoint| {
            let why = fault(checkpoint, promised.get(&checkpoint.index).copied())?;
            Some(format!("checkpoint {}: {why}", checkpoint.index))
        })
        .collect();
    faults.extend(outcome.vm_failure.clone());
    faults
}

fn fault(checkpoint: &Followed, promised: Option<&str>) -> Option<String> {
    if let Some(why) = &checkpoint.failure {
        return Some(why.clone());
    }
    if promised.is_none() || checkpoint.state_root.as_deref() != promised {
        return Some("the state root differs".to_owned());
    }
    if checkpoint.bytes_equal == Some(false) {
        return Some("the bytes differ".to_owned());
    }
    let checked = checkpoint.self_check.as_ref().is_some_and(|check| check.holds);
    (!checked).then(|| "the self-check does not hold".to_owned())
}

fn milliseconds(microseconds: u64) -> String {
    format!("{}.{:03} ms", microseconds / 1000, microseconds % 1000)
}

fn ratio(permille: u64) -> String {
    format!("{}.{:03}", permille / 1000, permille % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(downtime_us: u64, holds: bool) -> Outcome {
        let text = format!(
            r#"{{"nodes": 4, "memory_bytes": 268435456, "interval_ms": 500, "checkpoints_wanted": 1, "took_ms": 30000,
            "downtime_us": {{"p50": {downtime_us}, "p99": 2, "max": 3}}, "rate_set": 100, "rate_achieved": 95,
            "heads": [{{"index": 0, "state_root": "ab"}}],
            "followed": [{{"index": 0, "state_root": "ab", "bytes_equal": true, "self_check": {{"holds": {holds}}}}}],
            "publisher_sent_bytes": 5, "union_bytes": 5, "bound": {{"ratio_permille": 1100}},
            "links": {{"ratio_permille": null}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn verdicts(outcome: &Outcome) -> Vec<&'static str> {
        figures(outcome, true)
            .iter()
            .filter(|figure| figure.holds == Some(false))
            .map(|figure| figure.name)
            .collect()
    }

    #[test]
    fn each_target_is_judged() {
        assert_eq!(verdicts(&outcome(400, true)), Vec::<&str>::new());
        assert_eq!(verdicts(&outcome(501, true)), ["downtime p50"]);
        assert_eq!(verdicts(&outcome(400, false)), [PROVEN]);
        let slow = Outcome { rate_achieved: 89, checkpoints_wanted: 40, took_ms: 90_001, ..outcome(1, true) };
        assert_eq!(verdicts(&slow), [PROVEN, EQUAL, "dirty rate", "wall time"]);
    }

    #[test]
    fn a_demo_that_compared_nothing_or_finds_itself_wrong_does_not_hold() {
        let mut outcome = outcome(1, true);
        let failed = figures(&outcome, false);
        let own = failed.iter().find(|figure| figure.name == OWN_VERDICT).unwrap();
        assert_eq!(own.holds, Some(false));
        outcome.followed[0].bytes_equal = None;
        assert_eq!(verdicts(&outcome), [EQUAL]);
    }

    #[test]
    fn a_root_that_no_head_promises_is_a_fault() {
        let mut outcome = outcome(1, true);
        outcome.heads.clear();
        assert_eq!(verdicts(&outcome), [PROVEN]);
    }
}
