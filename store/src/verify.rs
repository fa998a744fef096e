//! Scrubbing: reading everything that is held, in parts that fit a budget.

use pageswarm_checkpoint::{ChunkHash, ObjectHash};

use crate::bad::BadChunk;
use crate::fault::{IndexError, ReadError};
use crate::index::{Index, Key, Table, Walk};
use crate::limits::FAULTS_KEPT_MAX;
use crate::read::ChunkRead;
use crate::store::Store;

/// Chunks read between two looks at the index.
const STEP_CHUNKS: usize = 65_536;

/// What a scrub read and what it found.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Chunks that are what they are called.
    pub chunks_good: u64,
    /// Their bytes when decoded.
    pub chunk_bytes: u64,
    /// Chunks that are not, the first of them. They count as not held now.
    pub bad_chunks: Vec<BadChunk>,
    /// How many.
    pub bad_chunk_count: u64,
    /// Objects that are what they are called.
    pub objects_good: u64,
    /// Objects that are not, the first of them, each a [`ReadError::BadObject`]. They count as not held now.
    pub bad_objects: Vec<ReadError>,
    /// How many.
    pub bad_object_count: u64,
}

impl Store {
    /// Reads every chunk and object that has been synced.
    ///
    /// # Errors
    ///
    /// [`ReadError`] if the index fails or a pack cannot be opened; bad chunks and objects are in the report.
    pub fn verify(&self) -> Result<VerifyReport, ReadError> {
        let mut report = VerifyReport::default();
        let mut after = None;
        loop {
            after = self.verify_chunks(after, STEP_CHUNKS, &mut report)?;
            if after.is_none() {
                break;
            }
        }
        self.verify_objects(&mut report)?;
        Ok(report)
    }

    /// Reads the `count_max` chunks whose hashes follow `after` and adds what it finds to `report`. Returns where
    /// to go on; `None` at the end.
    ///
    /// # Errors
    ///
    /// As [`Store::verify`].
    pub fn verify_chunks(
        &self,
        after: Option<ChunkHash>,
        count_max: usize,
        report: &mut VerifyReport,
    ) -> Result<Option<ChunkHash>, ReadError> {
        let from = after.map_or_else(|| vec![Table::Chunks as u8], |hash| Key::Chunk(hash).encode());
        let hashes = names(&self.index, from, count_max, |key| {
            Key::chunk_of(key).filter(|hash| Some(*hash) != after)
        })?;
        self.read_chunks(&hashes, |_, read| match read {
            ChunkRead::Held(chunk) => {
                report.chunks_good += 1;
                report.chunk_bytes += chunk.bytes().len() as u64;
            }
            // Removed since the look at the index.
            ChunkRead::NotHeld => {}
            ChunkRead::Bad(bad) => {
                report.bad_chunk_count += 1;
                if report.bad_chunks.len() < FAULTS_KEPT_MAX {
                    report.bad_chunks.push(bad.clone());
                }
            }
        })?;
        Ok(hashes.last().copied())
    }

    fn verify_objects(&self, report: &mut VerifyReport) -> Result<(), ReadError> {
        let mut after: Option<ObjectHash> = None;
        loop {
            let from = after.map_or_else(|| vec![Table::Objects as u8], |hash| Key::Object(hash).encode());
            let hashes = names(&self.index, from, STEP_CHUNKS, |key| {
                Key::object_of(key).filter(|hash| Some(*hash) != after)
            })?;
            for hash in &hashes {
                match self.object(*hash) {
                    Ok(object) => report.objects_good += u64::from(object.is_some()),
                    Err(bad @ ReadError::BadObject { .. }) => {
                        report.bad_object_count += 1;
                        if report.bad_objects.len() < FAULTS_KEPT_MAX {
                            report.bad_objects.push(bad);
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            after = hashes.last().copied();
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

/// Up to `count_max` names from a table's keys, from `from` on.
fn names<N>(
    index: &Index,
    from: Vec<u8>,
    count_max: usize,
    name: impl Fn(&[u8]) -> Option<N>,
) -> Result<Vec<N>, IndexError> {
    let mut names = vec![];
    index.walk(&from, |key, _| {
        names.extend(name(key));
        if names.len() < count_max { Walk::On } else { Walk::Stop }
    })?;
    Ok(names)
}
