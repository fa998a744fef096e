//! Maps of checkpoints: the latest of each lineage, a few others, and the way to any from the store's deltas.

use std::collections::BTreeMap;

use pageswarm_checkpoint::codec::FormatError;
use pageswarm_checkpoint::{
    ApplyError, Birth, CheckpointIndex, CheckpointMap, ChunkHash, ChunkRef, Delta, Generation, LineageId,
    PageNumber, Slot,
};
use pageswarm_store::IndexError;
use pageswarm_swarm::BirthSet;

use super::{Lineage, LineageError, Lineages, lineage_of};
use crate::lazy_ram::PageSet;
use crate::limits::MAPS_CACHED;

/// Why a checkpoint's map cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The lineage is not known here.
    #[error("lineage {} is not known here", .0.short())]
    UnknownLineage(LineageId),
    /// The checkpoint is not known here.
    #[error("checkpoint {index} of lineage {} is not known here", lineage.short())]
    UnknownCheckpoint {
        /// Whose.
        lineage: LineageId,
        /// Which.
        index: CheckpointIndex,
    },
    /// A delta that the store should have is gone.
    #[error("delta {index} of lineage {} is not in the store", lineage.short())]
    DeltaMissing {
        /// Whose.
        lineage: LineageId,
        /// Which.
        index: CheckpointIndex,
    },
    /// A delta cannot be read.
    #[error("delta is malformed")]
    Delta(#[from] FormatError),
    /// A delta does not apply.
    #[error("delta does not apply")]
    Apply(#[from] ApplyError),
    /// The store.
    #[error("store index")]
    Index(#[from] IndexError),
    /// Records.
    #[error("records")]
    Lineage(#[from] Box<LineageError>),
}

/// Maps in memory. Neighbours share what did not change.
#[derive(Debug, Default)]
pub(super) struct Maps {
    latest: BTreeMap<LineageId, (CheckpointIndex, CheckpointMap)>,
    /// Least recently used first.
    others: Vec<(LineageId, CheckpointIndex, CheckpointMap)>,
}

impl Maps {
    pub(super) fn insert_latest(&mut self, id: LineageId, index: CheckpointIndex, map: CheckpointMap) {
        self.latest.insert(id, (index, map));
    }

    fn insert(&mut self, id: LineageId, index: CheckpointIndex, map: CheckpointMap) {
        if self.others.len() >= MAPS_CACHED {
            self.others.remove(0);
        }
        self.others.push((id, index, map));
    }

    /// The map nearest to `index` from below.
    fn nearest(&self, id: LineageId, index: CheckpointIndex) -> Option<(CheckpointIndex, CheckpointMap)> {
        let latest = self.latest.get(&id).map(|(at, map)| (*at, map));
        let others = self.others.iter().filter(|(of, ..)| *of == id).map(|(_, at, map)| (*at, map));
        let below = latest.into_iter().chain(others).filter(|(at, _)| *at <= index);
        below.max_by_key(|(at, _)| *at).map(|(at, map)| (at, map.clone()))
    }
}

impl Lineages {
    /// The map of the latest applied checkpoint; the branch point's, or an empty one, before the first.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn latest_map(&self, id: &LineageId) -> Result<CheckpointMap, MapError> {
        let lineage = self.get(id).ok_or(MapError::UnknownLineage(*id))?;
        match &lineage.applied {
            Some((head, _)) => self.map_at(id, head.index),
            None => self.map_before_first(&lineage),
        }
    }

    /// The map of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn map_at(&self, id: &LineageId, index: CheckpointIndex) -> Result<CheckpointMap, MapError> {
        let lineage = self.get(id).ok_or(MapError::UnknownLineage(*id))?;
        let known = lineage.applied.as_ref().is_some_and(|(head, _)| head.index >= index);
        if !known {
            return Err(MapError::UnknownCheckpoint { lineage: *id, index });
        }
        let nearest = self.lock().maps.nearest(*id, index);
        let (mut at, mut map) = match nearest {
            Some((at, map)) => (at.next(), map),
            None => (CheckpointIndex(0), self.map_before_first(&lineage)?),
        };
        if at > index {
            return Ok(map);
        }
        while at <= index {
            let delta = self.delta(&lineage, at)?;
            map = map.apply(&delta, |chunk| self.hash_of(&lineage, chunk))?;
            at = at.next();
        }
        self.lock().maps.insert(*id, index, map.clone());
        Ok(map)
    }

    fn map_before_first(&self, lineage: &Lineage) -> Result<CheckpointMap, MapError> {
        match &lineage.genesis.parent {
            None => Ok(CheckpointMap::zero(lineage.genesis.pages)),
            Some(parent) => Ok(self.map_at(&parent.lineage, parent.index)?.branched()),
        }
    }

    pub(super) fn delta(&self, lineage: &Lineage, index: CheckpointIndex) -> Result<Delta, MapError> {
        let missing = || MapError::DeltaMissing { lineage: lineage.id, index };
        let request = pageswarm_checkpoint::wire::ObjectRequest::Delta(lineage.id, index);
        let bytes = self.object(&request).map_err(Box::new)?.ok_or_else(missing)?;
        Ok(Delta::decode(&bytes, lineage.genesis.pages)?)
    }

    /// What a checkpoint consists of, by the lineage in which each chunk was born.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn demand(
        &self,
        id: &LineageId,
        index: CheckpointIndex,
    ) -> Result<BTreeMap<LineageId, BirthSet>, MapError> {
        let lineage = self.get(id).ok_or(MapError::UnknownLineage(*id))?;
        let map = self.map_at(id, index)?;
        by_lineage(&lineage, map.chunks().map(|(chunk, _)| chunk))
    }

    /// What some pages of a checkpoint consist of, by the lineage in which each chunk was born.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn demand_of_pages(
        &self,
        id: &LineageId,
        index: CheckpointIndex,
        pages: &PageSet,
    ) -> Result<BTreeMap<LineageId, BirthSet>, MapError> {
        let lineage = self.get(id).ok_or(MapError::UnknownLineage(*id))?;
        let map = self.map_at(id, index)?;
        let chunks = pages.iter().filter_map(|page| match map.ram.get(page)? {
            Slot::Chunk { source, .. } => Some(source),
            Slot::Zero => None,
        });
        by_lineage(&lineage, chunks)
    }

    /// The chunks of a checkpoint that are not pages, by the lineage in which each was born.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn blob_births(
        &self,
        id: &LineageId,
        index: CheckpointIndex,
    ) -> Result<BTreeMap<LineageId, BirthSet>, MapError> {
        let lineage = self.get(id).ok_or(MapError::UnknownLineage(*id))?;
        let map = self.map_at(id, index)?;
        let mut births: BTreeMap<LineageId, BirthSet> = BTreeMap::new();
        for (chunk, _, _) in map.blobs.values().flat_map(|blob| &blob.chunks) {
            let born = lineage_of(&lineage, *chunk).ok_or(MapError::UnknownLineage(*id))?;
            births.entry(born).or_default().insert(chunk.birth);
        }
        Ok(births)
    }

    /// How many pages a checkpoint changed.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn changed_pages(&self, id: &LineageId, index: CheckpointIndex) -> Result<u64, MapError> {
        let lineage = self.get(id).ok_or(MapError::UnknownLineage(*id))?;
        Ok(self.delta(&lineage, index)?.pages.len() as u64)
    }

    /// Pages that the interval after a checkpoint wrote, if that is known: what its guest touches first.
    #[must_use]
    pub fn written_after(&self, id: &LineageId, index: CheckpointIndex) -> Vec<PageNumber> {
        let delta = self.get(id).and_then(|lineage| self.delta(&lineage, index.next()).ok());
        delta.map(|delta| delta.pages.iter().map(|(page, _)| *page).collect()).unwrap_or_default()
    }

    /// Prepares to fetch a checkpoint as patches on the latest one held: notes for each wanted chunk the chunk
    /// that its page was there.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn prepare_bases(&self, id: &LineageId, index: CheckpointIndex) -> Result<(), MapError> {
        let lineage = self.get(id).ok_or(MapError::UnknownLineage(*id))?;
        let Some(held) = lineage.held else {
            return Ok(());
        };
        // The base first: the other one is mostly made from it.
        let base = self.map_at(id, held)?;
        let wanted = self.map_at(id, index)?;
        let mut bases = BTreeMap::new();
        for (page, slot) in wanted.ram.changes_from(&base.ram) {
            if let (Slot::Chunk { source, .. }, Some(Slot::Chunk { source: old, .. })) =
                (slot, base.ram.get(page))
                && source.generation.0 == 0
                && old.generation.0 == 0
            {
                bases.insert(source.birth, old.birth);
            }
        }
        self.lock().bases.insert(*id, bases);
        Ok(())
    }

    /// The births with the base of each that is held here.
    #[must_use]
    pub fn with_bases(&self, id: &LineageId, births: &BirthSet) -> Vec<(Birth, Option<ChunkRef>)> {
        let state = self.lock();
        let bases = state.bases.get(id);
        let base = |birth: Birth| bases.and_then(|bases| bases.get(&birth)).map(|base| ChunkRef::own(*base));
        births.iter().map(|birth| (birth, base(birth))).collect()
    }

    /// A chunk is not asked for on its base any more, because the base is gone.
    pub fn forget_base(&self, id: &LineageId, birth: Birth) {
        if let Some(bases) = self.lock().bases.get_mut(id) {
            bases.remove(&birth);
        }
    }

    /// Those of the births whose chunks are not held.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn lacked(&self, id: LineageId, births: &BirthSet) -> Result<BirthSet, MapError> {
        let numbers: Vec<Birth> = births.iter().collect();
        let mut lacked = BirthSet::new();
        for numbers in numbers.chunks(8192) {
            let hashes = self.hashes(id, numbers)?;
            let names: Vec<ChunkHash> =
                hashes.iter().map(|hash| hash.unwrap_or(ChunkHash([0; 32]))).collect();
            for (birth, held) in numbers.iter().zip(self.store.contains_many(&names)?) {
                if !held {
                    lacked.insert(*birth);
                }
            }
        }
        Ok(lacked)
    }

    /// Adds to what this node ever had to fetch.
    pub fn note_lacked(&self, id: LineageId, births: &BirthSet) {
        self.lock().lacked.entry(id).or_default().add(births);
    }

    /// Notes in how many encoded bytes chunks came. Births that are not known here are left out.
    pub fn note_received(&self, id: LineageId, chunks: &[(Birth, u32)]) {
        let mut state = self.lock();
        let state = &mut *state;
        let births = state.lineages.get(&id).map_or(0, |lineage| lineage.births);
        let received = state.received.entry(id).or_default();
        for (birth, bytes) in chunks.iter().filter(|(birth, _)| birth.0 < births) {
            let Ok(place) = usize::try_from(birth.0) else { continue };
            if received.len() <= place {
                received.resize(place + 1, 0);
            }
            received[place] = *bytes;
        }
    }

    /// All that this node ever had to fetch since it started, the `D` of the distribution bound, and the encoded bytes
    /// in which each of these births came; 0 for one that has not come.
    #[must_use]
    pub fn lacked_ever(&self, id: &LineageId) -> (BirthSet, Vec<u32>) {
        let state = self.lock();
        let lacked = state.lacked.get(id).cloned().unwrap_or_default();
        let received = state.received.get(id).map_or(&[][..], Vec::as_slice);
        let bytes = |birth: Birth| received.get(usize::try_from(birth.0).ok()?).copied();
        let bytes = lacked.iter().map(|birth| bytes(birth).unwrap_or(0)).collect();
        (lacked, bytes)
    }

    /// Encoded lengths of all births of a lineage, from its deltas.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn lengths(&self, lineage: &Lineage) -> Result<Vec<u32>, MapError> {
        let mut lengths = Vec::new();
        let Some((head, _)) = &lineage.applied else {
            return Ok(lengths);
        };
        for index in 0..=head.index.0 {
            let delta = self.delta(lineage, CheckpointIndex(index))?;
            lengths.extend(delta.new_chunks().map(|(_, length)| length));
        }
        Ok(lengths)
    }
}

/// Births of chunks named from within a lineage, by the lineage in which each was born.
fn by_lineage(
    lineage: &Lineage,
    chunks: impl Iterator<Item = ChunkRef>,
) -> Result<BTreeMap<LineageId, BirthSet>, MapError> {
    let mut by_generation: BTreeMap<Generation, Vec<u64>> = BTreeMap::new();
    for chunk in chunks {
        by_generation.entry(chunk.generation).or_default().push(chunk.birth.0);
    }
    let mut demand = BTreeMap::new();
    for (generation, mut births) in by_generation {
        let born = lineage_of(lineage, ChunkRef { generation, birth: Birth(0) });
        births.sort_unstable();
        let mut set = BirthSet::new();
        for birth in births {
            set.insert(Birth(birth));
        }
        demand.insert(born.ok_or(MapError::UnknownLineage(lineage.id))?, set);
    }
    Ok(demand)
}
