//! Goal: for every analysis the outcome of N intervals is the outcome of one, wherever it is cut and in whatever order
//! neighbours are merged. Method: random streams of accesses to a small RAM, with calls into a region that fetches and
//! returns; cut at random accesses, between two of one instruction, too; merged as random trees; compared with the stream
//! as one interval.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use pageswarm_machine::content::Random;
use pageswarm_machine::{CheckpointIndex, PAGE_BYTES};
use pageswarm_sim::analysis::{
    Analysis, DoubleFetch, Redundancy, Reference, Regions, Start, Study, WorkingSets, WriteHeat, map,
};
use pageswarm_sim::{Access, AccessKind};
use std::fmt::Debug;

const PAGES: usize = 12;
const READER: u64 = 0x9000;
const OTHERS: u64 = 0x4000;
const SHARED: u64 = 8 * PAGE_BYTES as u64;
const STACK: u64 = 10 * PAGE_BYTES as u64;

/// Some 1000 accesses of a program that never existed.
struct Stream {
    random: Random,
    accesses: Vec<Access>,
    instruction: u64,
    /// Return addresses and their places, those of the reader's callers.
    frames: Vec<(u64, u64)>,
}

impl Stream {
    fn new(seed: u64) -> Self {
        let random = Random::new(seed, 0);
        let mut stream = Self { random, accesses: Vec::new(), instruction: 0, frames: Vec::new() };
        while stream.accesses.len() < 1000 {
            stream.instruction += stream.below(3);
            match stream.below(10) {
                0 => stream.call(),
                1 => stream.back(),
                2..5 => stream.any(OTHERS),
                _ => stream.any(READER),
            }
        }
        stream
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random.draw() % limit
    }

    fn push(&mut self, rip: u64, address: u64, size: u8, kind: AccessKind, value: u64) {
        let instruction = self.instruction;
        let (virtual_address, physical_address) = (address, address);
        let value = u128::from(value) & (u128::MAX >> (128 - 8 * u32::from(size)));
        let access = Access { instruction, rip, virtual_address, physical_address, size, kind, value };
        self.accesses.push(access);
    }

    /// Other code calls the reader. Few places for return addresses, so that some are used again before they are read.
    fn call(&mut self) {
        let (rip, slot) = (OTHERS + 16 * self.below(4), STACK + 8 * self.below(6));
        self.push(rip, slot, 8, AccessKind::Write, rip + 5);
        self.frames.push((slot, rip + 5));
        if self.below(4) != 0 {
            self.any(READER);
        }
    }

    /// The reader reads a return address, usually the last.
    fn back(&mut self) {
        let last = self.frames.len();
        if last == 0 {
            return;
        }
        let place = if self.below(3) == 0 { self.below(last as u64) } else { last as u64 - 1 };
        let (slot, back) = self.frames.remove(usize::try_from(place).unwrap());
        self.push(READER + 0x80, slot, 8, AccessKind::Read, back);
        self.any(OTHERS);
    }

    fn any(&mut self, region: u64) {
        let (rip, size) = (region + 4 * self.below(6), [1, 2, 8][usize::try_from(self.below(3)).unwrap()]);
        let kind = if self.below(3) == 0 { AccessKind::Write } else { AccessKind::Read };
        let place = if self.below(2) == 0 { SHARED + self.below(24) } else { self.below(8) * 4096 };
        let value = self.below(3);
        self.push(rip, place, size, kind, value);
        if self.below(8) == 0 {
            self.push(rip, place + 8, size, kind, value);
        }
    }
}

fn apply(ram: &mut [u8], accesses: &[Access]) {
    for access in accesses.iter().filter(|access| access.kind == AccessKind::Write) {
        let (place, size) = (usize::try_from(access.physical_address).unwrap(), usize::from(access.size));
        ram[place..place + size].copy_from_slice(&access.value.to_le_bytes()[..size]);
    }
}

/// Reads return what is there.
fn with_values(mut ram: Vec<u8>, accesses: &mut [Access]) {
    for access in accesses {
        if access.kind == AccessKind::Write {
            apply(&mut ram, &[*access]);
            continue;
        }
        let (place, size) = (usize::try_from(access.physical_address).unwrap(), usize::from(access.size));
        let mut value = [0; 16];
        value[..size].copy_from_slice(&ram[place..place + size]);
        access.value = u128::from_le_bytes(value);
    }
}

/// Intervals that end before the accesses with these numbers.
fn parts<A: Analysis>(
    analysis: &A,
    ram: &[u8],
    accesses: &[Access],
    cuts: &[usize],
    end: u64,
) -> Vec<A::Part> {
    let (mut ram, mut parts) = (ram.to_vec(), Vec::new());
    let (mut from, mut began) = (0, 0);
    for cut in cuts.iter().copied().chain([accesses.len()]) {
        let border = accesses.get(cut).map_or(end, |access| access.instruction);
        let here = accesses[from..cut].iter();
        let moved = here.map(|access| Access { instruction: access.instruction - began, ..*access });
        let start = Start { index: CheckpointIndex(parts.len() as u64), ram: &ram };
        parts.push(map(analysis, &start, moved, border - began));
        apply(&mut ram, &accesses[from..cut]);
        (from, began) = (cut, border);
    }
    parts
}

/// Neighbours become one in random order until one is left.
fn fold<A: Analysis>(analysis: &A, mut parts: Vec<A::Part>, random: &mut Random) -> A::Part {
    while parts.len() > 1 {
        let place = usize::try_from(random.draw() % (parts.len() as u64 - 1)).unwrap();
        let later = parts.remove(place + 1);
        let earlier = parts.remove(place);
        parts.insert(place, analysis.merge(earlier, later).unwrap());
    }
    parts.pop().unwrap()
}

fn holds<A: Analysis<Outcome: Debug + PartialEq>>(analysis: &A, ram: &[u8], seed: u64, accesses: &[Access]) {
    let end = accesses.last().unwrap().instruction + 7;
    let whole = parts(analysis, ram, accesses, &[], end).pop().unwrap();
    let whole = analysis.finish(&whole);
    let mut random = Random::new(seed, 1);
    for _ in 0..6 {
        let mut cuts: Vec<usize> = (0..random.draw() % 12)
            .map(|_| usize::try_from(random.draw() % (accesses.len() as u64 + 1)).unwrap())
            .collect();
        cuts.sort_unstable();
        let merged = fold(analysis, parts(analysis, ram, accesses, &cuts, end), &mut random);
        assert_eq!(analysis.finish(&merged), whole, "seed {seed}, cut before {cuts:?}");
    }
}

fn ram(seed: u64) -> Vec<u8> {
    let (mut ram, mut random) = (vec![0; PAGES * PAGE_BYTES], Random::new(seed, 2));
    for page in 0..PAGES {
        ram[page * PAGE_BYTES] = u8::try_from(random.draw() % 3).unwrap();
    }
    ram
}

fn double_fetch() -> DoubleFetch {
    DoubleFetch::between(Regions { reader: READER..READER + 0x1000, shared: SHARED..SHARED + 4096 })
}

#[test]
fn many_intervals_give_what_one_gives() {
    let (mut pairs, mut changed, mut ended, mut twice) = (0, 0, 0, 0);
    for seed in 0..150 {
        let ram = ram(seed);
        let mut accesses = Stream::new(seed).accesses;
        with_values(ram.clone(), &mut accesses);
        let redundancy =
            Redundancy::since(Reference::of(&ram)).and_across(Reference::of(&self::ram(seed + 1)));
        holds(&WorkingSets, &ram, seed, &accesses);
        holds(&WriteHeat, &ram, seed, &accesses);
        holds(&redundancy, &ram, seed, &accesses);
        holds(&double_fetch(), &ram, seed, &accesses);
        let end = accesses.last().unwrap().instruction;
        let outcome = redundancy.finish(&parts(&redundancy, &ram, &accesses, &[], end)[0]);
        ended += outcome.kinds.iter().map(|kind| kind.ended).sum::<u64>();
        let outcome = double_fetch().finish(&parts(&double_fetch(), &ram, &accesses, &[], end)[0]);
        pairs += outcome.findings.len();
        twice += outcome.findings.iter().map(|finding| finding.times).sum::<u64>();
        changed += outcome.findings.iter().map(|finding| finding.changed).sum::<u64>();
    }
    println!(
        "{ended} equalities ended, {pairs} pairs fetched {twice} times twice, {changed} times another value"
    );
    // The streams must have what could go wrong.
    assert!(ended > 1000 && pairs > 1000 && changed > 200);
}

#[test]
fn a_series_lists_intervals_and_has_table_picture_and_json() {
    let ram = ram(3);
    let mut accesses = Stream::new(3).accesses;
    with_values(ram.clone(), &mut accesses);
    let mut study = Study::new(WriteHeat);
    let (mut after, mut began, mut first) = (ram, 0, 0);
    for (number, cut) in (0..).zip([300, 500, accesses.len()]) {
        let end = accesses.get(cut).map_or(began + 900, |access| access.instruction);
        let index = CheckpointIndex(number + 5);
        let mut observer = study.begin(&Start { index, ram: &after });
        for access in &accesses[first..cut] {
            pageswarm_sim::Observer::access(&mut observer, *access);
        }
        study.end(index, observer, end - began).unwrap();
        apply(&mut after, &accesses[first..cut]);
        (began, first) = (end, cut);
    }
    let series = study.finish().unwrap();
    let writes: u64 = series.intervals.iter().map(|listed| listed.outcome.writes).sum();
    assert_eq!((series.from.0, series.to.0, series.intervals.len(), writes), (5, 8, 3, series.whole.writes));
    let text = series.text();
    assert!(
        text.lines().any(|line| line.starts_with("all ") && line.contains(&writes.to_string())),
        "{text}"
    );
    let json: serde_json::Value = serde_json::to_value(&series).unwrap();
    assert_eq!(json["intervals"][1]["interval"], 6);
    assert_eq!(json["whole"]["writes"], writes);
    assert!(series.picture().to_string().ends_with("</svg>\n"));
}

#[test]
fn a_study_refuses_what_does_not_follow() {
    let ram = vec![0; PAGE_BYTES];
    let mut study = Study::new(WorkingSets);
    for (index, follows) in [(3, true), (4, true), (4, false)] {
        let index = CheckpointIndex(index);
        let observer = study.begin(&Start { index, ram: &ram });
        assert_eq!(study.end(index, observer, 1).is_ok(), follows);
    }
    assert!(study.finish().is_none());
}
