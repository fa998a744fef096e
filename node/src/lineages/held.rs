//! What of a lineage is held when a node starts: which births, and the latest checkpoint that is whole.
//!
//! Both follow from deltas and store, so there is no note of them that could be wrong after a loss.

use std::collections::BTreeSet;

use pageswarm_checkpoint::{
    Birth, BlobKind, CheckpointIndex, ChunkHash, ChunkRef, ChunkSource, Delta, PageChange, PageNumber,
};
use pageswarm_swarm::BirthSet;

use super::{Lineage, Lineages, MapError};

/// What deltas and store say of a lineage.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Encoded lengths of all births.
    pub lengths: Vec<u32>,
    /// Births whose chunks are held.
    pub held: BirthSet,
    /// The latest checkpoint all of whose chunks are held.
    pub whole: Option<CheckpointIndex>,
}

/// A lineage with the births of it that are held.
type Ancestor = (Lineage, BirthSet);

/// What of a checkpoint is not held, brought on from delta to delta.
#[derive(Debug, Default)]
struct Lacking(BTreeSet<Part>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Page(PageNumber),
    Blob(BlobKind),
}

impl Lineages {
    /// Goes once through the lineage's deltas, and through its ancestors' up to where it branches off.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn survey(&self, lineage: &Lineage) -> Result<Survey, MapError> {
        let Some((head, _)) = &lineage.applied else {
            return Ok(Survey::default());
        };
        let mut survey = Survey { held: self.held_births(lineage)?, ..Survey::default() };
        // Where an ancestor cannot be read it stays unknown what of its pages is held.
        let mut branch = self.branch_point(lineage).ok();
        for index in (0..=head.index.0).map(CheckpointIndex) {
            let delta = self.delta(lineage, index)?;
            survey.lengths.extend(delta.new_chunks().map(|(_, length)| length));
            if let Some((lacking, ancestors)) = &mut branch {
                lacking.pass(&delta, |chunk| is_held(&survey.held, ancestors, chunk));
                if lacking.0.is_empty() {
                    survey.whole = Some(index);
                }
            }
        }
        Ok(survey)
    }

    /// What is not held of the checkpoint that the lineage branches from, nothing if from none; and its ancestors.
    fn branch_point(&self, lineage: &Lineage) -> Result<(Lacking, Vec<Ancestor>), MapError> {
        let mut ancestors = Vec::with_capacity(lineage.ancestors.len());
        for id in &lineage.ancestors {
            let ancestor = self.get(id).ok_or(MapError::UnknownLineage(*id))?;
            let held = self.held_births(&ancestor)?;
            ancestors.push((ancestor, held));
        }
        let mut lacking = Lacking::default();
        // The eldest first: each of the others continues one of its checkpoints.
        for (generation, (ancestor, held)) in ancestors.iter().enumerate().rev() {
            let child = generation.checked_sub(1).map_or(lineage, |below| &ancestors[below].0);
            let Some(point) = child.genesis.parent else {
                break;
            };
            for index in (0..=point.index.0).map(CheckpointIndex) {
                let delta = self.delta(ancestor, index)?;
                lacking.pass(&delta, |chunk| is_held(held, &ancestors[generation + 1..], chunk));
            }
        }
        Ok((lacking, ancestors))
    }

    /// Births of a lineage whose chunks are held.
    ///
    /// # Errors
    ///
    /// [`MapError`].
    pub fn held_births(&self, lineage: &Lineage) -> Result<BirthSet, MapError> {
        let mut held = BirthSet::new();
        let mut first = 0;
        while first < lineage.births {
            let numbers: Vec<Birth> = (first..lineage.births.min(first + 8192)).map(Birth).collect();
            let hashes = self.hashes(lineage.id, &numbers)?;
            let known: Vec<(Birth, ChunkHash)> =
                numbers.iter().zip(hashes).filter_map(|(birth, hash)| Some((*birth, hash?))).collect();
            let names: Vec<ChunkHash> = known.iter().map(|(_, hash)| *hash).collect();
            for ((birth, _), here) in known.iter().zip(self.store.contains_many(&names)?) {
                if here {
                    held.insert(*birth);
                }
            }
            first += 8192;
        }
        Ok(held)
    }
}

/// Whether a chunk is held that is named from within a lineage of which `held` is.
fn is_held(held: &BirthSet, ancestors: &[Ancestor], chunk: ChunkRef) -> bool {
    let births = match usize::from(chunk.generation.0).checked_sub(1) {
        None => Some(held),
        Some(up) => ancestors.get(up).map(|(_, held)| held),
    };
    births.is_some_and(|births| births.contains(chunk.birth))
}

impl Lacking {
    /// Brings it on to the checkpoint that the delta leads to.
    fn pass(&mut self, delta: &Delta, is_held: impl Fn(ChunkRef) -> bool) {
        let mut next = delta.births_before;
        let mut look_up = |source: &ChunkSource| match source {
            ChunkSource::Same(chunk) => is_held(*chunk),
            ChunkSource::New { .. } => {
                next += 1;
                is_held(ChunkRef::own(Birth(next - 1)))
            }
        };
        for (page, change) in &delta.pages {
            let is_here = match change {
                PageChange::Zero => true,
                PageChange::Chunk(source) => look_up(source),
            };
            self.note(Part::Page(*page), is_here);
        }
        for blob in &delta.blobs {
            // Every chunk is looked up, because that counts the births.
            let lacked = blob.chunks.iter().filter(|(source, _)| !look_up(source)).count();
            self.note(Part::Blob(blob.kind), lacked == 0);
        }
    }

    fn note(&mut self, part: Part, is_here: bool) {
        if is_here {
            self.0.remove(&part);
        } else {
            self.0.insert(part);
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a checkpoint counts as whole exactly if each chunk of its map is held. Method: random deltas, and the maps
    //! that they make.

    use pageswarm_checkpoint::{BlobDelta, CheckpointMap, Generation};
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    const PAGES: u32 = 6;
    const ANCESTOR_BIRTHS: u64 = 4;

    fn random_source(random: &mut StdRng, births: u64) -> ChunkSource {
        match random.random_range(0..4) {
            0 if births > 0 => ChunkSource::Same(ChunkRef::own(Birth(random.random_range(0..births)))),
            1 => {
                let birth = Birth(random.random_range(0..ANCESTOR_BIRTHS));
                ChunkSource::Same(ChunkRef { generation: Generation(1), birth })
            }
            _ => ChunkSource::New { hash: ChunkHash([7; 32]), encoded_len: 9 },
        }
    }

    fn random_delta(random: &mut StdRng, births_before: u64) -> Delta {
        let mut delta = Delta { births_before, ..Delta::default() };
        for page in (0..PAGES).map(PageNumber) {
            if random.random_bool(0.4) {
                let source = random_source(random, births_before);
                let is_zero = random.random_bool(0.2);
                delta.pages.push((page, if is_zero { PageChange::Zero } else { PageChange::Chunk(source) }));
            }
        }
        for kind in [BlobKind::Cpu, BlobKind::IntervalRecord] {
            if random.random_bool(0.5) {
                let chunks = (0..2).map(|_| (random_source(random, births_before), 5)).collect();
                delta.blobs.push(BlobDelta { kind, chunks });
            }
        }
        delta
    }

    fn random_births(random: &mut StdRng, end: u64) -> BirthSet {
        (0..end).filter(|_| random.random_bool(0.9)).map(Birth).collect()
    }

    #[test]
    fn a_checkpoint_is_whole_if_each_chunk_of_its_map_is_held() {
        let (mut whole, mut lacking_some) = (0, 0);
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let held = random_births(&mut random, 200);
            let of_ancestor = random_births(&mut random, ANCESTOR_BIRTHS);
            let is_held = |chunk: ChunkRef| {
                let births = if chunk.generation.0 == 0 { &held } else { &of_ancestor };
                births.contains(chunk.birth)
            };
            let (mut map, mut lacking) = (CheckpointMap::zero(PAGES), Lacking::default());
            for index in 0..8 {
                let delta = random_delta(&mut random, map.births);
                lacking.pass(&delta, is_held);
                map = map.apply(&delta, |_| Some(ChunkHash([8; 32]))).unwrap();
                let expected = map.chunks().all(|(chunk, _)| is_held(chunk));
                assert_eq!(lacking.0.is_empty(), expected, "seed {seed}, checkpoint {index}");
                *(if expected { &mut whole } else { &mut lacking_some }) += 1;
            }
        }
        assert!(whole > 100 && lacking_some > 100, "{whole} whole, {lacking_some} not");
    }
}
