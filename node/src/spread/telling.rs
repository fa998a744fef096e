//! Telling connected members what this node needs and how fast its links are: what changed, once a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pageswarm_checkpoint::wire::{BirthRange, Control, LinkRate, NEED_RANGES_MAX, Need};
use pageswarm_checkpoint::{Birth, LineageId, NodeId};
use pageswarm_swarm::{BirthSet, Time};

use super::{OwnNeed, own_rates};
use crate::node::Node;

/// Between two reports.
const EVERY: Duration = Duration::from_secs(1);

/// What a member was told last, over which connection.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    connection: usize,
    version: Option<(Time, u64)>,
    said: Said,
}

/// What makes a report news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    up: LinkRate,
    down: LinkRate,
    lacked_bytes: u64,
    missing_bytes: u64,
    spans: usize,
}

/// Tells until the node ends.
pub async fn tell(node: Arc<Node>) {
    let mut told: BTreeMap<(NodeId, LineageId), Told> = BTreeMap::new();
    let mut tick = tokio::time::interval(EVERY);
    // A late report is not made up for: what matters is the latest.
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        told.retain(|(peer, _), _| node.peers.get(peer).is_some());
        node.spreads.keep_only(|peer| node.peers.get(peer).is_some());
        let needs = node.hub.needs().await;
        let rates = own_rates(&node);
        for lineage in node.lineages.ids() {
            let need = needs.iter().find(|need| need.lineage == lineage);
            tell_of(&node, lineage, need, rates, &mut told);
        }
    }
}

fn tell_of(
    node: &Node,
    lineage: LineageId,
    need: Option<&OwnNeed>,
    (up, down): (LinkRate, LinkRate),
    told: &mut BTreeMap<(NodeId, LineageId), Told>,
) {
    let said = Said {
        up,
        down,
        lacked_bytes: need.map_or(0, |need| need.lacked_bytes),
        missing_bytes: need.map_or(0, |need| need.missing_bytes),
        spans: need.map_or(0, |need| need.times.len()),
    };
    let version = need.map(|need| need.version);
    // The same for everyone, and only for those who were told other births last.
    let mut births = None;
    for peer in node.peers.all().into_iter().filter(|peer| peer.follows(&lineage)) {
        let now = Told { connection: peer.connection.stable_id(), version, said };
        let before = told.get(&(peer.id, lineage));
        if before == Some(&now) {
            continue;
        }
        // How fast the links are is told with any lineage; where nothing is lacked once is enough.
        let lacked_before = before.is_some_and(|old| old.said.lacked_bytes > 0);
        if said.lacked_bytes == 0 && !lacked_before && knows_rates(told, peer.id, &now) {
            continue;
        }
        let knows = before.is_some_and(|old| (old.connection, old.version) == (now.connection, version));
        let lacked = if knows {
            None
        } else {
            Some(
                births.get_or_insert_with(|| need.map_or_else(Vec::new, |need| coarse(&need.lacked))).clone(),
            )
        };
        peer.tell(Control::Need(Need {
            lineage,
            up,
            down,
            lacked_bytes: said.lacked_bytes,
            born_bytes: need.map_or(0, |need| need.born_bytes),
            missing_bytes: said.missing_bytes,
            times: need.map_or_else(Vec::new, |need| need.times.clone()),
            births: lacked,
        }));
        told.insert((peer.id, lineage), now);
    }
}

/// Whether a member was told of these rates over this connection, with whatever lineage.
fn knows_rates(told: &BTreeMap<(NodeId, LineageId), Told>, peer: NodeId, now: &Told) -> bool {
    let of_peer = told.range((peer, LineageId([0; 32]))..=(peer, LineageId([u8::MAX; 32])));
    let rates = |told: &Told| (told.connection, told.said.up, told.said.down);
    of_peer.map(|(_, told)| rates(told)).any(|told| told == rates(now))
}

/// The set as few ranges, its narrowest gaps filled: a union of such sets comes out too large rather than too small.
fn coarse(births: &BirthSet) -> Vec<BirthRange> {
    let ranges: Vec<(u64, u64)> = births.ranges().map(|range| (*range.start(), *range.end())).collect();
    let mut gaps: Vec<u64> = ranges.windows(2).map(|pair| pair[1].0 - pair[0].1).collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    // Wider gaps than this are no more than there is room for.
    let filled = gaps.get(NEED_RANGES_MAX - 1).copied().unwrap_or(0);
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first - before.1 <= filled => before.1 = last,
            _ => joined.push((first, last)),
        }
    }
    let range = |(first, last): (u64, u64)| BirthRange {
        first: Birth(first),
        length: (last - first).saturating_add(1),
    };
    joined.into_iter().map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::births::from_ranges;

    #[test]
    fn a_set_of_few_ranges_is_told_as_it_is() {
        let set: BirthSet = (0..512).map(|i| Birth(i * 3)).collect();
        assert_eq!(from_ranges(&coarse(&set)), set);
        assert!(coarse(&BirthSet::new()).is_empty());
    }

    #[test]
    fn of_many_ranges_the_nearest_are_joined() {
        // Pairs with a gap of one birth between them, and nine to the next pair.
        let set: BirthSet = (0..400).flat_map(|i| [Birth(i * 11), Birth(i * 11 + 2)]).collect();
        let ranges = coarse(&set);
        assert_eq!(ranges.len(), 400);
        assert!(ranges.iter().all(|range| range.length == 3));
        assert!(set.is_subset(&from_ranges(&ranges)));
        let even: BirthSet = (0..5000).map(|i| Birth(i * 2)).collect();
        assert_eq!(coarse(&even), [BirthRange { first: Birth(0), length: 9999 }]);
    }
}
