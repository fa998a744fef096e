//! Who wants what: open wants by deadline, and page faults.

use std::collections::{BTreeMap, BTreeSet};

use pageswarm_checkpoint::{Birth, LineageId, NodeId};

use crate::births::BirthSet;
use crate::input::WantId;
use crate::limits::{FAULTS_AT_ONCE_MAX, FAULTS_MAX, WANTS_MAX};
use crate::time::Time;

/// One open want.
#[derive(Debug)]
pub(crate) struct Want {
    /// All that it asked for: a chunk that is lost again is missing again.
    births: BirthSet,
    /// Of these, what is not held.
    pub(crate) missing: BirthSet,
    deadline: Option<Time>,
}

/// Where a page fault stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Not asked of anyone; do not try before the supply changes from this version.
    Waiting { supply: u64 },
    /// Asked of a peer; to be asked of another at the time.
    Asked { of: NodeId, hedge_at: Time },
    /// Asked of as many peers as is useful.
    Hedged,
}

/// Too many wants are open.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// All wants and faults of the node.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    lineages: BTreeMap<LineageId, BTreeMap<WantId, Want>>,
    homes: BTreeMap<WantId, LineageId>,
    deadlines: BTreeSet<(Time, WantId)>,
    faults: BTreeMap<(LineageId, Birth), Fault>,
    hedges: BTreeSet<(Time, LineageId, Birth)>,
    waiting: usize,
}

impl Wants {
    /// Opens a want of which `missing` is not held.
    pub(crate) fn open(
        &mut self,
        want: WantId,
        lineage: LineageId,
        births: BirthSet,
        missing: BirthSet,
        deadline: Option<Time>,
    ) -> Result<(), TooMany> {
        if self.homes.len() >= WANTS_MAX {
            return Err(TooMany);
        }
        self.homes.insert(want, lineage);
        self.deadlines.extend(deadline.map(|deadline| (deadline, want)));
        let wants = self.lineages.entry(lineage).or_default();
        wants.insert(want, Want { births, missing, deadline });
        Ok(())
    }

    /// Closes a want; returns its lineage if it was open.
    pub(crate) fn close(&mut self, want: WantId) -> Option<LineageId> {
        let lineage = self.homes.remove(&want)?;
        let wants = self.lineages.get_mut(&lineage)?;
        if let Some(deadline) = wants.remove(&want).and_then(|closed| closed.deadline) {
            self.deadlines.remove(&(deadline, want));
        }
        if wants.is_empty() {
            self.lineages.remove(&lineage);
        }
        Some(lineage)
    }

    /// Forgets everything of a lineage.
    pub(crate) fn close_lineage(&mut self, lineage: LineageId) {
        for want in self.wants_of(lineage) {
            self.close(want);
        }
        for birth in self.faulted(lineage).iter() {
            self.unfault(lineage, birth);
        }
    }

    fn wants_of(&self, lineage: LineageId) -> Vec<WantId> {
        self.lineages.get(&lineage).map_or_else(Vec::new, |wants| wants.keys().copied().collect())
    }

    /// Chunks are held; returns the wants that are complete and no longer open.
    pub(crate) fn gained(&mut self, lineage: LineageId, births: &BirthSet) -> Vec<WantId> {
        let mut complete = Vec::new();
        for (id, want) in self.lineages.get_mut(&lineage).into_iter().flatten() {
            want.missing.subtract(births);
            if want.missing.is_empty() {
                complete.push(*id);
            }
        }
        for want in &complete {
            self.close(*want);
        }
        complete
    }

    /// Chunks are no longer held; returns what open wants miss of them.
    pub(crate) fn lost(&mut self, lineage: LineageId, births: &BirthSet) -> BirthSet {
        let mut missed = BirthSet::new();
        for want in self.lineages.get_mut(&lineage).into_iter().flatten().map(|(_, want)| want) {
            let again = want.births.and(births);
            missed.add(&again);
            want.missing.add(&again);
        }
        missed
    }

    /// Everything that open wants and faults of a lineage miss.
    pub(crate) fn still_wanted(&self, lineage: LineageId) -> BirthSet {
        let mut wanted = self.faulted(lineage);
        for want in self.lineages.get(&lineage).into_iter().flatten().map(|(_, want)| want) {
            wanted.add(&want.missing);
        }
        wanted
    }

    /// Wants with a deadline up to `horizon`, nearest first.
    pub(crate) fn urgent(&self, horizon: Time) -> impl Iterator<Item = (LineageId, &Want)> {
        let near = self.deadlines.iter().take_while(move |(deadline, _)| *deadline <= horizon);
        near.filter_map(|(_, want)| {
            let lineage = self.homes.get(want)?;
            Some((*lineage, self.lineages.get(lineage)?.get(want)?))
        })
    }

    /// The nearest deadline after `horizon`.
    pub(crate) fn next_deadline(&self, horizon: Time) -> Option<Time> {
        let beyond = (horizon.after(std::time::Duration::from_nanos(1)), WantId(0));
        self.deadlines.range(beyond..).next().map(|(deadline, _)| *deadline)
    }

    /// Notes a fault; already noted ones stay as they are.
    pub(crate) fn fault(&mut self, lineage: LineageId, birth: Birth) -> Result<(), TooMany> {
        if self.faults.contains_key(&(lineage, birth)) {
            return Ok(());
        }
        if self.faults.len() >= FAULTS_MAX {
            return Err(TooMany);
        }
        self.set_fault(lineage, birth, Some(Fault::Waiting { supply: 0 }));
        Ok(())
    }

    /// Forgets a fault; true if there was one.
    pub(crate) fn unfault(&mut self, lineage: LineageId, birth: Birth) -> bool {
        self.set_fault(lineage, birth, None).is_some()
    }

    /// Moves a fault to another standing, or away; returns where it stood.
    pub(crate) fn set_fault(&mut self, lineage: LineageId, birth: Birth, to: Option<Fault>) -> Option<Fault> {
        let from = match to {
            Some(fault) => self.faults.insert((lineage, birth), fault),
            None => self.faults.remove(&(lineage, birth)),
        };
        match from {
            Some(Fault::Waiting { .. }) => self.waiting -= 1,
            Some(Fault::Asked { hedge_at, .. }) => {
                self.hedges.remove(&(hedge_at, lineage, birth));
            }
            Some(Fault::Hedged) | None => {}
        }
        match to {
            Some(Fault::Waiting { .. }) => self.waiting += 1,
            Some(Fault::Asked { hedge_at, .. }) => {
                self.hedges.insert((hedge_at, lineage, birth));
            }
            Some(Fault::Hedged) | None => {}
        }
        from
    }

    /// The faulted births of a lineage.
    pub(crate) fn faulted(&self, lineage: LineageId) -> BirthSet {
        let all = (lineage, Birth(0))..=(lineage, Birth(u64::MAX));
        self.faults.range(all).map(|((_, birth), _)| *birth).collect()
    }

    /// The faulted ones among `births`, without building the whole set.
    pub(crate) fn faulted_among(&self, lineage: LineageId, births: &BirthSet) -> Vec<Birth> {
        let (Some(first), Some(last)) = (births.first(), births.last()) else {
            return Vec::new();
        };
        let span = self.faults.range((lineage, first)..=(lineage, last));
        span.map(|((_, birth), _)| *birth).filter(|birth| births.contains(*birth)).collect()
    }

    /// Faults that are to be asked for: waiting ones not yet tried at this version of the supply.
    pub(crate) fn faults_waiting(&self, supply: u64) -> Vec<(LineageId, Birth)> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let waits = |fault: &Fault| matches!(fault, Fault::Waiting { supply: tried } if *tried < supply);
        self.faults
            .iter()
            .filter(|(_, fault)| waits(fault))
            .map(|(key, _)| *key)
            .take(FAULTS_AT_ONCE_MAX)
            .collect()
    }

    /// Takes the faults whose first peer has had its time; they count as hedged from now on.
    pub(crate) fn take_hedges(&mut self, now: Time) -> Vec<(LineageId, Birth, NodeId)> {
        let due: Vec<_> = self.hedges.iter().take_while(|(at, ..)| *at <= now).copied().collect();
        due.into_iter()
            .filter_map(|(_, lineage, birth)| match self.set_fault(lineage, birth, Some(Fault::Hedged)) {
                Some(Fault::Asked { of, .. }) => Some((lineage, birth, of)),
                _ => None,
            })
            .collect()
    }

    /// When the next fault is to be asked of a second peer.
    pub(crate) fn next_hedge(&self) -> Option<Time> {
        self.hedges.first().map(|(at, ..)| *at)
    }
}
