//! What happens after every input: expire, ask, answer, announce; and when the next of these is due.

use pageswarm_checkpoint::NodeId;

use super::Engine;
use crate::input::Urgency;
use crate::output::{Event, Wake};
use crate::timers::Timers;

impl Engine {
    /// Restores the standing invariants; every step is cheap when it has nothing to do.
    pub(super) fn maintain(&mut self) {
        let is_due = self.due.is_due(self.now);
        if is_due {
            self.expire();
        }
        self.issue_faults();
        self.issue_runs();
        if is_due {
            self.steal();
            self.due = self.look_ahead();
        }
        self.start_uploads();
        self.announce();
        self.meet_writers();
    }

    fn expire(&mut self) {
        self.sent.age(self.now, self.config.sent_memory);
        let mut woke = false;
        for peer in self.peers.values_mut() {
            if peer.resting_until.is_some_and(|until| until <= self.now) {
                peer.resting_until = None;
                woke = true;
            }
            for (id, part) in &mut peer.lineages {
                if part.end_deferrals(self.now, None) {
                    woke = true;
                    if let Some(lineage) = self.lineages.get(id) {
                        part.insist.keep(lineage.wanted());
                    }
                }
            }
        }
        for lineage in self.lineages.values_mut() {
            woke |= lineage.share.end_trust(self.now);
        }
        if woke {
            self.more_supply();
        }
        let silent = |(id, peer): (&NodeId, &crate::peers::Peer)| {
            peer.silent_at(&self.config).is_some_and(|at| at <= self.now).then_some(*id)
        };
        let silent: Vec<NodeId> = self.peers.iter().filter_map(silent).collect();
        for id in silent {
            self.peer_silent(id);
        }
        self.give_up_requests();
        for (peer, request) in self.uploads.overdue(self.now, &self.config) {
            self.emit_abandon(peer, request);
        }
    }

    /// Requests that a peer does not answer while it answers others.
    fn give_up_requests(&mut self) {
        let now = self.now;
        for id in self.requests.select(|request| request.gives_up <= now) {
            let Some(request) = self.requests.get(id) else {
                continue;
            };
            let (peer_id, lineage, births) = (request.peer, request.lineage, request.births.clone());
            self.stats.requests_timed_out += 1;
            self.cancel_request(id);
            self.doubt(peer_id, lineage, &births);
            if let Some(peer) = self.peers.get_mut(&peer_id) {
                peer.broke_promise();
            }
            self.ban_if_guilty(peer_id);
        }
    }

    /// Everything asked of a silent peer goes elsewhere.
    fn peer_silent(&mut self, id: NodeId) {
        for request in self.requests.select(|request| request.peer == id) {
            self.stats.requests_timed_out += 1;
            self.cancel_request(request);
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.pace.idle();
        let until = peer.fell_silent(self.now, &self.config);
        self.event(Event::PeerSilent { peer: id, until });
        self.recount_all_of(id);
        self.ban_if_guilty(id);
    }

    /// What is due of peers, requests and answers, by looking at all of them. Between two such looks, whatever sets
    /// a time offers it to `due`, which is therefore never too late and sometimes too early.
    fn look_ahead(&self) -> Timers {
        let mut timers = Timers::new();
        for peer in self.peers.values() {
            timers.offer(peer.silent_at(&self.config), Wake::RequestTimeout);
            timers.offer(peer.resting_until, Wake::PeerRetry);
            for part in peer.lineages.values() {
                timers.offer(part.next_deferral(), Wake::Deferral);
            }
        }
        for (_, request) in self.requests.iter() {
            if request.urgency != Urgency::Fault {
                timers.offer(Some(request.expected), Wake::Steal);
            }
            timers.offer(Some(request.gives_up), Wake::RequestTimeout);
        }
        for lineage in self.lineages.values() {
            timers.offer(lineage.share.trusts_until(), Wake::Deferral);
        }
        timers.offer(self.uploads.next_overdue(&self.config), Wake::ServeTimeout);
        timers.offer(self.sent.ages_at(), Wake::SentAges);
        timers
    }

    /// Everything that is due at some time.
    pub(super) fn next_wake(&self) -> Timers {
        let mut timers = self.due;
        timers.offer(self.wants.next_hedge(), Wake::FaultHedge);
        self.offer_announcements(&mut timers);
        self.offer_meetings(&mut timers);
        timers.offer(self.uploads.next_start(self.now, &self.config), Wake::UploadRate);
        let horizon = self.now.after(self.config.deadline_horizon);
        let near = self.wants.next_deadline(horizon);
        let near = near.map(|at| self.now.after(at.since(horizon)));
        timers.offer(near, Wake::DeadlineNear);
        timers
    }
}
