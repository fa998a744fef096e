//! Thrift's compact protocol, as far as Parquet's footers and page headers need it, read from bytes that may be
//! anything: nothing is allocated, and what is skipped is skipped within bounds.

/// How deep structures may be nested.
const DEPTH_MAX: u32 = 16;

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCT: u8 = 12;

/// Bytes are not what Parquet writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThriftError {
    /// There are too few of them.
    #[error("structure is cut short")]
    Short,
    /// A number has too many bits.
    #[error("number is too large")]
    Number,
    /// A field is of another kind, or of one that there is not.
    #[error("field is of the wrong kind")]
    Kind,
    /// Structures in structures without end.
    #[error("structures are nested too deep")]
    Depth,
}

/// A field of a structure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) id: i64,
    kind: u8,
}

impl Field {
    /// What follows must be a structure.
    pub(crate) fn structure(self) -> Result<(), ThriftError> {
        if self.kind == STRUCT { Ok(()) } else { Err(ThriftError::Kind) }
    }
}

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thrift<'a> {
    left: &'a [u8],
}

impl<'a> Thrift<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// Bytes that were not read.
    pub(crate) const fn left(&self) -> &'a [u8] {
        self.left
    }

    fn take(&mut self, bytes: u64) -> Result<&'a [u8], ThriftError> {
        let bytes = usize::try_from(bytes).map_err(|_| ThriftError::Short)?;
        let (taken, left) = self.left.split_at_checked(bytes).ok_or(ThriftError::Short)?;
        self.left = left;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, ThriftError> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A number of at most 64 bits, seven a byte.
    pub(crate) fn varint(&mut self) -> Result<u64, ThriftError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(ThriftError::Number);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(ThriftError::Number)
    }

    fn signed(&mut self) -> Result<i64, ThriftError> {
        let number = self.varint()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    /// The next field of a structure whose last one had the id `last`; none at its end.
    pub(crate) fn field(&mut self, last: &mut i64) -> Result<Option<Field>, ThriftError> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        let id = if head >> 4 == 0 { self.signed()? } else { last.wrapping_add(i64::from(head >> 4)) };
        *last = id;
        Ok(Some(Field { id, kind: head & 0xf }))
    }

    /// The number in a field.
    pub(crate) fn number(&mut self, field: Field) -> Result<i64, ThriftError> {
        match field.kind {
            I16 | I32 | I64 => self.signed(),
            _ => Err(ThriftError::Kind),
        }
    }

    /// The bytes in a field.
    pub(crate) fn binary(&mut self, field: Field) -> Result<&'a [u8], ThriftError> {
        if field.kind != BINARY {
            return Err(ThriftError::Kind);
        }
        let length = self.varint()?;
        self.take(length)
    }

    /// The length of a list of structures.
    pub(crate) fn structures(&mut self, field: Field) -> Result<u64, ThriftError> {
        if field.kind != LIST {
            return Err(ThriftError::Kind);
        }
        match self.list()? {
            (STRUCT, length) => Ok(length),
            _ => Err(ThriftError::Kind),
        }
    }

    /// Kind of the elements and their number.
    fn list(&mut self) -> Result<(u8, u64), ThriftError> {
        let head = self.byte()?;
        let length = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        Ok((head & 0xf, length))
    }

    /// Passes a field by.
    pub(crate) fn skip(&mut self, field: Field) -> Result<(), ThriftError> {
        match field.kind {
            // The kind itself says which.
            TRUE | FALSE => Ok(()),
            kind => self.skip_value(kind, 0),
        }
    }

    /// Each step takes at least one byte, so that a list that claims to be long ends where the bytes do.
    fn skip_value(&mut self, kind: u8, depth: u32) -> Result<(), ThriftError> {
        if depth > DEPTH_MAX {
            return Err(ThriftError::Depth);
        }
        match kind {
            TRUE | FALSE | BYTE => self.byte().map(drop),
            I16 | I32 | I64 => self.varint().map(drop),
            DOUBLE => self.take(8).map(drop),
            BINARY => {
                let length = self.varint()?;
                self.take(length).map(drop)
            }
            LIST | SET => {
                let (kind, length) = self.list()?;
                (0..length).try_for_each(|_| self.skip_value(kind, depth + 1))
            }
            STRUCT => {
                let mut last = 0;
                while let Some(field) = self.field(&mut last)? {
                    if !matches!(field.kind, TRUE | FALSE) {
                        self.skip_value(field.kind, depth + 1)?;
                    }
                }
                Ok(())
            }
            _ => Err(ThriftError::Kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_at_64_bits() {
        let read = |bytes: &[u8]| Thrift::new(bytes).varint();
        assert_eq!(read(&[0x80, 0x01]), Ok(128));
        assert_eq!(read(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), Ok(u64::MAX));
        assert_eq!(read(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 2]), Err(ThriftError::Number));
        assert_eq!(read(&[128; 11]), Err(ThriftError::Number));
        assert_eq!(read(&[128]), Err(ThriftError::Short));
    }

    #[test]
    fn lists_that_lie_about_their_length_and_structures_without_end_are_refused() {
        // A list of 2^62 bytes, of which two are there.
        let mut lying = vec![0x19, 0xf3];
        lying.extend([0x80; 8]);
        lying.extend([0x40, 1, 2]);
        let skip = |bytes: &[u8]| Thrift::new(bytes).skip_value(STRUCT, 0);
        assert_eq!(skip(&lying), Err(ThriftError::Short));
        assert_eq!(skip(&[0x1c; 1000]), Err(ThriftError::Depth));
        assert_eq!(skip(&[0x19; 1000]), Err(ThriftError::Depth));
        assert_eq!(skip(&[0x1b, 0]), Err(ThriftError::Kind));
    }
}
