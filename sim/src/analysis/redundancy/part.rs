//! What is kept of a stretch, and how two become one.

use super::figures::{
    Equalities, Histogram, Kind, KindFigures, Origin, OriginFigures, RedundancyOutcome, Redundant,
};
use super::print::Print;
use crate::analysis::kept::{Figures as _, Kept};
use crate::analysis::stretch::{MergeError, Stretch};
use crate::limits::{PLACES_KEPT, ROWS_SHOWN};
use pageswarm_machine::CheckpointIndex;
use std::collections::BTreeMap;

const KINDS: usize = Kind::ALL.len();

/// What the kinds of a page were, if they changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Changes {
    /// When what it was at the start ended.
    first: u64,
    /// What it is at the end, and since when.
    last: Kind,
    origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tally {
    at_start: u64,
    at_end: u64,
    /// Pages times instructions.
    integral: u128,
    equalities: Equalities,
    ended_from_before: u64,
    lifetimes: Histogram,
}

/// The redundancy of one stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedundancyPart {
    stretch: Stretch,
    tallies: [Tally; KINDS],
    /// Until when the integrals are complete.
    counted_to: u64,
    origins: Kept<(u64, Kind), Equalities>,
    changes: BTreeMap<u32, Changes>,
    pub(super) writes: u64,
    pub(super) silent_writes: u64,
    pub(super) collisions: u64,
    prints: (Print, Print),
}

impl RedundancyPart {
    pub(super) fn new(index: CheckpointIndex, print: Print) -> Self {
        let tally = Tally {
            at_start: 0,
            at_end: 0,
            integral: 0,
            equalities: Equalities::default(),
            ended_from_before: 0,
            lifetimes: Histogram::EMPTY,
        };
        Self {
            stretch: Stretch::one(index, 0),
            tallies: [tally; KINDS],
            counted_to: 0,
            origins: Kept::new(PLACES_KEPT),
            changes: BTreeMap::new(),
            writes: 0,
            silent_writes: 0,
            collisions: 0,
            prints: (print, print),
        }
    }

    /// One more page of this kind at the start.
    pub(super) fn count(&mut self, kind: Kind) {
        let tally = &mut self.tallies[kind as usize];
        tally.at_start += 1;
        tally.at_end += 1;
    }

    /// A page changed its kind.
    pub(super) fn change(&mut self, page: usize, from: Kind, to: Kind, origin: Origin) {
        let now = origin.instruction;
        self.count_to(now);
        self.tallies[from as usize].at_end -= 1;
        self.tallies[to as usize].at_end += 1;
        let page = u32::try_from(page).unwrap_or(u32::MAX);
        let first = match self.changes.get(&page).copied() {
            Some(Changes { first, last, origin: begun }) => {
                self.end_equality(last, begun.rip, now.saturating_sub(begun.instruction));
                first
            }
            None => {
                self.tallies[from as usize].ended_from_before += 1;
                now
            }
        };
        self.changes.insert(page, Changes { first, last: to, origin });
        self.tallies[to as usize].equalities.begun += 1;
        if to != Kind::Unique {
            self.origins.add((origin.rip, to), Equalities { begun: 1, ..Equalities::default() });
        }
    }

    fn end_equality(&mut self, kind: Kind, rip: u64, lifetime: u64) {
        let ended = |equalities: &mut Equalities| {
            equalities.ended += 1;
            equalities.lifetimes += u128::from(lifetime);
        };
        let tally = &mut self.tallies[kind as usize];
        ended(&mut tally.equalities);
        tally.lifetimes.count(lifetime);
        if kind != Kind::Unique {
            let mut one = Equalities::default();
            ended(&mut one);
            self.origins.add((rip, kind), one);
        }
    }

    fn count_to(&mut self, now: u64) {
        let since = u128::from(now.saturating_sub(self.counted_to));
        if since != 0 {
            for tally in &mut self.tallies {
                tally.integral += u128::from(tally.at_end) * since;
            }
            self.counted_to = now;
        }
    }

    pub(super) fn closed(mut self, instructions: u64, print: Print) -> Self {
        self.count_to(instructions);
        self.stretch.instructions = instructions;
        self.prints.1 = print;
        self
    }

    pub(super) fn followed_by(mut self, later: Self) -> Result<Self, MergeError> {
        let stretch = self.stretch.followed_by(later.stretch)?;
        if self.prints.1 != later.prints.0
            || self.tallies.iter().zip(&later.tallies).any(|(before, after)| before.at_end != after.at_start)
        {
            return Err(MergeError::OtherRam { at: later.stretch.from });
        }
        let border = self.stretch.instructions;
        for (tally, more) in self.tallies.iter_mut().zip(&later.tallies) {
            tally.at_end = more.at_end;
            tally.integral += more.integral;
            tally.equalities.add(more.equalities);
            tally.ended_from_before += more.ended_from_before;
            tally.lifetimes.add(&more.lifetimes);
        }
        self.origins.append(later.origins);
        for (page, after) in later.changes {
            self.close_at_border(page, after, border);
        }
        self.counted_to = stretch.instructions;
        self.stretch = stretch;
        self.writes += later.writes;
        self.silent_writes += later.silent_writes;
        self.collisions += later.collisions;
        self.prints.1 = later.prints.1;
        Ok(self)
    }

    /// What the later part saw end was there at its start; it may have begun in the earlier part.
    fn close_at_border(&mut self, page: u32, after: Changes, border: u64) {
        let ended = border.saturating_add(after.first);
        let instruction = border.saturating_add(after.origin.instruction);
        let origin = Origin { instruction, ..after.origin };
        let first = match self.changes.get(&page).copied() {
            Some(before) => {
                self.tallies[before.last as usize].ended_from_before -= 1;
                let lifetime = ended.saturating_sub(before.origin.instruction);
                self.end_equality(before.last, before.origin.rip, lifetime);
                before.first
            }
            None => ended,
        };
        self.changes.insert(page, Changes { first, last: after.last, origin });
    }

    /// The write that made a page what it is at the stretch's end; none if it was so at its start.
    #[must_use]
    pub fn origin_of(&self, page: u32) -> Option<(Kind, Origin)> {
        self.changes.get(&page).map(|changes| (changes.last, changes.origin))
    }

    pub(super) fn outcome(&self) -> RedundancyOutcome {
        let mut origins: Vec<OriginFigures> = self.origins.iter().map(figures_of_origin).collect();
        origins.sort_unstable_by_key(|origin| (std::cmp::Reverse(origin.begun), origin.rip, origin.kind));
        origins.truncate(ROWS_SHOWN);
        let redundant = self.changes.iter().filter(|(_, changes)| changes.last != Kind::Unique);
        let mut latest: Vec<Redundant> = redundant
            .map(|(&page, changes)| Redundant { page, kind: changes.last, origin: changes.origin })
            .collect();
        latest.sort_by_key(|redundant| (std::cmp::Reverse(redundant.origin.instruction), redundant.page));
        latest.truncate(ROWS_SHOWN);
        let kinds = Kind::ALL.into_iter().zip(&self.tallies);
        RedundancyOutcome {
            pages: self.tallies.iter().map(|tally| tally.at_end).sum(),
            writes: self.writes,
            silent_writes: self.silent_writes,
            collisions: self.collisions,
            kinds: kinds.map(|(kind, tally)| tally.figures(kind, self.stretch.instructions)).collect(),
            origins,
            origins_known: self.origins.len() as u64,
            origins_others: self.origins.others.begun,
            latest,
        }
    }
}

fn figures_of_origin(((rip, kind), equalities): ((u64, Kind), &Equalities)) -> OriginFigures {
    let Equalities { begun, ended, .. } = *equalities;
    OriginFigures { rip, kind, begun, ended, lifetime_mean: equalities.mean() }
}

impl Tally {
    fn figures(&self, kind: Kind, instructions: u64) -> KindFigures {
        let mean = self.integral * 1000 / u128::from(instructions.max(1));
        KindFigures {
            kind,
            pages_at_start: self.at_start,
            pages_at_end: self.at_end,
            pages_mean_permille: u64::try_from(mean).unwrap_or(u64::MAX),
            begun: self.equalities.begun,
            ended: self.equalities.ended,
            ended_from_before: self.ended_from_before,
            lifetime_mean: self.equalities.mean(),
            lifetimes: self.lifetimes.lifetimes(),
        }
    }
}
