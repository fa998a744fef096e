//! An analysis of one's own: the longest time in which nothing is written.
//!
//! Only what everyone can use is used. The point of it is the time around a border: how long nothing is written at a part's
//! start and at its end is kept apart, because what comes before and after may make it longer.

use anyhow::{Context as _, ensure};
use pageswarm_machine::CheckpointIndex;
use pageswarm_sim::analysis::{Analysis, MergeError, Start, Stretch, Study, map};
use pageswarm_sim::{Access, AccessKind, Observer};

/// The analysis has no options.
#[derive(Debug)]
struct Quiet;

/// What is known of a stretch. Times are instructions.
#[derive(Clone, Copy, Debug)]
struct Part {
    stretch: Stretch,
    /// Of the first write and of the last.
    writes: Option<(u64, u64)>,
    /// Between two writes.
    longest: u64,
}

impl Observer for Part {
    fn access(&mut self, access: Access) {
        if access.kind == AccessKind::Write {
            let now = access.instruction;
            let (first, last) = self.writes.unwrap_or((now, now));
            self.longest = self.longest.max(now - last);
            self.writes = Some((first, now));
        }
    }
}

impl Analysis for Quiet {
    type Observer = Part;
    type Part = Part;
    type Outcome = u64;

    fn begin(&self, start: &Start<'_>) -> Part {
        Part { stretch: Stretch::one(start.index, 0), writes: None, longest: 0 }
    }

    fn end(&self, observer: Part, instructions: u64) -> Part {
        let stretch = Stretch::one(observer.stretch.from, instructions);
        Part { stretch, ..observer }
    }

    fn merge(&self, earlier: Part, later: Part) -> Result<Part, MergeError> {
        let border = earlier.stretch.instructions;
        let across = earlier.writes.zip(later.writes).map(|((_, last), (first, _))| border + first - last);
        let moved = later.writes.map(|(first, last)| (border + first, border + last));
        let writes = match (earlier.writes, moved) {
            (Some((first, _)), Some((_, last))) => Some((first, last)),
            (one, other) => one.or(other),
        };
        Ok(Part {
            stretch: earlier.stretch.followed_by(later.stretch)?,
            writes,
            longest: earlier.longest.max(later.longest).max(across.unwrap_or(0)),
        })
    }

    fn finish(&self, part: &Part) -> u64 {
        part.longest
    }
}

/// An access of eight bytes.
const fn access(instruction: u64, kind: AccessKind) -> Access {
    let (virtual_address, physical_address) = (64, 64);
    Access { instruction, rip: 0x10_0000, virtual_address, physical_address, size: 8, kind, value: 1 }
}

fn main() -> anyhow::Result<()> {
    let ram = vec![0; 4096];
    // Writes at 10, 40 and, in the second interval of 50 instructions, at 100 + 45: nothing is written for 105.
    let intervals = [
        (vec![access(10, AccessKind::Write), access(40, AccessKind::Write)], 100),
        (vec![access(7, AccessKind::Read), access(45, AccessKind::Write)], 50),
    ];
    let mut study = Study::new(Quiet);
    for (number, (accesses, instructions)) in (0..).zip(intervals) {
        let index = CheckpointIndex(number);
        let part = map(&Quiet, &Start { index, ram: &ram }, accesses, instructions);
        study.add(Stretch::one(index, instructions), part)?;
    }
    let series = study.finish().context("there are two intervals")?;
    for listed in &series.intervals {
        println!("interval {}: {} instructions without a write", listed.interval.0, listed.outcome);
    }
    println!("both: {} instructions without a write", series.whole);
    ensure!(series.whole == 105, "the time across the border was lost");
    Ok(())
}
