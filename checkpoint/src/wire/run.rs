//! Asking for a run of chunks, and the answers.

use crate::codec::{FormatError, Put, Take, length_u64};
use crate::encoding::{CHUNK_BYTES_MAX, EncodedChunk, Encoding};
use crate::ids::{Birth, ChunkRef, LineageId, NodeId};

/// The most chunks one run may ask for.
pub const RUN_CHUNKS_MAX: usize = 8192;
/// The most steps that one chunk may come in.
pub const STEPS_MAX: usize = 8;
const INSIST: u8 = 0x10;

/// How urgently a run is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A guest stands still until it is answered.
    Fault,
    /// It is wanted by a near deadline.
    Deadline,
    /// Anything else.
    Normal,
}

/// Whether the requester accepts to be sent to another holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It does.
    MayDefer,
    /// It does not: it waited out a deferral, or cannot wait.
    Insist,
}

/// Why a run is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The requester's queue here is full; it may ask again later.
    Busy,
    /// The requester may not read the lineage, or it is not followed here.
    NotAllowed,
    /// The run is empty or too long.
    Unreasonable,
}

/// A request for chunks of one lineage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRequest {
    /// Whose chunks.
    pub lineage: LineageId,
    /// How urgently.
    pub urgency: Urgency,
    /// Whether a deferral is an answer.
    pub patience: Patience,
    /// Births, ascending, each with a base that the requester holds, if any.
    pub chunks: Vec<(Birth, Option<ChunkRef>)>,
}

/// One answer within a run; births may be answered in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunAnswer<Bytes = Vec<u8>> {
    /// The chunk; a patch names as base what the request named.
    Chunk {
        /// Which.
        birth: Birth,
        /// In which form.
        chunk: EncodedChunk<ChunkRef, Bytes>,
    },
    /// The chunk in several steps, as the answerer keeps it: each makes the base of the next.
    Steps {
        /// Which.
        birth: Birth,
        /// What the first step is based on, if on anything: what the request named.
        base: Option<ChunkRef>,
        /// Two to [`STEPS_MAX`]; all but the first have a base.
        steps: Vec<EncodedChunk<(), Bytes>>,
    },
    /// The answerer does not hold it.
    NotHeld {
        /// Which.
        birth: Birth,
    },
    /// It was just sent to someone else, who will have it soon.
    Deferred {
        /// Which.
        birth: Birth,
        /// To whom it was sent.
        holder: NodeId,
    },
    /// The whole rest of the run is refused.
    Refused {
        /// Why.
        why: Refusal,
    },
}

impl RunRequest {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.lineage.as_bytes());
        let urgency = match self.urgency {
            Urgency::Fault => 1,
            Urgency::Deadline => 2,
            Urgency::Normal => 3,
        };
        out.push(match self.patience {
            Patience::MayDefer => urgency,
            Patience::Insist => urgency | INSIST,
        });
        out.put_varint(length_u64(self.chunks.len()));
        let mut next = 0;
        for (birth, base) in &self.chunks {
            let gap = (birth.0 - next) << 2;
            next = birth.0 + 1;
            match base {
                None => out.put_varint(gap),
                Some(base) if base.generation.0 == 0 => {
                    out.put_varint(gap | 1);
                    out.put_varint(base.birth.0);
                }
                Some(base) => {
                    out.put_varint(gap | 2);
                    out.put_chunk_ref(*base);
                }
            }
        }
    }

    pub(super) fn take(take: &mut Take<'_>) -> Result<Self, FormatError> {
        let lineage = LineageId(take.array()?);
        let coded = take.byte()?;
        let urgency = match coded & !INSIST {
            1 => Urgency::Fault,
            2 => Urgency::Deadline,
            3 => Urgency::Normal,
            _ => {
                return Err(FormatError::Unexpected { at: take.position(), what: "urgency" });
            }
        };
        let patience = if coded & INSIST == 0 { Patience::MayDefer } else { Patience::Insist };
        let count = take.count(RUN_CHUNKS_MAX)?;
        let mut chunks = Vec::with_capacity(count);
        let mut next = 0_u64;
        for _ in 0..count {
            let coded = take.varint()?;
            let birth = next.checked_add(coded >> 2).filter(|birth| *birth < 1 << 61);
            let birth = birth.ok_or(FormatError::Number { at: take.position() })?;
            next = birth + 1;
            let base = match coded & 3 {
                0 => None,
                1 => Some(ChunkRef::own(Birth(take.varint()?))),
                2 => Some(take.chunk_ref()?),
                _ => {
                    return Err(FormatError::Unexpected { at: take.position(), what: "kind of base" });
                }
            };
            take.require(
                base.is_none_or(|base| coded & 3 == 1 || base.generation.0 > 0),
                "own base coded as an ancestor's",
            )?;
            chunks.push((Birth(birth), base));
        }
        Ok(Self { lineage, urgency, patience, chunks })
    }
}

/// The byte that stands for an encoding, as kind of an answer or of a step.
const fn kind_of<Base>(encoding: &Encoding<Base>) -> u8 {
    match encoding {
        Encoding::Raw => 1,
        Encoding::Zstd => 2,
        Encoding::Patch { .. } => 3,
        Encoding::Diff { .. } => 7,
    }
}

impl<Bytes> RunAnswer<Bytes> {
    /// Which birth is answered; none if it is all that are left.
    #[must_use]
    pub const fn birth(&self) -> Option<Birth> {
        match self {
            Self::Chunk { birth, .. }
            | Self::Steps { birth, .. }
            | Self::NotHeld { birth }
            | Self::Deferred { birth, .. } => Some(*birth),
            Self::Refused { .. } => None,
        }
    }
}

impl<Bytes: AsRef<[u8]>> RunAnswer<Bytes> {
    /// The answer's bytes in a frame of answers.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_to(&mut out);
        out
    }

    /// Appends the answer's bytes to a frame of answers.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Chunk { birth, chunk } => {
                let bytes = chunk.bytes.as_ref();
                out.reserve(bytes.len() + 24);
                out.push(kind_of(&chunk.encoding));
                out.put_varint(birth.0);
                if let Some(base) = chunk.encoding.base() {
                    out.put_chunk_ref(*base);
                }
                out.put_varint(u64::from(chunk.decoded_len));
                out.put_bytes(bytes);
            }
            Self::Steps { birth, base, steps } => {
                out.push(8);
                out.put_varint(birth.0);
                out.put_varint(length_u64(steps.len()));
                if let Some(base) = base {
                    out.push(1);
                    out.put_chunk_ref(*base);
                } else {
                    out.push(0);
                }
                for step in steps {
                    out.push(kind_of(&step.encoding));
                    out.put_varint(u64::from(step.decoded_len));
                    out.put_bytes(step.bytes.as_ref());
                }
            }
            Self::NotHeld { birth } => {
                out.push(4);
                out.put_varint(birth.0);
            }
            Self::Deferred { birth, holder } => {
                out.push(5);
                out.put_varint(birth.0);
                out.extend_from_slice(holder.as_bytes());
            }
            Self::Refused { why } => {
                out.extend_from_slice(&[
                    6,
                    match why {
                        Refusal::Busy => 1,
                        Refusal::NotAllowed => 2,
                        Refusal::Unreasonable => 3,
                    },
                ]);
            }
        }
    }
}

impl<'frame> RunAnswer<&'frame [u8]> {
    /// The answers in a frame, at least one.
    ///
    /// # Errors
    ///
    /// [`FormatError`] for anything that [`RunAnswer::encode_to`] does not write, and for more answers than a run may
    /// ask for chunks.
    pub fn decode_frame(frame: &'frame [u8]) -> Result<Vec<Self>, FormatError> {
        let mut take = Take::new(frame);
        let mut answers = Vec::new();
        loop {
            answers.push(Self::decode_one(&mut take)?);
            if take.left() == 0 {
                return Ok(answers);
            }
            take.require(answers.len() < RUN_CHUNKS_MAX, "more answers than a run asks for")?;
        }
    }

    fn decode_one(take: &mut Take<'frame>) -> Result<Self, FormatError> {
        let at = take.position();
        Ok(match take.byte()? {
            kind @ (1..=3 | 7) => {
                let birth = Birth(take.varint()?);
                let encoding = match kind {
                    1 => Encoding::Raw,
                    2 => Encoding::Zstd,
                    3 => Encoding::Patch { base: take.chunk_ref()? },
                    _ => Encoding::Diff { base: take.chunk_ref()? },
                };
                let decoded_len = take.varint_u32()?;
                let bytes = take.bytes(CHUNK_BYTES_MAX)?;
                Self::Chunk { birth, chunk: EncodedChunk { encoding, decoded_len, bytes } }
            }
            8 => Self::decode_steps(take)?,
            4 => Self::NotHeld { birth: Birth(take.varint()?) },
            5 => Self::Deferred { birth: Birth(take.varint()?), holder: NodeId(take.array()?) },
            6 => Self::Refused {
                why: match take.byte()? {
                    1 => Refusal::Busy,
                    2 => Refusal::NotAllowed,
                    3 => Refusal::Unreasonable,
                    _ => {
                        return Err(FormatError::Unexpected { at: at + 1, what: "reason of a refusal" });
                    }
                },
            },
            _ => return Err(FormatError::Unexpected { at, what: "kind of answer" }),
        })
    }

    fn decode_steps(take: &mut Take<'frame>) -> Result<Self, FormatError> {
        let birth = Birth(take.varint()?);
        let count = take.count(STEPS_MAX)?;
        take.require(count >= 2, "fewer than two steps")?;
        let base = match take.byte()? {
            0 => None,
            1 => Some(take.chunk_ref()?),
            _ => return Err(FormatError::Unexpected { at: take.position() - 1, what: "kind of base" }),
        };
        let mut steps = Vec::with_capacity(count);
        for number in 0..count {
            let encoding = match take.byte()? {
                1 => Encoding::Raw,
                2 => Encoding::Zstd,
                3 => Encoding::Patch { base: () },
                7 => Encoding::Diff { base: () },
                _ => return Err(FormatError::Unexpected { at: take.position() - 1, what: "kind of step" }),
            };
            let has_base = encoding.base().is_some();
            take.require(has_base == (number > 0 || base.is_some()), "step with the wrong base")?;
            let decoded_len = take.varint_u32()?;
            let bytes = take.bytes(CHUNK_BYTES_MAX)?;
            steps.push(EncodedChunk { encoding, decoded_len, bytes });
        }
        Ok(Self::Steps { birth, base, steps })
    }

    /// The answer with bytes of its own.
    #[must_use]
    pub fn into_owned(self) -> RunAnswer {
        match self {
            Self::Chunk { birth, chunk: EncodedChunk { encoding, decoded_len, bytes } } => RunAnswer::Chunk {
                birth,
                chunk: EncodedChunk { encoding, decoded_len, bytes: bytes.to_vec() },
            },
            Self::Steps { birth, base, steps } => {
                let owned = |EncodedChunk { encoding, decoded_len, bytes }: EncodedChunk<(), &[u8]>| {
                    EncodedChunk { encoding, decoded_len, bytes: bytes.to_vec() }
                };
                RunAnswer::Steps { birth, base, steps: steps.into_iter().map(owned).collect() }
            }
            Self::NotHeld { birth } => RunAnswer::NotHeld { birth },
            Self::Deferred { birth, holder } => RunAnswer::Deferred { birth, holder },
            Self::Refused { why } => RunAnswer::Refused { why },
        }
    }
}
