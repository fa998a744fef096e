//! Telling followers what was gained: to a few at once when the uplink has nothing to do, to the others soon after.
//!
//! An announcement is an offer. If a chunk that one node holds were announced to all its followers at once, all would
//! ask that node, and the ones who get it first would find nobody left to give it to: uplinks stand idle while others
//! have queues. So an uplink with room offers to a few, in turn; those offer it on while the rest still wait, and who
//! hears of several holders at once chooses among them.

use std::collections::BTreeMap;

use pageswarm_checkpoint::{LineageId, NodeId};

use super::Engine;
use crate::births::BirthSet;
use crate::output::{Output, Wake};
use crate::peers::Peer;
use crate::time::Time;
use crate::timers::Timers;

/// Answers waiting or being sent up to which an uplink has room for more, and followers told at a time because of it.
const OFFERS: usize = 4;
/// The least time between two such offers.
const OFFER_GAP: std::time::Duration = std::time::Duration::from_millis(2);

/// Which followers to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tell {
    /// The next few who lack something of it.
    Some,
    /// All who lack something of it, and those who have waited long.
    All,
}

impl Engine {
    /// These were gained: followers are to be told.
    pub(super) fn note_untold(&mut self, id: LineageId, births: &BirthSet) {
        let follows = |peer: &Peer| peer.lineages.get(&id).is_some_and(|part| part.follows);
        if births.is_empty() || !self.peers.values().any(follows) {
            return;
        }
        let Some(lineage) = self.lineages.get_mut(&id) else {
            return;
        };
        lineage.gains.note(births, self.now);
        let within = self.now.after(self.config.announce_within);
        lineage.tell_all_at = Some(lineage.tell_all_at.map_or(within, |at| at.min(within)));
        // What the writer has, nobody else offers: there is nothing to wait for.
        if lineage.writer != Some(self.me) {
            lineage.tell_some_at = Some(self.now.max(lineage.told_some_at.after(OFFER_GAP)));
        }
    }

    /// Tells whom it is time to tell.
    pub(super) fn announce(&mut self) {
        let has_room = self.uploads.waiting() < OFFERS;
        let now = self.now;
        let due = self.lineages.iter().filter_map(|(id, lineage)| {
            let is_due = |at: Option<Time>| at.is_some_and(|at| at <= now);
            match (is_due(lineage.tell_all_at), has_room && is_due(lineage.tell_some_at)) {
                (true, _) => Some((*id, Tell::All)),
                (false, true) => Some((*id, Tell::Some)),
                (false, false) => None,
            }
        });
        let due: Vec<(LineageId, Tell)> = due.collect();
        for (id, tell) in due {
            self.tell(id, tell);
        }
    }

    fn tell(&mut self, id: LineageId, tell: Tell) {
        let Some(lineage) = self.lineages.get_mut(&id) else {
            return;
        };
        let mut room = match tell {
            Tell::Some => OFFERS.saturating_sub(self.uploads.waiting()),
            Tell::All => usize::MAX,
        };
        let lazily = self.config.announce_lazily;
        let first = lineage.told_last;
        let end = lineage.gains.seal();
        let (mut told_to, mut told_up_to, mut left_since) = (Vec::new(), end, None);
        // Followers who were told up to the same gain are told the same.
        let mut news = BTreeMap::new();
        for pass in [true, false] {
            let is_next = |to: &NodeId| first.is_none_or(|last| *to > last) == pass;
            for (to, peer) in self.peers.iter_mut().filter(|(to, _)| is_next(to)) {
                let Some(part) = peer.lineages.get_mut(&id).filter(|part| part.follows) else {
                    continue;
                };
                let Some(since) = lineage.gains.untold_since(part.told) else {
                    continue;
                };
                let has_waited = tell == Tell::All && since.after(lazily) <= self.now;
                if room > 0 {
                    let births = news.entry(part.told).or_insert_with(|| lineage.gains.untold(part.told));
                    if has_waited || !births.is_subset(&part.has) {
                        room -= 1;
                        part.told = end;
                        told_to.push((*to, births.clone()));
                        continue;
                    }
                }
                told_up_to = told_up_to.min(part.told);
                left_since = Some(left_since.map_or(since, |left: Time| left.min(since)));
            }
        }
        lineage.gains.drop_before(told_up_to);
        match tell {
            Tell::All => {
                lineage.tell_all_at =
                    left_since.map(|since| since.after(lazily).max(self.now.after(OFFER_GAP)));
                lineage.tell_some_at = None;
            }
            Tell::Some => {
                lineage.told_some_at = self.now;
                lineage.told_last = told_to.last().map(|(to, _)| *to).or(first);
                lineage.tell_some_at = (room == 0).then(|| self.now.after(OFFER_GAP));
            }
        }
        for (to, births) in told_to.into_iter().filter(|(_, births)| !births.is_empty()) {
            self.stats.announcements += 1;
            self.emit(Output::AnnounceHave { to, lineage: id, births });
        }
    }

    /// When someone is to be told something.
    pub(super) fn offer_announcements(&self, timers: &mut Timers) {
        let has_room = self.uploads.waiting() < OFFERS;
        for lineage in self.lineages.values() {
            timers.offer(lineage.tell_all_at, Wake::Announce);
            if has_room {
                timers.offer(lineage.tell_some_at, Wake::Announce);
            }
        }
    }
}
