//! Which pages, and which 64-byte lines of them, an interval touches.
//!
//! Instructions and page tables are not among the accesses that an observer sees, so the pages that only they use are
//! not counted. Memory: 17 bytes for each page of RAM.

use crate::analysis::picture::{COLOURS, Legend, Plot};
use crate::analysis::place::Place;
use crate::analysis::stretch::{MergeError, Start, Stretch};
use crate::analysis::{Analysis, Picture, Report, Series, Table};
use crate::observe::{Access, AccessKind, Observer};
use pageswarm_machine::CheckpointIndex;
use serde::Serialize;

/// The analysis.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkingSets;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum First {
    #[default]
    None,
    Read,
    Write,
}

/// What one stretch touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkingSetPart {
    stretch: Stretch,
    /// A bit for each line of each page.
    lines_read: Vec<u64>,
    lines_written: Vec<u64>,
    first: Vec<First>,
    reads: u64,
    writes: u64,
    elsewhere: u64,
}

/// A working set. Pages have 4096 bytes, lines 64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WorkingSetOutcome {
    /// Pages that were only read.
    pub pages_only_read: u64,
    /// Pages that were only written.
    pub pages_only_written: u64,
    /// Pages that were read and written.
    pub pages_read_and_written: u64,
    /// Pages that were read before anything was written to them: whoever resumes here needs them first.
    pub pages_read_first: u64,
    /// Lines that were read.
    pub lines_read: u64,
    /// Lines that were written.
    pub lines_written: u64,
    /// Accesses that were reads.
    pub reads: u64,
    /// Accesses that were writes.
    pub writes: u64,
    /// Accesses that are in no page of RAM: none, unless a trace is wrong.
    pub elsewhere: u64,
}

impl Analysis for WorkingSets {
    type Observer = WorkingSetPart;
    type Part = WorkingSetPart;
    type Outcome = WorkingSetOutcome;

    fn begin(&self, start: &Start<'_>) -> WorkingSetPart {
        WorkingSetPart::new(start.index, start.pages())
    }

    fn end(&self, mut observer: WorkingSetPart, instructions: u64) -> WorkingSetPart {
        observer.stretch.instructions = instructions;
        observer
    }

    fn merge(
        &self,
        mut earlier: WorkingSetPart,
        later: WorkingSetPart,
    ) -> Result<WorkingSetPart, MergeError> {
        let stretch = earlier.stretch.followed_by(later.stretch)?;
        if earlier.first.len() != later.first.len() {
            return Err(MergeError::OtherRam { at: later.stretch.from });
        }
        earlier.stretch = stretch;
        earlier.reads += later.reads;
        earlier.writes += later.writes;
        earlier.elsewhere += later.elsewhere;
        let add = |lines: &mut [u64], more: &[u64]| {
            lines.iter_mut().zip(more).for_each(|(lines, more)| *lines |= more);
        };
        add(&mut earlier.lines_read, &later.lines_read);
        add(&mut earlier.lines_written, &later.lines_written);
        for (first, later) in earlier.first.iter_mut().zip(later.first) {
            if *first == First::None {
                *first = later;
            }
        }
        Ok(earlier)
    }

    fn finish(&self, part: &WorkingSetPart) -> WorkingSetOutcome {
        let (reads, writes, elsewhere) = (part.reads, part.writes, part.elsewhere);
        let mut outcome = WorkingSetOutcome { reads, writes, elsewhere, ..WorkingSetOutcome::default() };
        for ((read, written), first) in part.lines_read.iter().zip(&part.lines_written).zip(&part.first) {
            outcome.lines_read += u64::from(read.count_ones());
            outcome.lines_written += u64::from(written.count_ones());
            outcome.pages_only_read += u64::from(*read != 0 && *written == 0);
            outcome.pages_only_written += u64::from(*read == 0 && *written != 0);
            outcome.pages_read_and_written += u64::from(*read != 0 && *written != 0);
            outcome.pages_read_first += u64::from(*first == First::Read);
        }
        outcome
    }
}

impl WorkingSetPart {
    fn new(index: CheckpointIndex, pages: usize) -> Self {
        Self {
            stretch: Stretch::one(index, 0),
            lines_read: vec![0; pages],
            lines_written: vec![0; pages],
            first: vec![First::None; pages],
            reads: 0,
            writes: 0,
            elsewhere: 0,
        }
    }
}

impl Observer for WorkingSetPart {
    #[inline]
    fn access(&mut self, access: Access) {
        let Some(place) = Place::of(&access, self.first.len()) else {
            self.elsewhere += 1;
            return;
        };
        let (lines, first) = match access.kind {
            AccessKind::Read => {
                self.reads += 1;
                (&mut self.lines_read, First::Read)
            }
            AccessKind::Write => {
                self.writes += 1;
                (&mut self.lines_written, First::Write)
            }
        };
        lines[place.page] |= place.lines();
        if self.first[place.page] == First::None {
            self.first[place.page] = first;
        }
    }
}

impl WorkingSetOutcome {
    /// Pages that were touched.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages_only_read + self.pages_only_written + self.pages_read_and_written
    }

    /// Pages that were written.
    #[must_use]
    pub const fn pages_written(&self) -> u64 {
        self.pages_only_written + self.pages_read_and_written
    }
}

impl Report for WorkingSetOutcome {
    const TITLE: &'static str = "Working sets";
    const HEADS: &'static [&'static str] =
        &["pages", "only read", "only written", "both", "read first", "lines read", "lines written"];

    fn row(&self) -> Vec<String> {
        let pages =
            [self.pages(), self.pages_only_read, self.pages_only_written, self.pages_read_and_written];
        let rest = [self.pages_read_first, self.lines_read, self.lines_written];
        pages.iter().chain(&rest).map(u64::to_string).collect()
    }

    fn tables(&self) -> Vec<(&'static str, Table)> {
        let mut table = Table::new(["", "read", "written"]);
        let read = self.pages_only_read + self.pages_read_and_written;
        let rows = [
            ("accesses", self.reads, self.writes),
            ("pages", read, self.pages_written()),
            ("lines of 64 bytes", self.lines_read, self.lines_written),
        ];
        for (name, read, written) in rows {
            table.push([name.to_owned(), read.to_string(), written.to_string()]);
        }
        vec![("The whole stretch", table)]
    }

    fn picture(series: &Series<Self>) -> Picture {
        let mut picture = Picture::new(960.0, 620.0, Self::TITLE, &series.caption());
        let most = |figure: fn(&Self) -> u64| {
            series.intervals.iter().map(|listed| figure(&listed.outcome)).max().unwrap_or(0).max(1) as f64
        };
        let (from, count) = (series.from.0 as f64, series.intervals.len() as f64);
        let pages = Plot {
            left: 70.0,
            top: 90.0,
            width: 720.0,
            height: 200.0,
            x: (from, from + count),
            y_max: most(Self::pages),
        };
        let lines_max = most(|outcome| outcome.lines_read.max(outcome.lines_written));
        let lines = Plot { top: 350.0, y_max: lines_max, ..pages };
        pages.frame(&mut picture, "Pages touched", "interval");
        lines.frame(&mut picture, "Lines of 64 bytes touched", "interval");
        for (place, listed) in series.intervals.iter().enumerate() {
            let (x, outcome) = (from + place as f64, &listed.outcome);
            let stack = [outcome.pages_only_read, outcome.pages_read_and_written, outcome.pages_only_written];
            let mut below = 0.0;
            for (value, colour) in stack.into_iter().zip(COLOURS) {
                below = pages.bar(&mut picture, x, below, value as f64, colour);
            }
        }
        for (figure, colour) in [(true, COLOURS[0]), (false, COLOURS[1])] {
            let steps = series.intervals.iter().enumerate().flat_map(|(place, listed)| {
                let outcome = &listed.outcome;
                let value = if figure { outcome.lines_read } else { outcome.lines_written };
                let (x, y) = (from + place as f64, lines.y(value as f64));
                [(lines.x(x), y), (lines.x(x + 1.0), y)]
            });
            picture.line(steps, colour, 1.5);
        }
        let kinds =
            [("only read", COLOURS[0]), ("read and written", COLOURS[1]), ("only written", COLOURS[2])];
        Legend { at: (810.0, 110.0), entries: &kinds }.draw(&mut picture);
        let ways = [("read", COLOURS[0]), ("written", COLOURS[1])];
        Legend { at: (810.0, 370.0), entries: &ways }.draw(&mut picture);
        picture
    }
}
