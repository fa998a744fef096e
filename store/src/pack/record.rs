//! A record's 56-byte header.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | `PSr1` |
//! | 4 | kind |
//! | 5 | form: a chunk's encoding, an object's kind, a note's fate, else 0 |
//! | 6..8 | 0 |
//! | 8..12 | decoded length |
//! | 12..16 | stored length: payload bytes after the header |
//! | 16..48 | name: chunk hash, object hash, lineage, or the hash of a note's key |
//! | 48..52 | CRC-32 of the payload |
//! | 52..56 | CRC-32 of the pack's salt and bytes 0..52 |
//!
//! Integers are little-endian. The payload of a patch starts with the 32 bytes of its base's hash. The salt is
//! there because payloads are strangers' bytes: a page that holds a well-formed record must not pass for one
//! when a scan looks for the next record after damage.

use super::Salt;
use crate::limits::RECORD_BYTES_MAX;

/// Bytes of a record before its payload.
pub(crate) const HEADER_BYTES: usize = 56;

/// The first bytes of every record.
pub(crate) const MAGIC: [u8; 4] = *b"PSr1";

const SUMMED: usize = HEADER_BYTES - 4;

/// What a record holds. The numbers are on disk; 3 is not used.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordKind {
    Chunk = 1,
    Object = 2,
    Head = 4,
    Commit = 5,
    Note = 6,
}

/// A record's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    pub(crate) form: u8,
    pub(crate) decoded_len: u32,
    pub(crate) stored_len: u32,
    pub(crate) name: [u8; 32],
    pub(crate) payload_crc: u32,
}

/// Bytes that are no header of this pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeaderFault;

impl RecordHeader {
    /// The header for a payload given in `parts`.
    ///
    /// # Panics
    ///
    /// If the payload is longer than [`RECORD_BYTES_MAX`]: callers bound what they store.
    pub(crate) fn for_payload(
        kind: RecordKind,
        form: u8,
        name: [u8; 32],
        decoded_len: u32,
        parts: &[&[u8]],
    ) -> Self {
        let mut crc = crc32fast::Hasher::new();
        let mut stored = 0;
        for part in parts {
            crc.update(part);
            stored += part.len();
        }
        assert!(stored <= RECORD_BYTES_MAX, "a record is at most {RECORD_BYTES_MAX} bytes");
        let stored_len = u32::try_from(stored).expect("bounded above");
        Self { kind, form, decoded_len, stored_len, name, payload_crc: crc.finalize() }
    }

    /// The header's bytes in a pack with this salt.
    pub(crate) fn encode(&self, salt: Salt) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = self.kind as u8;
        out[5] = self.form;
        out[8..12].copy_from_slice(&self.decoded_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.stored_len.to_le_bytes());
        out[16..48].copy_from_slice(&self.name);
        out[48..52].copy_from_slice(&self.payload_crc.to_le_bytes());
        let sum = header_crc(&out, salt);
        out[SUMMED..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads a header back; any flipped bit is a fault.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES], salt: Salt) -> Result<Self, HeaderFault> {
        let sum = u32::from_le_bytes(array(bytes, SUMMED));
        if bytes[..4] != MAGIC || sum != header_crc(bytes, salt) {
            return Err(HeaderFault);
        }
        let header = Self {
            kind: RecordKind::from_byte(bytes[4]).ok_or(HeaderFault)?,
            form: bytes[5],
            decoded_len: u32::from_le_bytes(array(bytes, 8)),
            stored_len: u32::from_le_bytes(array(bytes, 12)),
            name: array(bytes, 16),
            payload_crc: u32::from_le_bytes(array(bytes, 48)),
        };
        if header.payload_bytes() > RECORD_BYTES_MAX { Err(HeaderFault) } else { Ok(header) }
    }

    /// Payload bytes after the header.
    pub(crate) fn payload_bytes(&self) -> usize {
        usize::try_from(self.stored_len).unwrap_or(usize::MAX)
    }
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Chunk, Self::Object, Self::Head, Self::Commit, Self::Note]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

fn header_crc(header: &[u8; HEADER_BYTES], salt: Salt) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&salt.0.to_le_bytes());
    crc.update(&header[..SUMMED]);
    crc.finalize()
}

fn array<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> RecordHeader {
        RecordHeader::for_payload(RecordKind::Chunk, 2, [7; 32], 4096, &[b"base", b"patch"])
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let salt = Salt(0x1234_5678_9abc_def0);
        let good = sample().encode(salt);
        assert_eq!(RecordHeader::decode(&good, salt), Ok(sample()));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(&bad, salt), Err(HeaderFault), "bit {bit}");
        }
    }

    #[test]
    fn a_header_written_under_another_salt_is_refused() {
        assert_eq!(RecordHeader::decode(&sample().encode(Salt(1)), Salt(2)), Err(HeaderFault));
    }

    #[test]
    fn a_header_of_a_kind_that_is_not_used_is_refused() {
        let salt = Salt(1);
        for kind in [0, 3, 7, 255] {
            let mut header = sample().encode(salt);
            header[4] = kind;
            let sum = header_crc(&header, salt);
            header[SUMMED..].copy_from_slice(&sum.to_le_bytes());
            assert_eq!(RecordHeader::decode(&header, salt), Err(HeaderFault), "kind {kind}");
        }
    }

    #[test]
    fn the_checksum_runs_over_all_parts_of_a_payload() {
        let whole = RecordHeader::for_payload(RecordKind::Chunk, 2, [7; 32], 4096, &[b"basepatch"]);
        assert_eq!(whole, sample());
    }
}
