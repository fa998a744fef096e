//! What is known of each connected peer: what it holds, how it behaves, and whether to ask it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use pageswarm_checkpoint::{Birth, LineageId, NodeId};

use crate::births::BirthSet;
use crate::config::Config;
use crate::limits::{
    BROKEN_PROMISES_MAX, CORRUPT_STRIKES_MAX, DEFERRALS_MAX, HOSTILE_SETS_MAX, PEER_HAS_BYTES_MAX,
    SILENT_STRIKES_MAX,
};
use crate::locality::Labels;
use crate::output::BanReason;
use crate::pace::Pace;
use crate::stats::PeerStats;
use crate::time::Time;

/// One connected peer.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    pub(crate) lineages: BTreeMap<LineageId, PeerLineage>,
    pub(crate) pace: Pace,
    pub(crate) labels: Labels,
    /// Encoded bytes asked of it and not arrived.
    pub(crate) outstanding: u64,
    /// Of these, bytes that are expected soon, as the budget counts them.
    pub(crate) near: u64,
    /// A request of it is late: nothing is expected of it soon.
    pub(crate) is_late: bool,
    /// Requests outstanding, faults apart.
    pub(crate) requests: usize,
    pub(crate) fault_requests: usize,
    /// It is not asked before this, after a silence or a refusal.
    pub(crate) resting_until: Option<Time>,
    /// When it was of use last: it sent chunks, asked for some or took some; or since it came.
    pub(crate) used_at: Time,
    silences: u32,
    refusals: u32,
    corrupt: u32,
    broken: u32,
    hostile: u32,
    pub(crate) bytes_down: u64,
    pub(crate) bytes_up: u64,
}

/// One peer's part in one lineage.
#[derive(Debug, Default)]
pub(crate) struct PeerLineage {
    /// It takes part and may read.
    pub(crate) follows: bool,
    /// Up to which of our gains it has been told.
    pub(crate) told: u64,
    pub(crate) has: BirthSet,
    has_bytes: usize,
    /// It sent these with wrong bytes: never asked of it again.
    barred: BirthSet,
    /// Asked of it in vain: it is not relied on for these, others are asked too.
    doubted: BirthSet,
    /// Not asked of it for a while.
    deferred: BirthSet,
    deferrals: VecDeque<Deferral>,
    /// Deferred for long enough: asked of it with insistence.
    pub(crate) insist: BirthSet,
}

#[derive(Debug)]
struct Deferral {
    until: Time,
    holder: Option<NodeId>,
    births: BirthSet,
}

/// The set was too large for the memory that a peer is given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl Peer {
    /// Notes that it holds more; returns what is new.
    pub(crate) fn has(&mut self, lineage: LineageId, births: &BirthSet) -> Result<BirthSet, TooLarge> {
        let others: usize =
            self.lineages.iter().filter(|(id, _)| **id != lineage).map(|(_, part)| part.has_bytes).sum();
        let part = self.lineages.entry(lineage).or_default();
        let mut new = births.minus(&part.has);
        if !part.barred.is_empty() {
            new.subtract(&part.barred);
        }
        // Too much at most: blocks that only gain births are counted twice.
        let bytes_max = part.has_bytes.saturating_add(new.memory_bytes());
        if others.saturating_add(bytes_max) > PEER_HAS_BYTES_MAX {
            let mut has = part.has.clone();
            has.add(&new);
            if others.saturating_add(has.memory_bytes()) > PEER_HAS_BYTES_MAX {
                self.hostile += 1;
                return Err(TooLarge);
            }
        }
        part.has.add(&new);
        part.has_bytes = part.has.memory_bytes();
        Ok(new)
    }

    /// Of what is outstanding, bytes that should come within its latency and four times `queue`.
    pub(crate) fn near_bytes(&self, queue: Duration) -> u64 {
        match (self.is_late, self.pace.is_measured()) {
            (true, _) => 0,
            (false, true) => self.outstanding.min(self.pace.bytes_in(self.pace.latency_floor() + 4 * queue)),
            (false, false) => self.outstanding,
        }
    }

    /// Memory that its announced sets take, in bytes.
    pub(crate) fn has_memory_bytes(&self) -> usize {
        self.lineages.values().map(|part| part.has_bytes).sum()
    }

    /// An estimate of the memory of everything known of it, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let part = |part: &PeerLineage| {
            let sets = [&part.barred, &part.doubted, &part.deferred, &part.insist];
            let deferrals =
                part.deferrals.iter().map(|deferral| size_of_val(deferral) + deferral.births.memory_bytes());
            let sets = sets.map(BirthSet::memory_bytes).iter().sum::<usize>();
            size_of::<PeerLineage>() + part.has_bytes + sets + deferrals.sum::<usize>()
        };
        size_of::<Self>() + self.lineages.values().map(part).sum::<usize>()
    }

    /// Whether it may be asked for bulk.
    pub(crate) fn is_resting(&self, now: Time) -> bool {
        self.resting_until.is_some_and(|until| now < until)
    }

    /// Chunks arrived from it.
    pub(crate) fn delivered(&mut self, now: Time, bytes: u64) {
        self.pace.arrived(now, bytes);
        self.is_late = false;
        self.bytes_down = self.bytes_down.saturating_add(bytes);
        self.refusals = 0;
        self.broken = self.broken.saturating_sub(1);
    }

    /// It was silent too long; returns when to ask it again.
    pub(crate) fn fell_silent(&mut self, now: Time, config: &Config) -> Time {
        self.silences += 1;
        self.rest(now, self.silences, config)
    }

    /// It was busy or its connection failed; returns when to ask it again.
    pub(crate) fn refused(&mut self, now: Time, config: &Config) -> Time {
        self.refusals += 1;
        self.rest(now, self.refusals, config)
    }

    fn rest(&mut self, now: Time, times: u32, config: &Config) -> Time {
        let rest = (config.timeout_min / 8).saturating_mul(1 << times.min(16));
        let until = now.after(rest.min(config.timeout_max));
        self.resting_until = Some(until);
        until
    }

    /// When its silence becomes a timeout; each silence in a row is given twice the time of the last.
    pub(crate) fn silent_at(&self, config: &Config) -> Option<Time> {
        let min = config.timeout_min.saturating_mul(1 << self.silences.min(5));
        self.pace.silent_at(min.min(config.timeout_max), config.timeout_max)
    }

    /// It has not answered anything since its last silence: one request is enough to find out.
    pub(crate) fn is_on_probation(&self) -> bool {
        self.silences > 0
    }

    /// It answered after all; true if it was on probation.
    pub(crate) fn end_probation(&mut self) -> bool {
        std::mem::take(&mut self.silences) > 0
    }

    /// It did not hold or send what it announced.
    pub(crate) fn broke_promise(&mut self) {
        self.broken += 1;
    }

    /// It sent wrong bytes: it is never asked for this chunk again.
    pub(crate) fn sent_corrupt(&mut self, lineage: LineageId, birth: Birth) {
        self.corrupt += 1;
        let part = self.lineages.entry(lineage).or_default();
        part.barred.insert(birth);
        part.has.remove(birth);
    }

    /// Why it deserves a ban, if it does.
    pub(crate) fn guilt(&self) -> Option<BanReason> {
        if self.corrupt >= CORRUPT_STRIKES_MAX {
            Some(BanReason::CorruptChunks)
        } else if self.hostile >= HOSTILE_SETS_MAX {
            Some(BanReason::HostileSets)
        } else if self.broken >= BROKEN_PROMISES_MAX {
            Some(BanReason::BrokenPromises)
        } else if self.silences >= SILENT_STRIKES_MAX {
            Some(BanReason::Silent)
        } else {
            None
        }
    }

    /// A copy of its figures.
    pub(crate) fn stats(&self) -> PeerStats {
        PeerStats {
            bytes_down: self.bytes_down,
            bytes_up: self.bytes_up,
            outstanding_bytes: self.outstanding,
            bytes_per_s: self.pace.rate(),
            latency_us: u64::try_from(self.pace.latency().as_micros()).unwrap_or(u64::MAX),
            strikes: u64::from(self.corrupt + self.silences),
            held_births: self.lineages.values().map(|part| part.has.len()).sum(),
            has_memory_bytes: u64::try_from(self.has_memory_bytes()).unwrap_or(u64::MAX),
        }
    }
}

impl PeerLineage {
    /// What may be asked of it, of `births`.
    pub(crate) fn askable(&self, births: &BirthSet) -> BirthSet {
        let mut askable = births.and(&self.has);
        if !self.deferred.is_empty() {
            askable.subtract(&self.deferred);
        }
        askable
    }

    /// What it can be relied on to send.
    pub(crate) fn reliable(&self) -> BirthSet {
        self.has.minus(&self.doubted)
    }

    /// It was asked for these in vain.
    pub(crate) fn doubt(&mut self, births: &BirthSet) {
        self.doubted.add(births);
    }

    /// Of newly announced births, those that it was not asked for in vain before.
    pub(crate) fn undoubted(&self, births: &BirthSet) -> BirthSet {
        births.minus(&self.doubted)
    }

    /// It no longer holds these.
    pub(crate) fn lacks(&mut self, births: &BirthSet) {
        self.has.subtract(births);
        self.has_bytes = self.has.memory_bytes();
    }

    /// Leaves these alone for a while; deferrals close in time are merged, and so are too many.
    pub(crate) fn defer(&mut self, births: &BirthSet, holder: Option<NodeId>, until: Time) {
        self.deferred.add(births);
        self.insist.subtract(births);
        let full = self.deferrals.len() >= DEFERRALS_MAX;
        if let Some(last) = self.deferrals.back_mut() {
            let near = until.since(last.until) < Duration::from_millis(20) && until >= last.until;
            if full || (near && last.holder == holder) {
                last.births.add(births);
                last.until = last.until.max(until);
                return;
            }
        }
        self.deferrals.push_back(Deferral { until, holder, births: births.clone() });
    }

    /// Ends the deferrals that are over, or whose holder is `gone`; true if any was.
    pub(crate) fn end_deferrals(&mut self, now: Time, gone: Option<NodeId>) -> bool {
        let before = self.deferrals.len();
        let mut over = BirthSet::new();
        self.deferrals.retain(|deferral| {
            let ends = deferral.until <= now || (gone.is_some() && deferral.holder == gone);
            if ends {
                over.add(&deferral.births);
            }
            !ends
        });
        if self.deferrals.len() == before {
            return false;
        }
        for deferral in &self.deferrals {
            over.subtract(&deferral.births);
        }
        self.deferred.subtract(&over);
        self.insist.add(&over);
        true
    }

    /// It offers these again: they are not left alone any longer.
    pub(crate) fn undefer(&mut self, births: &BirthSet) {
        if self.deferred.is_disjoint(births) {
            return;
        }
        self.deferred.subtract(births);
        for deferral in &mut self.deferrals {
            deferral.births.subtract(births);
        }
        self.deferrals.retain(|deferral| !deferral.births.is_empty());
    }

    /// When the next deferral ends.
    pub(crate) fn next_deferral(&self) -> Option<Time> {
        self.deferrals.iter().map(|deferral| deferral.until).min()
    }
}
