//! Metadata objects: deltas, keyframes, heads, certificates. Bytes named by their hash; the store knows no more.

use pageswarm_checkpoint::ObjectHash;

use crate::bad::BadCause;
use crate::fault::{IndexError, ReadError, WriteError};
use crate::index::{Entry, Key, Location};
use crate::limits::OBJECT_BYTES_MAX;
use crate::pack::{HEADER_BYTES, RecordHeader, RecordKind};
use crate::store::Store;

/// What an object is, in its owner's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKind(pub u8);

impl Store {
    /// Takes in an object, once. It can be read at once and is durable after the next [`Store::sync`] or
    /// [`Store::commit_checkpoint`]. An object that is held keeps the kind it was first put with.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: too long (beyond [`OBJECT_BYTES_MAX`]), disk full, quota reached, or an I/O failure.
    pub fn put_object(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectHash, WriteError> {
        if bytes.len() > OBJECT_BYTES_MAX {
            return Err(WriteError::TooLong { bytes: bytes.len(), bytes_max: OBJECT_BYTES_MAX });
        }
        let hash = hash_of(bytes);
        let key = Key::Object(hash).encode();
        let mut intake = self.intake();
        if self.index.get(&key)?.is_some() {
            return Ok(hash);
        }
        self.check_quota(&intake, (HEADER_BYTES + bytes.len()) as u64)?;
        let length = u32::try_from(bytes.len()).expect("bounded above");
        let header = RecordHeader::for_payload(RecordKind::Object, kind.0, hash.0, length, &[bytes]);
        self.write(&mut intake, |batch| {
            let place = batch.push(&header, &[bytes])?;
            let location = Location::of_record(place, &header, bytes).expect("objects have no base");
            batch.totals.add_object(&location);
            batch.entries.push(Entry::Other(key, Some(location.encode())));
            Ok(hash)
        })
    }

    /// An object, its hash checked; `None` if it is not held.
    ///
    /// # Errors
    ///
    /// [`ReadError::BadObject`] if it is bad: it then counts as not held. Else an I/O failure.
    pub fn object(&self, hash: ObjectHash) -> Result<Option<(ObjectKind, Vec<u8>)>, ReadError> {
        let key = Key::Object(hash).encode();
        let Some(value) = self.index.get(&key)? else {
            return Ok(None);
        };
        let location = Location::decode(&value).ok_or_else(|| self.index.entry_damaged())?;
        let mut outcome = Err(BadCause::Truncated);
        self.read_records(RecordKind::Object, &[(hash.0, location)], |_, record| {
            outcome = record.and_then(|(header, payload)| {
                let is_it = hash_of(payload) == hash;
                if is_it { Ok((ObjectKind(header.form), payload.to_vec())) } else { Err(BadCause::WrongHash) }
            });
        })?;
        match outcome {
            Ok(object) => Ok(Some(object)),
            Err(cause) => {
                self.forget_object(&key, &value, &location)?;
                Err(ReadError::BadObject { hash, place: location.place, cause })
            }
        }
    }

    /// Whether each object is held.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn contains_objects(&self, hashes: &[ObjectHash]) -> Result<Vec<bool>, IndexError> {
        let keys: Vec<Vec<u8>> = hashes.iter().map(|hash| Key::Object(*hash).encode()).collect();
        Ok(self.index.look_up(&keys, |_| ())?.iter().map(Option::is_some).collect())
    }

    /// Takes a bad object out of the index, unless it was replaced meanwhile.
    fn forget_object(&self, key: &[u8], value: &[u8], location: &Location) -> Result<(), IndexError> {
        let mut intake = self.intake();
        if self.index.get(key)?.as_deref() == Some(value) {
            self.index.remove(&[key.to_vec()])?;
            intake.totals.remove_object(location);
        }
        Ok(())
    }
}

fn hash_of(bytes: &[u8]) -> ObjectHash {
    ObjectHash(*blake3::hash(bytes).as_bytes())
}
