//! Which chunk each birth is: read from the deltas that bore it, with the latest of them kept in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pageswarm_checkpoint::wire::ObjectRequest;
use pageswarm_checkpoint::{Birth, CheckpointIndex, ChunkHash, ChunkRef, Delta, LineageId};

use super::{Lineage, Lineages, MapError, lineage_of};

/// Hashes kept in memory over all lineages: 64 MiB of them.
const HASHES_KEPT: usize = 2 << 20;
/// Of these, at most so many that nobody asked for since they were noted: a node that only listens keeps 8 MiB.
const UNASKED_HASHES_KEPT: usize = 256 << 10;

/// The first birth of a delta, and the chunks born from there on.
type Born = (u64, Arc<[ChunkHash]>);

/// The chunks that a delta bore.
#[derive(Debug)]
struct Kept {
    hashes: Arc<[ChunkHash]>,
    /// The moment of last use, which counts up.
    used: u64,
    is_asked: bool,
}

impl Kept {
    /// The hashes that it counts for. Small deltas count for more than they have, so that there are never many.
    fn room(&self) -> usize {
        self.hashes.len().max(1024)
    }
}

/// Where each delta's births end, and the hashes of recently used ones.
#[derive(Debug, Default)]
pub(super) struct Births {
    /// For each lineage, births up to and with checkpoint k, at position k.
    ends: BTreeMap<LineageId, Vec<u64>>,
    kept: HashMap<(LineageId, CheckpointIndex), Kept>,
    uses: u64,
}

impl Births {
    /// Notes the births of the lineage's next checkpoint.
    pub(super) fn push(
        &mut self,
        id: LineageId,
        index: CheckpointIndex,
        end: u64,
        hashes: Option<Arc<[ChunkHash]>>,
    ) {
        let ends = self.ends.entry(id).or_default();
        if ends.len() as u64 == index.0 {
            ends.push(end);
        }
        if let Some(hashes) = hashes {
            self.keep((id, index), hashes, false);
        }
    }

    fn keep(&mut self, key: (LineageId, CheckpointIndex), hashes: Arc<[ChunkHash]>, is_asked: bool) {
        self.uses += 1;
        let is_asked = is_asked || self.kept.get(&key).is_some_and(|old| old.is_asked);
        self.kept.insert(key, Kept { hashes, used: self.uses, is_asked });
        self.forget(UNASKED_HASHES_KEPT, |kept| !kept.is_asked);
        self.forget(HASHES_KEPT, |_| true);
    }

    /// Drops what was not used for longest among those that `counts` names, until they have at most so many hashes. The
    /// latest stays.
    fn forget(&mut self, hashes_max: usize, counts: impl Fn(&Kept) -> bool) {
        let mut hashes: usize = self.kept.values().filter(|kept| counts(kept)).map(Kept::room).sum();
        while hashes > hashes_max {
            let others = self.kept.iter().filter(|(_, kept)| counts(kept) && kept.used < self.uses);
            let oldest = others.min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
            let Some(dropped) = oldest.and_then(|key| self.kept.remove(&key)) else {
                return;
            };
            hashes -= dropped.room();
        }
    }

    fn recall(&mut self, id: LineageId, index: CheckpointIndex) -> Option<Arc<[ChunkHash]>> {
        let kept = self.kept.get_mut(&(id, index))?;
        self.uses += 1;
        (kept.used, kept.is_asked) = (self.uses, true);
        Some(Arc::clone(&kept.hashes))
    }

    /// The checkpoint whose delta bore a chunk, and the first birth of that delta.
    fn place(&self, id: &LineageId, birth: Birth) -> Option<(CheckpointIndex, u64)> {
        let ends = self.ends.get(id)?;
        let at = ends.partition_point(|end| *end <= birth.0);
        (at < ends.len())
            .then(|| (CheckpointIndex(at as u64), at.checked_sub(1).map_or(0, |before| ends[before])))
    }
}

impl Lineages {
    /// Hashes of births, each `None` where the birth is not known here. Ascending births are quickest.
    ///
    /// # Errors
    ///
    /// [`MapError`] if a delta cannot be read.
    pub fn hashes(&self, id: LineageId, births: &[Birth]) -> Result<Vec<Option<ChunkHash>>, MapError> {
        let mut found = Vec::with_capacity(births.len());
        let mut current: Option<Born> = None;
        for birth in births {
            let within = |(first, hashes): &Born| {
                hashes.get(usize::try_from(birth.0.checked_sub(*first)?).ok()?).copied()
            };
            let mut hash = current.as_ref().and_then(within);
            if hash.is_none() {
                current = self.born_with(id, *birth)?;
                hash = current.as_ref().and_then(within);
            }
            found.push(hash);
        }
        Ok(found)
    }

    /// Hashes of chunks named from within a lineage, each `None` where it is not known here.
    ///
    /// # Errors
    ///
    /// [`MapError`] if a delta cannot be read.
    pub fn hashes_of(
        &self,
        lineage: &Lineage,
        chunks: &[ChunkRef],
    ) -> Result<Vec<Option<ChunkHash>>, MapError> {
        let mut order: Vec<(ChunkRef, usize)> = chunks.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let mut hashes = vec![None; chunks.len()];
        for order in order.chunk_by(|(before, _), (after, _)| before.generation == after.generation) {
            let Some(born_in) = lineage_of(lineage, order[0].0) else {
                continue;
            };
            let births: Vec<Birth> = order.iter().map(|(chunk, _)| chunk.birth).collect();
            for ((_, position), hash) in order.iter().zip(self.hashes(born_in, &births)?) {
                hashes[*position] = hash;
            }
        }
        Ok(hashes)
    }

    /// The chunks that were born together with `birth`, and the first of their births.
    fn born_with(&self, id: LineageId, birth: Birth) -> Result<Option<Born>, MapError> {
        let (place, kept) = {
            let mut state = self.lock();
            let Some(place) = state.births.place(&id, birth) else {
                return Ok(None);
            };
            (place, state.births.recall(id, place.0))
        };
        let (index, first) = place;
        if let Some(hashes) = kept {
            return Ok(Some((first, hashes)));
        }
        let Some(lineage) = self.get(&id) else {
            return Ok(None);
        };
        let bytes = self.object(&ObjectRequest::Delta(id, index)).map_err(Box::new)?;
        let bytes = bytes.ok_or(MapError::DeltaMissing { lineage: id, index })?;
        let delta = Delta::decode(&bytes, lineage.genesis.pages)?;
        let hashes: Arc<[ChunkHash]> = delta.new_chunks().map(|(hash, _)| hash).collect();
        self.lock().births.keep((id, index), Arc::clone(&hashes), true);
        Ok(Some((first, hashes)))
    }

    /// The births that are a chunk, in any lineage. Looks through all deltas: for rare questions only.
    ///
    /// # Errors
    ///
    /// [`MapError`] if a delta cannot be read.
    pub fn births_of(&self, chunk: ChunkHash) -> Result<Vec<(LineageId, Birth)>, MapError> {
        let mut found = Vec::new();
        for lineage in self.all() {
            let mut first = 0;
            while let Some((start, hashes)) = self.born_with(lineage.id, Birth(first))? {
                for (birth, _) in (start..).zip(hashes.iter()).filter(|(_, hash)| **hash == chunk) {
                    found.push((lineage.id, Birth(birth)));
                }
                first = start + (hashes.len() as u64).max(1);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pageswarm_checkpoint::chunk_hash;

    fn lineage() -> LineageId {
        LineageId([7; 32])
    }

    fn hashes(count: usize) -> Arc<[ChunkHash]> {
        vec![chunk_hash(b"chunk"); count].into()
    }

    fn kept(births: &Births) -> Vec<u64> {
        let mut indices: Vec<u64> = births.kept.keys().map(|(_, index)| index.0).collect();
        indices.sort_unstable();
        indices
    }

    #[test]
    fn what_nobody_asks_for_takes_an_eighth_of_the_room() {
        let mut births = Births::default();
        for index in 0..20 {
            births.push(lineage(), CheckpointIndex(index), index + 1, Some(hashes(UNASKED_HASHES_KEPT / 4)));
            if index == 3 {
                assert!(births.recall(lineage(), CheckpointIndex(1)).is_some());
            }
        }
        assert_eq!(kept(&births), [1, 16, 17, 18, 19]);
        assert_eq!(births.recall(lineage(), CheckpointIndex(15)), None);
    }

    #[test]
    fn what_is_asked_for_stays_until_the_room_is_full() {
        let mut births = Births::default();
        for index in 0..12 {
            births.keep((lineage(), CheckpointIndex(index)), hashes(HASHES_KEPT / 8), true);
            births.recall(lineage(), CheckpointIndex(0)).unwrap();
        }
        assert_eq!(kept(&births), [0, 5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn the_latest_is_kept_however_large() {
        let mut births = Births::default();
        births.push(lineage(), CheckpointIndex(0), 1, Some(hashes(UNASKED_HASHES_KEPT + 1)));
        births.push(lineage(), CheckpointIndex(1), 2, Some(hashes(HASHES_KEPT + 1)));
        assert_eq!(kept(&births), [1]);
    }
}
