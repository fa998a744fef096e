//! Issuing requests: faults first, then runs to whoever has room, then steals from slow peers.

use std::collections::BTreeMap;

use pageswarm_checkpoint::{Birth, LineageId, NodeId};

use super::Engine;
use crate::births::BirthSet;
use crate::input::{Patience, RequestId, Urgency};
use crate::limits::{
    FAULT_REQUESTS_PER_PEER_MAX, FAULTS_PER_REQUEST_MAX, MISSING_PER_ASKED, REQUESTS_MIN, REQUESTS_PLENTY,
    RUN_BYTES_MAX, RUN_BYTES_SPLIT,
};
use crate::locality::fold;
use crate::output::Event;
use crate::peers::Peer;
use crate::picker::{self, Pick, RunSize, Source};
use crate::time::Time;
use crate::wants::Fault;

/// Faults asked of the same peer at the same moment travel in one request.
type Grouped = BTreeMap<(NodeId, LineageId), BirthSet>;

impl Engine {
    pub(super) fn issue_faults(&mut self) {
        let mut grouped = Grouped::new();
        for (lineage, birth) in self.wants.faults_waiting(self.supply) {
            let standing = match self.ask_fault((lineage, birth), None, &mut grouped) {
                Some((of, hedge_at)) => Fault::Asked { of, hedge_at },
                None => {
                    self.meet_writer_of_fault(lineage);
                    Fault::Waiting { supply: self.supply }
                }
            };
            self.wants.set_fault(lineage, birth, Some(standing));
        }
        for (lineage, birth, of) in self.wants.take_hedges(self.now) {
            if self.ask_fault((lineage, birth), Some(of), &mut grouped).is_some() {
                self.stats.faults_hedged += 1;
            }
        }
        for ((peer, lineage), births) in grouped {
            let bytes = self.lineages[&lineage].lengths.sum(&births);
            let (urgency, patience) = (Urgency::Fault, Patience::Insist);
            self.issue(peer, Pick { lineage, births, bytes, urgency, patience });
        }
    }

    /// Chooses whom to ask for a faulted chunk; returns who, and when to ask another.
    fn ask_fault(
        &self,
        (lineage, birth): (LineageId, Birth),
        but_not: Option<NodeId>,
        grouped: &mut Grouped,
    ) -> Option<(NodeId, Time)> {
        let open = self.lineages.get(&lineage)?;
        if open.is_doubled(birth) {
            return None;
        }
        let length = open.lengths.of(birth);
        let holders = self.peers.iter().filter(|(id, peer)| {
            Some(**id) != but_not
                && peer.fault_requests < FAULT_REQUESTS_PER_PEER_MAX
                && grouped.get(&(**id, lineage)).is_none_or(|group| group.len() < FAULTS_PER_REQUEST_MAX)
                && peer.lineages.get(&lineage).is_some_and(|part| part.has.contains(birth))
        });
        let soonest = holders.min_by_key(|(id, peer)| {
            let doubtful = peer.is_on_probation() || peer.is_resting(self.now);
            (doubtful, peer.pace.expected(0, length), **id)
        });
        let (id, peer) = soonest?;
        grouped.entry((*id, lineage)).or_default().insert(birth);
        let patience = peer.pace.urgent_patience(self.config.fault_hedge_min);
        Some((*id, self.now.after(patience)))
    }

    /// Asks every peer with room for something, in rounds so that little is spread over many.
    pub(super) fn issue_runs(&mut self) {
        if self.ready.is_empty() {
            return;
        }
        if self.lineages.values().all(|lineage| lineage.unasked().is_empty()) {
            // Whatever makes something unasked makes its holders ready.
            self.ready.clear();
            return;
        }
        if !self.budget.has_room(&self.config) {
            return;
        }
        let sources = self.sources();
        while let Some(id) = self.soonest_ready() {
            match self.look(id, sources) {
                Some(pick) if self.budget.has_room(&self.config) => self.issue(id, pick),
                Some(_) => return,
                None => {
                    self.ready.remove(&id);
                }
            }
        }
    }

    /// Of the peers that may be worth asking, one of those that owe us least. A writer goes before all others, because it
    /// is asked only for what nobody else has.
    ///
    /// One small run is asked of everyone who offers anything: an uplink then has work as long as any neighbour lacks
    /// what it has. More is asked of a peer only if what is outstanding does not cover what comes in meanwhile: it would
    /// wait there while others could send it. Whoever owes enough is worth a look again when it has sent something.
    fn soonest_ready(&mut self) -> Option<NodeId> {
        let span = self.intake.span_of(self.budget.near());
        let are_few = self.are_requests_few();
        let turn = self.rng.next_u64() | 1;
        let mut soonest = None;
        let (peers, lineages, here) = (&self.peers, &self.lineages, self.config.labels);
        self.ready.retain(|id| {
            let Some(peer) = peers.get(id) else {
                return false;
            };
            let covers = span >= peer.pace.latency_floor() + self.config.intake_time;
            if peer.outstanding > 0 && covers && !are_few {
                return false;
            }
            let writes = lineages.values().any(|open| open.writer == Some(*id));
            let by_chance = fold(id).wrapping_mul(turn).rotate_right(32);
            let rank = (!writes, peer.requests, here.distance(&peer.labels), by_chance, *id);
            if soonest.is_none_or(|best| rank < best) {
                soonest = Some(rank);
            }
            true
        });
        soonest.map(|(.., id)| id)
    }

    /// Whether more is to be asked for, however slowly chunks come in.
    fn are_requests_few(&self) -> bool {
        let is_small_part = || {
            let (mut wanted, mut unasked) = (0_u64, 0_u64);
            for lineage in self.lineages.values() {
                wanted += lineage.wanted().len();
                unasked += lineage.unasked().len();
            }
            wanted.saturating_sub(unasked).saturating_mul(MISSING_PER_ASKED) < unasked
        };
        match self.requests.len() {
            ..REQUESTS_MIN => true,
            REQUESTS_MIN..REQUESTS_PLENTY => is_small_part(),
            _ => false,
        }
    }

    /// How many peers have told us of chunks.
    fn sources(&self) -> usize {
        let has_any = |peer: &&Peer| peer.lineages.values().any(|part| !part.has.is_empty());
        self.peers.values().filter(has_any).count()
    }

    /// The best run to ask of a peer, one of so many sources, if it has room and offers anything.
    fn look(&mut self, id: NodeId, sources: usize) -> Option<Pick> {
        let peer = self.peers.get(&id)?;
        if peer.is_resting(self.now) {
            return None;
        }
        let mut offers: BTreeMap<LineageId, (RunSize, BirthSet)> = BTreeMap::new();
        for (lineage_id, part) in &peer.lineages {
            let Some(lineage) = self.lineages.get(lineage_id) else {
                continue;
            };
            let source = Source::of(lineage, id);
            if lineage.unasked().is_empty() {
                continue;
            }
            let Some(size) = picker::run_size(peer, sources, source, &self.config) else {
                continue;
            };
            let mut offer = picker::candidates(lineage, part, source);
            if !self.is_around(id) {
                offer = lineage.share.outside(offer);
            }
            if !offer.is_empty() {
                let size = picker::split_for(size, lineage.unasked().len(), self.peers.len());
                offers.insert(*lineage_id, (size, offer));
            }
        }
        self.choose(id, offers)
    }

    /// Of what a peer offers: the nearest deadline's, else that of a random lineage.
    fn choose(&mut self, id: NodeId, mut offers: BTreeMap<LineageId, (RunSize, BirthSet)>) -> Option<Pick> {
        if offers.is_empty() {
            return None;
        }
        let horizon = self.now.after(self.config.deadline_horizon);
        let pressing = self.wants.urgent(horizon).find_map(|(lineage, want)| {
            let (size, offer) = offers.get(&lineage)?;
            let part = offer.and(&want.missing);
            (!part.is_empty()).then_some((lineage, *size, part))
        });
        let (urgency, lineage_id, size, offer) = match pressing {
            Some((lineage, size, offer)) => (Urgency::Deadline, lineage, size, offer),
            None => {
                let rank = usize::try_from(self.rng.below(offers.len() as u64)).unwrap_or(0);
                let lineage = *offers.keys().nth(rank)?;
                let (size, offer) = offers.remove(&lineage)?;
                (Urgency::Normal, lineage, size, offer)
            }
        };
        let part = self.peers.get(&id)?.lineages.get(&lineage_id)?;
        let lineage = self.lineages.get_mut(&lineage_id)?;
        let source = Source::of(lineage, id);
        let (births, bytes, patience) = picker::cut_run(lineage, part, source, (offer, size), &mut self.rng);
        Some(Pick { lineage: lineage_id, births, bytes, urgency, patience })
    }

    /// Asks idle peers for what slow ones owe for too long, within the budget for duplicates.
    pub(super) fn steal(&mut self) {
        let now = self.now;
        let bulk = |urgency: Urgency| urgency != Urgency::Fault;
        let late = self.requests.select(|request| request.expected <= now && bulk(request.urgency));
        for id in late {
            let Some(request) = self.requests.get_mut(id) else {
                continue;
            };
            let (peer, late) = (request.peer, request.late);
            let is_last = self.lineages.get(&request.lineage).is_none_or(|open| open.unasked().is_empty());
            if !is_last && now < late {
                request.expected = late.min(now.after(self.config.steal_after));
                continue;
            }
            let stolen = self.steal_from(id);
            let retry = if stolen { self.config.timeout_max } else { self.config.steal_after };
            if let Some(request) = self.requests.get_mut(id) {
                request.expected = now.after(retry);
            }
            if let Some(peer) = self.peers.get_mut(&peer) {
                peer.is_late = true;
            }
            self.recount_near(peer);
        }
    }

    fn steal_from(&mut self, id: RequestId) -> bool {
        let Some(request) = self.requests.get(id) else {
            return false;
        };
        let (from, lineage_id) = (request.peer, request.lineage);
        let left = self.budget.duplicates_left(&self.config);
        // A probe of a peer on probation is small and rare; it must not hold its chunks back.
        let is_probe = self.peers.get(&from).is_some_and(Peer::is_on_probation);
        let least = if is_probe { RUN_BYTES_SPLIT } else { 0 };
        let allowed = left.clamp(least, RUN_BYTES_MAX);
        let Some(lineage) = self.lineages.get(&lineage_id) else {
            return false;
        };
        let once = lineage.asked_once(&request.births).and(lineage.wanted());
        if allowed == 0 || once.is_empty() {
            return false;
        }
        let (here, sources) = (self.config.labels, self.sources());
        let thief = self.peers.iter().filter_map(|(by, peer)| {
            let part = peer.lineages.get(&lineage_id)?;
            let fit = *by != from && !peer.is_resting(self.now) && !peer.is_on_probation();
            let source = Source::of(lineage, *by);
            let has_room = fit && picker::run_size(peer, sources, source, &self.config).is_some();
            let births = part.askable(&once);
            (has_room && !births.is_empty()).then(|| {
                let far = here.distance(&peer.labels);
                let rank = (source == Source::Writer, far, peer.pace.expected(peer.outstanding, allowed));
                (rank, *by, births)
            })
        });
        let Some((_, by, births)) = thief.min_by_key(|(rank, by, _)| (*rank, *by)) else {
            return false;
        };
        let size = RunSize { bytes: allowed, births: u64::MAX };
        let (births, bytes) = picker::take(&births, Birth(0), size, &lineage.lengths);
        if bytes > allowed && !is_probe {
            return false;
        }
        self.budget.double(bytes);
        self.stats.chunks_stolen += births.len();
        self.event(Event::Stolen { from, by, births: births.len() });
        let (urgency, patience) = (Urgency::Normal, Patience::Insist);
        self.issue(by, Pick { lineage: lineage_id, births, bytes, urgency, patience });
        true
    }
}
