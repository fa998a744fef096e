//! Giving chunks out: in batches sorted by place, chains level by level. Every chunk that is given out is hashed every
//! time; a base that is only a step on the way to one is hashed if what is made with it is not what it should be.

mod buffers;
mod plan;
mod records;
mod steps;

use std::collections::BTreeSet;
use std::ops::Range;

use pageswarm_checkpoint::{ChunkHash, Decoder, EncodedChunk, Encoding};

use crate::bad::{BadCause, BadChunk};
use crate::chain::Located;
use crate::chunk::VerifiedBytes;
use crate::fault::ReadError;
use crate::index::{Form, Key, Location};
use crate::limits::READ_WINDOW_CHUNKS;
use crate::pack::{RecordHeader, RecordKind};
use crate::store::Store;

pub(crate) use buffers::ReadBuffers;
use plan::Plan;
pub use steps::{Step, StepsRead, StepsWanted};

/// What became of one chunk asked for.
#[derive(Clone, Copy, Debug)]
pub enum ChunkRead<'read> {
    /// Here it is, hashed just now.
    Held(VerifiedBytes<'read>),
    /// The store does not have it.
    NotHeld,
    /// The store had it, and it is bad: it counts as not held from now on.
    Bad(&'read BadChunk),
}

/// A chunk found bad, with the location it was judged at.
struct Finding {
    bad: BadChunk,
    location: Option<Location>,
}

impl Store {
    /// Reads chunks in the order in which they are stored. `visit` gets each one's position in `hashes`, once.
    /// Memory in use is bounded whatever the number of chunks, apart from 64 bytes for each.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the index fails or a pack cannot be opened; a bad chunk is reported to `visit` instead.
    pub fn read_chunks(
        &self,
        hashes: &[ChunkHash],
        mut visit: impl FnMut(usize, ChunkRead<'_>),
    ) -> Result<(), ReadError> {
        let order = self.in_stored_order(hashes, |position, missing| match missing {
            None => visit(position, ChunkRead::NotHeld),
            Some(bad) => visit(position, ChunkRead::Bad(bad)),
        })?;
        for window in order.chunks(READ_WINDOW_CHUNKS) {
            let plan = Plan::new(&self.index, hashes, window)?;
            let suspects = self.read_plan(&plan, Trust::Bases, &mut visit)?;
            if !suspects.is_empty() {
                // Either they are bad or a base of theirs is: a second look tells which.
                let window: Vec<_> =
                    window.iter().filter(|(_, position)| suspects.contains(position)).copied().collect();
                let plan = Plan::new(&self.index, hashes, &window)?;
                self.read_plan(&plan, Trust::Nothing, &mut visit)?;
            }
        }
        Ok(())
    }

    /// Reads one chunk; `None` if it is not held.
    ///
    /// # Errors
    ///
    /// [`ReadError::BadChunk`] if it is bad; else as [`Store::read_chunks`].
    pub fn read_chunk(&self, hash: ChunkHash) -> Result<Option<Vec<u8>>, ReadError> {
        let mut outcome = Ok(None);
        self.read_chunks(&[hash], |_, read| {
            outcome = match read {
                ChunkRead::Held(chunk) => Ok(Some(chunk.bytes().to_vec())),
                ChunkRead::NotHeld => Ok(None),
                ChunkRead::Bad(bad) => Err(bad.clone()),
            };
        })?;
        Ok(outcome?)
    }

    /// The locations of the chunks that are held, sorted by place, each with its position in `hashes`.
    fn in_stored_order(
        &self,
        hashes: &[ChunkHash],
        mut missing: impl FnMut(usize, Option<&BadChunk>),
    ) -> Result<Vec<(Location, usize)>, ReadError> {
        let mut order = Vec::with_capacity(hashes.len());
        let mut findings = vec![];
        for (position, located) in self.index.locate(hashes)?.into_iter().enumerate() {
            match located {
                Located::At(location) => order.push((location, position)),
                Located::NotHeld => missing(position, None),
                Located::Damaged => {
                    let bad = BadChunk { hash: hashes[position], place: None, cause: BadCause::IndexEntry };
                    missing(position, Some(&bad));
                    findings.push(Finding { bad, location: None });
                }
            }
        }
        self.condemn(findings)?;
        order.sort_unstable_by_key(|(location, position)| (location.place, *position));
        Ok(order)
    }

    /// Reads a plan from the level without bases upwards. Returns the positions of chunks that are not what they
    /// should be although a base of theirs may be to blame: `visit` was not called for them.
    fn read_plan(
        &self,
        plan: &Plan,
        trust: Trust,
        visit: &mut impl FnMut(usize, ChunkRead<'_>),
    ) -> Result<BTreeSet<usize>, ReadError> {
        let mut outcome = Outcome { plan, trust, findings: vec![], suspects: BTreeSet::new(), visit };
        for (node, cause) in plan.unreadable() {
            outcome.reject(*node, cause.clone());
        }
        let mut below = plan.no_bytes();
        for level in plan.levels() {
            below = self.read_level(level, &below, &mut outcome)?;
        }
        let Outcome { findings, suspects, .. } = outcome;
        self.condemn(findings)?;
        Ok(suspects)
    }

    /// Reads one level of a plan; the bytes of those that are bases of the next.
    fn read_level<V: FnMut(usize, ChunkRead<'_>)>(
        &self,
        level: &[usize],
        below: &[Option<Vec<u8>>],
        outcome: &mut Outcome<'_, V>,
    ) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let plan = outcome.plan;
        let items: Vec<_> = level.iter().map(|&node| (plan.hash(node).0, *plan.location(node))).collect();
        let mut decoded = Decoded::new(plan.no_bytes());
        self.read_records(RecordKind::Chunk, &items, |item, record| {
            let node = level[item];
            let base = plan.base(node).and_then(|base| below[base].as_deref());
            let chunk = record.and_then(|(header, payload)| {
                let chunk = encoded_chunk(&header, payload)?;
                decoded.decode(&chunk, base)
            });
            match chunk {
                Ok(range) => decoded.waiting.push((node, range)),
                Err(cause) => outcome.fail(node, cause),
            }
            if decoded.waiting.len() >= HASHED_TOGETHER {
                decoded.check(outcome);
            }
        })?;
        decoded.check(outcome);
        Ok(decoded.kept)
    }

    /// Takes bad chunks out of the index, unless they were replaced meanwhile, and remembers them.
    fn condemn(&self, findings: Vec<Finding>) -> Result<(), ReadError> {
        if findings.is_empty() {
            return Ok(());
        }
        let mut intake = self.intake();
        let hashes: Vec<ChunkHash> = findings.iter().map(|finding| finding.bad.hash).collect();
        let current = self.index.locate(&hashes)?;
        let mut totals = intake.totals;
        let mut keys = vec![];
        for (finding, located) in findings.iter().zip(&current) {
            let unchanged = match located {
                Located::NotHeld => false,
                Located::Damaged => finding.location.is_none(),
                Located::At(location) => finding.location == Some(*location),
            };
            if unchanged {
                keys.push(Key::Chunk(finding.bad.hash).encode());
                finding.location.iter().for_each(|location| totals.remove_chunk(location));
            }
        }
        keys.sort_unstable();
        keys.dedup();
        self.index.remove(&keys)?;
        intake.totals = totals;
        drop(intake);
        let mut bad = self.bad_chunks();
        findings.into_iter().for_each(|finding| bad.remember(finding.bad));
        Ok(())
    }
}

/// What is believed without being hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// That bases are what they should be: a wrong one shows in what is decoded with it.
    Bases,
    Nothing,
}

/// Chunks decoded before they are hashed together: as many as the hash function has lanes.
const HASHED_TOGETHER: usize = 16;

/// What a plan's chunks turned out to be.
struct Outcome<'read, V> {
    plan: &'read Plan,
    trust: Trust,
    findings: Vec<Finding>,
    suspects: BTreeSet<usize>,
    visit: &'read mut V,
}

/// The chunks of one level, decoded one after the other.
struct Decoded<'base> {
    decoder: Decoder<'base>,
    bytes: Vec<u8>,
    /// Nodes that were decoded and not hashed, and where in `bytes` they are.
    waiting: Vec<(usize, Range<usize>)>,
    /// The bytes of nodes that are bases of the next level.
    kept: Vec<Option<Vec<u8>>>,
}

impl<'base> Decoded<'base> {
    fn new(kept: Vec<Option<Vec<u8>>>) -> Self {
        Self { decoder: Decoder::new(), bytes: vec![], waiting: vec![], kept }
    }

    fn decode(
        &mut self,
        chunk: &EncodedChunk<ChunkHash, &[u8]>,
        base: Option<&'base [u8]>,
    ) -> Result<Range<usize>, BadCause> {
        if let (Some(named), None) = (chunk.encoding.base(), base) {
            return Err(BadCause::BaseLost { base: *named });
        }
        let start = self.bytes.len();
        self.decoder.decode(chunk, base, &mut self.bytes).map_err(BadCause::Undecodable)?;
        Ok(start..self.bytes.len())
    }

    /// Hashes what waits, gives out what is right, and keeps what the next level needs.
    fn check<V: FnMut(usize, ChunkRead<'_>)>(&mut self, outcome: &mut Outcome<'_, V>) {
        let plan = outcome.plan;
        let is_trusted = |node: usize| outcome.trust == Trust::Bases && plan.positions(node).next().is_none();
        let (trusted, doubted): (Vec<_>, Vec<_>) =
            self.waiting.drain(..).partition(|(node, _)| is_trusted(*node));
        let bytes: Vec<&[u8]> = doubted.iter().map(|(_, range)| &self.bytes[range.clone()]).collect();
        let mut right: Vec<(usize, Range<usize>)> = trusted;
        for ((node, range), chunk) in doubted.into_iter().zip(VerifiedBytes::hashed_together(&bytes)) {
            if outcome.take(node, chunk) {
                right.push((node, range));
            }
        }
        for (node, range) in right {
            if plan.is_base(node) {
                self.kept[node] = Some(self.bytes[range].to_vec());
            }
        }
        self.bytes.clear();
    }
}

impl<V: FnMut(usize, ChunkRead<'_>)> Outcome<'_, V> {
    /// Gives a decoded chunk out if it is what its node says; true if it is.
    fn take(&mut self, node: usize, chunk: VerifiedBytes<'_>) -> bool {
        let is_right = chunk.hash() == self.plan.hash(node);
        if is_right {
            self.plan.positions(node).for_each(|position| (self.visit)(position, ChunkRead::Held(chunk)));
        } else {
            self.fail(node, BadCause::WrongHash);
        }
        is_right
    }

    /// Rejects a node, or suspects it if a base that was not hashed may be to blame.
    fn fail(&mut self, node: usize, cause: BadCause) {
        let by_content = matches!(cause, BadCause::WrongHash | BadCause::Undecodable(_));
        if by_content && self.trust == Trust::Bases && self.plan.base(node).is_some() {
            self.suspects.extend(self.plan.positions(node));
        } else {
            self.reject(node, cause);
        }
    }

    fn reject(&mut self, node: usize, cause: BadCause) {
        let location = *self.plan.location(node);
        let bad = BadChunk { hash: self.plan.hash(node), place: Some(location.place), cause };
        self.plan.positions(node).for_each(|position| (self.visit)(position, ChunkRead::Bad(&bad)));
        self.findings.push(Finding { bad, location: Some(location) });
    }
}

/// A record's payload as an encoded chunk.
fn encoded_chunk<'record>(
    header: &RecordHeader,
    payload: &'record [u8],
) -> Result<EncodedChunk<ChunkHash, &'record [u8]>, BadCause> {
    let (encoding, bytes) = if header.form == Form::Raw as u8 {
        (Encoding::Raw, payload)
    } else if header.form == Form::Zstd as u8 {
        (Encoding::Zstd, payload)
    } else {
        let (base, bytes) = payload.split_first_chunk::<32>().ok_or(BadCause::OtherRecord)?;
        let base = ChunkHash(*base);
        let encoding = match header.form {
            form if form == Form::Patch as u8 => Encoding::Patch { base },
            form if form == Form::Diff as u8 => Encoding::Diff { base },
            _ => return Err(BadCause::OtherRecord),
        };
        (encoding, bytes)
    };
    Ok(EncodedChunk { encoding, decoded_len: header.decoded_len, bytes })
}

#[cfg(test)]
mod tests {
    use pageswarm_checkpoint::{Effort, Encoder, PAGE_BYTES};

    use super::*;
    use crate::chunk::SharedBytes;
    use crate::chunk::VerifiedChunk;
    use crate::index::{Durability, Entry};
    use crate::noise::noise;
    use crate::store::StoreOptions;

    /// Three chunks, the last a patch on the first.
    fn three_chunks() -> Vec<VerifiedChunk> {
        let (first, second) = (noise(1), noise(2));
        let mut third = first.clone();
        third[40] ^= 1;
        vec![
            VerifiedChunk::encode(
                &mut Encoder::new(Effort::Fast),
                SharedBytes::hashed(first.clone().into()),
                None,
            ),
            VerifiedChunk::encode(&mut Encoder::new(Effort::Fast), SharedBytes::hashed(second.into()), None),
            VerifiedChunk::encode(
                &mut Encoder::new(Effort::Fast),
                SharedBytes::hashed(third.into()),
                Some(VerifiedBytes::hashed(&first)),
            ),
        ]
    }

    #[test]
    fn every_flipped_byte_of_an_index_entry_is_noticed_and_never_gives_another_chunk() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let chunks = three_chunks();
        store.put_chunks(&chunks).unwrap();
        store.sync().unwrap();
        store.index.forget_settled();
        let patch = &chunks[2];
        assert!(matches!(patch.encoded().encoding, Encoding::Diff { .. }));
        let key = Key::Chunk(patch.hash()).encode();
        let good = store.index.get(&key).unwrap().unwrap();
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 0x41;
            store.index.settle(vec![(key.clone(), Some(flipped))], Durability::Later).unwrap();
            let error = store.read_chunk(patch.hash()).unwrap_err();
            let ReadError::BadChunk(bad) = error else { panic!("byte {at}: {error}") };
            assert_eq!(bad.hash, patch.hash(), "byte {at}");
            assert!(bad.place.is_some(), "byte {at}");
            assert_eq!(store.contains_many(&[patch.hash()]).unwrap(), [false], "byte {at}");
        }
        assert_eq!(store.take_bad_chunks().len(), good.len());
        store.index.settle(vec![(key.clone(), Some(good[1..].to_vec()))], Durability::Later).unwrap();
        let error = store.read_chunk(patch.hash()).unwrap_err();
        assert!(matches!(
            error,
            ReadError::BadChunk(BadChunk { place: None, cause: BadCause::IndexEntry, .. })
        ));
        store.index.settle(vec![(key, Some(good))], Durability::Later).unwrap();
        assert_eq!(store.read_chunk(patch.hash()).unwrap().unwrap(), patch.decoded().bytes());
    }

    #[test]
    fn a_chunk_put_again_is_counted_once_also_by_a_rebuilt_index() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let chunks = three_chunks();
        store.put_chunks(&chunks).unwrap();
        store.sync().unwrap();
        store.index.forget_settled();
        let key = Key::Chunk(chunks[1].hash()).encode();
        store.index.settle(vec![(key, Some(vec![0; 17]))], Durability::Later).unwrap();
        store.read_chunk(chunks[1].hash()).unwrap_err();
        assert_eq!(store.put_chunks(&chunks).unwrap().stored, 1);
        store.close().unwrap();
        let store = Store::reindex(dir.path(), StoreOptions::default()).unwrap();
        let stats = store.stats().unwrap();
        assert_eq!((stats.chunks, stats.chunk_bytes_decoded), (3, 3 * 4096));
        assert_eq!(store.verify().unwrap().chunks_good, 3);
    }

    #[test]
    fn a_whole_record_of_other_bytes_is_found_by_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let zeros = Encoder::new(Effort::Small).encode::<ChunkHash>(&[0; PAGE_BYTES], None).bytes;
        for (byte, form, payload) in [(1, Form::Raw, noise(9)), (2, Form::Zstd, zeros)] {
            let name = [byte; 32];
            let parts: [&[u8]; 2] = [&[], &payload];
            let header = RecordHeader::for_payload(RecordKind::Chunk, form as u8, name, 4096, &parts);
            let mut intake = store.intake();
            store.write(&mut intake, |batch| batch.push_chunk(&header, &parts)).unwrap();
            drop(intake);
            let error = store.read_chunk(ChunkHash(name)).unwrap_err();
            assert!(
                matches!(error, ReadError::BadChunk(BadChunk { cause: BadCause::WrongHash, .. })),
                "{error}"
            );
        }
    }

    #[test]
    fn entries_that_make_a_cycle_of_bases_are_bad_and_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).unwrap();
        let chunks = three_chunks();
        store.put_chunks(&chunks).unwrap();
        let (first, patch) = (&chunks[0], &chunks[2]);
        let mut location = *store.index.locate(&[first.hash()]).unwrap()[0].location().unwrap();
        location.base = Some(patch.hash());
        store.index.stage(vec![Entry::Chunk(first.hash(), location)]);
        let error = store.read_chunk(patch.hash()).unwrap_err();
        assert!(
            matches!(error, ReadError::BadChunk(BadChunk { cause: BadCause::EndlessChain, .. })),
            "{error}"
        );
    }
}
