//! What operations on sets of births cost, beside roaring bitmaps on the same sets in the same run.
//!
//! The sets are those of a checkpoint of 20 MiB on its way to many nodes: 5,120 births, of which a node holds about half
//! in runs of 8, and is told of 64 more at a time. Prints nanoseconds an operation, and bytes a set.

use std::hint::black_box;
use std::time::Instant;

use pageswarm_checkpoint::Birth;
use pageswarm_swarm::{BirthSet, Rng};
use roaring::RoaringTreemap;

const BIRTHS: u64 = 5120;
const RUN: u64 = 8;
const ROUNDS: u32 = 20_000;

/// The same births in both forms.
fn runs(rng: &mut Rng, share_of: u64) -> (BirthSet, RoaringTreemap) {
    let (mut set, mut roaring) = (BirthSet::new(), RoaringTreemap::new());
    for run in (0..BIRTHS / RUN).filter(|_| rng.below(share_of) == 0) {
        set.insert_range(Birth(run * RUN), Birth(run * RUN + RUN - 1));
        roaring.insert_range(run * RUN..run * RUN + RUN);
    }
    (set, roaring)
}

#[expect(
    clippy::disallowed_methods,
    reason = "only the engine is told the time; a measurement reads the clock"
)]
fn nanoseconds<T>(mut work: impl FnMut() -> T) -> u128 {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        black_box(work());
    }
    start.elapsed().as_nanos() / u128::from(ROUNDS)
}

fn main() {
    let mut rng = Rng::new(7);
    let (held, held_roaring) = runs(&mut rng, 2);
    let (news, news_roaring) = runs(&mut rng, 80);
    let rows = [
        ("clone", nanoseconds(|| held.clone()), nanoseconds(|| held_roaring.clone())),
        ("and", nanoseconds(|| held.and(&news)), nanoseconds(|| &held_roaring & &news_roaring)),
        ("minus", nanoseconds(|| news.minus(&held)), nanoseconds(|| &news_roaring - &held_roaring)),
        (
            "is disjoint",
            nanoseconds(|| held.is_disjoint(&news)),
            nanoseconds(|| held_roaring.is_disjoint(&news_roaring)),
        ),
        (
            "clone and add",
            nanoseconds(|| {
                let mut set = held.clone();
                set.add(&news);
                set
            }),
            nanoseconds(|| {
                let mut set = held_roaring.clone();
                set |= &news_roaring;
                set
            }),
        ),
        ("len", nanoseconds(|| held.len()), nanoseconds(|| held_roaring.len())),
        ("iterate", nanoseconds(|| held.iter().count()), nanoseconds(|| held_roaring.iter().count())),
    ];
    println!("{:<14}{:>12}{:>12}", "ns", "births", "roaring");
    for (name, births, roaring) in rows {
        println!("{name:<14}{births:>12}{roaring:>12}");
    }
    println!("{:<14}{:>12}{:>12}", "bytes", held.memory_bytes(), held_roaring.serialized_size());
}
