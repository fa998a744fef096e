//! Chunks whose hash was checked: the only kind that a store takes in or gives out.

use bytes::Bytes;
use pageswarm_checkpoint::{
    CHUNK_BYTES_MAX, ChunkHash, DecodeError, Decoder, Effort, EncodedChunk, Encoder, Encoding, chunk_hash,
    chunk_hashes,
};

use crate::read::Step;

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
    bytes: Bytes,
}

/// A chunk whose encoded form was seen to decode to the bytes of its hash.
#[derive(Clone, Debug)]
pub struct VerifiedChunk {
    encoding: Encoding<ChunkHash>,
    /// None where they are the decoded bytes.
    encoded: Option<Bytes>,
    decoded: SharedBytes,
}

/// A chunk that came from elsewhere and is not believed yet.
#[derive(Clone, Debug)]
pub struct Arrived<'base> {
    /// The chunk asked for.
    pub expected: ChunkHash,
    /// What the first step is based on, if it is based on anything.
    pub base: Option<VerifiedBytes<'base>>,
    /// What came: each step makes the base of the next, the last one the chunk.
    pub steps: Vec<Step<Bytes>>,
    /// What the chunk will be stored on, if it came in more than one step: the reader's own version of it.
    pub stored_on: Option<VerifiedBytes<'base>>,
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
        SharedBytes { hash: self.hash, bytes: Bytes::copy_from_slice(self.bytes) }
    }

    /// Hashes many, which is faster together.
    #[must_use]
    pub fn hashed_together(chunks: &[&'bytes [u8]]) -> Vec<Self> {
        let hashes = chunk_hashes(chunks);
        chunks.iter().zip(hashes).map(|(bytes, hash)| Self { hash, bytes }).collect()
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
    pub fn hashed(bytes: Bytes) -> Self {
        Self { hash: chunk_hash(&bytes), bytes }
    }

    /// Hashes many, which is faster together.
    #[must_use]
    pub fn hashed_together(chunks: Vec<Bytes>) -> Vec<Self> {
        let hashes = chunk_hashes(&chunks.iter().map(|bytes| &**bytes).collect::<Vec<_>>());
        chunks.into_iter().zip(hashes).map(|(bytes, hash)| Self { hash, bytes }).collect()
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

impl<'base> Arrived<'base> {
    /// Takes all steps, with two buffers for what they make; the decoded bytes.
    fn decode(
        &self,
        decoder: &mut Decoder<'base>,
        [made, next]: &mut [Vec<u8>; 2],
    ) -> Result<Bytes, VerifyError> {
        let undecodable = |source| VerifyError::Undecodable { expected: self.expected, source };
        if let [step] = self.steps.as_slice()
            && step.encoding == Encoding::Raw
            && u32::try_from(step.bytes.len()) == Ok(step.decoded_len)
            && step.bytes.len() <= CHUNK_BYTES_MAX
        {
            return Ok(step.bytes.clone());
        }
        made.clear();
        for (number, step) in self.steps.iter().enumerate() {
            next.clear();
            if number == 0 {
                decoder.decode(step, self.base.map(|base| base.bytes), next).map_err(undecodable)?;
            } else {
                // What a step made lives as long as this loop, so its decoder does too.
                Decoder::new().decode(step, Some(made), next).map_err(undecodable)?;
            }
            std::mem::swap(made, next);
        }
        Ok(Bytes::copy_from_slice(made))
    }

    /// The form in which the chunk is kept: as it came, or if it came in several steps, as one.
    fn kept(&self, decoded: SharedBytes) -> VerifiedChunk {
        let as_it_came = match self.steps.as_slice() {
            [step] => step.encoding.rename_base(|()| self.base.map(|base| base.hash)).zip(Some(&step.bytes)),
            _ => None,
        };
        match as_it_came {
            Some((Encoding::Raw, _)) => VerifiedChunk { encoding: Encoding::Raw, encoded: None, decoded },
            Some((encoding, bytes)) => VerifiedChunk { encoding, encoded: Some(bytes.clone()), decoded },
            None => VerifiedChunk::encode(&mut Encoder::new(Effort::Fast), decoded, self.stored_on),
        }
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
        let EncodedChunk { encoding, bytes, .. } = encoder.encode(&decoded.bytes, base);
        let encoded = (encoding != Encoding::Raw).then(|| bytes.into());
        Self { encoding, encoded, decoded }
    }

    /// Chunks that came from elsewhere: decodes each and compares its hash with the one expected. Hashing them
    /// together is faster. The outcomes are in the order given.
    pub fn decode_together<'base>(
        decoder: &mut Decoder<'base>,
        arrived: &[Arrived<'base>],
    ) -> Vec<Result<Self, VerifyError>> {
        let mut buffers = [vec![], vec![]];
        let outcomes: Vec<Result<Bytes, VerifyError>> =
            arrived.iter().map(|chunk| chunk.decode(decoder, &mut buffers)).collect();
        let decoded: Vec<Bytes> = outcomes.iter().flatten().cloned().collect();
        let mut hashed = SharedBytes::hashed_together(decoded).into_iter();
        arrived
            .iter()
            .zip(outcomes)
            .map(|(chunk, outcome)| {
                outcome?;
                let decoded = hashed.next().expect("everything that decoded was hashed");
                let (expected, found) = (chunk.expected, decoded.hash);
                if found != expected {
                    return Err(VerifyError::WrongHash { expected, found });
                }
                Ok(chunk.kept(decoded))
            })
            .collect()
    }

    /// The chunk's name.
    #[must_use]
    pub const fn hash(&self) -> ChunkHash {
        self.decoded.hash
    }

    /// The form it came in or was given.
    #[must_use]
    pub fn encoded(&self) -> EncodedChunk<ChunkHash, &[u8]> {
        let decoded_len = u32::try_from(self.decoded.bytes.len()).expect("a chunk is at most 64 KiB");
        let bytes = self.encoded.as_deref().unwrap_or(&self.decoded.bytes);
        EncodedChunk { encoding: self.encoding, decoded_len, bytes }
    }

    /// The decoded bytes, which can be the base of another chunk.
    #[must_use]
    pub fn decoded(&self) -> VerifiedBytes<'_> {
        self.decoded.verified()
    }

    /// The decoded bytes alone.
    #[must_use]
    pub fn into_shared(self) -> SharedBytes {
        self.decoded
    }

    /// The decoded bytes, to be kept, if they are its own: those of a chunk that arrived raw are a part of what it
    /// arrived in, all of which they would keep.
    #[must_use]
    pub fn shared(&self) -> Option<&SharedBytes> {
        (self.encoding != Encoding::Raw).then_some(&self.decoded)
    }
}

#[cfg(test)]
mod tests {
    use pageswarm_checkpoint::Effort;

    use super::*;
    use crate::noise::noise;

    fn step(chunk: &VerifiedChunk) -> Step<Bytes> {
        chunk.encoded().rename_base(|_| Some(())).unwrap().map_bytes(Bytes::copy_from_slice)
    }

    fn encoded(bytes: &[u8], base: Option<VerifiedBytes<'_>>) -> VerifiedChunk {
        VerifiedChunk::encode(
            &mut Encoder::new(Effort::Fast),
            SharedBytes::hashed(Bytes::copy_from_slice(bytes)),
            base,
        )
    }

    #[test]
    fn only_the_chunk_itself_passes() {
        let bases = [noise(1), noise(2)];
        let [base, other_base] = [0, 1].map(|which| VerifiedBytes::hashed(&bases[which]));
        let mut page = bases[0].clone();
        page[9] ^= 9;
        let chunk = encoded(&page, Some(base));
        assert_eq!(chunk.encoded().encoding, Encoding::Diff { base: base.hash() });
        let arrived = |expected, base| Arrived {
            expected,
            base: Some(base),
            steps: vec![step(&chunk)],
            stored_on: None,
        };
        let other = ChunkHash([3; 32]);
        let outcomes = VerifiedChunk::decode_together(
            &mut Decoder::new(),
            &[arrived(chunk.hash(), base), arrived(other, base), arrived(chunk.hash(), other_base)],
        );
        let good = outcomes[0].as_ref().unwrap();
        assert_eq!(good.decoded().bytes(), page);
        assert_eq!(good.encoded(), chunk.encoded());
        let wrong = |at: usize| outcomes[at].as_ref().unwrap_err();
        assert_eq!(*wrong(1), VerifyError::WrongHash { expected: other, found: chunk.hash() });
        assert!(matches!(wrong(2), VerifyError::WrongHash { expected, .. } if *expected == chunk.hash()));
    }

    #[test]
    fn several_steps_make_one_chunk_that_is_kept_on_the_readers_own_version() {
        let first = noise(1);
        let mut versions = vec![first];
        for change in 1..4 {
            let mut next = versions[versions.len() - 1].clone();
            next[change * 100] ^= 1;
            versions.push(next);
        }
        let chunks: Vec<VerifiedChunk> = (0..4)
            .map(|at| {
                encoded(&versions[at], at.checked_sub(1).map(|base| VerifiedBytes::hashed(&versions[base])))
            })
            .collect();
        let own = VerifiedBytes::hashed(&versions[0]);
        for (from, base) in [(1, Some(own)), (0, None)] {
            let steps = chunks[from..].iter().map(step).collect();
            let arrived = Arrived { expected: chunks[3].hash(), base, steps, stored_on: Some(own) };
            let outcome = VerifiedChunk::decode_together(&mut Decoder::new(), &[arrived]).remove(0).unwrap();
            assert_eq!(outcome.decoded().bytes(), versions[3]);
            assert_eq!(outcome.encoded().encoding, Encoding::Diff { base: own.hash() });
        }
    }

    #[test]
    fn a_chunk_is_never_a_patch_on_itself() {
        let page = noise(7);
        assert_eq!(encoded(&page, Some(VerifiedBytes::hashed(&page))).encoded().encoding, Encoding::Raw);
    }
}
