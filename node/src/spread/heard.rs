//! What connected members said of their needs: the last word of each, kept as it came.

use std::collections::BTreeMap;
use std::time::Instant;

use pageswarm_checkpoint::wire::{BirthRange, LinkRate, Need};
use pageswarm_checkpoint::{Birth, LineageId, NodeId};
use pageswarm_swarm::BirthSet;

use super::{NodeNeed, Span};
use crate::backlog::Following;
use crate::births;
use crate::limits::{NEEDS_PER_PEER_MAX, PEERS_MAX};
use crate::lineages::Lineage;

/// By member.
#[derive(Debug, Default)]
pub(super) struct Heard {
    members: BTreeMap<NodeId, Member>,
}

#[derive(Debug, Default)]
struct Member {
    up: LinkRate,
    down: LinkRate,
    needs: BTreeMap<LineageId, Word>,
}

/// The last word on one lineage.
#[derive(Debug)]
struct Word {
    at: Instant,
    need: Need,
    /// The newest chunk that was ever lacked, and how many times it was a newer one.
    newest: Option<Birth>,
    advances: u32,
    /// When what it lacks was last said to be something else.
    changed: Instant,
}

impl Heard {
    pub(super) fn take(&mut self, peer: NodeId, mut need: Need, now: Instant) {
        if self.members.len() >= PEERS_MAX && !self.members.contains_key(&peer) {
            return;
        }
        let member = self.members.entry(peer).or_default();
        (member.up, member.down) = (need.up, need.down);
        let before = member.needs.remove(&need.lineage);
        let bytes = |need: &Need| (need.lacked_bytes, need.missing_bytes);
        let same = before.as_ref().filter(|word| bytes(&word.need) == bytes(&need));
        let changed = same.map_or(now, |word| word.changed);
        let (mut newest, mut advances) =
            before.as_ref().map_or((None, 0), |word| (word.newest, word.advances));
        if need.births.is_none() {
            need.births = before.and_then(|word| word.need.births);
        }
        let last = need.births.as_deref().and_then(<[BirthRange]>::last);
        let last = last.map(|range| Birth(range.first.0.saturating_add(range.length - 1)));
        if last > newest {
            newest = last;
            advances += 1;
        }
        if member.needs.len() >= NEEDS_PER_PEER_MAX {
            // Words that say nothing is lacked are missed least.
            let worth = |word: &Word| (word.need.lacked_bytes > 0, word.at);
            let least = member.needs.iter().min_by_key(|(_, word)| worth(word)).map(|(lineage, _)| *lineage);
            least.and_then(|lineage| member.needs.remove(&lineage));
        }
        member.needs.insert(need.lineage, Word { at: now, need, newest, advances, changed });
    }

    pub(super) fn following(&self, lineage: &Lineage, now: Instant) -> Vec<Following> {
        let words =
            self.members.iter().filter_map(|(peer, member)| Some((peer, member.needs.get(&lineage.id)?)));
        let following = words.map(|(peer, word)| {
            let NodeNeed { births, .. } = self.need(*peer, lineage, now);
            Following { births, advances: word.advances, idle: now.saturating_duration_since(word.changed) }
        });
        following.collect()
    }

    pub(super) fn keep_only(&mut self, connected: impl Fn(&NodeId) -> bool) {
        self.members.retain(|peer, _| connected(peer));
    }

    /// What a member needs of a lineage, as far as it is known.
    pub(super) fn need(&self, peer: NodeId, lineage: &Lineage, now: Instant) -> NodeNeed {
        let Some(member) = self.members.get(&peer) else {
            return NodeNeed::nothing(peer, LinkRate::Unknown, LinkRate::Unknown);
        };
        let nothing = NodeNeed::nothing(peer, member.up, member.down);
        let Some(Word { at, need, .. }) = member.needs.get(&lineage.id) else {
            return nothing;
        };
        let since = now.saturating_duration_since(*at);
        NodeNeed {
            lacked_bytes: need.lacked_bytes,
            born_bytes: need.born_bytes,
            missing_bytes: need.missing_bytes.min(need.lacked_bytes),
            spans: need.times.iter().map(|time| Span::at_hearing(*time, since)).collect(),
            births: known(need.births.as_deref().unwrap_or_default(), lineage.births),
            ..nothing
        }
    }
}

/// Those of the births that exist: a set of anything else could take any amount of memory.
fn known(ranges: &[BirthRange], births: u64) -> BirthSet {
    let existing = ranges.iter().take_while(|range| range.first.0 < births);
    let clipped: Vec<BirthRange> = existing
        .map(|range| BirthRange { first: range.first, length: range.length.min(births - range.first.0) })
        .collect();
    births::from_ranges(&clipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(lineage: u8, births: Option<Vec<BirthRange>>) -> Need {
        Need {
            lineage: LineageId([lineage; 32]),
            up: LinkRate::Unknown,
            down: LinkRate::Unknown,
            lacked_bytes: 5,
            born_bytes: 5,
            missing_bytes: 9,
            times: Vec::new(),
            births,
        }
    }

    #[test]
    fn births_that_do_not_exist_take_no_memory() {
        let all = [BirthRange { first: Birth(3), length: u64::MAX - 3 }];
        assert_eq!(known(&all, 10), BirthSet::range(Birth(3), Birth(9)));
        assert!(known(&all, 3).is_empty());
    }

    #[test]
    fn who_waits_in_vain_is_seen_to_do_so() {
        use std::time::Duration;

        let (mut heard, start, peer) = (Heard::default(), Instant::now(), NodeId([1; 32]));
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        heard.take(peer, need(0, None), at(0));
        let rates = Need { up: LinkRate::measured(std::num::NonZeroU64::new(5)), ..need(0, None) };
        heard.take(peer, rates, at(7));
        assert_eq!(heard.members[&peer].needs[&LineageId([0; 32])].changed, at(0), "only its rates changed");
        heard.take(peer, Need { missing_bytes: 1, ..need(0, None) }, at(9));
        assert_eq!(heard.members[&peer].needs[&LineageId([0; 32])].changed, at(9));
    }

    #[test]
    fn births_stay_as_last_told_and_needs_are_limited_in_number() {
        let mut heard = Heard::default();
        let (peer, now) = (NodeId([1; 32]), Instant::now());
        let ranges = vec![BirthRange { first: Birth(3), length: 4 }];
        heard.take(peer, need(0, Some(ranges.clone())), now);
        heard.take(peer, need(0, None), now);
        assert_eq!(heard.members[&peer].needs[&LineageId([0; 32])].need.births, Some(ranges));
        assert_eq!(heard.members[&peer].needs[&LineageId([0; 32])].advances, 1);
        let newer = vec![BirthRange { first: Birth(3), length: 5 }];
        for _ in 0..2 {
            heard.take(peer, need(0, Some(newer.clone())), now);
        }
        assert_eq!(heard.members[&peer].needs[&LineageId([0; 32])].advances, 2, "asked for newer ones twice");
        for lineage in 1..=u8::MAX {
            heard.take(peer, need(lineage, None), now);
        }
        assert_eq!(heard.members[&peer].needs.len(), NEEDS_PER_PEER_MAX);
        let nothing = |lineage| Need { lacked_bytes: 0, missing_bytes: 0, ..need(lineage, None) };
        let kept: Vec<LineageId> = heard.members[&peer].needs.keys().copied().skip(1).collect();
        (0..100).for_each(|lineage| heard.take(peer, nothing(lineage), now));
        assert!(kept.iter().all(|lineage| heard.members[&peer].needs.contains_key(lineage)));
        for number in 0..2 * PEERS_MAX {
            let mut name = [9; 32];
            name[..8].copy_from_slice(&number.to_le_bytes());
            heard.take(NodeId(name), need(0, None), now);
        }
        assert_eq!(heard.members.len(), PEERS_MAX);
        heard.keep_only(|id| *id == peer);
        assert_eq!(heard.members.len(), 1);
    }
}
