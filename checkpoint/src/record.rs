//! Signed records: genesis, head, and interval record.
//!
//! A record is signed over its domain and its encoded fields; the signature is its last 64 bytes.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::codec::{FormatError, Put, Take, length_u64};
use crate::ids::{
    CheckpointIndex, ChunkHash, LineageId, NodeId, ObjectHash, PAGE_BYTES, PageNumber, StateRoot,
};
use crate::map::PageMap;

const SIGNATURE_BYTES: usize = 64;
/// The most bytes a head may take: it is gossiped.
pub const HEAD_BYTES_MAX: usize = 300;
/// The most bytes a genesis record may take.
pub const GENESIS_BYTES_MAX: usize = 300;
/// The most bytes of event log one interval may have.
pub const EVENT_LOG_BYTES_MAX: usize = 64 << 20;

/// The first record of a lineage; its hash is the lineage's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// The only key that may sign heads of the lineage.
    pub writer: NodeId,
    /// Makes lineages of one writer distinct.
    pub nonce: [u8; 16],
    /// Pages of guest RAM; 0 if there is no machine: a lineage of artefacts, which a worker may write.
    pub pages: u32,
    /// Interval at start, in milliseconds; later intervals may differ.
    pub interval_ms: u32,
    /// Where a branch starts.
    pub parent: Option<BranchPoint>,
}

/// The checkpoint that a branch continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchPoint {
    /// The lineage continued.
    pub lineage: LineageId,
    /// The checkpoint continued.
    pub index: CheckpointIndex,
    /// That checkpoint's state root.
    pub state_root: StateRoot,
}

/// Names one metadata object: what to ask for, and how to check it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectName {
    /// BLAKE3 of the object's bytes.
    pub hash: ObjectHash,
    /// Its length in bytes.
    pub length: u64,
}

/// The announcement of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose checkpoint.
    pub lineage: LineageId,
    /// Which one.
    pub index: CheckpointIndex,
    /// Hash of the encoded head before this one; of the genesis record for checkpoint 0.
    pub parent: ObjectHash,
    /// Root of the checkpoint's canonical state.
    pub state_root: StateRoot,
    /// The delta against the checkpoint before.
    pub delta: ObjectName,
    /// The latest keyframe and the checkpoint it describes.
    pub keyframe: Option<(CheckpointIndex, ObjectName)>,
    /// Births of the lineage up to and with this checkpoint.
    pub births: u64,
    /// When the checkpoint was taken, in milliseconds since 1970 by the publisher's clock.
    pub taken_unix_ms: u64,
}

/// What belongs to interval k besides its end: published with head k+1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntervalRecord {
    /// Whose interval.
    pub lineage: LineageId,
    /// Interval k, from checkpoint k to k+1.
    pub interval: CheckpointIndex,
    /// The non-deterministic inputs of the interval, as the guest ABI encodes them.
    pub event_log: Vec<u8>,
    /// Pages written in the interval, ascending: the part of the working set that recording sees.
    pub written: Vec<PageNumber>,
}

/// Why a record was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are not such a record.
    #[error("record is malformed")]
    Format(#[from] FormatError),
    /// The signer's name is not an Ed25519 public key.
    #[error("signer is not an ed25519 public key")]
    Key,
    /// The signature is not the signer's over these bytes.
    #[error("signature does not match")]
    Signature,
}

/// Hash of a metadata object's bytes.
#[must_use]
pub fn object_hash(bytes: &[u8]) -> ObjectHash {
    ObjectHash(*blake3::hash(bytes).as_bytes())
}

/// The public key that belongs to `key`.
#[must_use]
pub fn node_id(key: &SigningKey) -> NodeId {
    NodeId(key.verifying_key().to_bytes())
}

/// Appends the signature over `domain` and `fields`.
#[must_use]
pub fn sign(domain: &[u8], mut fields: Vec<u8>, key: &SigningKey) -> Vec<u8> {
    let signature = key.sign(&signed_bytes(domain, &fields));
    fields.extend_from_slice(&signature.to_bytes());
    fields
}

/// The fields of a signed record, checked against `signer`.
///
/// # Errors
///
/// [`RecordError`] if it is too short, or the signature is not `signer`'s over these bytes in this domain.
pub fn verify<'a>(domain: &[u8], record: &'a [u8], signer: &NodeId) -> Result<&'a [u8], RecordError> {
    let length =
        record.len().checked_sub(SIGNATURE_BYTES).ok_or(FormatError::Truncated { at: record.len() })?;
    let (fields, signature) = record.split_at(length);
    let key = VerifyingKey::from_bytes(signer.as_bytes()).map_err(|_| RecordError::Key)?;
    let signature = Signature::from_slice(signature).map_err(|_| RecordError::Signature)?;
    key.verify_strict(&signed_bytes(domain, fields), &signature).map_err(|_| RecordError::Signature)?;
    Ok(fields)
}

fn signed_bytes(domain: &[u8], fields: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(domain.len() + fields.len() + 2);
    bytes.put_bytes(domain);
    bytes.extend_from_slice(fields);
    bytes
}

const GENESIS_DOMAIN: &[u8] = b"pageswarm genesis 1";
const HEAD_DOMAIN: &[u8] = b"pageswarm head 1";
const INTERVAL_DOMAIN: &[u8] = b"pageswarm interval record 1";

impl Genesis {
    /// The signed record and the lineage's id.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> (Vec<u8>, LineageId) {
        let mut out = vec![1];
        out.extend_from_slice(self.writer.as_bytes());
        out.extend_from_slice(&self.nonce);
        out.put_varint(u64::from(self.pages));
        out.put_varint(u64::from(self.interval_ms));
        out.push(u8::from(self.parent.is_some()));
        if let Some(parent) = &self.parent {
            out.extend_from_slice(parent.lineage.as_bytes());
            out.put_varint(parent.index.0);
            out.extend_from_slice(parent.state_root.as_bytes());
        }
        let record = sign(GENESIS_DOMAIN, out, key);
        let lineage = LineageId(object_hash(&record).0);
        (record, lineage)
    }

    /// Reads a genesis record, checks that its own writer signed it, and names the lineage.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn open(record: &[u8]) -> Result<(Self, LineageId), RecordError> {
        let mut take = Take::new(record);
        take.require(record.len() <= GENESIS_BYTES_MAX, "length of a genesis record")?;
        let version = take.byte()?;
        take.require(version == 1, "genesis version")?;
        let writer = NodeId(take.array()?);
        let nonce = take.array()?;
        let pages = take.varint_u32()?;
        let interval_ms = take.varint_u32()?;
        let parent = match take.byte()? {
            0 => None,
            1 => Some(BranchPoint {
                lineage: LineageId(take.array()?),
                index: CheckpointIndex(take.varint()?),
                state_root: StateRoot(take.array()?),
            }),
            _ => {
                return Err(FormatError::Unexpected { at: take.position(), what: "parent flag" }.into());
            }
        };
        take.require(pages > 0 || parent.is_none(), "branch without RAM")?;
        take.slice(SIGNATURE_BYTES)?;
        take.finish()?;
        verify(GENESIS_DOMAIN, record, &writer)?;
        Ok((Self { writer, nonce, pages, interval_ms, parent }, LineageId(object_hash(record).0)))
    }

    /// Whether its checkpoints are of no machine: each has one artefact of its writer as a blob.
    #[must_use]
    pub const fn is_of_artefacts(&self) -> bool {
        self.pages == 0
    }

    /// Bytes of guest RAM.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        u64::from(self.pages) * length_u64(PAGE_BYTES)
    }
}

impl Head {
    /// The signed record.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(self.lineage.as_bytes());
        out.put_varint(self.index.0);
        out.extend_from_slice(self.parent.as_bytes());
        out.extend_from_slice(self.state_root.as_bytes());
        put_object_name(&mut out, &self.delta);
        out.push(u8::from(self.keyframe.is_some()));
        if let Some((index, name)) = &self.keyframe {
            out.put_varint(index.0);
            put_object_name(&mut out, name);
        }
        out.put_varint(self.births);
        out.put_varint(self.taken_unix_ms);
        sign(HEAD_DOMAIN, out, key)
    }

    /// Reads a head without checking its signature: to learn which lineage's writer to check it with.
    ///
    /// # Errors
    ///
    /// [`RecordError::Format`].
    pub fn peek(record: &[u8]) -> Result<Self, RecordError> {
        let mut take = Take::new(record);
        take.require(record.len() <= HEAD_BYTES_MAX, "length of a head")?;
        let version = take.byte()?;
        take.require(version == 1, "head version")?;
        let head = Self {
            lineage: LineageId(take.array()?),
            index: CheckpointIndex(take.varint()?),
            parent: ObjectHash(take.array()?),
            state_root: StateRoot(take.array()?),
            delta: take_object_name(&mut take)?,
            keyframe: match take.byte()? {
                0 => None,
                1 => Some((CheckpointIndex(take.varint()?), take_object_name(&mut take)?)),
                _ => {
                    return Err(FormatError::Unexpected { at: take.position(), what: "keyframe flag" }.into());
                }
            },
            births: take.varint()?,
            taken_unix_ms: take.varint()?,
        };
        take.require(head.index.0 < u64::MAX, "index of a head")?;
        take.slice(SIGNATURE_BYTES)?;
        take.finish()?;
        Ok(head)
    }

    /// Reads a head and checks that `writer` signed it.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn open(record: &[u8], writer: &NodeId) -> Result<Self, RecordError> {
        let head = Self::peek(record)?;
        verify(HEAD_DOMAIN, record, writer)?;
        Ok(head)
    }
}

fn put_object_name(out: &mut Vec<u8>, name: &ObjectName) {
    out.extend_from_slice(name.hash.as_bytes());
    out.put_varint(name.length);
}

fn take_object_name(take: &mut Take<'_>) -> Result<ObjectName, FormatError> {
    Ok(ObjectName { hash: ObjectHash(take.array()?), length: take.varint()? })
}

impl IntervalRecord {
    /// The signed record, to be cut into chunks as a blob.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(self.lineage.as_bytes());
        out.put_varint(self.interval.0);
        out.put_bytes(&self.event_log);
        out.put_varint(length_u64(self.written.len()));
        let mut next = 0;
        for page in &self.written {
            out.put_varint(u64::from(page.0 - next));
            next = page.0.wrapping_add(1);
        }
        sign(INTERVAL_DOMAIN, out, key)
    }

    /// Reads an interval record and checks that `writer` signed it.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn open(record: &[u8], writer: &NodeId) -> Result<Self, RecordError> {
        let fields = verify(INTERVAL_DOMAIN, record, writer)?;
        let mut take = Take::new(fields);
        let version = take.byte()?;
        take.require(version == 1, "interval record version")?;
        let lineage = LineageId(take.array()?);
        let interval = CheckpointIndex(take.varint()?);
        let event_log = take.bytes(EVENT_LOG_BYTES_MAX)?.to_vec();
        let count = take.count(usize::MAX)?;
        let mut written = Vec::with_capacity(count);
        let mut next = 0_u64;
        for _ in 0..count {
            let page = take.varint()?.saturating_add(next);
            next = page.saturating_add(1);
            let page = u32::try_from(page)
                .map_err(|_| FormatError::Unexpected { at: take.position(), what: "page number" })?;
            written.push(PageNumber(page));
        }
        take.finish()?;
        Ok(Self { lineage, interval, event_log, written })
    }
}

/// The root of a checkpoint's canonical state.
///
/// `canonical` is the canonical CPU state and the canonical device state; `disk` the root of the disk, if any.
#[must_use]
pub fn state_root(ram: &PageMap, canonical: [&[u8]; 2], disk: Option<ChunkHash>) -> StateRoot {
    let mut hasher = blake3::Hasher::new_derive_key("pageswarm 2026 state root");
    hasher.update(&u64::from(ram.pages()).to_le_bytes());
    hasher.update(&ram.root());
    for part in canonical {
        hasher.update(blake3::hash(part).as_bytes());
    }
    hasher.update(&[u8::from(disk.is_some())]);
    hasher.update(&disk.map_or([0; 32], |root| root.0));
    StateRoot(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn head(keyframe: bool, index: u64, births: u64) -> Head {
        let name = |byte| ObjectName { hash: ObjectHash([byte; 32]), length: u64::MAX };
        Head {
            lineage: LineageId([1; 32]),
            index: CheckpointIndex(index),
            parent: ObjectHash([2; 32]),
            state_root: StateRoot([3; 32]),
            delta: name(4),
            keyframe: keyframe.then(|| (CheckpointIndex(u64::MAX), name(5))),
            births,
            taken_unix_ms: u64::MAX,
        }
    }

    #[test]
    fn the_longest_head_fits_a_gossip_message() {
        let record = head(true, u64::MAX - 1, u64::MAX).sign(&key(1));
        assert!(record.len() <= HEAD_BYTES_MAX, "{} bytes", record.len());
        assert!(Head::open(&record, &node_id(&key(1))).is_ok());
    }

    #[test]
    fn another_signer_or_another_kind_of_record_is_refused() {
        let record = head(false, 4, 9).sign(&key(1));
        assert_eq!(Head::open(&record, &node_id(&key(2))), Err(RecordError::Signature));
        let (fields, _) = record.split_at(record.len() - 64);
        let other_domain = sign(b"pageswarm other 1", fields.to_vec(), &key(1));
        assert_eq!(Head::open(&other_domain, &node_id(&key(1))), Err(RecordError::Signature));
    }

    proptest! {
        #[test]
        fn heads_round_trip(keyframe in any::<bool>(), index in 0..u64::MAX, births in any::<u64>()) {
            let head = head(keyframe, index, births);
            prop_assert_eq!(Head::open(&head.sign(&key(1)), &node_id(&key(1))), Ok(head));
        }

        #[test]
        fn a_changed_byte_is_noticed(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut record = head(true, 7, 8).sign(&key(1));
            let at = at.index(record.len());
            record[at] ^= flip;
            prop_assert!(Head::open(&record, &node_id(&key(1))).is_err());
        }

        #[test]
        fn a_genesis_record_round_trips(pages in 0_u32.., nonce in any::<[u8; 16]>(), branch in any::<bool>()) {
            let parent = (branch && pages > 0).then_some(BranchPoint {
                lineage: LineageId([7; 32]),
                index: CheckpointIndex(3),
                state_root: StateRoot([8; 32]),
            });
            let genesis = Genesis { writer: node_id(&key(3)), nonce, pages, interval_ms: 500, parent };
            let (record, lineage) = genesis.sign(&key(3));
            prop_assert_eq!(Genesis::open(&record), Ok((genesis, lineage)));
        }

        #[test]
        fn an_interval_record_round_trips(
            log in proptest::collection::vec(any::<u8>(), 0..100),
            written in proptest::collection::btree_set(any::<u32>(), 0..50),
        ) {
            let record = IntervalRecord {
                lineage: LineageId([1; 32]),
                interval: CheckpointIndex(2),
                event_log: log,
                written: written.into_iter().map(PageNumber).collect(),
            };
            prop_assert_eq!(IntervalRecord::open(&record.sign(&key(1)), &node_id(&key(1))), Ok(record));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            drop(Head::peek(&bytes));
            drop(Genesis::open(&bytes));
            drop(IntervalRecord::open(&bytes, &node_id(&key(1))));
        }
    }
}
