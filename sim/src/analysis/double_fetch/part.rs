//! What is kept of a stretch: what was found, which calls are open, and what is undecided because of calls that may
//! have been open at its start.

use super::calls::{Calls, Fetch, Frame, Pair, Times, Writer};
use super::{DoubleFetchOutcome, Finding};
use crate::analysis::kept::Kept;
use crate::analysis::stretch::{MergeError, Stretch};
use crate::limits::{PLACES_KEPT, STEPS_UNDECIDED};
use pageswarm_machine::CheckpointIndex;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// The last access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// There was none.
    None,
    Reader,
    /// Of other code; what may be a return address, if it wrote that.
    Other(Option<Frame>),
}

/// The last writer of each of eight bytes, those of the reader before those of others: see [`Calls::written`], where a
/// byte that the reader wrote is as good as not fetched, whoever wrote it too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Written {
    reader: u8,
    other: u8,
}

/// What matters to calls that were open at the stretch's start, if there were any.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Fetch(Fetch),
    Reuse(u64),
    Return(Frame),
    /// By address, in units of eight bytes. All between two other steps are one step.
    Written(BTreeMap<u64, Written>),
}

/// The double fetches of one stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoubleFetchPart {
    stretch: Stretch,
    pairs: Kept<Pair, Times>,
    began: u64,
    fetches: u64,
    calls: Calls,
    /// The first access was the reader's: a call may have begun with it.
    is_first_of_reader: bool,
    last: Last,
    undecided: Vec<Step>,
    /// What the steps take room for.
    room_used: usize,
    reused: HashSet<u64>,
    returned: HashSet<Frame>,
    is_cut: bool,
}

impl DoubleFetchPart {
    pub(super) fn new(index: CheckpointIndex) -> Self {
        Self {
            stretch: Stretch::one(index, 0),
            pairs: Kept::new(PLACES_KEPT),
            began: 0,
            fetches: 0,
            calls: Calls::default(),
            is_first_of_reader: false,
            last: Last::None,
            undecided: Vec::new(),
            room_used: 0,
            reused: HashSet::new(),
            returned: HashSet::new(),
            is_cut: false,
        }
    }

    /// The reader makes an access.
    #[inline]
    pub(super) fn arrive(&mut self) {
        match self.last {
            Last::Reader => return,
            Last::None => self.is_first_of_reader = true,
            Last::Other(frame) => self.enter(frame),
        }
        self.last = Last::Reader;
    }

    /// Other code made an access.
    #[inline]
    pub(super) fn leave(&mut self, frame: Option<Frame>) {
        self.last = Last::Other(frame);
    }

    fn enter(&mut self, frame: Option<Frame>) {
        if let Some(frame) = frame {
            self.reuse(frame.slot);
            self.calls.enter(frame);
            self.began += 1;
        }
    }

    fn reuse(&mut self, slot: u64) {
        self.calls.reuse(slot);
        // What was open there at the start is over; once is enough.
        if self.has_room() && self.reused.insert(slot) {
            self.keep(Step::Reuse(slot));
        }
    }

    pub(super) fn return_by(&mut self, frame: Frame) {
        if !self.calls.return_by(frame) && self.has_room() && self.returned.insert(frame) {
            self.keep(Step::Return(frame));
        }
    }

    pub(super) fn fetch(&mut self, fetch: Fetch) {
        if self.calls.is_empty() {
            if self.has_room() {
                self.keep(Step::Fetch(fetch));
            }
        } else {
            self.fetches += 1;
            self.calls.fetch(fetch, &mut self.pairs);
        }
    }

    pub(super) fn written(&mut self, writer: Writer, bytes: Range<u64>) {
        self.calls.written(writer, bytes.clone());
        if !self.has_room() {
            return;
        }
        if !matches!(self.undecided.last(), Some(Step::Written(_))) {
            self.keep(Step::Written(BTreeMap::new()));
        }
        let Some(Step::Written(places)) = self.undecided.last_mut() else {
            return;
        };
        let before = places.len();
        for byte in bytes {
            let written = places.entry(byte / 8).or_default();
            match writer {
                Writer::Reader => written.reader |= 1 << (byte % 8),
                Writer::Other => written.other |= 1 << (byte % 8),
            }
        }
        self.room_used += places.len() - before;
    }

    fn has_room(&mut self) -> bool {
        self.is_cut |= self.room_used >= STEPS_UNDECIDED;
        !self.is_cut
    }

    fn keep(&mut self, step: Step) {
        self.undecided.push(step);
        self.room_used += 1;
    }

    pub(super) const fn closed(mut self, instructions: u64) -> Self {
        self.stretch.instructions = instructions;
        self
    }

    pub(super) fn followed_by(mut self, later: Self) -> Result<Self, MergeError> {
        let stretch = self.stretch.followed_by(later.stretch)?;
        let border = self.stretch.instructions;
        if later.is_first_of_reader {
            self.arrive();
        }
        for step in later.undecided {
            self.decide(step, border);
        }
        let mut pairs = later.pairs;
        pairs.change(|times| times.first_seen = times.first_seen.saturating_add(border));
        self.pairs.append(pairs);
        self.calls.append(later.calls, border);
        if later.last != Last::None {
            self.last = later.last;
        }
        self.stretch = stretch;
        self.began += later.began;
        self.fetches += later.fetches;
        self.is_cut |= later.is_cut;
        Ok(self)
    }

    /// A step of a later part, as if it came now.
    fn decide(&mut self, step: Step, border: u64) {
        match step {
            Step::Fetch(fetch) => {
                let instruction = fetch.instruction.saturating_add(border);
                self.fetch(Fetch { instruction, ..fetch });
            }
            Step::Reuse(slot) => self.reuse(slot),
            Step::Return(frame) => self.return_by(frame),
            Step::Written(places) => {
                for (place, written) in places {
                    for byte in place * 8..=place * 8 + 7 {
                        if written.other >> (byte % 8) & 1 != 0 {
                            self.written(Writer::Other, byte..byte + 1);
                        }
                        if written.reader >> (byte % 8) & 1 != 0 {
                            self.written(Writer::Reader, byte..byte + 1);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn outcome(&self) -> DoubleFetchOutcome {
        let finding = |((first_rip, second_rip), times): (Pair, &Times)| Finding {
            first_rip,
            second_rip,
            times: times.times,
            written_between: times.written_between,
            changed: times.changed,
            lowest_address: times.lowest,
            highest_address: times.highest,
            first_seen: times.first_seen,
        };
        let mut findings: Vec<Finding> = self.pairs.iter().map(finding).collect();
        findings.sort_unstable_by_key(|finding| {
            let Finding { changed, written_between, times, first_rip, second_rip, .. } = *finding;
            (std::cmp::Reverse((changed, written_between, times)), first_rip, second_rip)
        });
        let is_fetch = |step: &&Step| matches!(step, Step::Fetch(_));
        DoubleFetchOutcome {
            calls: self.began,
            fetches: self.fetches,
            fetches_outside_calls: self.undecided.iter().filter(is_fetch).count() as u64,
            findings,
            other_times: self.pairs.others.times,
            forgotten_bytes: self.calls.forgotten_bytes,
            forgotten_calls: self.calls.forgotten_calls,
            is_cut: self.is_cut,
        }
    }
}
