//! Giving chunks out in the steps in which they are stored, not decoded: from a chunk that the reader has, or from one
//! without a base, up to the chunk that it wants.

use pageswarm_checkpoint::{ChunkHash, ChunkMap, Effort, EncodedChunk};

use super::records::Item;
use super::{Finding, encoded_chunk};
use crate::bad::{BadCause, BadChunk};
use crate::chain::Chains;
use crate::fault::ReadError;
use crate::index::{Form, Location};
use crate::limits::{CHAIN_WALK_MAX, READ_WINDOW_CHUNKS};
use crate::pack::{RecordHeader, RecordKind};
use crate::store::Store;

/// A chunk to be read in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepsWanted {
    /// Which.
    pub hash: ChunkHash,
    /// A chunk that the reader has: steps below it are of no use.
    pub from: Option<ChunkHash>,
}

/// A step, with its own base named by nothing: it is what the step before it makes, or what the steps start from.
pub type Step<Bytes = Vec<u8>> = EncodedChunk<(), Bytes>;

/// What became of one chunk asked for in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepsRead<'read> {
    /// As stored; checksums are right. Whoever decodes them compares the hash.
    Held {
        /// Whether they start from the chunk that the reader has; else the first one has no base.
        from: bool,
        /// At least one.
        steps: &'read [Step<&'read [u8]>],
    },
    /// To be read decoded. All steps together are longer than the chunk; or it is stored raw, the store has the one that the
    /// reader has, and effort is not spared; or something is wrong, which reading finds out and takes out of the index.
    Decode,
    /// The store does not have it, or what it has was just found bad.
    NotHeld,
}

/// The records of one chunk's steps, the chunk's own first.
struct Path {
    from: bool,
    /// It is one record, raw: as what changed since a chunk of the same length it may be shorter.
    is_raw: bool,
    records: Vec<ChunkHash>,
}

impl Store {
    /// Reads chunks in the steps in which they are stored. `visit` gets each one's position in `wanted`, once.
    /// [`Effort::Small`] leaves those to be decoded that are stored raw and may be shorter as what changed since the one that
    /// the reader has.
    ///
    /// # Errors
    ///
    /// As [`Store::read_chunks`].
    pub fn read_steps(
        &self,
        wanted: &[StepsWanted],
        effort: Effort,
        mut visit: impl FnMut(usize, StepsRead<'_>),
    ) -> Result<(), ReadError> {
        for (window, first) in wanted.chunks(READ_WINDOW_CHUNKS).zip((0..).step_by(READ_WINDOW_CHUNKS)) {
            self.read_window_in_steps(window, effort, |position, read| visit(first + position, read))?;
        }
        Ok(())
    }

    fn read_window_in_steps(
        &self,
        wanted: &[StepsWanted],
        effort: Effort,
        mut visit: impl FnMut(usize, StepsRead<'_>),
    ) -> Result<(), ReadError> {
        let mut chains = Chains::default();
        chains.resolve(&self.index, wanted.iter().map(|wanted| wanted.hash).collect())?;
        // Most chunks are one record, which is given out from where it was read to.
        let mut single: Vec<(usize, bool, Item)> = Vec::with_capacity(wanted.len());
        let mut paths: Vec<(usize, Path)> = vec![];
        for (position, (wanted, path)) in
            wanted.iter().zip(self.paths(&mut chains, wanted, effort)?).enumerate()
        {
            match path {
                Ok(Path { from, records, .. }) if records.len() == 1 => {
                    let location = chains.location(wanted.hash).expect("the path has passed it");
                    single.push((position, from, (wanted.hash.0, *location)));
                }
                Ok(path) => paths.push((position, path)),
                Err(read) => visit(position, read),
            }
        }
        self.visit_single(single, &mut visit)?;
        let records = self.read_payloads(&chains, paths.iter().flat_map(|(_, path)| &path.records))?;
        for (position, Path { from, records: names, .. }) in paths {
            let steps: Option<Vec<Step<&[u8]>>> =
                names.iter().rev().map(|name| records.get(name).map(borrowed)).collect();
            visit(
                position,
                steps.as_ref().map_or(StepsRead::NotHeld, |steps| StepsRead::Held { from, steps }),
            );
        }
        Ok(())
    }

    /// The way down from each chunk. With [`Effort::Small`] those that may be shorter as what changed since the chunk that the
    /// reader has, of the same length and held here, are to be read decoded.
    fn paths(
        &self,
        chains: &mut Chains,
        wanted: &[StepsWanted],
        effort: Effort,
    ) -> Result<Vec<Result<Path, StepsRead<'static>>>, ReadError> {
        let paths: Vec<_> = wanted.iter().map(|wanted| path(chains, *wanted)).collect();
        if effort == Effort::Fast {
            return Ok(paths);
        }
        let base_of = |wanted: &StepsWanted, path: &Result<Path, StepsRead<'static>>| {
            wanted.from.filter(|_| path.as_ref().is_ok_and(|path| path.is_raw))
        };
        let bases = wanted.iter().zip(&paths).filter_map(|(wanted, path)| base_of(wanted, path));
        chains.resolve(&self.index, bases.collect())?;
        // Of another length it is no version of the same page, whatever the reader says, and would be read for nothing.
        let length = |hash| chains.location(hash).map(|location| location.decoded_len);
        let or_decoded = wanted.iter().zip(paths).map(|(wanted, path)| match base_of(wanted, &path) {
            Some(base) if length(base) == length(wanted.hash) => Err(StepsRead::Decode),
            _ => path,
        });
        Ok(or_decoded.collect())
    }

    /// Gives out chunks that are one record each.
    fn visit_single(
        &self,
        mut single: Vec<(usize, bool, Item)>,
        visit: &mut impl FnMut(usize, StepsRead<'_>),
    ) -> Result<(), ReadError> {
        single.sort_unstable_by_key(|(position, _, (_, location))| (location.place, *position));
        let items: Vec<Item> = single.iter().map(|(.., item)| *item).collect();
        let mut findings = vec![];
        self.read_records(RecordKind::Chunk, &items, |item, record| {
            let (position, from, (name, location)) = single[item];
            match record.and_then(step) {
                Ok(step) => visit(position, StepsRead::Held { from, steps: &[step] }),
                Err(cause) => {
                    findings.push(finding(ChunkHash(name), location, cause));
                    visit(position, StepsRead::NotHeld);
                }
            }
        })?;
        self.condemn(findings)
    }

    /// Reads each record once, in stored order; those that are bad are missing from what is returned.
    fn read_payloads<'names>(
        &self,
        chains: &Chains,
        names: impl Iterator<Item = &'names ChunkHash>,
    ) -> Result<ChunkMap<Step>, ReadError> {
        let mut order: Vec<(ChunkHash, Location)> =
            names.filter_map(|name| Some((*name, *chains.location(*name)?))).collect();
        order.sort_unstable_by_key(|(name, location)| (location.place, *name));
        order.dedup_by_key(|(name, _)| *name);
        let items: Vec<_> = order.iter().map(|(name, location)| (name.0, *location)).collect();
        let mut payloads = ChunkMap::default();
        let mut findings = vec![];
        self.read_records(RecordKind::Chunk, &items, |item, record| {
            let (hash, location) = order[item];
            match record.and_then(step) {
                Ok(step) => {
                    payloads.insert(hash, step.map_bytes(<[u8]>::to_vec));
                }
                Err(cause) => findings.push(finding(hash, location, cause)),
            }
        })?;
        self.condemn(findings)?;
        Ok(payloads)
    }
}

/// A record as a step.
fn step((header, payload): (RecordHeader, &[u8])) -> Result<Step<&[u8]>, BadCause> {
    let chunk = encoded_chunk(&header, payload)?;
    Ok(chunk.rename_base(|_| Some(())).expect("the new name is always there"))
}

fn borrowed(step: &Step) -> Step<&[u8]> {
    Step { encoding: step.encoding, decoded_len: step.decoded_len, bytes: &step.bytes }
}

const fn finding(hash: ChunkHash, location: Location, cause: BadCause) -> Finding {
    Finding { bad: BadChunk { hash, place: Some(location.place), cause }, location: Some(location) }
}

/// The way down from a chunk to what its reader has, or to one without a base.
fn path(chains: &Chains, wanted: StepsWanted) -> Result<Path, StepsRead<'static>> {
    let mut records = vec![];
    let (mut at, mut bytes, mut bytes_max) = (wanted.hash, 0, 0);
    loop {
        let is_held = !records.is_empty() || chains.is_known(at);
        let broken = if is_held { StepsRead::Decode } else { StepsRead::NotHeld };
        let location = chains.location(at).ok_or(broken)?;
        if records.is_empty() {
            bytes_max = u64::from(location.decoded_len);
        }
        bytes += u64::from(location.stored_len);
        records.push(at);
        let is_long = records.len() > 1 && bytes > bytes_max;
        if is_long || records.len() > CHAIN_WALK_MAX {
            return Err(StepsRead::Decode);
        }
        match location.base {
            None => {
                return Ok(Path {
                    from: false,
                    is_raw: records.len() == 1 && location.form == Form::Raw as u8,
                    records,
                });
            }
            Some(base) if Some(base) == wanted.from => {
                return Ok(Path { from: true, is_raw: false, records });
            }
            Some(base) => at = base,
        }
    }
}
