//! How many lies a worker gets away with before the lease table finds it out, by the share of intervals that are simulated
//! twice: three honest workers and one that says of every interval that it was exact without looking. With a share s, of
//! all results 2s in 1 + s are of intervals that two simulate; the liar is named with its first one of these, once a third
//! worker has looked, too. Expected are (1 + s) / 2s lies, and those that it tells while the others look.
//!
//!     liars [--swarms N]
//!
//! The table is the one that nodes host; workers and time are made up.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use pageswarm_checkpoint::{CheckpointIndex, LineageId, NodeId, ObjectHash, SimulatorBuild};
use pageswarm_node::leases::{AskId, Finding, Input, LeaseTable, Output, Policy, Share, Verdict};

const SHARES: [&str; 6] = ["1%", "2%", "5%", "10%", "20%", "50%"];
const SWARMS: u32 = 400;
/// Intervals of a recording: a quarter of them go to each worker, so that even with the smallest share twenty of the liar's are
/// looked at by another.
const INTERVALS: u64 = 8000;
const WORKERS: u8 = 4;
const LIAR: u8 = 0;
/// A simulation takes so long.
const TAKES: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let swarms = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Some(SWARMS),
        ["--swarms", number] => number.parse().ok().filter(|number| *number > 0),
        _ => None,
    };
    let Some(swarms) = swarms else {
        eprintln!("usage: liars [--swarms N]");
        return ExitCode::from(2);
    };
    println!("share twice  caught        lies before, mean  expected  median  most");
    for share in SHARES {
        let sample: Share = share.parse().expect("the shares above are shares");
        let mut lies: Vec<u64> = (0..swarms).filter_map(|seed| lies_before_caught(sample, seed)).collect();
        lies.sort_unstable();
        let caught = lies.len();
        let mean = lies.iter().sum::<u64>() as f64 / caught.max(1) as f64;
        let share_twice = f64::from(sample.millionths()) / 1e6;
        let expected = (1.0 + share_twice) / (2.0 * share_twice);
        let (median, most) = (lies.get(caught / 2).unwrap_or(&0), lies.last().unwrap_or(&0));
        let of = format!("{caught} of {swarms}");
        println!("{share:>11}  {of:12}  {mean:>17.1}  {expected:>8.1}  {median:>6}  {most:>4}");
    }
    ExitCode::SUCCESS
}

/// Results that the liar published until it was named; `None` if it never was.
fn lies_before_caught(sample: Share, seed: u32) -> Option<u64> {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&seed.to_le_bytes());
    let policy = Policy { term: Duration::from_secs(10), sample, seed: key, lineage: LineageId([1; 32]) };
    let mut table = LeaseTable::new(policy);
    let mut now = Instant::now();
    table.handle(now, Input::Recorded(INTERVALS));
    let mut lies = 0;
    let mut held: [Option<CheckpointIndex>; WORKERS as usize] = [None; WORKERS as usize];
    for turn in 0_u64.. {
        now += TAKES / u32::from(WORKERS);
        // Workers come in turn; who comes first differs from swarm to swarm.
        let number = (turn + u64::from(seed)) % u64::from(WORKERS);
        let number = u8::try_from(number).expect("below four");
        let worker = name_of(number);
        if let Some(interval) = held[usize::from(number)].take() {
            lies += u64::from(number == LIAR);
            let finding = found(interval, number);
            table.handle(now, Input::Found { interval, worker, finding, took: TAKES });
        }
        match lease(&mut table, now, number, worker) {
            Answer::Interval(interval) => held[usize::from(number)] = Some(interval),
            Answer::Caught => return Some(lies),
            Answer::Nothing => {}
        }
        let is_settled = |interval| table.standing(CheckpointIndex(interval)).is_settled();
        if turn % 1000 == 0 && (0..INTERVALS).all(is_settled) {
            return None;
        }
    }
    None
}

fn name_of(number: u8) -> NodeId {
    NodeId([number + 1; 32])
}

enum Answer {
    Interval(CheckpointIndex),
    /// The liar was named.
    Caught,
    Nothing,
}

/// Asks as a worker does: for candidates, then for one of them.
fn lease(table: &mut LeaseTable, now: Instant, number: u8, worker: NodeId) -> Answer {
    let (ask, mut lacks) = (AskId(u64::from(number)), Vec::new());
    loop {
        table.handle(now, Input::Ask { ask, worker, jobs: 1, lacks: std::mem::take(&mut lacks) });
        lacks = loop {
            match table.poll() {
                Some(Output::Liar(named)) => {
                    assert_eq!(named, name_of(LIAR), "an honest worker was named");
                    return Answer::Caught;
                }
                Some(Output::Granted(of, interval)) if of == ask => return Answer::Interval(interval),
                Some(Output::Candidates(of, candidates)) if of == ask => {
                    break candidates.into_iter().map(|at| (at, 5)).collect();
                }
                Some(_) => {}
                None => return Answer::Nothing,
            }
        };
    }
}

/// What a worker says of an interval: all honest ones the same, the liar what it makes up.
fn found(interval: CheckpointIndex, number: u8) -> Finding {
    let mut name = [0; 32];
    name[..8].copy_from_slice(&interval.0.to_le_bytes());
    name[8] = u8::from(number == LIAR);
    Finding {
        name: ObjectHash(name),
        verdict: Verdict::Exact,
        simulator: SimulatorBuild([1; 32]),
        traced: None,
    }
}
