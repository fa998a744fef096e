//! Goal: kinds, origins and lifetimes are what the definition says. Method: the definition itself, applied to all of RAM
//! after each write by comparing bytes, over random writes to few small places, so that pages are often equal.

use super::*;
use crate::analysis::map;
use pageswarm_machine::content::Random;
use pageswarm_machine::{CheckpointIndex, PAGE_BYTES};

const PAGES: usize = 10;

fn kinds(ram: &[u8], baseline: &[u8], other: &[u8]) -> Vec<Kind> {
    let pages = |ram: &[u8]| ram.as_chunks::<PAGE_BYTES>().0.to_vec();
    let (now, before, others) = (pages(ram), pages(baseline), pages(other));
    let kind = |(number, page): (usize, &[u8; PAGE_BYTES])| {
        if *page == [0; PAGE_BYTES] {
            Kind::Zero
        } else if now.iter().filter(|other| *other == page).count() > 1 {
            Kind::SameNow
        } else if before[number] == *page {
            Kind::Unchanged
        } else if before.contains(page) {
            Kind::Temporal
        } else if others.contains(page) {
            Kind::Cross
        } else {
            Kind::Unique
        }
    };
    now.iter().enumerate().map(kind).collect()
}

fn access(instruction: u64, place: usize, value: u8) -> Access {
    Access {
        instruction,
        rip: 0x1000 + instruction % 7,
        virtual_address: place as u64,
        physical_address: place as u64,
        size: 1,
        kind: AccessKind::Write,
        value: value.into(),
    }
}

#[test]
fn kinds_are_those_of_the_definition_after_each_write() {
    let mut random = Random::new(4, 4);
    let mut byte = |limit: u64| u8::try_from(random.draw() % limit).unwrap();
    let (mut baseline, mut other) = (vec![0; PAGES * PAGE_BYTES], vec![0; PAGES * PAGE_BYTES]);
    for page in 0..PAGES {
        baseline[page * PAGE_BYTES] = byte(4);
        other[page * PAGE_BYTES + 8] = byte(6);
    }
    let mut ram = baseline.clone();
    let analysis = Redundancy::since(Reference::of(&baseline)).and_across(Reference::of(&other));
    let mut observer = analysis.begin(&Start { index: CheckpointIndex(0), ram: &ram });
    let (mut known, mut seen) = (kinds(&ram, &baseline, &other), [0_u64; 6]);
    let mut since: Vec<Option<Origin>> = vec![None; PAGES];
    let mut lifetimes = [0_u64; 6];
    for instruction in 0..5000 {
        let page = usize::from(byte(10));
        let place = page * PAGE_BYTES + 8 * usize::from(byte(2));
        ram[place] = byte(6);
        let write = access(instruction, place, ram[place]);
        observer.access(write);
        let now = kinds(&ram, &baseline, &other);
        assert_eq!(observer.kinds, now, "{instruction}");
        for changed in (0..PAGES).filter(|page| known[*page] != now[*page]) {
            let page = u32::try_from(page).unwrap();
            let origin = Origin { instruction, rip: write.rip, page };
            if let Some(begun) = since[changed].replace(origin) {
                lifetimes[known[changed] as usize] += instruction - begun.instruction;
            }
            seen[now[changed] as usize] += 1;
        }
        known = now;
    }
    assert!(seen.iter().all(|times| *times > 10), "{seen:?}");
    let part = analysis.end(observer, 5000);
    for (page, origin) in (0..).zip(&since) {
        assert_eq!(part.origin_of(page).map(|(_, origin)| origin), *origin);
    }
    let outcome = analysis.finish(&part);
    assert_eq!(outcome.kinds.iter().map(|kind| kind.begun).collect::<Vec<_>>(), seen);
    let means = outcome.kinds.iter().zip(lifetimes).map(|(kind, sum)| sum / kind.ended.max(1));
    assert!(means.eq(outcome.kinds.iter().map(|kind| kind.lifetime_mean)));
    let mean: u64 = outcome.kinds.iter().map(|kind| kind.pages_mean_permille).sum();
    assert!((PAGES as u64 * 1000 - 6..=PAGES as u64 * 1000).contains(&mean));
    assert_eq!((outcome.writes, outcome.collisions), (5000, 0));
}

#[test]
fn accesses_that_no_simulation_makes_are_left_out() {
    let ram = vec![0; 2 * PAGE_BYTES];
    let start = Start { index: CheckpointIndex(0), ram: &ram };
    let analysis = Redundancy::since(Reference::of(&ram));
    let wrong = [(u64::MAX, 8), (2 * PAGE_BYTES as u64, 1), (4095, 2), (0, 0), (0, 17), (0, 255)];
    let wrong = wrong.map(|(physical_address, size)| Access { physical_address, size, ..access(1, 0, 1) });
    let outcome = analysis.finish(&map(&analysis, &start, wrong, 2));
    assert_eq!((outcome.writes, outcome.kinds[0].pages_at_end), (0, 2));
}

#[test]
fn neighbours_with_other_ram_between_them_are_refused() {
    let (ram, mut other) = (vec![0; 2 * PAGE_BYTES], vec![0; 2 * PAGE_BYTES]);
    other[5] = 1;
    let analysis = Redundancy::since(Reference::of(&ram));
    let part = |index, ram: &[u8]| {
        map(&analysis, &Start { index: CheckpointIndex(index), ram }, [access(0, 9, 0)], 1)
    };
    let merged = |earlier, later| analysis.merge(earlier, later).map(|_| ());
    assert_eq!(merged(part(3, &ram), part(4, &ram)), Ok(()));
    let at = CheckpointIndex(4);
    assert_eq!(merged(part(3, &ram), part(4, &other)), Err(MergeError::OtherRam { at }));
    let later = CheckpointIndex(5);
    assert_eq!(merged(part(3, &ram), part(5, &ram)), Err(MergeError::NotNeighbours { earlier: at, later }));
}
