//! How one stored copy or one transfer represents a chunk: raw, zstd, or a patch on another chunk.
//!
//! An encoding is never part of a chunk's identity: whatever arrives is decoded, and only the hash of the
//! decoded bytes decides whether it is the chunk.

use std::fmt;

use zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat, ResetDirective};

use crate::ids::{ChunkHash, PAGE_BYTES};

/// The most decoded bytes a chunk may have: a page, or the largest piece FastCDC cuts of a blob.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// A patch at most this long is taken without trying plain zstd: trying costs more than it gains on most pages.
const PATCH_BYTES_ACCEPTED: usize = PAGE_BYTES / 2;

/// What the encoded bytes are, with `Base` naming a patch's base: by hash on disk, by birth on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding<Base> {
    /// The decoded bytes themselves.
    Raw,
    /// One magicless zstd frame.
    Zstd,
    /// One magicless zstd frame with the base's decoded bytes as prefix.
    Patch {
        /// The chunk whose decoded bytes are the prefix.
        base: Base,
    },
}

/// An encoded chunk, not yet trusted: only decoding and hashing tell whether it is what it claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedChunk<Base> {
    /// What `bytes` are.
    pub encoding: Encoding<Base>,
    /// Length after decoding, at most [`CHUNK_BYTES_MAX`].
    pub decoded_len: u32,
    /// The encoded bytes, at most `decoded_len` of them.
    pub bytes: Vec<u8>,
}

/// Encodes chunks; owns a zstd context, so make one per batch. Bases must outlive it: zstd refers to them.
pub struct Encoder<'base> {
    context: CCtx<'base>,
    plain: Vec<u8>,
    patch: Vec<u8>,
}

/// Decodes chunks; owns a zstd context, so make one per batch. Bases must outlive it: zstd refers to them.
pub struct Decoder<'base> {
    context: DCtx<'base>,
}

/// Why encoded bytes cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The stated length is beyond the limit.
    #[error("chunk claims {claimed} decoded bytes, the limit is {CHUNK_BYTES_MAX}")]
    TooLong {
        /// The length stated.
        claimed: u32,
    },
    /// Raw bytes of another length than stated, or more encoded bytes than decoded ones.
    #[error("chunk claims {claimed} decoded bytes but comes as {encoded} bytes")]
    LengthMismatch {
        /// The length stated.
        claimed: u32,
        /// Encoded bytes received.
        encoded: usize,
    },
    /// A patch came without its base.
    #[error("patch cannot be decoded without its base")]
    BaseMissing,
    /// zstd refused the frame.
    #[error("zstd frame is malformed: {reason}")]
    Malformed {
        /// zstd's own name of the error.
        reason: &'static str,
    },
}

impl<Base> EncodedChunk<Base> {
    /// The same bytes with the base named in another way; `None` from `rename` gives `None`.
    pub fn rename_base<Other>(
        self,
        rename: impl FnOnce(Base) -> Option<Other>,
    ) -> Option<EncodedChunk<Other>> {
        let encoding = match self.encoding {
            Encoding::Raw => Encoding::Raw,
            Encoding::Zstd => Encoding::Zstd,
            Encoding::Patch { base } => Encoding::Patch { base: rename(base)? },
        };
        Some(EncodedChunk { encoding, decoded_len: self.decoded_len, bytes: self.bytes })
    }
}

impl<'base> Encoder<'base> {
    /// A fresh encoder.
    #[must_use]
    pub fn new() -> Self {
        let mut context = CCtx::create();
        for parameter in [
            CParameter::CompressionLevel(1),
            CParameter::Format(FrameFormat::Magicless),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ] {
            context.set_parameter(parameter).expect("these parameters exist in every zstd since 1.4");
        }
        let capacity = zstd_safe::compress_bound(PAGE_BYTES);
        Self { context, plain: Vec::with_capacity(capacity), patch: Vec::with_capacity(capacity) }
    }

    /// The smallest encoding of `chunk`, with `base` (a name and its decoded bytes) as candidate prefix.
    ///
    /// # Panics
    ///
    /// If `chunk` is longer than [`CHUNK_BYTES_MAX`]: the caller cuts blobs.
    pub fn encode<Base>(&mut self, chunk: &[u8], base: Option<(Base, &'base [u8])>) -> EncodedChunk<Base> {
        assert!(chunk.len() <= CHUNK_BYTES_MAX, "a chunk is at most {CHUNK_BYTES_MAX} bytes");
        let decoded_len = u32::try_from(chunk.len()).expect("bounded above");
        let patch_base = base.and_then(|(base, prefix)| self.compress_patch(chunk, prefix).then_some(base));
        let patch_is_short = patch_base.is_some() && self.patch.len() <= PATCH_BYTES_ACCEPTED;
        let plain_pays = !patch_is_short && self.compress_plain(chunk);
        let (encoding, bytes) = match patch_base {
            Some(base) if !plain_pays || self.patch.len() <= self.plain.len() => {
                (Encoding::Patch { base }, self.patch.clone())
            }
            _ if plain_pays => (Encoding::Zstd, self.plain.clone()),
            _ => (Encoding::Raw, chunk.to_vec()),
        };
        EncodedChunk { encoding, decoded_len, bytes }
    }

    /// Compresses into `self.plain`; false if that does not pay.
    fn compress_plain(&mut self, chunk: &[u8]) -> bool {
        compress(&mut self.context, &mut self.plain, chunk)
    }

    /// Compresses into `self.patch` against `prefix`; false if that does not pay.
    fn compress_patch(&mut self, chunk: &[u8], prefix: &'base [u8]) -> bool {
        self.context.ref_prefix(prefix).is_ok() && compress(&mut self.context, &mut self.patch, chunk)
    }
}

impl Default for Encoder<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Encoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

impl<'base> Decoder<'base> {
    /// A fresh decoder.
    #[must_use]
    pub fn new() -> Self {
        let mut context = DCtx::create();
        context
            .set_parameter(DParameter::Format(FrameFormat::Magicless))
            .expect("the parameter exists in every zstd since 1.4");
        Self { context }
    }

    /// Appends the decoded bytes to `out`. The caller compares their hash with the chunk's.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]; `out` is then as long as before. Nothing beyond `decoded_len` bytes is ever allocated.
    pub fn decode<Base>(
        &mut self,
        chunk: &EncodedChunk<Base>,
        base: Option<&'base [u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let expected = check_lengths(chunk)?;
        let start = out.len();
        match &chunk.encoding {
            Encoding::Raw => {
                out.extend_from_slice(&chunk.bytes);
                return Ok(());
            }
            Encoding::Zstd => {}
            Encoding::Patch { .. } => {
                let prefix = base.ok_or(DecodeError::BaseMissing)?;
                self.context.ref_prefix(prefix).map_err(malformed)?;
            }
        }
        out.resize(start + expected, 0);
        let outcome = self.context.decompress(&mut out[start..], &chunk.bytes).map_err(malformed);
        // A failed frame must not leave its prefix or state for the next one.
        let reset = self.context.reset(ResetDirective::SessionOnly).map_err(malformed);
        let fault = match outcome.and_then(|length| reset.map(|_| length)) {
            Ok(length) if length == expected => return Ok(()),
            Ok(_) => DecodeError::LengthMismatch { claimed: chunk.decoded_len, encoded: chunk.bytes.len() },
            Err(error) => error,
        };
        out.truncate(start);
        Err(fault)
    }
}

impl Default for Decoder<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoder")
    }
}

/// One frame of `chunk` into `into`; false if it is not at least one part in 32 shorter.
fn compress(context: &mut CCtx<'_>, into: &mut Vec<u8>, chunk: &[u8]) -> bool {
    into.clear();
    into.reserve(zstd_safe::compress_bound(chunk.len()));
    let done = context.compress2(into, chunk).is_ok();
    if !done {
        // The parameters stay; a prefix that was not used up is forgotten.
        let _reset = context.reset(ResetDirective::SessionOnly);
    }
    done && into.len() + chunk.len() / 32 < chunk.len()
}

fn check_lengths<Base>(chunk: &EncodedChunk<Base>) -> Result<usize, DecodeError> {
    let claimed = chunk.decoded_len;
    let decoded = usize::try_from(claimed).unwrap_or(usize::MAX);
    if decoded > CHUNK_BYTES_MAX {
        return Err(DecodeError::TooLong { claimed });
    }
    let encoded = chunk.bytes.len();
    let fits = match chunk.encoding {
        Encoding::Raw => encoded == decoded,
        Encoding::Zstd | Encoding::Patch { .. } => encoded <= decoded,
    };
    if fits { Ok(decoded) } else { Err(DecodeError::LengthMismatch { claimed, encoded }) }
}

fn malformed(code: zstd_safe::ErrorCode) -> DecodeError {
    DecodeError::Malformed { reason: zstd_safe::get_error_name(code) }
}

/// The name of a chunk: BLAKE3-256 of its decoded bytes.
#[must_use]
pub fn chunk_hash(decoded: &[u8]) -> ChunkHash {
    ChunkHash(*blake3::hash(decoded).as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_small_change_becomes_a_short_patch() {
        let base = noise(PAGE_BYTES, 1);
        let mut chunk = base.clone();
        chunk[100..108].copy_from_slice(&[7; 8]);
        let encoded = Encoder::new().encode(&chunk, Some((9_u8, &base)));
        assert_eq!(encoded.encoding, Encoding::Patch { base: 9 });
        assert!(encoded.bytes.len() < 64, "{}", encoded.bytes.len());
        let mut out = vec![];
        Decoder::new().decode(&encoded, Some(&base), &mut out).unwrap();
        assert_eq!(out, chunk);
    }

    #[test]
    fn incompressible_bytes_stay_raw() {
        let chunk = noise(PAGE_BYTES, 2);
        assert_eq!(Encoder::new().encode::<u8>(&chunk, None).encoding, Encoding::Raw);
    }

    #[test]
    fn a_decoder_that_failed_decodes_the_next_chunk() {
        let (base, other) = (noise(PAGE_BYTES, 3), vec![5; PAGE_BYTES]);
        let mut broken = Encoder::new().encode(&base.clone(), Some(((), &base)));
        broken.bytes.truncate(broken.bytes.len() / 2);
        let good = Encoder::new().encode::<()>(&other, None);
        let mut decoder = Decoder::new();
        let mut out = vec![];
        assert!(decoder.decode(&broken, Some(&base), &mut out).is_err());
        assert!(out.is_empty());
        decoder.decode(&good, None, &mut out).unwrap();
        assert_eq!(out, other);
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_decodes_to_itself(
            base in proptest::collection::vec(0_u8..4, 0..5000),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            with_base in any::<bool>(),
        ) {
            let mut chunk = base.clone();
            for (at, value) in &edits {
                if !chunk.is_empty() {
                    let at = at.index(chunk.len());
                    chunk[at] = *value;
                }
            }
            let encoded = Encoder::new().encode(&chunk, with_base.then_some(((), base.as_slice())));
            prop_assert!(encoded.bytes.len() <= chunk.len());
            let mut out = vec![];
            Decoder::new().decode(&encoded, Some(&base), &mut out).unwrap();
            prop_assert_eq!(out, chunk);
        }

        #[test]
        fn arbitrary_bytes_never_panic_nor_outgrow_their_claim(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            claimed in 0_u32..200_000,
            kind in 0..3,
        ) {
            let base = vec![0; 64];
            let encoding = match kind {
                0 => Encoding::Raw,
                1 => Encoding::Zstd,
                _ => Encoding::Patch { base: () },
            };
            let mut out = vec![];
            let chunk = EncodedChunk { encoding, decoded_len: claimed, bytes };
            if Decoder::new().decode(&chunk, Some(&base), &mut out).is_ok() {
                prop_assert_eq!(out.len(), usize::try_from(claimed).unwrap());
            } else {
                prop_assert!(out.is_empty());
            }
        }
    }
}
