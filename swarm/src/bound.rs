//! The least time in which nodes can have what they lack, from their links alone: what a spread is measured against.
//!
//! With D_i what node i lacks, u_s what the writer can send, u_i and d_i what node i can send and receive, a second:
//! T >= max{ |union D_i| / u_s, max |D_i| / d_i, sum |D_i| / (u_s + sum u_i) }. The first two terms are of what must
//! pass one link, the third of all uplinks together (Kumar and Ross, "Peer-assisted file distribution: the minimum
//! distribution time", 2006, there for one file that all lack).

use std::num::NonZeroU64;
use std::time::Duration;

use pageswarm_checkpoint::NodeId;

/// Bytes a second; one that is not known binds nothing.
pub type Rate = Option<NonZeroU64>;

/// One node beside the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Who.
    pub node: NodeId,
    /// Encoded bytes of what it lacks.
    pub lacked_bytes: u64,
    /// What it can send.
    pub up: Rate,
    /// What it can receive.
    pub down: Rate,
}

/// What is to be distributed.
#[derive(Clone, Copy, Debug)]
pub struct Distribution<'parts> {
    /// What the writer can send.
    pub writer_up: Rate,
    /// Encoded bytes of what at least one node lacks.
    pub union_bytes: u64,
    /// All nodes but the writer, those that lack nothing too: they can send.
    pub parts: &'parts [Part],
}

/// The link, or links, that take longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The writer's uplink: everything that is lacked passes it once.
    WriterUp,
    /// A node's downlink.
    NodeDown(NodeId),
    /// All uplinks together.
    SwarmUp,
}

/// The bound, and what binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// No distribution takes less.
    pub time: Duration,
    /// Why.
    pub binds: Link,
    /// The rate of that link, or of these links together, in bytes a second.
    pub bytes_per_s: NonZeroU64,
}

impl Distribution<'_> {
    /// The bound; `None` if nothing is lacked, or if no rate is known that could bind. Of equal terms the first
    /// counts.
    #[must_use]
    pub fn bound(&self) -> Option<Bound> {
        let term = |binds, bytes: u64, rate: Rate| {
            let bytes_per_s = rate?;
            (bytes > 0).then(|| Bound { time: time(bytes, bytes_per_s), binds, bytes_per_s })
        };
        let writer = term(Link::WriterUp, self.union_bytes, self.writer_up);
        let downs =
            self.parts.iter().map(|part| term(Link::NodeDown(part.node), part.lacked_bytes, part.down));
        let swarm = term(Link::SwarmUp, self.lacked_bytes(), self.all_uplinks());
        let terms = std::iter::once(writer).chain(downs).chain([swarm]).flatten();
        terms.reduce(|longest, term| if term.time > longest.time { term } else { longest })
    }

    /// Encoded bytes that nodes lack, a chunk counted for each node that lacks it.
    #[must_use]
    pub fn lacked_bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.lacked_bytes))
    }

    /// How many times less a writer could send than a server that serves every node, in thousandths; `None` if nothing
    /// is lacked.
    #[must_use]
    pub fn gain_permille(&self) -> Option<u64> {
        let permille = u128::from(self.lacked_bytes()) * 1000;
        u64::try_from(permille.checked_div(u128::from(self.union_bytes))?).ok()
    }

    /// Known only if each of them is.
    fn all_uplinks(&self) -> Rate {
        let others = self.parts.iter().map(|part| part.up);
        others.fold(self.writer_up, |sum, up| Some(sum?.saturating_add(up?.get())))
    }
}

/// How long so many bytes take, rounded down to a microsecond.
fn time(bytes: u64, rate: NonZeroU64) -> Duration {
    let micros = u128::from(bytes) * 1_000_000 / u128::from(rate.get());
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn rate(mb_per_s: u64) -> Rate {
        NonZeroU64::new(mb_per_s * MB)
    }

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    /// `count` nodes that lack so many megabytes each.
    fn alike(count: u8, lacked_mb: u64, up: Rate, down: Rate) -> Vec<Part> {
        (1..=count).map(|n| Part { node: node(n), lacked_bytes: lacked_mb * MB, up, down }).collect()
    }

    fn bound(writer_up: Rate, union_mb: u64, parts: &[Part]) -> Option<(Duration, Link)> {
        let distribution = Distribution { writer_up, union_bytes: union_mb * MB, parts };
        distribution.bound().map(|bound| (bound.time, bound.binds))
    }

    #[test]
    fn the_writers_uplink_binds_where_all_links_are_alike() {
        // 100 / 10 = 10 s; 100 / 10 = 10 s; 8 * 100 / (9 * 10) = 8.9 s.
        let parts = alike(8, 100, rate(10), rate(10));
        assert_eq!(bound(rate(10), 100, &parts), Some((Duration::from_secs(10), Link::WriterUp)));
        let all = Distribution { writer_up: rate(10), union_bytes: 100 * MB, parts: &parts };
        assert_eq!(all.gain_permille(), Some(8000));
        assert_eq!(all.bound().unwrap().bytes_per_s.get(), 10 * MB);
    }

    #[test]
    fn one_slow_downlink_binds() {
        // 100 / 10 = 10 s; 100 / 2 = 50 s; 800 / 90 = 8.9 s.
        let mut parts = alike(8, 100, rate(10), rate(10));
        parts[4].down = rate(2);
        assert_eq!(bound(rate(10), 100, &parts), Some((Duration::from_secs(50), Link::NodeDown(node(5)))));
    }

    #[test]
    fn all_uplinks_together_bind_where_they_are_slow() {
        // 108 / 108 = 1 s; 108 / 200 = 0.54 s; 9 * 108 / (108 + 9 * 6) = 972 / 162 = 6 s.
        let parts = alike(9, 108, rate(6), rate(200));
        assert_eq!(bound(rate(108), 108, &parts), Some((Duration::from_secs(6), Link::SwarmUp)));
    }

    #[test]
    fn nodes_that_lack_nothing_send_too() {
        // As before, and nine that only send: 972 / (108 + 18 * 6) = 4.5 s.
        let mut parts = alike(9, 108, rate(6), rate(200));
        parts.extend(alike(9, 0, rate(6), rate(1)));
        assert_eq!(bound(rate(108), 108, &parts), Some((Duration::from_millis(4500), Link::SwarmUp)));
    }

    #[test]
    fn what_only_one_node_each_lacks_passes_the_writer_whole() {
        // 4 * 30 = 120 all different: 120 / 10 = 12 s, and nothing is gained.
        let parts = alike(4, 30, rate(10), rate(10));
        assert_eq!(bound(rate(10), 120, &parts), Some((Duration::from_secs(12), Link::WriterUp)));
        let all = Distribution { writer_up: rate(10), union_bytes: 120 * MB, parts: &parts };
        assert_eq!(all.gain_permille(), Some(1000));
    }

    #[test]
    fn what_is_not_known_binds_nothing() {
        let mut parts = alike(9, 108, rate(6), None);
        parts[0].up = None;
        // Without one uplink the sum is not known: 108 / 108 = 1 s is left.
        assert_eq!(bound(rate(108), 108, &parts), Some((Duration::from_secs(1), Link::WriterUp)));
        assert_eq!(bound(None, 108, &parts), None);
        parts[0].down = rate(27);
        assert_eq!(bound(None, 108, &parts), Some((Duration::from_secs(4), Link::NodeDown(node(1)))));
    }

    #[test]
    fn where_nothing_is_lacked_there_is_no_bound() {
        let parts = alike(3, 0, rate(1), rate(1));
        assert_eq!(bound(rate(1), 0, &parts), None);
        let nothing = Distribution { writer_up: rate(1), union_bytes: 0, parts: &parts };
        assert_eq!(nothing.gain_permille(), None);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let parts =
            [Part { node: node(1), lacked_bytes: u64::MAX, up: NonZeroU64::new(u64::MAX), down: None }; 2];
        let most = Distribution { writer_up: NonZeroU64::new(1), union_bytes: u64::MAX, parts: &parts };
        assert_eq!(most.bound().unwrap().binds, Link::WriterUp);
        assert_eq!(most.lacked_bytes(), u64::MAX);
    }
}
