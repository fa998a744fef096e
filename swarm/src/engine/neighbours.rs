//! Peers that come, go, and say what they hold.

use std::collections::btree_map::Entry;

use pageswarm_checkpoint::{LineageId, NodeId};

use super::Engine;
use crate::births::BirthSet;
use crate::limits::{BANNED_MAX, PEERS_MAX};
use crate::output::{BanReason, Event, Output};
use crate::picker::Source;

impl Engine {
    pub(super) fn peer_up(&mut self, peer: NodeId) {
        if peer == self.me {
            return;
        }
        if let Some((until, why)) = self.banned.get(&peer).copied() {
            if self.now < until {
                self.emit(Output::Ban { peer, why, until });
                return;
            }
            self.banned.remove(&peer);
        }
        if self.peers.len() < PEERS_MAX {
            self.peers.entry(peer).or_default().used_at = self.now;
            self.ready.insert(peer);
        }
    }

    pub(super) fn peer_down(&mut self, id: NodeId) {
        if !self.peers.contains_key(&id) {
            return;
        }
        for request in self.requests.select(|request| request.peer == id) {
            self.end_request(request);
        }
        let Some(gone) = self.peers.remove(&id) else {
            return;
        };
        self.budget.change_near(gone.near, 0);
        let lineages: Vec<LineageId> = gone.lineages.into_keys().collect();
        self.ready.remove(&id);
        self.uploads.forget_peer(id);
        self.offer_what_was_sent_to(id);
        for peer in self.peers.values_mut() {
            for part in peer.lineages.values_mut() {
                part.end_deferrals(self.now, Some(id));
            }
        }
        for lineage in lineages {
            self.recount(lineage);
        }
        self.more_supply();
    }

    /// Chunks that went to a peer which is gone before it announced them are offered again, so that those whom we sent
    /// to it need not wait until they lose patience.
    fn offer_what_was_sent_to(&mut self, id: NodeId) {
        for (lineage_id, births) in self.sent.forget_peer(id) {
            let Some(lineage) = self.lineages.get(&lineage_id) else {
                continue;
            };
            let mut births = births.and(&lineage.held);
            births.subtract(lineage.copies.any());
            if births.is_empty() {
                continue;
            }
            for (to, peer) in &self.peers {
                if peer.lineages.get(&lineage_id).is_some_and(|part| part.follows) {
                    let births = births.clone();
                    self.stats.announcements += 1;
                    self.outputs.push_back(Output::AnnounceHave { to: *to, lineage: lineage_id, births });
                }
            }
        }
    }

    /// A peer that follows is told all that we hold.
    pub(super) fn peer_follows(&mut self, id: NodeId, lineage_id: LineageId) {
        let (Some(peer), Some(lineage)) = (self.peers.get_mut(&id), self.lineages.get_mut(&lineage_id))
        else {
            return;
        };
        let part = peer.lineages.entry(lineage_id).or_default();
        part.follows = true;
        part.told = lineage.gains.seal();
        if !lineage.held.is_empty() {
            let births = lineage.held.clone();
            self.stats.announcements += 1;
            self.emit(Output::AnnounceHave { to: id, lineage: lineage_id, births });
        }
        self.recount_around(lineage_id);
    }

    pub(super) fn peer_unfollows(&mut self, id: NodeId, lineage: LineageId) {
        let at_peer = self.requests.select(|request| request.peer == id && request.lineage == lineage);
        for request in at_peer {
            self.cancel_request(request);
        }
        self.abandon_answers(id, lineage);
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.lineages.remove(&lineage).is_some()
        {
            self.recount(lineage);
        }
    }

    pub(super) fn peer_has(&mut self, id: NodeId, lineage_id: LineageId, births: &BirthSet) {
        let (Some(peer), Some(lineage)) = (self.peers.get_mut(&id), self.lineages.get_mut(&lineage_id))
        else {
            return;
        };
        // A writer whose holder is gone says again that it has the chunks.
        peer.lineages.entry(lineage_id).or_default().undefer(births);
        let Ok(new) = peer.has(lineage_id, births) else {
            self.event(Event::HasIgnored { peer: id, lineage: lineage_id });
            self.ban_if_guilty(id);
            return;
        };
        if Source::of(lineage, id) == Source::Holder && !peer.is_on_probation() {
            let relied = peer.lineages.get(&lineage_id).map(|part| part.undoubted(&new));
            let relied = relied.unwrap_or_default();
            lineage.copies.add(&relied);
            if self.config.labels.is_around(&peer.labels) {
                lineage.share.gained_around(&relied);
            }
        }
        self.sent.forget(lineage_id, id, births);
        if !births.is_disjoint(lineage.unasked()) {
            self.ready.insert(id);
        }
        if !new.is_disjoint(lineage.wanted()) {
            // A fault that nobody could answer may have been waiting for this.
            self.supply += u64::from(!self.wants.faulted_among(lineage_id, &new).is_empty());
        }
    }

    pub(super) fn peer_lacks(&mut self, id: NodeId, lineage: LineageId, births: &BirthSet) {
        let part = self.peers.get_mut(&id).and_then(|peer| peer.lineages.get_mut(&lineage));
        if let Some(part) = part {
            part.lacks(births);
            self.recount(lineage);
        }
    }

    /// Bans a peer whose faults add up; the writer is never banned for being silent.
    pub(super) fn ban_if_guilty(&mut self, id: NodeId) {
        let Some(why) = self.peers.get(&id).and_then(|peer| peer.guilt()) else {
            return;
        };
        let writes = self.lineages.values().any(|lineage| lineage.writer == Some(id));
        if why == BanReason::Silent && writes {
            return;
        }
        let ban = match why {
            BanReason::CorruptChunks | BanReason::HostileSets => self.config.ban,
            BanReason::BrokenPromises | BanReason::Silent => self.config.ban / 10,
        };
        let until = self.now.after(ban);
        self.stats.bans += 1;
        self.peer_down(id);
        self.remember_ban(id, until, why);
        self.emit(Output::Ban { peer: id, why, until });
    }

    /// Remembers a ban; when there are too many, the one that ends first is forgotten.
    fn remember_ban(&mut self, id: NodeId, until: crate::Time, why: BanReason) {
        let now = self.now;
        self.banned.retain(|_, (until, _)| now < *until);
        if self.banned.len() >= BANNED_MAX {
            let first = self.banned.iter().min_by_key(|(_, (until, _))| *until).map(|(id, _)| *id);
            first.map(|id| self.banned.remove(&id));
        }
        match self.banned.entry(id) {
            Entry::Occupied(mut known) => *known.get_mut() = (until, why),
            Entry::Vacant(free) => {
                free.insert((until, why));
            }
        }
    }
}
