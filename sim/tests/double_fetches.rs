//! Goal: planted double fetches are found, and little else. Method: programs of functions with and without double fetches,
//! run by the interpreter; what is found is compared with what was planted, as one interval and cut at every access.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

#[path = "support/planted.rs"]
mod planted;

use pageswarm_machine::CheckpointIndex;
use pageswarm_sim::Access;
use pageswarm_sim::analysis::{Analysis, DoubleFetch, DoubleFetchOutcome, Start, map};
use planted::{Case, Planted, Program};
use std::collections::BTreeSet;

/// The outcome of intervals that end before the accesses with these numbers.
fn outcome(program: &Program, run: &(Vec<Access>, u64), cuts: &[usize]) -> DoubleFetchOutcome {
    let analysis = DoubleFetch::between(program.regions());
    let (accesses, instructions) = run;
    let (mut from, mut began, mut merged) = (0, 0, None);
    for (number, cut) in (0..).zip(cuts.iter().copied().chain([accesses.len()])) {
        let border = accesses.get(cut).map_or(*instructions, |access| access.instruction);
        let here = accesses[from..cut].iter();
        let moved = here.map(|access| Access { instruction: access.instruction - began, ..*access });
        let start = Start { index: CheckpointIndex(number), ram: &program.ram };
        let part = map(&analysis, &start, moved, border - began);
        merged = Some(match merged {
            None => part,
            Some(earlier) => analysis.merge(earlier, part).unwrap(),
        });
        (from, began) = (cut, border);
    }
    analysis.finish(&merged.unwrap())
}

#[test]
fn planted_double_fetches_are_found_and_nothing_but_waits_beside_them() {
    let (mut planted, mut found, mut reported, mut waits) = (0, 0, 0, 0);
    for seed in 0..20 {
        let program = Program::new(seed, 200);
        let run = program.accesses();
        let outcome = outcome(&program, &run, &[]);
        let pairs: BTreeSet<(u64, u64)> =
            outcome.findings.iter().map(|finding| (finding.first_rip, finding.second_rip)).collect();
        assert_eq!(pairs.len(), outcome.findings.len());
        let truth: BTreeSet<(u64, u64)> =
            program.planted.iter().map(|planted| (planted.first_rip, planted.second_rip)).collect();
        let hits = pairs.intersection(&truth).count();
        // A loop that waits reads by one instruction, unlike all other functions but the helpers, which are planted.
        waits += pairs.difference(&truth).filter(|(first, second)| first == second).count();
        (planted, found, reported) = (planted + truth.len(), found + hits, reported + pairs.len());
        assert_eq!((outcome.is_cut, outcome.fetches_outside_calls), (false, 0));
        for Planted { case, first_rip, second_rip } in &program.planted {
            let pair = (*first_rip, *second_rip);
            let finding =
                outcome.findings.iter().find(|finding| (finding.first_rip, finding.second_rip) == pair);
            let changed = finding.map(|finding| (finding.times, finding.written_between, finding.changed));
            let expected = if *case == Case::ChangedBetween { (1, 1, 1) } else { (1, 0, 0) };
            assert_eq!(changed, Some(expected), "{case:?}");
        }
    }
    println!(
        "double fetches: recall {:.3} ({found} of {planted} planted), precision {:.3} ({found} of {reported} reported; \
         {waits} of the others wait in a loop)",
        f64::from(u32::try_from(found).unwrap()) / f64::from(u32::try_from(planted).unwrap()),
        f64::from(u32::try_from(found).unwrap()) / f64::from(u32::try_from(reported).unwrap()),
    );
    assert!(planted > 1000 && found == planted && reported == found + waits && waits > 100);
}

#[test]
fn calls_that_straddle_borders_are_seen_whole() {
    let program = Program::new(77, 40);
    let run = program.accesses();
    let whole = outcome(&program, &run, &[]);
    assert!(whole.findings.len() > 10 && whole.calls > 30);
    // Cut once before every access in turn, and before all of them.
    let all: Vec<usize> = (1..run.0.len()).collect();
    assert_eq!(outcome(&program, &run, &all), whole);
    for cut in all {
        assert_eq!(outcome(&program, &run, &[cut]), whole, "cut before access {cut}");
    }
}
