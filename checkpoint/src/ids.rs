//! The names and quantities everything else is expressed in: pages, births, hashes, lineages, nodes.

use std::fmt;

/// Bytes in a page of guest RAM.
pub const PAGE_BYTES: usize = 4096;

/// Declares a 32-byte name with hexadecimal `Display` and a short `Debug`.
macro_rules! name32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first ten hexadecimal digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(10);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseNameError;

            fn from_str(text: &str) -> Result<Self, ParseNameError> {
                parse_hex32(text).map(Self)
            }
        }
    };
}

name32! {
    /// BLAKE3-256 of a chunk's decoded bytes: a page or one piece of a blob.
    ChunkHash
}
name32! {
    /// BLAKE3-256 of a metadata object as encoded: a delta, a keyframe or a head.
    ObjectHash
}
name32! {
    /// The name of a lineage: the hash of its genesis record.
    LineageId
}
name32! {
    /// The Merkle root of a checkpoint's whole canonical state.
    StateRoot
}
name32! {
    /// An Ed25519 public key: a node, a writer, or a swarm's authority.
    NodeId
}

/// The number of a 4096-byte page of guest RAM, counted from guest physical address 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(pub u32);

/// The index of a checkpoint in its lineage, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointIndex(pub u64);

/// A chunk's number in its lineage's append-only order of new chunks, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Birth(pub u64);

/// How many ancestors up a chunk was born: 0 in this lineage, 1 in its parent, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u16);

/// A chunk named from within a lineage: which ancestor, and which birth there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkRef {
    /// 0 is the lineage itself.
    pub generation: Generation,
    /// The number in that lineage's order of births.
    pub birth: Birth,
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits, got {length} characters that are not all such digits or not 64")]
pub struct ParseNameError {
    length: usize,
}

impl fmt::Display for PageNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for CheckpointIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Birth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl CheckpointIndex {
    /// The one after this.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl ChunkRef {
    /// A chunk born in the lineage itself.
    #[must_use]
    pub const fn own(birth: Birth) -> Self {
        Self { generation: Generation(0), birth }
    }
}

fn parse_hex32(text: &str) -> Result<[u8; 32], ParseNameError> {
    let error = || ParseNameError { length: text.chars().count() };
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(error());
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(pair).map_err(|_| error())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| error())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_and_parse_back() {
        let hash = ChunkHash(std::array::from_fn(|i| u8::try_from(i * 7 % 256).unwrap()));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("xyz".parse::<ChunkHash>().is_err());
        assert!("é".repeat(32).parse::<ChunkHash>().is_err());
    }
}
