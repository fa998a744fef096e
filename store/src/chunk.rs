//! Chunks whose hash was checked: the only kind that a store takes in or gives out.

use std::sync::Arc;

use pageswarm_checkpoint::{ChunkHash, DecodeError, Decoder, EncodedChunk, Encoder, Encoding, chunk_hash};

/// Decoded bytes together with their hash, which was computed from them.
#[derive(Clone, Copy, Debug)]
pub struct VerifiedBytes<'bytes> {
    hash: ChunkHash,
    bytes: &'bytes [u8],
}

/// Decoded bytes together with their hash, shared by whoever has use for them: a cache, a base, a chunk.
#[derive(Clone, Debug)]
pub struct SharedBytes {
    hash: ChunkHash,
    bytes: Arc<[u8]>,
}

/// A chunk whose encoded form was seen to decode to the bytes of its hash.
#[derive(Clone, Debug)]
pub struct VerifiedChunk {
    encoded: EncodedChunk<ChunkHash>,
    decoded: SharedBytes,
}

/// Why received bytes are not the chunk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// They do not decode.
    #[error("chunk {expected} cannot be decoded")]
    Undecodable {
        /// The chunk asked for.
        expected: ChunkHash,
        /// The reason.
        source: DecodeError,
    },
    /// They decode to something else.
    #[error("chunk {expected} decodes to {found}")]
    WrongHash {
        /// The chunk asked for.
        expected: ChunkHash,
        /// What came.
        found: ChunkHash,
    },
    /// The base given is not the base that the patch names.
    #[error("chunk {expected} is a patch on another base than {given}")]
    WrongBase {
        /// The chunk asked for.
        expected: ChunkHash,
        /// The base given.
        given: ChunkHash,
    },
}

impl<'bytes> VerifiedBytes<'bytes> {
    /// Hashes `bytes`.
    #[must_use]
    pub fn hashed(bytes: &'bytes [u8]) -> Self {
        Self { hash: chunk_hash(bytes), bytes }
    }

    /// A copy to be kept.
    #[must_use]
    pub fn to_shared(&self) -> SharedBytes {
        SharedBytes { hash: self.hash, bytes: self.bytes.into() }
    }

    /// `bytes` if they are the chunk `hash`.
    pub(crate) fn checked(hash: ChunkHash, bytes: &'bytes [u8]) -> Option<Self> {
        let found = Self::hashed(bytes);
        (found.hash == hash).then_some(found)
    }

    /// The chunk's name.
    #[must_use]
    pub const fn hash(&self) -> ChunkHash {
        self.hash
    }

    /// The decoded bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'bytes [u8] {
        self.bytes
    }
}

impl SharedBytes {
    /// Hashes `bytes`.
    #[must_use]
    pub fn hashed(bytes: Arc<[u8]>) -> Self {
        Self { hash: chunk_hash(&bytes), bytes }
    }

    /// The chunk's name.
    #[must_use]
    pub const fn hash(&self) -> ChunkHash {
        self.hash
    }

    /// The bytes with their hash.
    #[must_use]
    pub fn verified(&self) -> VerifiedBytes<'_> {
        VerifiedBytes { hash: self.hash, bytes: &self.bytes }
    }
}

impl VerifiedChunk {
    /// A chunk of this node's own: encodes it, as a patch on `base` where that is shortest.
    ///
    /// # Panics
    ///
    /// If `decoded` is longer than [`pageswarm_checkpoint::CHUNK_BYTES_MAX`].
    #[must_use]
    pub fn encode<'base>(
        encoder: &mut Encoder<'base>,
        decoded: SharedBytes,
        base: Option<VerifiedBytes<'base>>,
    ) -> Self {
        // A patch on itself would be the shortest, and could never be read.
        let base = base.filter(|base| base.hash != decoded.hash).map(|base| (base.hash, base.bytes));
        let encoded = encoder.encode(&decoded.bytes, base);
        Self { encoded, decoded }
    }

    /// A chunk that came from elsewhere: decodes it and compares its hash with the one expected.
    ///
    /// # Errors
    ///
    /// [`VerifyError`]: the bytes are not the chunk, or `base` is not the base they name.
    pub fn decode<'base>(
        decoder: &mut Decoder<'base>,
        expected: ChunkHash,
        encoded: EncodedChunk<ChunkHash>,
        base: Option<VerifiedBytes<'base>>,
    ) -> Result<Self, VerifyError> {
        if let (Encoding::Patch { base: named }, Some(given)) = (encoded.encoding, base)
            && named != given.hash
        {
            return Err(VerifyError::WrongBase { expected, given: given.hash });
        }
        let mut decoded = vec![];
        decoder
            .decode(&encoded, base.map(|base| base.bytes), &mut decoded)
            .map_err(|source| VerifyError::Undecodable { expected, source })?;
        let decoded = SharedBytes::hashed(decoded.into());
        if decoded.hash != expected {
            return Err(VerifyError::WrongHash { expected, found: decoded.hash });
        }
        Ok(Self { encoded, decoded })
    }

    /// The chunk's name.
    #[must_use]
    pub const fn hash(&self) -> ChunkHash {
        self.decoded.hash
    }

    /// The form it came in or was given.
    #[must_use]
    pub const fn encoded(&self) -> &EncodedChunk<ChunkHash> {
        &self.encoded
    }

    /// The decoded bytes, which can be the base of another chunk.
    #[must_use]
    pub fn decoded(&self) -> VerifiedBytes<'_> {
        self.decoded.verified()
    }

    /// The decoded bytes, to be kept.
    #[must_use]
    pub const fn shared(&self) -> &SharedBytes {
        &self.decoded
    }
}

#[cfg(test)]
mod tests {
    use pageswarm_checkpoint::PAGE_BYTES;

    use super::*;

    #[test]
    fn only_the_chunk_itself_passes() {
        let base = vec![1; PAGE_BYTES];
        let mut page = base.clone();
        page[9] = 9;
        let base = VerifiedBytes::hashed(&base);
        let chunk =
            VerifiedChunk::encode(&mut Encoder::new(), SharedBytes::hashed(page.clone().into()), Some(base));
        let mut decoder = Decoder::new();
        let good =
            VerifiedChunk::decode(&mut decoder, chunk.hash(), chunk.encoded().clone(), Some(base)).unwrap();
        assert_eq!(good.decoded().bytes(), page);
        let other = ChunkHash([3; 32]);
        let wrong = VerifiedChunk::decode(&mut decoder, other, chunk.encoded().clone(), Some(base));
        assert_eq!(wrong.unwrap_err(), VerifyError::WrongHash { expected: other, found: chunk.hash() });
    }

    #[test]
    fn a_patch_is_never_checked_against_a_base_it_does_not_name() {
        let bases: Vec<Vec<u8>> = (1..=2_u64)
            .map(|seed| {
                let mut bytes = vec![0; PAGE_BYTES];
                blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
                bytes
            })
            .collect();
        let mut page = bases[0].clone();
        page[7] ^= 1;
        let [first, second] = [VerifiedBytes::hashed(&bases[0]), VerifiedBytes::hashed(&bases[1])];
        let chunk = VerifiedChunk::encode(&mut Encoder::new(), SharedBytes::hashed(page.into()), Some(first));
        assert_eq!(chunk.encoded().encoding, Encoding::Patch { base: first.hash() });
        let outcome =
            VerifiedChunk::decode(&mut Decoder::new(), chunk.hash(), chunk.encoded().clone(), Some(second));
        assert_eq!(
            outcome.unwrap_err(),
            VerifyError::WrongBase { expected: chunk.hash(), given: second.hash() }
        );
    }

    #[test]
    fn a_chunk_is_never_a_patch_on_itself() {
        let mut page = vec![0; PAGE_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut page);
        let base = VerifiedBytes::hashed(&page);
        let chunk =
            VerifiedChunk::encode(&mut Encoder::new(), SharedBytes::hashed(page.clone().into()), Some(base));
        assert_eq!(chunk.encoded().encoding, Encoding::Raw);
    }
}
