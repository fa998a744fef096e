//! Redundancy of memory: which pages need not be there, since when, and which write made them so.
//!
//! After each access that writes, every page is of exactly one kind, the first of these that is true of its content:
//!
//! - **zero**: all bytes are 0;
//! - **self**: another page of the same RAM has the same content now (self-sharing; Barker et al., ATC'12);
//! - **unchanged**: the same page had it in the baseline;
//! - **temporal**: another page had it in the baseline, which is the RAM at an earlier checkpoint;
//! - **cross**: a page of another machine has it, if one was given to compare with;
//! - **unique**: none of these.
//!
//! So the kind depends on RAM as it is and on what it is compared with, and not on where intervals begin. A page
//! *becomes* redundant with the write that changes its kind to one that is not unique. That is a write to the page, or for
//! self also the write to the other page: both have the same origin then. The *lifetime* of an equality is the time
//! from there to the write that changes the page's kind again, in instructions; within one repeated instruction it is 0.
//!
//! What is missed: contents that came after the baseline and are gone again; pages that are equal at another offset or
//! but for a few bytes; what page walks write (accessed and dirty bits), until the next interval's start shows it, and
//! then [`MergeError::OtherRam`] says so; equalities of a content whose print collides with another's, which are counted.
//!
//! Memory: RAM once more, about 110 bytes for each page, 64 for each page that changed its kind, at most 1.5 MiB for
//! origins, and the [`Reference`]s.

mod figures;
mod pages;
mod part;
mod print;
mod reference;
mod report;

pub use figures::{Kind, KindFigures, Lifetime, Origin, OriginFigures, RedundancyOutcome, Redundant};
pub use part::RedundancyPart;
pub use reference::Reference;

use crate::analysis::Analysis;
use crate::analysis::place::Place;
use crate::analysis::stretch::{MergeError, Start};
use crate::observe::{Access, AccessKind, Observer};
use pages::{Pages, Written};
use reference::Confirmed;
use std::sync::Arc;

/// The analysis. All intervals of a stretch need the same baseline, which therefore is a part of it.
#[derive(Clone, Debug)]
pub struct Redundancy {
    baseline: Arc<Reference>,
    other: Option<Arc<Reference>>,
}

impl Redundancy {
    /// Compared with `baseline`, usually the RAM at the stretch's start.
    #[must_use]
    pub fn since(baseline: Reference) -> Self {
        Self { baseline: Arc::new(baseline), other: None }
    }

    /// Compared with another machine, too.
    #[must_use]
    pub fn and_across(self, other: Reference) -> Self {
        Self { other: Some(Arc::new(other)), ..self }
    }
}

/// What runs through one interval.
#[derive(Debug)]
pub struct RedundancyObserver {
    compared: Redundancy,
    pages: Pages,
    kinds: Vec<Kind>,
    part: RedundancyPart,
}

impl Analysis for Redundancy {
    type Observer = RedundancyObserver;
    type Part = RedundancyPart;
    type Outcome = RedundancyOutcome;

    fn begin(&self, start: &Start<'_>) -> RedundancyObserver {
        let pages = Pages::new(start.ram);
        let part = RedundancyPart::new(start.index, pages.print_of_all());
        let kinds = vec![Kind::Unique; pages.len()];
        let mut observer = RedundancyObserver { compared: self.clone(), pages, kinds, part };
        for page in 0..observer.kinds.len() {
            let kind = observer.kind_of(page);
            observer.kinds[page] = kind;
            observer.part.count(kind);
        }
        observer
    }

    fn end(&self, observer: RedundancyObserver, instructions: u64) -> RedundancyPart {
        let print = observer.pages.print_of_all();
        observer.part.closed(instructions, print)
    }

    fn merge(&self, earlier: RedundancyPart, later: RedundancyPart) -> Result<RedundancyPart, MergeError> {
        earlier.followed_by(later)
    }

    fn finish(&self, part: &RedundancyPart) -> RedundancyOutcome {
        part.outcome()
    }
}

impl RedundancyObserver {
    fn kind_of(&mut self, page: usize) -> Kind {
        if self.pages.is_zero(page) {
            return Kind::Zero;
        }
        if self.pages.has_twin(page) {
            return Kind::SameNow;
        }
        let (print, content) = (self.pages.print(page), self.pages.content(page));
        let other = self.compared.other.as_ref();
        match self.compared.baseline.has(print, content) {
            Confirmed::Yes if self.compared.baseline.had(page, print) => return Kind::Unchanged,
            Confirmed::Yes => return Kind::Temporal,
            Confirmed::Collision => self.part.collisions += 1,
            Confirmed::No => {}
        }
        match other.map_or(Confirmed::No, |other| other.has(print, content)) {
            Confirmed::Yes => return Kind::Cross,
            Confirmed::Collision => self.part.collisions += 1,
            Confirmed::No => {}
        }
        Kind::Unique
    }

    /// The page's kind may have changed by a write.
    #[inline]
    fn look_at(&mut self, page: usize, cause: Origin) {
        let kind = self.kind_of(page);
        let before = std::mem::replace(&mut self.kinds[page], kind);
        if before != kind {
            self.part.change(page, before, kind, cause);
        }
    }
}

impl Observer for RedundancyObserver {
    #[inline]
    fn access(&mut self, access: Access) {
        if access.kind == AccessKind::Read {
            return;
        }
        let Some(place) = Place::of(&access, self.kinds.len()) else {
            return;
        };
        self.part.writes += 1;
        let bytes = access.value.to_le_bytes();
        match self.pages.write(place.page, place.offset, &bytes[..place.size]) {
            Written::Same => self.part.silent_writes += 1,
            Written::Changed { left, joined, has_collided } => {
                self.part.collisions += u64::from(has_collided);
                // Pages have 32-bit numbers, as RAM was made of them.
                let page = u32::try_from(place.page).unwrap_or(u32::MAX);
                let cause = Origin { instruction: access.instruction, rip: access.rip, page };
                self.look_at(place.page, cause);
                for other in [left, joined].into_iter().flatten() {
                    self.look_at(other as usize, cause);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
