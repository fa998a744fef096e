//! How one stored copy or one transfer represents a chunk: raw, zstd, or by what it changes in another chunk.
//!
//! An encoding is never part of a chunk's identity: whatever arrives is decoded, and only the hash of the
//! decoded bytes decides whether it is the chunk. Which one is taken depends on whether bytes or processors are scarce:
//! see [`Effort`].

use std::fmt;

use zstd_safe::{CCtx, CParameter, DCtx, DParameter, FrameFormat, ResetDirective};

use crate::diff::{self, DiffError};
use crate::ids::PAGE_BYTES;

/// The most decoded bytes a chunk may have: a page, or the largest piece FastCDC cuts of a blob.
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// A patch at most this long is taken without trying plain zstd: trying costs more than it gains on most pages.
const PATCH_BYTES_ACCEPTED: usize = PAGE_BYTES / 2;

/// A diff at most this long is taken without trying zstd, whatever the effort: there is little left to gain.
const DIFF_BYTES_SHORT: usize = 192;

/// How hard an encoder tries. On pages that changed once a diff takes about a third of the time of a zstd patch and a
/// fourth more bytes; `machine/examples/encodings.rs` measures it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Where processors are scarcer than bytes: a diff if it saves a quarter of the chunk, else raw.
    Fast,
    /// Where bytes are scarcer: the shortest that can be had, except where little is left to gain.
    Small,
}

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
    /// The words that differ from those of the base, see [`crate::diff`].
    Diff {
        /// The chunk that is changed.
        base: Base,
    },
}

impl<Base> Encoding<Base> {
    /// The chunk without which this one cannot be decoded.
    pub fn base(&self) -> Option<&Base> {
        match self {
            Self::Raw | Self::Zstd => None,
            Self::Patch { base } | Self::Diff { base } => Some(base),
        }
    }

    /// The same with its base named in another way; `None` from `rename` gives `None`.
    pub fn rename_base<Other>(self, rename: impl FnOnce(Base) -> Option<Other>) -> Option<Encoding<Other>> {
        Some(match self {
            Self::Raw => Encoding::Raw,
            Self::Zstd => Encoding::Zstd,
            Self::Patch { base } => Encoding::Patch { base: rename(base)? },
            Self::Diff { base } => Encoding::Diff { base: rename(base)? },
        })
    }
}

/// An encoded chunk, not yet trusted: only decoding and hashing tell whether it is what it claims. Its bytes are its
/// own, or borrowed from where they arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedChunk<Base, Bytes = Vec<u8>> {
    /// What `bytes` are.
    pub encoding: Encoding<Base>,
    /// Length after decoding, at most [`CHUNK_BYTES_MAX`].
    pub decoded_len: u32,
    /// The encoded bytes, at most `decoded_len` of them.
    pub bytes: Bytes,
}

/// Encodes chunks. At [`Effort::Small`] it owns a zstd context, so make one per batch. Bases must outlive it: zstd refers
/// to them.
pub struct Encoder<'base> {
    effort: Effort,
    /// Made when it is first needed.
    context: Option<CCtx<'base>>,
    plain: Vec<u8>,
    patch: Vec<u8>,
    diff: Vec<u8>,
}

/// Decodes chunks; owns a zstd context from the first chunk on that needs one, so make one per batch. Bases must outlive
/// it: zstd refers to them.
#[derive(Default)]
pub struct Decoder<'base> {
    context: Option<DCtx<'base>>,
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
    /// The diff is none of this chunk.
    #[error("diff")]
    Diff(#[from] DiffError),
    /// zstd refused the frame.
    #[error("zstd frame is malformed: {reason}")]
    Malformed {
        /// zstd's own name of the error.
        reason: &'static str,
    },
}

impl<Base, Bytes> EncodedChunk<Base, Bytes> {
    /// The same bytes with the base named in another way; `None` from `rename` gives `None`.
    pub fn rename_base<Other>(
        self,
        rename: impl FnOnce(Base) -> Option<Other>,
    ) -> Option<EncodedChunk<Other, Bytes>> {
        let encoding = self.encoding.rename_base(rename)?;
        Some(EncodedChunk { encoding, decoded_len: self.decoded_len, bytes: self.bytes })
    }

    /// The same chunk with its bytes held in another way.
    pub fn map_bytes<Other>(self, map: impl FnOnce(Bytes) -> Other) -> EncodedChunk<Base, Other> {
        EncodedChunk { encoding: self.encoding, decoded_len: self.decoded_len, bytes: map(self.bytes) }
    }
}

impl<'base> Encoder<'base> {
    /// A fresh encoder.
    #[must_use]
    pub const fn new(effort: Effort) -> Self {
        Self { effort, context: None, plain: vec![], patch: vec![], diff: vec![] }
    }

    /// An encoding of `chunk`, with `base` (a name and its decoded bytes) as what it may be based on.
    ///
    /// # Panics
    ///
    /// If `chunk` is longer than [`CHUNK_BYTES_MAX`]: the caller cuts blobs.
    pub fn encode<Base>(&mut self, chunk: &[u8], base: Option<(Base, &'base [u8])>) -> EncodedChunk<Base> {
        assert!(chunk.len() <= CHUNK_BYTES_MAX, "a chunk is at most {CHUNK_BYTES_MAX} bytes");
        let decoded_len = u32::try_from(chunk.len()).expect("bounded above");
        let (base, prefix) = base.unzip();
        let shortest = self.shortest(chunk, prefix);
        let (encoding, bytes) = match (shortest, base) {
            (Form::Diff, Some(base)) => (Encoding::Diff { base }, self.diff.clone()),
            (Form::Patch, Some(base)) => (Encoding::Patch { base }, self.patch.clone()),
            (Form::Zstd, _) => (Encoding::Zstd, self.plain.clone()),
            _ => (Encoding::Raw, chunk.to_vec()),
        };
        EncodedChunk { encoding, decoded_len, bytes }
    }

    /// Encodes in the ways that the effort allows; says which is to be taken.
    fn shortest(&mut self, chunk: &[u8], base: Option<&'base [u8]>) -> Form {
        self.diff.clear();
        self.diff.reserve(chunk.len() / 4 * 3 + 64);
        let differs = base.is_some_and(|base| diff::encode(base, chunk, chunk.len() / 4 * 3, &mut self.diff));
        let mut best = if differs { (self.diff.len(), Form::Diff) } else { (chunk.len(), Form::Raw) };
        if self.effort == Effort::Fast || best.0 <= DIFF_BYTES_SHORT {
            return best.1;
        }
        if let Some(base) = base
            && self.compress_patch(chunk, base)
        {
            best = best.min((self.patch.len(), Form::Patch));
        }
        if best.0 > PATCH_BYTES_ACCEPTED && !looks_random(chunk) && self.compress_plain(chunk) {
            best = best.min((self.plain.len(), Form::Zstd));
        }
        best.1
    }

    /// Compresses into `self.plain`; false if that does not pay.
    fn compress_plain(&mut self, chunk: &[u8]) -> bool {
        compress(context(&mut self.context), &mut self.plain, chunk)
    }

    /// Compresses into `self.patch` against `prefix`; false if that does not pay.
    fn compress_patch(&mut self, chunk: &[u8], prefix: &'base [u8]) -> bool {
        let context = context(&mut self.context);
        context.ref_prefix(prefix).is_ok() && compress(context, &mut self.patch, chunk)
    }
}

/// What an encoder can make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Diff,
    Patch,
    Zstd,
    Raw,
}

impl fmt::Debug for Encoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoder")
    }
}

impl<'base> Decoder<'base> {
    /// A fresh decoder.
    #[must_use]
    pub const fn new() -> Self {
        Self { context: None }
    }

    /// Appends the decoded bytes to `out`. The caller compares their hash with the chunk's.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]; `out` is then as long as before. Nothing beyond `decoded_len` bytes is ever allocated.
    pub fn decode<Base, Bytes: AsRef<[u8]>>(
        &mut self,
        chunk: &EncodedChunk<Base, Bytes>,
        base: Option<&'base [u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let expected = check_lengths(chunk)?;
        let encoded = chunk.bytes.as_ref();
        let start = out.len();
        let prefix = match &chunk.encoding {
            Encoding::Raw => {
                out.extend_from_slice(encoded);
                return Ok(());
            }
            Encoding::Diff { .. } => {
                let base = base.ok_or(DecodeError::BaseMissing)?;
                return Ok(diff::apply(base, encoded, expected, out)?);
            }
            Encoding::Zstd => None,
            Encoding::Patch { .. } => Some(base.ok_or(DecodeError::BaseMissing)?),
        };
        let context = decoding_context(&mut self.context);
        if let Some(prefix) = prefix {
            context.ref_prefix(prefix).map_err(malformed)?;
        }
        out.resize(start + expected, 0);
        let outcome = context.decompress(&mut out[start..], encoded).map_err(malformed);
        // A failed frame must not leave its prefix or state for the next one.
        let reset = context.reset(ResetDirective::SessionOnly).map_err(malformed);
        let fault = match outcome.and_then(|length| reset.map(|_| length)) {
            Ok(length) if length == expected => return Ok(()),
            Ok(_) => DecodeError::LengthMismatch { claimed: chunk.decoded_len, encoded: encoded.len() },
            Err(error) => error,
        };
        out.truncate(start);
        Err(fault)
    }
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decoder")
    }
}

/// The context, made with this project's parameters if there is none yet.
fn context<'context, 'base>(context: &'context mut Option<CCtx<'base>>) -> &'context mut CCtx<'base> {
    context.get_or_insert_with(|| {
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
        context
    })
}

/// Whether a sample of the bytes is spread as evenly as random ones are: no compressor helps then. Of 256 random bytes
/// 162 values occur, give or take 5; text, pointers and numbers stay far below.
fn looks_random(chunk: &[u8]) -> bool {
    const SAMPLE: usize = 256;
    const VALUES_MIN: u32 = 145;
    if chunk.len() < SAMPLE * 4 {
        return false;
    }
    let mut seen = [0_u64; 4];
    for byte in chunk.iter().step_by(chunk.len() / SAMPLE).take(SAMPLE) {
        seen[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    seen.iter().map(|bits| bits.count_ones()).sum::<u32>() >= VALUES_MIN
}

/// The same for decoding.
fn decoding_context<'context, 'base>(
    context: &'context mut Option<DCtx<'base>>,
) -> &'context mut DCtx<'base> {
    context.get_or_insert_with(|| {
        let mut context = DCtx::create();
        context
            .set_parameter(DParameter::Format(FrameFormat::Magicless))
            .expect("the parameter exists in every zstd since 1.4");
        context
    })
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

fn check_lengths<Base, Bytes: AsRef<[u8]>>(chunk: &EncodedChunk<Base, Bytes>) -> Result<usize, DecodeError> {
    let claimed = chunk.decoded_len;
    let decoded = usize::try_from(claimed).unwrap_or(usize::MAX);
    if decoded > CHUNK_BYTES_MAX {
        return Err(DecodeError::TooLong { claimed });
    }
    let encoded = chunk.bytes.as_ref().len();
    let fits = match chunk.encoding {
        Encoding::Raw => encoded == decoded,
        Encoding::Zstd | Encoding::Patch { .. } | Encoding::Diff { .. } => encoded <= decoded,
    };
    if fits { Ok(decoded) } else { Err(DecodeError::LengthMismatch { claimed, encoded }) }
}

fn malformed(code: zstd_safe::ErrorCode) -> DecodeError {
    DecodeError::Malformed { reason: zstd_safe::get_error_name(code) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::noise::noise;

    #[test]
    fn a_small_change_becomes_a_short_patch() {
        let base = noise(PAGE_BYTES, 1);
        let mut chunk = base.clone();
        chunk[100..108].copy_from_slice(&[7; 8]);
        let encoded = Encoder::new(Effort::Fast).encode(&chunk, Some((9_u8, &base)));
        assert_eq!(encoded.encoding, Encoding::Diff { base: 9 });
        assert!(encoded.bytes.len() < 64, "{}", encoded.bytes.len());
        let mut out = vec![];
        Decoder::new().decode(&encoded, Some(&base), &mut out).unwrap();
        assert_eq!(out, chunk);
    }

    #[test]
    fn moved_bytes_are_a_patch_where_bytes_are_scarce_and_raw_where_processors_are() {
        let base = noise(PAGE_BYTES, 1);
        let mut chunk = base.clone();
        chunk.rotate_left(100);
        let [fast, small] = [Effort::Fast, Effort::Small]
            .map(|effort| Encoder::new(effort).encode(&chunk, Some((9_u8, base.as_slice()))));
        assert_eq!(fast.encoding, Encoding::Raw);
        assert_eq!(small.encoding, Encoding::Patch { base: 9 });
        assert!(small.bytes.len() < PAGE_BYTES / 10, "{}", small.bytes.len());
    }

    #[test]
    fn random_bytes_look_random_and_others_do_not() {
        assert!((0..100).all(|seed| looks_random(&noise(PAGE_BYTES, seed))));
        let pointers: Vec<u8> = (0..512_u64)
            .flat_map(|n| (0x7f3a_5581_0000 | ((n * 2_654_435_761) & 0xf_fff0)).to_le_bytes())
            .collect();
        assert!(!looks_random(&pointers));
        assert!(!looks_random(&b"The quick brown fox jumps over the lazy dog. ".repeat(91)));
        assert!(!looks_random(&noise(1000, 1)), "too short to tell");
    }

    #[test]
    fn incompressible_bytes_stay_raw() {
        let chunk = noise(PAGE_BYTES, 2);
        assert_eq!(Encoder::new(Effort::Small).encode::<u8>(&chunk, None).encoding, Encoding::Raw);
    }

    #[test]
    fn a_decoder_that_failed_decodes_the_next_chunk() {
        let (base, other) = (noise(PAGE_BYTES, 3), vec![5; PAGE_BYTES]);
        let mut moved = base.clone();
        moved.rotate_left(100);
        let mut broken = Encoder::new(Effort::Small).encode(&moved, Some(((), &base)));
        assert_eq!(broken.encoding, Encoding::Patch { base: () });
        broken.bytes.truncate(broken.bytes.len() / 2);
        let good = Encoder::new(Effort::Small).encode::<()>(&other, None);
        assert_eq!(good.encoding, Encoding::Zstd);
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
            effort in prop_oneof![Just(Effort::Fast), Just(Effort::Small)],
        ) {
            let mut chunk = base.clone();
            for (at, value) in &edits {
                if !chunk.is_empty() {
                    let at = at.index(chunk.len());
                    chunk[at] = *value;
                }
            }
            let encoded = Encoder::new(effort).encode(&chunk, with_base.then_some(((), base.as_slice())));
            prop_assert!(encoded.bytes.len() <= chunk.len());
            let mut out = vec![];
            Decoder::new().decode(&encoded, Some(&base), &mut out).unwrap();
            prop_assert_eq!(out, chunk);
        }

        #[test]
        fn arbitrary_bytes_never_panic_nor_outgrow_their_claim(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            claimed in 0_u32..200_000,
            kind in 0..4,
        ) {
            let base = vec![0; 64];
            let encoding = match kind {
                0 => Encoding::Raw,
                1 => Encoding::Zstd,
                2 => Encoding::Patch { base: () },
                _ => Encoding::Diff { base: () },
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
