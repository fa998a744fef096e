//! Giving chunks out: in batches sorted by place, chains level by level, every chunk hashed every time.

mod plan;
mod records;

use pageswarm_checkpoint::{ChunkHash, Decoder, EncodedChunk, Encoding};

use crate::bad::{BadCause, BadChunk};
use crate::chain::Located;
use crate::chunk::VerifiedBytes;
use crate::fault::ReadError;
use crate::index::{Form, Key, Location};
use crate::limits::READ_WINDOW_CHUNKS;
use crate::pack::{RecordHeader, RecordKind};
use crate::store::Store;

use plan::Plan;

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

/// What became of one chunk asked for in its stored form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncodedRead {
    /// As stored; its checksum is right. Whoever decodes it compares the hash.
    Held(EncodedChunk<ChunkHash>),
    /// The store does not have it.
    NotHeld,
    /// The store had it, and it is bad: it counts as not held from now on.
    Bad(BadChunk),
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
            self.read_plan(&plan, &mut visit)?;
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

    /// Gives chunks out as they are stored, in the order in which they are stored, checksum checked and not
    /// decoded. `visit` gets each one's position in `hashes`, once.
    ///
    /// # Errors
    ///
    /// As [`Store::read_chunks`].
    pub fn read_encoded(
        &self,
        hashes: &[ChunkHash],
        mut visit: impl FnMut(usize, EncodedRead),
    ) -> Result<(), ReadError> {
        let order = self.in_stored_order(hashes, |position, missing| match missing {
            None => visit(position, EncodedRead::NotHeld),
            Some(bad) => visit(position, EncodedRead::Bad(bad.clone())),
        })?;
        for window in order.chunks(READ_WINDOW_CHUNKS) {
            let items: Vec<_> =
                window.iter().map(|(location, position)| (hashes[*position].0, *location)).collect();
            let mut findings = vec![];
            self.read_records(RecordKind::Chunk, &items, |item, record| {
                let (location, position) = window[item];
                match record.and_then(|(header, payload)| encoded_chunk(&header, payload)) {
                    Ok(encoded) => visit(position, EncodedRead::Held(encoded)),
                    Err(cause) => {
                        let bad = BadChunk { hash: hashes[position], place: Some(location.place), cause };
                        visit(position, EncodedRead::Bad(bad.clone()));
                        findings.push(Finding { bad, location: Some(location) });
                    }
                }
            })?;
            self.condemn(findings)?;
        }
        Ok(())
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

    /// Reads a plan from the level without bases upwards.
    fn read_plan(&self, plan: &Plan, visit: &mut impl FnMut(usize, ChunkRead<'_>)) -> Result<(), ReadError> {
        let mut findings = vec![];
        for (node, cause) in plan.unreadable() {
            reject(plan, *node, cause.clone(), &mut findings, visit);
        }
        let mut below = plan.no_bytes();
        for level in plan.levels() {
            below = self.read_level(plan, level, &below, &mut findings, visit)?;
        }
        self.condemn(findings)
    }

    /// Reads one level of a plan; the bytes of those that are bases of the next.
    fn read_level(
        &self,
        plan: &Plan,
        level: &[usize],
        below: &[Option<Vec<u8>>],
        findings: &mut Vec<Finding>,
        visit: &mut impl FnMut(usize, ChunkRead<'_>),
    ) -> Result<Vec<Option<Vec<u8>>>, ReadError> {
        let items: Vec<_> = level.iter().map(|&node| (plan.hash(node).0, *plan.location(node))).collect();
        let mut kept = plan.no_bytes();
        let mut reader = ChunkDecoder { decoder: None, decoded: vec![] };
        self.read_records(RecordKind::Chunk, &items, |item, record| {
            let node = level[item];
            let base = plan.base(node).and_then(|base| below[base].as_deref());
            match record.and_then(|(header, payload)| reader.decode(plan.hash(node), &header, payload, base))
            {
                Ok(chunk) => {
                    plan.positions(node).for_each(|position| visit(position, ChunkRead::Held(chunk)));
                    if plan.is_base(node) {
                        kept[node] = Some(chunk.bytes().to_vec());
                    }
                }
                Err(cause) => reject(plan, node, cause, findings, visit),
            }
        })?;
        Ok(kept)
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

/// Decodes one record after the other, with a zstd context made when the first one needs it.
struct ChunkDecoder<'base> {
    decoder: Option<Decoder<'base>>,
    decoded: Vec<u8>,
}

impl<'base> ChunkDecoder<'base> {
    /// The record's chunk, hashed.
    fn decode<'out>(
        &'out mut self,
        hash: ChunkHash,
        header: &RecordHeader,
        payload: &'out [u8],
        base: Option<&'base [u8]>,
    ) -> Result<VerifiedBytes<'out>, BadCause> {
        let is_whole_raw = header.form == Form::Raw as u8 && header.decoded_len == header.stored_len;
        if is_whole_raw {
            return VerifiedBytes::checked(hash, payload).ok_or(BadCause::WrongHash);
        }
        let encoded = encoded_chunk(header, payload)?;
        if let (Encoding::Patch { base: named }, None) = (encoded.encoding, base) {
            return Err(BadCause::BaseLost { base: named });
        }
        self.decoded.clear();
        let decoder = self.decoder.get_or_insert_with(Decoder::new);
        decoder.decode(&encoded, base, &mut self.decoded).map_err(BadCause::Undecodable)?;
        VerifiedBytes::checked(hash, &self.decoded).ok_or(BadCause::WrongHash)
    }
}

/// A record's payload as an encoded chunk.
fn encoded_chunk(header: &RecordHeader, payload: &[u8]) -> Result<EncodedChunk<ChunkHash>, BadCause> {
    let (encoding, bytes) = if header.form == Form::Raw as u8 {
        (Encoding::Raw, payload)
    } else if header.form == Form::Zstd as u8 {
        (Encoding::Zstd, payload)
    } else if header.form == Form::Patch as u8 {
        let (base, bytes) = payload.split_first_chunk::<32>().ok_or(BadCause::OtherRecord)?;
        (Encoding::Patch { base: ChunkHash(*base) }, bytes)
    } else {
        return Err(BadCause::OtherRecord);
    };
    Ok(EncodedChunk { encoding, decoded_len: header.decoded_len, bytes: bytes.to_vec() })
}

fn reject(
    plan: &Plan,
    node: usize,
    cause: BadCause,
    findings: &mut Vec<Finding>,
    visit: &mut impl FnMut(usize, ChunkRead<'_>),
) {
    let location = *plan.location(node);
    let bad = BadChunk { hash: plan.hash(node), place: Some(location.place), cause };
    plan.positions(node).for_each(|position| visit(position, ChunkRead::Bad(&bad)));
    findings.push(Finding { bad, location: Some(location) });
}

#[cfg(test)]
mod tests {
    use pageswarm_checkpoint::{Encoder, PAGE_BYTES};

    use super::*;
    use crate::chunk::SharedBytes;
    use crate::chunk::VerifiedChunk;
    use crate::index::Durability;
    use crate::store::StoreOptions;

    fn noise(seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; PAGE_BYTES];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Three chunks, the last a patch on the first.
    fn three_chunks() -> Vec<VerifiedChunk> {
        let (first, second) = (noise(1), noise(2));
        let mut third = first.clone();
        third[40] ^= 1;
        vec![
            VerifiedChunk::encode(&mut Encoder::new(), SharedBytes::hashed(first.clone().into()), None),
            VerifiedChunk::encode(&mut Encoder::new(), SharedBytes::hashed(second.into()), None),
            VerifiedChunk::encode(
                &mut Encoder::new(),
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
        let patch = &chunks[2];
        assert!(matches!(patch.encoded().encoding, Encoding::Patch { .. }));
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
        let key = Key::Chunk(chunks[1].hash()).encode();
        store.index.stage(vec![(key, Some(vec![0; 17]))]);
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
        let zeros = Encoder::new().encode::<ChunkHash>(&[0; PAGE_BYTES], None).bytes;
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
        let mut location =
            Location::decode(&store.index.get(&Key::Chunk(first.hash()).encode()).unwrap().unwrap()).unwrap();
        location.base = Some(patch.hash());
        store.index.stage(vec![(Key::Chunk(first.hash()).encode(), Some(location.encode()))]);
        let error = store.read_chunk(patch.hash()).unwrap_err();
        assert!(
            matches!(error, ReadError::BadChunk(BadChunk { cause: BadCause::EndlessChain, .. })),
            "{error}"
        );
    }
}
