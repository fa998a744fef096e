//! Analyses of simulated intervals: what intervals are mapped to, one by one and anywhere, is merged with its
//! neighbours to what one long interval would have given.
//!
//! An [`Analysis`] says what is seen of one interval (its [`Analysis::Observer`]), what is kept of it
//! ([`Analysis::Part`]), how the parts of neighbours become one, and what the result is. It holds for each that is
//! built in, and should for every other, that *merging is associative and the result over N intervals is the result
//! over one*: intervals are cut where time is over, not where something ends.
//!
//! ```text
//! interval k   --begin--> observer --accesses--> end --> part --+
//!                                                               merge --> part --finish--> outcome
//! interval k+1 --begin--> observer --accesses--> end --> part --+
//! ```
//!
//! An observer is given to [`replay_while`](crate::replay_while) and comes back in
//! [`Replayed::observer`](crate::Replayed::observer); [`map`] feeds it from a stored trace instead. Times are
//! instructions since the interval's start, since nobody who simulates one interval knows how long those before it
//! are; merging moves the later part's times behind the earlier part's end.
//!
//! Built in are [`Redundancy`], [`WorkingSets`], [`WriteHeat`] and [`DoubleFetch`]. A [`Study`] merges parts as they
//! come and keeps each interval's own outcome beside the whole's; its [`Series`] has a table, a picture and a form for
//! serde. `examples/own_analysis.rs` is an analysis of somebody else.

mod double_fetch;
mod kept;
mod picture;
mod place;
mod redundancy;
mod series;
mod stretch;
mod table;
mod working_sets;
mod write_heat;

pub use double_fetch::{
    DoubleFetch, DoubleFetchObserver, DoubleFetchOutcome, DoubleFetchPart, Finding, Regions,
};
pub use picture::{Anchor, Picture, Shade};
pub use redundancy::{
    Kind, KindFigures, Lifetime, Origin, OriginFigures, Redundancy, RedundancyObserver, RedundancyOutcome,
    RedundancyPart, Redundant, Reference,
};
pub use series::{Listed, Report, Series, Study};
pub use stretch::{MergeError, Start, Stretch};
pub use table::Table;
pub use working_sets::{WorkingSetOutcome, WorkingSetPart, WorkingSets};
pub use write_heat::{HotPage, WriteHeat, WriteHeatOutcome, WriteHeatPart};

use crate::observe::{Access, Observer};

/// How intervals are looked at.
///
/// Merging must be associative: `merge(a, merge(b, c))` is `merge(merge(a, b), c)`. Nothing may depend on where a border
/// is; what straddles one is kept open in both parts and closed by the merge.
pub trait Analysis {
    /// Sees the accesses of one interval.
    type Observer: Observer;
    /// What is known of a stretch: one interval, or several neighbours merged.
    type Part;
    /// The result.
    type Outcome;

    /// Before an interval.
    fn begin(&self, start: &Start<'_>) -> Self::Observer;

    /// After an interval of so many instructions.
    fn end(&self, observer: Self::Observer, instructions: u64) -> Self::Part;

    /// Two neighbours as one.
    ///
    /// # Errors
    /// When they are not neighbours.
    fn merge(&self, earlier: Self::Part, later: Self::Part) -> Result<Self::Part, MergeError>;

    /// The result for a stretch. What was open at its start, or is at its end, stays unknown to it.
    fn finish(&self, part: &Self::Part) -> Self::Outcome;
}

/// Maps an interval whose accesses were kept: they come in the order in which they were made.
pub fn map<A: Analysis>(
    analysis: &A,
    start: &Start<'_>,
    accesses: impl IntoIterator<Item = Access>,
    instructions: u64,
) -> A::Part {
    let mut observer = analysis.begin(start);
    for access in accesses {
        observer.access(access);
    }
    analysis.end(observer, instructions)
}
