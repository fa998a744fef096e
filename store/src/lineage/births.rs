//! Births: a lineage's order of new chunks, both ways.
//!
//! A births record's payload is runs: first birth (u64), count (u32), the chunks' hashes. Its name is the lineage.

use std::collections::BTreeMap;

use pageswarm_checkpoint::{Birth, ChunkHash, LineageId};

use super::hash32;
use crate::fault::{IndexError, WriteError};
use crate::index::{Entry, Index, Key};
use crate::limits::BIRTHS_PER_RECORD_MAX;
use crate::pack::{HEADER_BYTES, RecordHeader, RecordKind};
use crate::store::Store;

type Births = BTreeMap<Birth, ChunkHash>;

impl Store {
    /// Notes which chunks births of a lineage are, whether or not the chunks are held: all, or on error none.
    /// Durable after the next [`Store::sync`] or [`Store::commit_checkpoint`].
    ///
    /// # Errors
    ///
    /// [`WriteError::BirthConflict`] if a birth is known with another hash; else a failure to write.
    pub fn put_births(&self, lineage: LineageId, births: &[(Birth, ChunkHash)]) -> Result<(), WriteError> {
        let mut intake = self.intake();
        let fresh = self.unknown_births(lineage, births)?;
        let fresh: Vec<(Birth, ChunkHash)> = fresh.into_iter().collect();
        self.check_quota(&intake, (fresh.len() * (32 + 12) + HEADER_BYTES * fresh.len().min(1)) as u64)?;
        self.write(&mut intake, |batch| {
            for births in fresh.chunks(BIRTHS_PER_RECORD_MAX) {
                let payload = encode(births);
                let header = RecordHeader::for_payload(RecordKind::Births, 0, lineage.0, 0, &[&payload]);
                batch.push(&header, &[&payload])?;
            }
            batch.entries = entries(&self.index, lineage, &fresh)?;
            Ok(())
        })
    }

    /// The chunk of each birth, where it is known.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn births(&self, lineage: LineageId, births: &[Birth]) -> Result<Vec<Option<ChunkHash>>, IndexError> {
        let keys: Vec<Vec<u8>> = births.iter().map(|birth| Key::Birth(lineage, *birth).encode()).collect();
        let found = self.index.look_up(&keys, hash32)?;
        found.into_iter().map(|hash| hash.transpose().map(|hash| hash.map(ChunkHash))).collect()
    }

    /// The latest birth of each chunk in a lineage, where there is one.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn births_of(
        &self,
        lineage: LineageId,
        chunks: &[ChunkHash],
    ) -> Result<Vec<Option<Birth>>, IndexError> {
        births_of(&self.index, lineage, chunks)
    }

    fn unknown_births(
        &self,
        lineage: LineageId,
        births: &[(Birth, ChunkHash)],
    ) -> Result<Births, WriteError> {
        let numbers: Vec<Birth> = births.iter().map(|(birth, _)| *birth).collect();
        let mut fresh = Births::new();
        for ((birth, offered), known) in births.iter().zip(self.births(lineage, &numbers)?) {
            let held = known.or_else(|| fresh.get(birth).copied());
            match held {
                Some(held) if held != *offered => {
                    let (birth, offered) = (*birth, *offered);
                    return Err(WriteError::BirthConflict { lineage, birth, held, offered });
                }
                Some(_) => {}
                None => {
                    fresh.insert(*birth, *offered);
                }
            }
        }
        Ok(fresh)
    }
}

/// The index entries of a births record; `None` if the payload is none.
pub(crate) fn entries_of_record(
    index: &Index,
    lineage: LineageId,
    payload: &[u8],
) -> Result<Option<Vec<Entry>>, IndexError> {
    decode(payload).map(|births| entries(index, lineage, &births)).transpose()
}

/// Entries both ways; the way back leads to the latest birth, also among those already known.
fn entries(
    index: &Index,
    lineage: LineageId,
    births: &[(Birth, ChunkHash)],
) -> Result<Vec<Entry>, IndexError> {
    let mut latest: BTreeMap<ChunkHash, Birth> = BTreeMap::new();
    for (birth, hash) in births {
        latest.entry(*hash).and_modify(|known| *known = (*known).max(*birth)).or_insert(*birth);
    }
    let hashes: Vec<ChunkHash> = latest.keys().copied().collect();
    let known = births_of(index, lineage, &hashes)?;
    let forth = births
        .iter()
        .map(|(birth, hash)| Entry::Other(Key::Birth(lineage, *birth).encode(), Some(hash.0.to_vec())));
    let back =
        latest.into_iter().zip(known).filter(|((_, birth), known)| known.is_none_or(|known| known < *birth));
    let back = back.map(|((hash, birth), _)| {
        Entry::Other(Key::BirthOf(lineage, hash).encode(), Some(birth.0.to_le_bytes().to_vec()))
    });
    Ok(forth.chain(back).collect())
}

fn births_of(
    index: &Index,
    lineage: LineageId,
    chunks: &[ChunkHash],
) -> Result<Vec<Option<Birth>>, IndexError> {
    let keys: Vec<Vec<u8>> = chunks.iter().map(|hash| Key::BirthOf(lineage, *hash).encode()).collect();
    let found = index.look_up(&keys, |value| value.try_into().map(u64::from_le_bytes).map(Birth))?;
    found.into_iter().map(|birth| birth.transpose().map_err(|_| IndexError::EntryDamaged)).collect()
}

fn encode(births: &[(Birth, ChunkHash)]) -> Vec<u8> {
    let mut payload = vec![];
    for run in births.chunk_by(|(before, _), (after, _)| before.0.checked_add(1) == Some(after.0)) {
        let count = u32::try_from(run.len()).expect("bounded by BIRTHS_PER_RECORD_MAX");
        payload.extend_from_slice(&run[0].0.0.to_le_bytes());
        payload.extend_from_slice(&count.to_le_bytes());
        run.iter().for_each(|(_, hash)| payload.extend_from_slice(hash.as_bytes()));
    }
    payload
}

fn decode(payload: &[u8]) -> Option<Vec<(Birth, ChunkHash)>> {
    let mut births = vec![];
    let mut rest = payload;
    while !rest.is_empty() {
        let (first, after) = rest.split_first_chunk::<8>()?;
        let (count, after) = after.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let (hashes, after) = after.split_at_checked(count.checked_mul(32)?)?;
        let mut birth = u64::from_le_bytes(*first);
        for hash in hashes.as_chunks::<32>().0 {
            births.push((Birth(birth), ChunkHash(*hash)));
            birth = birth.wrapping_add(1);
        }
        rest = after;
    }
    Some(births)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_read_back_and_cut_ones_do_not() {
        let births: Vec<(Birth, ChunkHash)> =
            [3_u8, 4, 5, 9, 20, 21].map(|n| (Birth(u64::from(n)), ChunkHash([n; 32]))).to_vec();
        let payload = encode(&births);
        assert_eq!(payload.len(), 3 * 12 + 6 * 32);
        assert_eq!(decode(&payload), Some(births));
        assert_eq!(decode(&payload[..payload.len() - 1]), None);
        assert_eq!(decode(&[0xff; 12]), None);
    }
}
