//! Signed results of simulations: each worker's own append-only log of them for each lineage.
//!
//! A worker's log for a recorded lineage is the sequence of its results, numbered from 0; each names the
//! hash of the one before, the first the lineage itself. One key signs it, so two results with one number are
//! equivocation. A result travels with its worker's certificate, so whoever gets it can judge it alone.

use ed25519_dalek::SigningKey;

use crate::codec::{FormatError, Put, Take};
use crate::ids::{CheckpointIndex, LineageId, NodeId, ObjectHash, StateRoot};
use crate::record::{RecordError, object_hash, sign, verify};

/// The most bytes a signed result may take.
pub const RESULT_BYTES_MAX: usize = 720;
/// The most bytes the options of a simulation may take.
pub const OPTIONS_BYTES_MAX: usize = 256;
/// The most bytes the certificate that travels with a result may take.
pub const CERTIFICATE_BYTES_MAX: usize = 256;
/// The most bytes of a result with its certificate and their lengths.
pub const ANNOUNCED_BYTES_MAX: usize = RESULT_BYTES_MAX + CERTIFICATE_BYTES_MAX + 4;
/// The most results one list of them may have.
pub const RESULTS_LISTED_MAX: usize = 256;

const SIGNATURE_BYTES: usize = 64;
const RESULT_DOMAIN: &[u8] = b"pageswarm simulation result 1";
const FINDING_CONTEXT: &str = "pageswarm 2026 finding of a simulation";

/// BLAKE3-256 of the executable that simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SimulatorBuild(pub [u8; 32]);

/// What one worker says of one interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulationResult {
    /// Who simulated and signs.
    pub worker: NodeId,
    /// Whose interval.
    pub lineage: LineageId,
    /// Place in the worker's log for the lineage, from 0.
    pub number: u64,
    /// Hash of the signed result before this one; for number 0, the lineage's id.
    pub parent: ObjectHash,
    /// Interval k, from checkpoint k to k+1.
    pub interval: CheckpointIndex,
    /// State root that the simulation started from.
    pub input_root: StateRoot,
    /// Which program simulated.
    pub simulator: SimulatorBuild,
    /// Its options, empty if as usual.
    pub options: Vec<u8>,
    /// What came of it.
    pub outcome: Outcome,
    /// How long the simulation itself took, in milliseconds.
    pub simulation_ms: u64,
    /// When it ended, in milliseconds since 1970 by the worker's clock.
    pub finished_unix_ms: u64,
    /// The trace of memory accesses, if one was taken.
    pub trace: Option<Trace>,
}

/// What came of a simulation. Only what any other worker must find too is an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It came to an end.
    Ended {
        /// State root of the end, computed from what was simulated.
        end_root: StateRoot,
        /// What was done on the way. The end is public before anyone simulates; this only once someone has published it.
        work: Work,
    },
    /// It cannot come to one.
    Failed(SimulationFailure),
}

/// What a simulation did. The same for everyone who simulates the same interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Instructions; a repeated string instruction is one.
    pub instructions: u64,
    /// Accesses to memory that were reads.
    pub reads: u64,
    /// Accesses to memory that were writes.
    pub writes: u64,
    /// Pages that the interval changed.
    pub changed_pages: u64,
}

/// Why an interval cannot be simulated by anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimulationFailure {
    /// It was not recorded.
    NotRecorded,
    /// What the writer published of it is corrupt.
    CorruptInput,
    /// The replay came to no end, or met what the simulator refuses.
    NotReplayed,
}

/// The name of a trace of memory accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// BLAKE3-256 of the file.
    pub digest: [u8; 32],
    /// Its length in bytes.
    pub bytes: u64,
    /// Where the swarm has it, if its worker offered it.
    pub place: Option<ArtefactPlace>,
}

/// The checkpoint of a worker's lineage of artefacts that has an artefact as its blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArtefactPlace {
    /// The worker's lineage.
    pub lineage: LineageId,
    /// The checkpoint.
    pub index: CheckpointIndex,
}

/// A result and the certificate that makes its signer a worker, both not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncedResult {
    /// The worker's certificate.
    pub certificate: Vec<u8>,
    /// The signed result.
    pub record: Vec<u8>,
}

impl SimulationFailure {
    const ALL: [(u8, Self); 3] = [(1, Self::NotRecorded), (2, Self::CorruptInput), (3, Self::NotReplayed)];

    /// The failure's name in messages and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotRecorded => "not-recorded",
            Self::CorruptInput => "corrupt-input",
            Self::NotReplayed => "not-replayed",
        }
    }

    const fn tag(self) -> u8 {
        match self {
            Self::NotRecorded => 1,
            Self::CorruptInput => 2,
            Self::NotReplayed => 3,
        }
    }
}

impl Outcome {
    fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Ended { end_root, work } => {
                out.push(1);
                out.extend_from_slice(end_root.as_bytes());
                for count in [work.instructions, work.reads, work.writes, work.changed_pages] {
                    out.put_varint(count);
                }
            }
            Self::Failed(failure) => out.extend_from_slice(&[2, failure.tag()]),
        }
    }

    fn take(take: &mut Take<'_>) -> Result<Self, FormatError> {
        match take.byte()? {
            1 => Ok(Self::Ended {
                end_root: StateRoot(take.array()?),
                work: Work {
                    instructions: take.varint()?,
                    reads: take.varint()?,
                    writes: take.varint()?,
                    changed_pages: take.varint()?,
                },
            }),
            2 => {
                let tag = take.byte()?;
                let failure = SimulationFailure::ALL.into_iter().find(|(own, _)| *own == tag);
                let failure =
                    failure.ok_or(FormatError::Unexpected { at: take.position(), what: "why it failed" })?;
                Ok(Self::Failed(failure.1))
            }
            _ => Err(FormatError::Unexpected { at: take.position(), what: "outcome" }),
        }
    }
}

impl Trace {
    fn put(trace: Option<Self>, out: &mut Vec<u8>) {
        let Some(Self { digest, bytes, place }) = trace else {
            return out.push(0);
        };
        out.push(if place.is_some() { 2 } else { 1 });
        out.extend_from_slice(&digest);
        out.put_varint(bytes);
        if let Some(place) = place {
            out.extend_from_slice(place.lineage.as_bytes());
            out.put_varint(place.index.0);
        }
    }

    fn take(take: &mut Take<'_>) -> Result<Option<Self>, FormatError> {
        let kind = take.byte()?;
        take.require(kind <= 2, "kind of trace")?;
        if kind == 0 {
            return Ok(None);
        }
        let (digest, bytes) = (take.array()?, take.varint()?);
        let place = match kind {
            2 => {
                let lineage = LineageId(take.array()?);
                let index = take.varint()?;
                take.require(index < u64::MAX, "checkpoint of an artefact")?;
                Some(ArtefactPlace { lineage, index: CheckpointIndex(index) })
            }
            _ => None,
        };
        Ok(Some(Self { digest, bytes, place }))
    }
}

impl SimulationResult {
    /// The signed record; `key` is the worker's.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(self.worker.as_bytes());
        out.extend_from_slice(self.lineage.as_bytes());
        out.put_varint(self.number);
        out.extend_from_slice(self.parent.as_bytes());
        out.put_varint(self.interval.0);
        out.extend_from_slice(self.input_root.as_bytes());
        out.extend_from_slice(&self.simulator.0);
        out.put_bytes(&self.options);
        self.outcome.put(&mut out);
        out.put_varint(self.simulation_ms);
        out.put_varint(self.finished_unix_ms);
        Trace::put(self.trace, &mut out);
        sign(RESULT_DOMAIN, out, key)
    }

    /// Reads a result and checks that the worker that it names signed it.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn open(record: &[u8]) -> Result<Self, RecordError> {
        let mut take = Take::new(record);
        take.require(record.len() <= RESULT_BYTES_MAX, "length of a result")?;
        let version = take.byte()?;
        take.require(version == 1, "result version")?;
        let result = Self {
            worker: NodeId(take.array()?),
            lineage: LineageId(take.array()?),
            number: take.varint()?,
            parent: ObjectHash(take.array()?),
            interval: CheckpointIndex(take.varint()?),
            input_root: StateRoot(take.array()?),
            simulator: SimulatorBuild(take.array()?),
            options: take.bytes(OPTIONS_BYTES_MAX)?.to_vec(),
            outcome: Outcome::take(&mut take)?,
            simulation_ms: take.varint()?,
            finished_unix_ms: take.varint()?,
            trace: Trace::take(&mut take)?,
        };
        take.require(result.interval.0 < u64::MAX, "interval of a result")?;
        take.require(result.number < u64::MAX, "number of a result")?;
        take.slice(SIGNATURE_BYTES)?;
        take.finish()?;
        verify(RESULT_DOMAIN, record, &result.worker)?;
        Ok(result)
    }

    /// Names what was found: equal for two results exactly if they started from the same state and say the same
    /// of what came of it. Program, options and times make no difference, so that no worker can
    /// escape a comparison by naming others.
    #[must_use]
    pub fn finding(&self) -> ObjectHash {
        let mut bytes = self.input_root.as_bytes().to_vec();
        self.outcome.put(&mut bytes);
        ObjectHash(*blake3::Hasher::new_derive_key(FINDING_CONTEXT).update(&bytes).finalize().as_bytes())
    }

    /// What the first result of any worker's log for `lineage` names as the one before.
    #[must_use]
    pub const fn first_parent(lineage: LineageId) -> ObjectHash {
        ObjectHash(lineage.0)
    }
}

impl AnnouncedResult {
    /// Appends both, each with its length.
    pub fn put(&self, out: &mut Vec<u8>) {
        out.put_bytes(&self.certificate);
        out.put_bytes(&self.record);
    }

    /// Reads both; neither is checked.
    ///
    /// # Errors
    ///
    /// [`FormatError`].
    pub fn take(take: &mut Take<'_>) -> Result<Self, FormatError> {
        let certificate = take.bytes(CERTIFICATE_BYTES_MAX)?.to_vec();
        Ok(Self { certificate, record: take.bytes(RESULT_BYTES_MAX)?.to_vec() })
    }

    /// The bytes of one by itself.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// Reads one by itself.
    ///
    /// # Errors
    ///
    /// [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut take = Take::new(bytes);
        let announced = Self::take(&mut take)?;
        take.finish()?;
        Ok(announced)
    }

    /// The bytes of a list of at most [`RESULTS_LISTED_MAX`], as an object and a control message carry it.
    pub fn put_list(list: &[Self], out: &mut Vec<u8>) {
        let listed = &list[..list.len().min(RESULTS_LISTED_MAX)];
        out.put_varint(crate::codec::length_u64(listed.len()));
        listed.iter().for_each(|announced| announced.put(out));
    }

    /// Reads a list.
    ///
    /// # Errors
    ///
    /// [`FormatError`].
    pub fn take_list(take: &mut Take<'_>) -> Result<Vec<Self>, FormatError> {
        let mut list = Vec::new();
        for _ in 0..take.count(RESULTS_LISTED_MAX)? {
            list.push(Self::take(take)?);
        }
        Ok(list)
    }

    /// Hash of the signed result: what the next one of the log names.
    #[must_use]
    pub fn hash(&self) -> ObjectHash {
        object_hash(&self.record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::node_id;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn longest() -> SimulationResult {
        let count = u64::MAX - 1;
        SimulationResult {
            worker: node_id(&key(1)),
            lineage: LineageId([2; 32]),
            number: count,
            parent: ObjectHash([3; 32]),
            interval: CheckpointIndex(count),
            input_root: StateRoot([4; 32]),
            simulator: SimulatorBuild([5; 32]),
            options: vec![6; OPTIONS_BYTES_MAX],
            outcome: Outcome::Ended {
                end_root: StateRoot([7; 32]),
                work: Work { instructions: count, reads: count, writes: count, changed_pages: count },
            },
            simulation_ms: count,
            finished_unix_ms: count,
            trace: Some(Trace {
                digest: [8; 32],
                bytes: count,
                place: Some(ArtefactPlace { lineage: LineageId([9; 32]), index: CheckpointIndex(count) }),
            }),
        }
    }

    #[test]
    fn the_longest_result_is_within_its_limit() {
        let record = longest().sign(&key(1));
        assert!(record.len() <= RESULT_BYTES_MAX, "{} bytes", record.len());
        assert_eq!(SimulationResult::open(&record), Ok(longest()));
        let announced = AnnouncedResult { certificate: vec![1; CERTIFICATE_BYTES_MAX], record };
        assert!(announced.encode().len() <= ANNOUNCED_BYTES_MAX);
        assert_eq!(AnnouncedResult::decode(&announced.encode()), Ok(announced));
    }

    #[test]
    fn what_another_key_signed_is_refused() {
        let record = longest().sign(&key(2));
        assert_eq!(SimulationResult::open(&record), Err(RecordError::Signature));
    }

    #[test]
    fn a_finding_is_of_start_and_outcome_alone() {
        let one = longest();
        let renamed = SimulationResult {
            worker: node_id(&key(2)),
            number: 0,
            simulator: SimulatorBuild([0; 32]),
            options: Vec::new(),
            simulation_ms: 1,
            finished_unix_ms: 2,
            trace: None,
            ..one.clone()
        };
        assert_eq!(one.finding(), renamed.finding());
        let Outcome::Ended { end_root, work } = one.outcome else {
            panic!("it ended");
        };
        let others = [
            Outcome::Ended { end_root: StateRoot([0; 32]), work },
            Outcome::Ended { end_root, work: Work { reads: work.reads - 1, ..work } },
            Outcome::Failed(SimulationFailure::NotReplayed),
        ];
        for outcome in others {
            assert_ne!(one.finding(), SimulationResult { outcome, ..one.clone() }.finding());
        }
        let elsewhere = SimulationResult { input_root: StateRoot([0; 32]), ..one.clone() };
        assert_ne!(one.finding(), elsewhere.finding());
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        let ended = (any::<[u8; 32]>(), any::<[u64; 4]>()).prop_map(|(root, counts)| {
            let [instructions, reads, writes, changed_pages] = counts;
            let work = Work { instructions, reads, writes, changed_pages };
            Outcome::Ended { end_root: StateRoot(root), work }
        });
        let failed = (0..SimulationFailure::ALL.len())
            .prop_map(|place| Outcome::Failed(SimulationFailure::ALL[place].1));
        prop_oneof![ended, failed]
    }

    fn any_trace() -> impl Strategy<Value = Option<Trace>> {
        let place = proptest::option::of((any::<[u8; 32]>(), 0..u64::MAX));
        proptest::option::of((any::<[u8; 32]>(), any::<u64>(), place)).prop_map(|trace| {
            trace.map(|(digest, bytes, place)| {
                let place = place.map(|(lineage, index)| ArtefactPlace {
                    lineage: LineageId(lineage),
                    index: CheckpointIndex(index),
                });
                Trace { digest, bytes, place }
            })
        })
    }

    proptest! {
        #[test]
        fn results_round_trip(
            outcome in any_outcome(),
            trace in any_trace(),
            options in proptest::collection::vec(any::<u8>(), 0..OPTIONS_BYTES_MAX),
            number in 0..u64::MAX,
        ) {
            let result = SimulationResult { outcome, trace, options, number, ..longest() };
            prop_assert_eq!(SimulationResult::open(&result.sign(&key(1))), Ok(result));
        }

        #[test]
        fn a_changed_byte_is_noticed(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut record = longest().sign(&key(1));
            let at = at.index(record.len());
            record[at] ^= flip;
            prop_assert!(SimulationResult::open(&record).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..800)) {
            drop(SimulationResult::open(&bytes));
            drop(AnnouncedResult::decode(&bytes));
        }
    }
}
