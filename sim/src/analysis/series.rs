//! Outcomes of several intervals: each interval's own, and the whole's.

use crate::analysis::stretch::{MergeError, Start, Stretch};
use crate::analysis::{Analysis, Picture, Table};
use crate::limits::INTERVALS_LISTED;
use pageswarm_machine::CheckpointIndex;
use serde::{Serialize, Serializer};
use std::fmt;

/// How an outcome is shown.
pub trait Report: Sized {
    /// What it is called.
    const TITLE: &'static str;
    /// The heads of [`Report::row`]'s cells.
    const HEADS: &'static [&'static str];

    /// The most important figures in one row.
    fn row(&self) -> Vec<String>;

    /// All figures, each table with its title.
    fn tables(&self) -> Vec<(&'static str, Table)>;

    /// The intervals' and the whole's outcomes as a picture.
    fn picture(series: &Series<Self>) -> Picture;
}

/// One interval's outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed<O> {
    /// The interval.
    #[serde(serialize_with = "number")]
    pub interval: CheckpointIndex,
    /// Its instructions.
    pub instructions: u64,
    /// What it gives by itself.
    pub outcome: O,
}

/// What an analysis found in a stretch of intervals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Series<O> {
    /// The checkpoint that the stretch begins with.
    #[serde(serialize_with = "number")]
    pub from: CheckpointIndex,
    /// The checkpoint that it ends with.
    #[serde(serialize_with = "number")]
    pub to: CheckpointIndex,
    /// Its instructions.
    pub instructions: u64,
    /// The outcome of all intervals as one.
    pub whole: O,
    /// The outcomes of the first intervals, at most 4096.
    pub intervals: Vec<Listed<O>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn number<S: Serializer>(index: &CheckpointIndex, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(index.0)
}

/// Merges the intervals of one analysis, in order.
#[derive(Debug)]
pub struct Study<A: Analysis> {
    analysis: A,
    merged: Option<(Stretch, A::Part)>,
    intervals: Vec<Listed<A::Outcome>>,
}

impl<A: Analysis> Study<A> {
    /// Of no interval yet.
    pub const fn new(analysis: A) -> Self {
        Self { analysis, merged: None, intervals: Vec::new() }
    }

    /// What sees the accesses of the interval that begins so.
    pub fn begin(&self, start: &Start<'_>) -> A::Observer {
        self.analysis.begin(start)
    }

    /// Adds an interval whose accesses were seen.
    ///
    /// # Errors
    /// When it does not follow the interval that was added last. The study is empty then.
    pub fn end(
        &mut self,
        interval: CheckpointIndex,
        observer: A::Observer,
        instructions: u64,
    ) -> Result<(), MergeError> {
        let part = self.analysis.end(observer, instructions);
        self.add(Stretch::one(interval, instructions), part)
    }

    /// Adds a part that was made elsewhere, as one row.
    ///
    /// # Errors
    /// As [`Self::end`].
    pub fn add(&mut self, stretch: Stretch, part: A::Part) -> Result<(), MergeError> {
        let outcome = self.analysis.finish(&part);
        let merged = match self.merged.take() {
            None => (stretch, part),
            Some((earlier, before)) => {
                let both = earlier.followed_by(stretch)?;
                (both, self.analysis.merge(before, part)?)
            }
        };
        self.merged = Some(merged);
        if self.intervals.len() < INTERVALS_LISTED {
            let (interval, instructions) = (stretch.from, stretch.instructions);
            self.intervals.push(Listed { interval, instructions, outcome });
        }
        Ok(())
    }

    /// The outcomes; none if there was no interval.
    pub fn finish(self) -> Option<Series<A::Outcome>> {
        let (stretch, part) = self.merged?;
        let Stretch { from, to, instructions } = stretch;
        Some(Series { from, to, instructions, whole: self.analysis.finish(&part), intervals: self.intervals })
    }
}

impl<O: Report> Series<O> {
    /// The tables: one row for each interval, then the whole's figures.
    #[must_use]
    pub fn text(&self) -> String {
        self.to_string()
    }

    /// The picture.
    #[must_use]
    pub fn picture(&self) -> Picture {
        O::picture(self)
    }

    /// A line under a picture's title.
    pub(crate) fn caption(&self) -> String {
        format!("checkpoints {} to {}, {} instructions", self.from.0, self.to.0, self.instructions)
    }
}

impl<O: Report> fmt::Display for Series<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", O::TITLE, self.caption())?;
        let mut rows = Table::of(["interval", "instructions"].iter().chain(O::HEADS).copied());
        let row = |first: String, instructions: u64, outcome: &O| {
            [first, instructions.to_string()].into_iter().chain(outcome.row())
        };
        for listed in &self.intervals {
            rows.push(row(listed.interval.0.to_string(), listed.instructions, &listed.outcome));
        }
        rows.push(row("all".to_owned(), self.instructions, &self.whole));
        writeln!(f, "\n{rows}")?;
        for (title, table) in self.whole.tables() {
            writeln!(f, "{title}\n{table}")?;
        }
        Ok(())
    }
}
