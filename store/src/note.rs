//! Notes: small values under names of the node's own, such as pins. The last one put under a key counts.

use crate::fault::{IndexError, WriteError};
use crate::index::{Entry, Key, Table, Walk};
use crate::limits::{NOTE_KEY_BYTES_MAX, NOTE_VALUE_BYTES_MAX};
use crate::pack::{RecordHeader, RecordKind};
use crate::store::Store;

/// The form of a record that sets a note, and of one that removes it.
const SET: u8 = 0;
const REMOVED: u8 = 1;

/// A small value under a name of the node's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Its name, at most [`NOTE_KEY_BYTES_MAX`] bytes.
    pub key: Vec<u8>,
    /// Its value, at most [`NOTE_VALUE_BYTES_MAX`] bytes.
    pub value: Vec<u8>,
}

impl Store {
    /// Sets a note, or removes it with `None`. Durable on return.
    ///
    /// # Errors
    ///
    /// [`WriteError`]: too long, disk full, or an I/O failure. The quota does not apply.
    pub fn put_note(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), WriteError> {
        self.put_note_unsynced(key, value)?;
        self.sync()
    }

    /// As [`Self::put_note`], durable after the next [`Self::sync`]: for many notes at once.
    ///
    /// # Errors
    ///
    /// As [`Self::put_note`].
    pub fn put_note_unsynced(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), WriteError> {
        let bounds = [(key.len(), NOTE_KEY_BYTES_MAX), (value.map_or(0, <[u8]>::len), NOTE_VALUE_BYTES_MAX)];
        for (bytes, bytes_max) in bounds {
            if bytes > bytes_max {
                return Err(WriteError::TooLong { bytes, bytes_max });
            }
        }
        let key_len = u16::try_from(key.len()).expect("bounded above").to_le_bytes();
        let form = if value.is_some() { SET } else { REMOVED };
        let parts = [&key_len[..], key, value.unwrap_or_default()];
        let name = *blake3::hash(key).as_bytes();
        let header = RecordHeader::for_payload(RecordKind::Note, form, name, 0, &parts);
        let mut intake = self.intake();
        self.write(&mut intake, |batch| {
            batch.push(&header, &parts)?;
            batch.entries.push(Entry::Other(Key::Note(key).encode(), value.map(<[u8]>::to_vec)));
            Ok(())
        })
    }

    /// A note's value.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn note(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.index.get(&Key::Note(key).encode())
    }

    /// The notes whose key starts with `prefix`, in key order, at most `count_max`.
    ///
    /// # Errors
    ///
    /// [`IndexError`].
    pub fn notes(&self, prefix: &[u8], count_max: usize) -> Result<Vec<Note>, IndexError> {
        let from = Key::Note(prefix).encode();
        let mut notes = vec![];
        self.index.walk(&from, |key, value| {
            if notes.len() == count_max || !key.starts_with(&from) {
                return Walk::Stop;
            }
            notes.push(Note { key: key[1..].to_vec(), value: value.to_vec() });
            Walk::On
        })?;
        Ok(notes)
    }
}

/// The index entry of a note's record; `None` if the payload is none.
pub(crate) fn entry_of_record(form: u8, payload: &[u8]) -> Option<Entry> {
    let (length, rest) = payload.split_first_chunk::<2>()?;
    let (key, value) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    debug_assert_eq!(Key::Note(key).encode()[0], Table::Notes as u8);
    Some(Entry::Other(Key::Note(key).encode(), (form == SET).then(|| value.to_vec())))
}
