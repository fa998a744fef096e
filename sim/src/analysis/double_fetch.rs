//! Double fetches: one region of code reads what another may write, twice within one call, and may get two answers.
//!
//! The *reader* is a region of code; the *shared* region is data that other code may write. A call into the reader begins
//! when an access of the reader follows an access of other code that pushed a return address (a CALL, or an interrupt
//! without error code), and ends when the reader reads that return address back from its place, or another call's is
//! pushed there. Other code that runs in between (a callback, an interrupt) does not end it. A call from there into the
//! reader is one of its own, within the first. A *double fetch* is a read of a shared byte by the reader that reads a
//! byte which an earlier instruction of the same call had read, unless the reader wrote it in between. This is
//! Bochspwn's criterion (Jurczyk & Coldwind, 2013) with bytes for addresses; whether other code wrote the byte in between,
//! and whether the value changed, is told beside it.
//!
//! What is missed: calls that begin without a return address (a jump); what a call does after 65,536 bytes, which
//! are counted. What is found for nothing: a loop that waits for a shared byte, and code that checks both values.
//!
//! A call may straddle a border, and nobody who sees one interval knows which calls were open at its start. So what
//! could matter to such a call is kept, and decided when the earlier part is there: the reader's fetches outside of known
//! calls, what was written to shared bytes, and places where return addresses may have been. Memory: 64 calls of
//! at most 4 MiB each, and at most 2^20 such steps, about 100 MiB; when there are more, the outcome says that calls are cut.

mod calls;
mod part;
mod report;

pub use part::DoubleFetchPart;

use crate::analysis::Analysis;
use crate::analysis::stretch::{MergeError, Start};
use crate::observe::{Access, AccessKind, Observer};
use serde::Serialize;
use std::ops::Range;

/// The analysis.
#[derive(Clone, Debug)]
pub struct DoubleFetch {
    regions: Regions,
}

/// Whose fetches of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    /// The reader's code, by virtual address.
    pub reader: Range<u64>,
    /// Data that other code may write, by guest-physical address.
    pub shared: Range<u64>,
}

/// Two instructions that fetched the same byte within one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Address of the one that fetched it first.
    pub first_rip: u64,
    /// Address of the one that fetched it again.
    pub second_rip: u64,
    /// Second fetches.
    pub times: u64,
    /// Of these, those with a byte that other code wrote in between.
    pub written_between: u64,
    /// Of these, those with a byte that was another one than before.
    pub changed: u64,
    /// The lowest guest-physical address that was fetched twice.
    pub lowest_address: u64,
    /// The highest.
    pub highest_address: u64,
    /// Instructions from the stretch's start to the earliest second fetch.
    pub first_seen: u64,
}

/// The double fetches of a stretch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DoubleFetchOutcome {
    /// Calls into the reader that began.
    pub calls: u64,
    /// Fetches of shared bytes within calls.
    pub fetches: u64,
    /// Fetches of shared bytes by the reader in no call that is known.
    pub fetches_outside_calls: u64,
    /// Pairs of instructions: those that got other values first, then by number; of at most 16,384 pairs.
    pub findings: Vec<Finding>,
    /// Second fetches of pairs for which there was no room.
    pub other_times: u64,
    /// Bytes whose fetch was not remembered, because a call fetched too many.
    pub forgotten_bytes: u64,
    /// Calls that were forgotten, because too many were open.
    pub forgotten_calls: u64,
    /// More steps were undecided at a border than there is room for: calls across it may lack findings.
    pub is_cut: bool,
}

impl DoubleFetch {
    /// Looks for double fetches of these regions.
    #[must_use]
    pub const fn between(regions: Regions) -> Self {
        Self { regions }
    }
}

/// What runs through one interval.
#[derive(Debug)]
pub struct DoubleFetchObserver {
    regions: Regions,
    part: DoubleFetchPart,
}

impl Analysis for DoubleFetch {
    type Observer = DoubleFetchObserver;
    type Part = DoubleFetchPart;
    type Outcome = DoubleFetchOutcome;

    fn begin(&self, start: &Start<'_>) -> DoubleFetchObserver {
        DoubleFetchObserver { regions: self.regions.clone(), part: DoubleFetchPart::new(start.index) }
    }

    fn end(&self, observer: DoubleFetchObserver, instructions: u64) -> DoubleFetchPart {
        observer.part.closed(instructions)
    }

    fn merge(&self, earlier: DoubleFetchPart, later: DoubleFetchPart) -> Result<DoubleFetchPart, MergeError> {
        earlier.followed_by(later)
    }

    fn finish(&self, part: &DoubleFetchPart) -> DoubleFetchOutcome {
        part.outcome()
    }
}

impl Observer for DoubleFetchObserver {
    #[inline]
    fn access(&mut self, access: Access) {
        let Access { rip, physical_address: address, size, value, .. } = access;
        let Some(end) = address.checked_add(u64::from(size)).filter(|_| (1..=16).contains(&size)) else {
            return;
        };
        let is_shared = address < self.regions.shared.end && self.regions.shared.start < end;
        let pointer = u64::try_from(value).ok().filter(|_| size == 8);
        if !self.regions.reader.contains(&rip) {
            let is_write = access.kind == AccessKind::Write;
            if is_write && is_shared {
                self.part.written(calls::Writer::Other, address..end);
            }
            let returns = |back: &u64| is_write && (1..=15).contains(&back.wrapping_sub(rip));
            self.part.leave(pointer.filter(returns).map(|back| calls::Frame { slot: address, back }));
            return;
        }
        self.part.arrive();
        match access.kind {
            AccessKind::Write if is_shared => self.part.written(calls::Writer::Reader, address..end),
            AccessKind::Write => {}
            AccessKind::Read if is_shared => {
                let instruction = access.instruction;
                self.part.fetch(calls::Fetch { instruction, rip, address, size, value });
            }
            AccessKind::Read => {
                if let Some(back) = pointer.filter(|back| !self.regions.reader.contains(back)) {
                    self.part.return_by(calls::Frame { slot: address, back });
                }
            }
        }
    }
}
