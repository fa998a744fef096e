//! From the needs of all nodes to the latest spread, and to its distance from the bound of the links.

use std::time::Duration;

use pageswarm_checkpoint::wire::{LinkRate, NeedTime};
use pageswarm_checkpoint::{LineageId, NodeId};
use pageswarm_swarm::{BirthSet, Distribution, Link, Part, Rate};

use super::QUIET;

/// A span of time, by how long ago it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Since its start.
    pub started: Duration,
    /// Since its end; zero if it goes on.
    pub ended: Duration,
}

/// What one node needs of a lineage.
#[derive(Clone, Debug)]
pub struct NodeNeed {
    /// Who.
    pub node: NodeId,
    /// What it can send.
    pub up: LinkRate,
    /// What it can receive.
    pub down: LinkRate,
    /// Encoded bytes of all that it lacked in its latest need, as far as known in the form in which they came.
    pub lacked_bytes: u64,
    /// The same as they were born.
    pub born_bytes: u64,
    /// Of the first, bytes still missing.
    pub missing_bytes: u64,
    /// When it lacked something.
    pub spans: Vec<Span>,
    /// All that it lacked.
    pub births: BirthSet,
}

/// The needs that belong to the latest spread; of nodes that are not in it only the links.
#[derive(Clone, Debug)]
pub(super) struct Latest {
    nodes: Vec<NodeNeed>,
    busy: Duration,
}

/// Encoded bytes, as they were born, of a set of births.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Of all of them.
    pub born_bytes: u64,
    /// Of those that only the writer holds.
    pub only_at_writer_bytes: u64,
}

/// A spread and what the links allow.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Of which lineage.
    pub lineage: LineageId,
    /// All nodes heard of that follow it, those that lacked nothing too.
    pub nodes: Vec<NodeNeed>,
    /// Who wrote it.
    pub writer: NodeId,
    /// Encoded bytes of what at least one node lacked.
    pub union_bytes: u64,
    /// Encoded bytes that nodes lacked, a chunk counted for each of them.
    pub lacked_bytes: u64,
    /// Of these, bytes still missing.
    pub missing_bytes: u64,
    /// How many times less the writer could send than one server that serves each node, in thousandths.
    pub gain_permille: u64,
    /// Time in which at least one node lacked something.
    pub busy: Duration,
    /// The least that the links need for all of it, and which of them; `None` if too few rates are known.
    pub bound: Option<Binding>,
    /// The least that the links need for what is missing; zero if nothing is.
    pub left: Duration,
}

/// The bound of the links, and what binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// No spread of this takes less.
    pub time: Duration,
    /// The link that makes it so.
    pub link: Link,
    /// Its rate.
    pub rate: LinkRate,
}

impl Span {
    /// A span that was told `since` ago.
    pub(super) fn at_hearing(time: NeedTime, since: Duration) -> Self {
        let ended = match time.ended_ms_ago {
            0 => Duration::ZERO,
            ms => Duration::from_millis(ms).saturating_add(since),
        };
        let started = Duration::from_millis(time.started_ms_ago).saturating_add(since);
        Self { started: started.max(ended), ended }
    }
}

impl NodeNeed {
    /// A node that lacked nothing.
    pub(super) fn nothing(node: NodeId, up: LinkRate, down: LinkRate) -> Self {
        let (lacked_bytes, born_bytes, missing_bytes) = (0, 0, 0);
        let births = BirthSet::new();
        Self { node, up, down, lacked_bytes, born_bytes, missing_bytes, spans: Vec::new(), births }
    }

    fn is_none(&self) -> bool {
        self.lacked_bytes == 0 || self.spans.is_empty()
    }

    /// Since its first span began, and since its last one ended.
    fn reach(&self) -> Option<Span> {
        let (first, last) = (self.spans.first()?, self.spans.last()?);
        Some(Span { started: first.started, ended: last.ended })
    }

    /// What it received over the time in which it lacked something: its downlink did that much at least.
    fn average(&self) -> Rate {
        let busy = busy(self.spans.iter().copied());
        let came = u128::from(self.lacked_bytes.saturating_sub(self.missing_bytes));
        let rate = (came * 1_000_000_000).checked_div(busy.as_nanos())?;
        u64::try_from(rate).ok().and_then(std::num::NonZeroU64::new)
    }

    /// A downlink that was measured is at least as fast as what came through it on average: short bursts escape the
    /// windows in which rates are measured.
    fn down(&self) -> LinkRate {
        match self.down {
            LinkRate::Configured(_) => self.down,
            LinkRate::Measured(_) | LinkRate::Unknown => {
                LinkRate::measured(self.down.bytes_per_s().max(self.average()))
            }
        }
    }
}

/// Total time that the spans cover.
fn busy(spans: impl Iterator<Item = Span>) -> Duration {
    let mut spans: Vec<Span> = spans.collect();
    // Latest end first; from there back in time.
    spans.sort_by_key(|span| span.ended);
    let (mut total, mut reached) = (Duration::ZERO, Duration::ZERO);
    for span in spans {
        total += span.started.saturating_sub(span.ended.max(reached));
        reached = reached.max(span.started);
    }
    total
}

/// The latest spread: the need that ended last or goes on, and all that are linked with it by no more than [`QUIET`]
/// between them. `None` if nobody lacked anything.
pub(super) fn latest(mut nodes: Vec<NodeNeed>) -> Option<Latest> {
    let mut reaches: Vec<Span> =
        nodes.iter().filter(|need| !need.is_none()).filter_map(NodeNeed::reach).collect();
    reaches.sort_by_key(|reach| reach.ended);
    let mut begun = reaches.first()?.started;
    for reach in &reaches {
        if reach.ended <= begun.saturating_add(QUIET) {
            begun = begun.max(reach.started);
        }
    }
    for need in &mut nodes {
        if need.is_none() || need.reach().is_none_or(|reach| reach.ended > begun) {
            *need = NodeNeed::nothing(need.node, need.up, need.down);
        }
    }
    let busy = busy(nodes.iter().flat_map(|need| need.spans.iter().copied()));
    Some(Latest { nodes, busy })
}

impl Latest {
    /// What at least one node lacked.
    pub(super) fn union(&self) -> BirthSet {
        let mut union = BirthSet::new();
        self.nodes.iter().for_each(|need| union.add(&need.births));
        union
    }

    /// The spread against its bound; `weight` is the union's.
    pub(super) fn against_links(self, lineage: LineageId, writer: NodeId, weight: Weight) -> Observed {
        let sum = |of: fn(&NodeNeed) -> u64| self.nodes.iter().map(of).fold(0, u64::saturating_add);
        let (lacked_bytes, born_bytes) = (sum(|need| need.lacked_bytes), sum(|need| need.born_bytes));
        let missing_bytes = sum(|need| need.missing_bytes);
        let most = |of: fn(&NodeNeed) -> u64| self.nodes.iter().map(of).max().unwrap_or(0);
        // Chunks that came in another form than that in which they were born make the union as much larger or smaller.
        let as_came = |born: u64| scale(born, lacked_bytes, born_bytes);
        // A union is not smaller than a part, nor larger than all parts together.
        let union_bytes = as_came(weight.born_bytes).clamp(most(|need| need.lacked_bytes), lacked_bytes);
        let at_writer = as_came(weight.only_at_writer_bytes).min(missing_bytes);
        let whole = self.bound(writer, union_bytes, |need| need.lacked_bytes);
        let left = self.bound(writer, at_writer, |need| need.missing_bytes);
        let all = Distribution {
            writer_up: None,
            union_bytes,
            parts: &self.parts(writer, |need| need.lacked_bytes),
        };
        Observed {
            lineage,
            writer,
            union_bytes,
            lacked_bytes,
            missing_bytes,
            gain_permille: all.gain_permille().unwrap_or(1000),
            busy: self.busy,
            bound: whole,
            left: left.map_or(Duration::ZERO, |binding| binding.time),
            nodes: self.nodes,
        }
    }

    fn parts(&self, writer: NodeId, bytes: fn(&NodeNeed) -> u64) -> Vec<Part> {
        let others = self.nodes.iter().filter(|need| need.node != writer);
        let part = |need: &NodeNeed| Part {
            node: need.node,
            lacked_bytes: bytes(need),
            up: need.up.bytes_per_s(),
            down: need.down().bytes_per_s(),
        };
        others.map(part).collect()
    }

    fn bound(&self, writer: NodeId, union_bytes: u64, bytes: fn(&NodeNeed) -> u64) -> Option<Binding> {
        let find = |id: NodeId| self.nodes.iter().find(|need| need.node == id);
        let writer_up = find(writer).map(|need| need.up).unwrap_or_default();
        let parts = self.parts(writer, bytes);
        let distribution = Distribution { writer_up: writer_up.bytes_per_s(), union_bytes, parts: &parts };
        let bound = distribution.bound()?;
        let is_configured = match bound.binds {
            Link::WriterUp => matches!(writer_up, LinkRate::Configured(_)),
            Link::NodeDown(id) => find(id).is_some_and(|need| matches!(need.down(), LinkRate::Configured(_))),
            Link::SwarmUp => self.nodes.iter().all(|need| matches!(need.up, LinkRate::Configured(_))),
        };
        let rate = if is_configured {
            LinkRate::Configured(bound.bytes_per_s)
        } else {
            LinkRate::Measured(bound.bytes_per_s)
        };
        Some(Binding { time: bound.time, link: bound.binds, rate })
    }
}

impl Observed {
    /// Whether some node still lacks something.
    #[must_use]
    pub const fn goes_on(&self) -> bool {
        self.missing_bytes > 0
    }

    /// The time of the spread over its bound, in thousandths. While it goes on: the best that it can still come to.
    #[must_use]
    pub fn over_bound_permille(&self) -> Option<u64> {
        let bound = self.bound?.time.as_micros();
        let took = self.busy.saturating_add(self.left).as_micros();
        u64::try_from((took * 1000).checked_div(bound)?).ok()
    }
}

fn scale(bytes: u64, by: u64, over: u64) -> u64 {
    let scaled = (u128::from(bytes) * u128::from(by)).checked_div(u128::from(over));
    scaled.map_or(bytes, |scaled| u64::try_from(scaled).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use pageswarm_checkpoint::Birth;

    use super::*;

    const MB: u64 = 1_000_000;
    const LINEAGE: LineageId = LineageId([7; 32]);

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn configured(mb_per_s: u64) -> LinkRate {
        LinkRate::Configured(NonZeroU64::new(mb_per_s * MB).unwrap())
    }

    fn measured(mb_per_s: u64) -> LinkRate {
        LinkRate::Measured(NonZeroU64::new(mb_per_s * MB).unwrap())
    }

    fn span(started_ms: u64, ended_ms: u64) -> Span {
        Span { started: Duration::from_millis(started_ms), ended: Duration::from_millis(ended_ms) }
    }

    fn link(number: u8, up: LinkRate, down: LinkRate) -> NodeNeed {
        NodeNeed::nothing(node(number), up, down)
    }

    /// A node that lacked births `first` to `last`, a megabyte each, of which `missing` are missing.
    fn lacks(of: NodeNeed, first: u64, last: u64, missing: u64, spans: &[Span]) -> NodeNeed {
        let lacked_bytes = (last - first + 1) * MB;
        NodeNeed {
            lacked_bytes,
            born_bytes: lacked_bytes,
            missing_bytes: missing * MB,
            spans: spans.to_vec(),
            births: BirthSet::range(Birth(first), Birth(last)),
            ..of
        }
    }

    fn observe(nodes: Vec<NodeNeed>, only_at_writer_mb: u64) -> Observed {
        let latest = latest(nodes).expect("somebody lacks something");
        let born_bytes = latest.union().len() * MB;
        let weight = Weight { born_bytes, only_at_writer_bytes: only_at_writer_mb * MB };
        latest.against_links(LINEAGE, node(0), weight)
    }

    #[test]
    fn spans_that_overlap_count_once() {
        let spans = [span(1000, 700), span(900, 800), span(750, 400), span(100, 0)];
        assert_eq!(busy(spans.into_iter()), Duration::from_millis(300 + 300 + 100));
        assert_eq!(busy([span(500, 500)].into_iter()), Duration::ZERO);
    }

    #[test]
    fn a_spread_that_ended_is_measured_against_all_of_it() {
        // Two lack 20 and 10 of a union of 25: 25 / 5 = 5 s, 20 / 10 = 2 s, 30 / (5 + 5 + 5) = 2 s. It took 6 s.
        let nodes = vec![
            link(0, configured(5), LinkRate::Unknown),
            lacks(link(1, configured(5), measured(10)), 0, 19, 0, &[span(9000, 4000)]),
            lacks(link(2, configured(5), measured(10)), 15, 24, 0, &[span(8000, 3000)]),
        ];
        let seen = observe(nodes, 0);
        assert!(!seen.goes_on());
        assert_eq!((seen.union_bytes, seen.lacked_bytes, seen.gain_permille), (25 * MB, 30 * MB, 1200));
        assert_eq!(seen.busy, Duration::from_secs(6));
        let binding = Binding { time: Duration::from_secs(5), link: Link::WriterUp, rate: configured(5) };
        assert_eq!(seen.bound, Some(binding));
        assert_eq!(seen.over_bound_permille(), Some(1200));
    }

    #[test]
    fn while_it_goes_on_the_best_that_is_left_counts() {
        // The bound is 40 / 4 = 10 s. After 3 s, 32 are only at the writer: 8 s more, 11 s at best.
        let nodes = vec![
            link(0, configured(4), LinkRate::Unknown),
            lacks(link(1, configured(40), measured(40)), 0, 39, 35, &[span(3000, 0)]),
            lacks(link(2, configured(40), measured(40)), 0, 39, 36, &[span(3000, 0)]),
        ];
        let seen = observe(nodes, 32);
        assert!(seen.goes_on());
        assert_eq!(seen.left, Duration::from_secs(8));
        assert_eq!(seen.over_bound_permille(), Some(1100));
    }

    #[test]
    fn a_node_with_a_slow_downlink_is_named() {
        // 20 / 2 = 10 s at node 2; the writer needs 20 / 5 = 4 s.
        let nodes = vec![
            link(0, configured(5), LinkRate::Unknown),
            lacks(link(1, configured(5), measured(10)), 0, 19, 0, &[span(11_000, 5000)]),
            lacks(link(2, configured(5), measured(2)), 0, 19, 0, &[span(11_000, 500)]),
        ];
        let binding =
            Binding { time: Duration::from_secs(10), link: Link::NodeDown(node(2)), rate: measured(2) };
        assert_eq!(observe(nodes, 0).bound, Some(binding));
    }

    #[test]
    fn what_came_in_less_time_than_a_rate_is_measured_in_was_faster() {
        // 20 in 100 ms is 200 MB/s, whatever the windows of 250 ms saw.
        let nodes = vec![
            link(0, LinkRate::Unknown, LinkRate::Unknown),
            lacks(link(1, LinkRate::Unknown, measured(80)), 0, 19, 0, &[span(600, 500)]),
        ];
        let seen = observe(nodes, 0);
        assert_eq!(seen.bound.map(|binding| binding.rate), Some(measured(200)));
        assert_eq!(seen.over_bound_permille(), Some(1000));
    }

    #[test]
    fn needs_long_before_are_of_another_spread_and_close_ones_of_one() {
        let needs = |ended: u64| {
            vec![
                link(0, configured(5), LinkRate::Unknown),
                lacks(link(1, configured(5), measured(10)), 0, 9, 0, &[span(ended + 500, ended)]),
                lacks(link(2, configured(5), measured(10)), 5, 14, 0, &[span(1000, 200)]),
            ]
        };
        // The later one begins 1000 ms ago; what ended up to a second before that belongs to it.
        let joined = observe(needs(2000), 0);
        assert_eq!((joined.lacked_bytes, joined.union_bytes), (20 * MB, 15 * MB));
        assert_eq!(joined.busy, Duration::from_millis(500 + 800));
        let apart = observe(needs(2001), 0);
        assert_eq!((apart.lacked_bytes, apart.union_bytes), (10 * MB, 10 * MB));
        assert_eq!(apart.nodes.len(), 3, "its links still count");
    }

    #[test]
    fn forms_in_which_chunks_came_scale_the_union_within_its_parts() {
        let came = |bytes: u64| {
            let mut one = lacks(link(1, configured(5), measured(10)), 0, 9, 0, &[span(1000, 200)]);
            let mut two = lacks(link(2, configured(5), measured(10)), 10, 19, 0, &[span(1000, 200)]);
            (one.lacked_bytes, two.lacked_bytes) = (bytes, bytes);
            observe(vec![link(0, configured(5), LinkRate::Unknown), one, two], 0).union_bytes
        };
        assert_eq!(came(5 * MB), 10 * MB);
        assert_eq!(came(30 * MB), 60 * MB);
    }

    #[test]
    fn where_nobody_lacks_anything_there_is_no_spread() {
        assert!(latest(vec![link(0, configured(5), LinkRate::Unknown)]).is_none());
        let told = Span::at_hearing(NeedTime { started_ms_ago: 50, ended_ms_ago: 0 }, Duration::from_secs(2));
        assert_eq!(told, span(2050, 0));
        let over =
            Span::at_hearing(NeedTime { started_ms_ago: 50, ended_ms_ago: 20 }, Duration::from_secs(2));
        assert_eq!(over, span(2050, 2020));
    }
}
