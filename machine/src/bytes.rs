//! Bounded little-endian and varint fields, the form of every encoding in this crate.

/// Why bytes are not a valid encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    /// The bytes end inside a field.
    #[error("ends inside a field at byte {offset}")]
    Short {
        /// Where the field starts.
        offset: usize,
    },
    /// Bytes follow the last field.
    #[error("{count} bytes follow the last field")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// A varint that is too long, too large, or not in its shortest form.
    #[error("varint at byte {offset} is not in its one valid form")]
    Varint {
        /// Where it starts.
        offset: usize,
    },
    /// A field has a value that its type does not have.
    #[error("field before byte {offset} has an impossible value")]
    Value {
        /// First byte after the field.
        offset: usize,
    },
    /// A format version that this build does not know.
    #[error("format version {found} is not known")]
    Version {
        /// The version found.
        found: u8,
    },
}

/// Reads fields off the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`BytesError::Short`] when fewer are left.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], BytesError> {
        let short = BytesError::Short { offset: self.offset };
        let end = self.offset.checked_add(count).ok_or(short)?;
        let taken = self.bytes.get(self.offset..end).ok_or(short)?;
        self.offset = end;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`BytesError::Short`] when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BytesError> {
        let offset = self.offset;
        self.take(N)?.try_into().map_err(|_| BytesError::Short { offset })
    }

    /// One byte.
    ///
    /// # Errors
    /// [`BytesError::Short`] at the end.
    pub fn u8(&mut self) -> Result<u8, BytesError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// A little-endian 16-bit number.
    ///
    /// # Errors
    /// [`BytesError::Short`] at the end.
    pub fn u16(&mut self) -> Result<u16, BytesError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A little-endian 32-bit number.
    ///
    /// # Errors
    /// [`BytesError::Short`] at the end.
    pub fn u32(&mut self) -> Result<u32, BytesError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A little-endian 64-bit number.
    ///
    /// # Errors
    /// [`BytesError::Short`] at the end.
    pub fn u64(&mut self) -> Result<u64, BytesError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// An unsigned LEB128 number in its shortest form.
    ///
    /// # Errors
    /// [`BytesError::Short`] or [`BytesError::Varint`].
    pub fn varint(&mut self) -> Result<u64, BytesError> {
        let offset = self.offset;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(BytesError::Varint { offset })
    }

    /// The error for a field just read whose value is impossible.
    #[must_use]
    pub const fn impossible(&self) -> BytesError {
        BytesError::Value { offset: self.offset }
    }

    /// Bytes not read yet.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// Says that nothing may follow.
    ///
    /// # Errors
    /// [`BytesError::Trailing`] when something does.
    pub const fn finish(&self) -> Result<(), BytesError> {
        match self.left() {
            0 => Ok(()),
            count => Err(BytesError::Trailing { count }),
        }
    }
}

/// Appends an unsigned LEB128 number in its shortest form.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}
