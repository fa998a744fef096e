//! Reading and writing the primitive values every format here is made of: varints, fixed arrays, bounded lists.
//!
//! Varints are LEB128, little end first, at most ten bytes, in their shortest form only: one value has one
//! encoding, so equal records have equal hashes.

use crate::ids::{Birth, ChunkRef, Generation};

/// Why bytes are not a record. Offsets count from the start of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The bytes end inside a value.
    #[error("record ends early, at byte {at}")]
    Truncated {
        /// Offset of the value that is cut off.
        at: usize,
    },
    /// A varint is longer than needed or overflows its type.
    #[error("malformed number at byte {at}")]
    Number {
        /// Offset of the number.
        at: usize,
    },
    /// A list or byte string is longer than its limit or than the bytes that are left.
    #[error("length {length} at byte {at} is beyond the limit of {limit}")]
    TooLong {
        /// Offset of the length.
        at: usize,
        /// The length stated.
        length: u64,
        /// The most allowed there.
        limit: u64,
    },
    /// A tag, version or order that the format does not allow.
    #[error("{what} is not allowed at byte {at}")]
    Unexpected {
        /// Offset of the offending value.
        at: usize,
        /// What was found, in words.
        what: &'static str,
    },
    /// Bytes are left over after the record.
    #[error("{left} bytes are left over after the record")]
    Trailing {
        /// How many.
        left: usize,
    },
}

/// Writes values to the end of a byte vector.
pub trait Put {
    /// Appends a LEB128 varint.
    fn put_varint(&mut self, value: u64);
    /// Appends a varint length, then the bytes.
    fn put_bytes(&mut self, bytes: &[u8]);
    /// Appends a chunk reference: generation, then birth.
    fn put_chunk_ref(&mut self, chunk: ChunkRef);
}

impl Put for Vec<u8> {
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.push(value.to_le_bytes()[0]);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_varint(length_u64(bytes.len()));
        self.extend_from_slice(bytes);
    }

    fn put_chunk_ref(&mut self, chunk: ChunkRef) {
        self.put_varint(u64::from(chunk.generation.0));
        self.put_varint(chunk.birth.0);
    }
}

/// A `usize` as the `u64` that formats carry.
#[must_use]
pub fn length_u64(length: usize) -> u64 {
    u64::try_from(length).expect("usize has at most 64 bits")
}

/// Reads values from the front of a byte slice; every length is checked before anything is allocated.
#[derive(Debug, Clone)]
pub struct Take<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Take<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Offset of the next byte.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.at
    }

    /// Bytes not yet read.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, FormatError> {
        Ok(self.slice(1)?[0])
    }

    /// Exactly `length` bytes.
    pub fn slice(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        if length > self.left() {
            return Err(FormatError::Truncated { at: self.at });
        }
        let slice = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(slice)
    }

    /// A fixed array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        Ok(self.slice(N)?.try_into().expect("the slice has N bytes"))
    }

    /// A varint in its shortest form.
    pub fn varint(&mut self) -> Result<u64, FormatError> {
        let at = self.at;
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            let shifted = part << shift;
            if shifted >> shift != part {
                return Err(FormatError::Number { at });
            }
            value |= shifted;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return if shortest { Ok(value) } else { Err(FormatError::Number { at }) };
            }
        }
        Err(FormatError::Number { at })
    }

    /// A varint that must fit 32 bits.
    pub fn varint_u32(&mut self) -> Result<u32, FormatError> {
        let at = self.at;
        u32::try_from(self.varint()?).map_err(|_| FormatError::Number { at })
    }

    /// A varint length of at most `limit`.
    pub fn length(&mut self, limit: usize) -> Result<usize, FormatError> {
        let at = self.at;
        let length = self.varint()?;
        usize::try_from(length).ok().filter(|length| *length <= limit).ok_or(FormatError::TooLong {
            at,
            length,
            limit: length_u64(limit),
        })
    }

    /// A varint count of items that take at least one byte each, so it cannot exceed the bytes left.
    pub fn count(&mut self, limit: usize) -> Result<usize, FormatError> {
        let at = self.at;
        let count = self.length(limit)?;
        if count > self.left() {
            return Err(FormatError::TooLong {
                at,
                length: length_u64(count),
                limit: length_u64(self.left()),
            });
        }
        Ok(count)
    }

    /// A varint length of at most `limit`, then that many bytes.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8], FormatError> {
        let length = self.length(limit)?;
        self.slice(length)
    }

    /// A chunk reference.
    pub fn chunk_ref(&mut self) -> Result<ChunkRef, FormatError> {
        let at = self.at;
        let generation = u16::try_from(self.varint()?).map_err(|_| FormatError::Number { at })?;
        Ok(ChunkRef { generation: Generation(generation), birth: Birth(self.varint()?) })
    }

    /// Fails with `what` unless `fine`.
    pub const fn require(&self, fine: bool, what: &'static str) -> Result<(), FormatError> {
        if fine { Ok(()) } else { Err(FormatError::Unexpected { at: self.at, what }) }
    }

    /// Fails unless everything was read.
    pub const fn finish(self) -> Result<(), FormatError> {
        match self.left() {
            0 => Ok(()),
            left => Err(FormatError::Trailing { left }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_round_trip(value in any::<u64>()) {
            let mut bytes = vec![];
            bytes.put_varint(value);
            let mut take = Take::new(&bytes);
            prop_assert_eq!(take.varint(), Ok(value));
            prop_assert_eq!(take.finish(), Ok(()));
        }

        #[test]
        fn a_number_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut take = Take::new(&bytes);
            if let Ok(value) = take.varint() {
                let mut again = vec![];
                again.put_varint(value);
                prop_assert_eq!(&bytes[..take.position()], again.as_slice());
            }
        }
    }

    #[test]
    fn lengths_are_checked_before_anything_is_allocated() {
        let mut bytes = vec![];
        bytes.put_varint(u64::MAX);
        assert!(matches!(Take::new(&bytes).bytes(10), Err(FormatError::TooLong { limit: 10, .. })));
        assert!(matches!(Take::new(&[5]).count(100), Err(FormatError::TooLong { limit: 0, .. })));
    }
}
