//! What nodes say to each other on the data plane: the first frame of every stream, control messages, runs.
//!
//! Nothing here is trusted: a record inside a message is opened by whoever uses it, a chunk is decoded and
//! hashed, and every list has a limit that is checked before anything is allocated.

use crate::codec::{FormatError, Put, Take, length_u64};
use crate::encoding::{CHUNK_BYTES_MAX, EncodedChunk, Encoding};
use crate::ids::{Birth, CheckpointIndex, ChunkRef, LineageId, NodeId};
use crate::record::{GENESIS_BYTES_MAX, HEAD_BYTES_MAX};

mod need;

pub use need::{LinkRate, NEED_RANGES_MAX, NEED_TIMES_MAX, Need, NeedTime};

/// The ALPN protocol name; a breaking change of this module changes it.
pub const ALPN: &[u8] = b"pageswarm/1";
/// The most bytes a frame on a stream may take, its length excluded.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The most chunks one run may ask for.
pub const RUN_CHUNKS_MAX: usize = 8192;
/// The most steps that one chunk may come in.
pub const STEPS_MAX: usize = 8;
/// The most ranges one set of births may have in a message; larger sets are sent in parts.
pub const RANGES_MAX: usize = 65_536;
/// The most heads or peers one message may name.
pub const LIST_MAX: usize = 256;
/// The most bytes a certificate or a revocation list may take.
pub const MEMBERSHIP_BYTES_MAX: usize = 64 * 1024;
const TEXT_BYTES_MAX: usize = 512;
const INSIST: u8 = 0x10;

/// The first frame of a stream: what the stream is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Control messages follow, both ways, for as long as the connection lives.
    Control,
    /// Asks for the chunks of a run; frames of [`RunAnswer`]s come back.
    Run(RunRequest),
    /// Asks for a metadata object; an [`ObjectAnswer`] comes back.
    Object(ObjectRequest),
    /// Exchanges an invitation for a certificate; an [`ObjectAnswer`] comes back.
    Join {
        /// The invitation's secret from the ticket.
        invitation: [u8; 16],
    },
    /// Asks the authority for a fresh certificate; an [`ObjectAnswer`] comes back.
    Renew,
}

/// What is said on the control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// First message of each side.
    Hello(Hello),
    /// Members that the sender is connected with.
    Peers(Vec<PeerAddress>),
    /// Signed heads, the latest of each lineage that the sender knows.
    Heads(Vec<Vec<u8>>),
    /// The sender takes part in this lineage.
    Follow(LineageId),
    /// The sender holds these chunks from now on.
    Have {
        /// Whose chunks.
        lineage: LineageId,
        /// Ascending ranges.
        births: Vec<BirthRange>,
    },
    /// The sender no longer holds these chunks.
    Lack {
        /// Whose chunks.
        lineage: LineageId,
        /// Ascending ranges.
        births: Vec<BirthRange>,
    },
    /// The swarm's signed revocation list.
    Revocations(Vec<u8>),
    /// What the sender lacks of a lineage and wants, and what its links can do.
    Need(Need),
}

/// Who the sender is and where it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender's membership certificate.
    pub certificate: Vec<u8>,
    /// UDP port of its data plane.
    pub data_port: u16,
    /// TCP port of its gossip.
    pub gossip_port: u16,
    /// Drawn at random when the sender's process started: with another one the same node was restarted.
    pub session: [u8; 8],
}

/// A member and where its data plane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its identity.
    pub node: NodeId,
    /// `address:port` as text.
    pub address: String,
}

/// `length` consecutive births from `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BirthRange {
    /// The first of them.
    pub first: Birth,
    /// How many, at least one.
    pub length: u64,
}

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

/// Names a metadata object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectRequest {
    /// The genesis record.
    Genesis(LineageId),
    /// The certificate of the lineage's writer.
    WriterCertificate(LineageId),
    /// A head.
    Head(LineageId, CheckpointIndex),
    /// The delta of a checkpoint.
    Delta(LineageId, CheckpointIndex),
    /// The keyframe of a checkpoint.
    Keyframe(LineageId, CheckpointIndex),
}

/// The answer to a request for an object, followed by the object's bytes if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectAnswer {
    /// The object follows, so many bytes long.
    Found {
        /// Bytes that follow the frame.
        length: u64,
    },
    /// The answerer does not have it.
    NotHeld,
    /// The answerer does not give it to this peer.
    Refused {
        /// Why, in words.
        why: String,
    },
}

impl Opening {
    /// The bytes of the frame, its length excluded.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Control => out.push(1),
            Self::Run(run) => {
                out.push(2);
                run.put(&mut out);
            }
            Self::Object(request) => {
                out.push(3);
                request.put(&mut out);
            }
            Self::Join { invitation } => {
                out.push(4);
                out.extend_from_slice(invitation);
            }
            Self::Renew => out.push(5),
        }
        out
    }

    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// [`FormatError`] for anything that [`Opening::encode`] does not write.
    pub fn decode(frame: &[u8]) -> Result<Self, FormatError> {
        let mut take = Take::new(frame);
        let opening = match take.byte()? {
            1 => Self::Control,
            2 => Self::Run(RunRequest::take(&mut take)?),
            3 => Self::Object(ObjectRequest::take(&mut take)?),
            4 => Self::Join { invitation: take.array()? },
            5 => Self::Renew,
            _ => {
                return Err(FormatError::Unexpected { at: 0, what: "kind of stream" });
            }
        };
        take.finish()?;
        Ok(opening)
    }
}

impl Control {
    /// The bytes of the frame, its length excluded.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Hello(hello) => {
                out.push(1);
                out.put_bytes(&hello.certificate);
                out.put_varint(u64::from(hello.data_port));
                out.put_varint(u64::from(hello.gossip_port));
                out.extend_from_slice(&hello.session);
            }
            Self::Peers(peers) => {
                out.push(2);
                out.put_varint(length_u64(peers.len()));
                for peer in peers {
                    out.extend_from_slice(peer.node.as_bytes());
                    out.put_bytes(peer.address.as_bytes());
                }
            }
            Self::Heads(heads) => {
                out.push(3);
                out.put_varint(length_u64(heads.len()));
                heads.iter().for_each(|head| out.put_bytes(head));
            }
            Self::Follow(lineage) => {
                out.push(7);
                out.extend_from_slice(lineage.as_bytes());
            }
            Self::Have { lineage, births } => put_births(&mut out, 4, *lineage, births),
            Self::Lack { lineage, births } => put_births(&mut out, 5, *lineage, births),
            Self::Revocations(record) => {
                out.push(6);
                out.put_bytes(record);
            }
            Self::Need(need) => {
                out.push(8);
                need.put(&mut out);
            }
        }
        out
    }

    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// [`FormatError`] for anything that [`Control::encode`] does not write.
    pub fn decode(frame: &[u8]) -> Result<Self, FormatError> {
        let mut take = Take::new(frame);
        let message = match take.byte()? {
            1 => Self::Hello(Hello {
                certificate: take.bytes(MEMBERSHIP_BYTES_MAX)?.to_vec(),
                data_port: take_port(&mut take)?,
                gossip_port: take_port(&mut take)?,
                session: take.array()?,
            }),
            2 => {
                let mut peers = Vec::new();
                for _ in 0..take.count(LIST_MAX)? {
                    peers.push(PeerAddress { node: NodeId(take.array()?), address: take_text(&mut take)? });
                }
                Self::Peers(peers)
            }
            3 => {
                let mut heads = Vec::new();
                for _ in 0..take.count(LIST_MAX)? {
                    heads.push(take.bytes(HEAD_BYTES_MAX.max(GENESIS_BYTES_MAX))?.to_vec());
                }
                Self::Heads(heads)
            }
            4 => {
                let (lineage, births) = take_births(&mut take)?;
                Self::Have { lineage, births }
            }
            5 => {
                let (lineage, births) = take_births(&mut take)?;
                Self::Lack { lineage, births }
            }
            6 => Self::Revocations(take.bytes(MEMBERSHIP_BYTES_MAX)?.to_vec()),
            7 => Self::Follow(LineageId(take.array()?)),
            8 => Self::Need(Need::take(&mut take)?),
            _ => {
                return Err(FormatError::Unexpected { at: 0, what: "kind of control message" });
            }
        };
        take.finish()?;
        Ok(message)
    }
}

impl RunRequest {
    fn put(&self, out: &mut Vec<u8>) {
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

    fn take(take: &mut Take<'_>) -> Result<Self, FormatError> {
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

impl ObjectRequest {
    fn put(self, out: &mut Vec<u8>) {
        let (tag, lineage, index) = match self {
            Self::Genesis(lineage) => (1, lineage, None),
            Self::WriterCertificate(lineage) => (2, lineage, None),
            Self::Head(lineage, index) => (3, lineage, Some(index)),
            Self::Delta(lineage, index) => (4, lineage, Some(index)),
            Self::Keyframe(lineage, index) => (5, lineage, Some(index)),
        };
        out.push(tag);
        out.extend_from_slice(lineage.as_bytes());
        if let Some(index) = index {
            out.put_varint(index.0);
        }
    }

    fn take(take: &mut Take<'_>) -> Result<Self, FormatError> {
        let tag = take.byte()?;
        let lineage = LineageId(take.array()?);
        Ok(match tag {
            1 => Self::Genesis(lineage),
            2 => Self::WriterCertificate(lineage),
            3 => Self::Head(lineage, CheckpointIndex(take.varint()?)),
            4 => Self::Delta(lineage, CheckpointIndex(take.varint()?)),
            5 => Self::Keyframe(lineage, CheckpointIndex(take.varint()?)),
            _ => {
                return Err(FormatError::Unexpected { at: 0, what: "kind of object" });
            }
        })
    }

    /// The lineage it belongs to.
    #[must_use]
    pub const fn lineage(&self) -> LineageId {
        match self {
            Self::Genesis(lineage)
            | Self::WriterCertificate(lineage)
            | Self::Head(lineage, _)
            | Self::Delta(lineage, _)
            | Self::Keyframe(lineage, _) => *lineage,
        }
    }
}

impl ObjectAnswer {
    /// The bytes of the frame, its length excluded.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Found { length } => {
                out.push(1);
                out.put_varint(*length);
            }
            Self::NotHeld => out.push(2),
            Self::Refused { why } => {
                out.push(3);
                put_text(&mut out, why);
            }
        }
        out
    }

    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// [`FormatError`] for anything that [`ObjectAnswer::encode`] does not write.
    pub fn decode(frame: &[u8]) -> Result<Self, FormatError> {
        let mut take = Take::new(frame);
        let answer = match take.byte()? {
            1 => Self::Found { length: take.varint()? },
            2 => Self::NotHeld,
            3 => Self::Refused { why: take_text(&mut take)? },
            _ => {
                return Err(FormatError::Unexpected { at: 0, what: "kind of answer" });
            }
        };
        take.finish()?;
        Ok(answer)
    }
}

fn put_births(out: &mut Vec<u8>, tag: u8, lineage: LineageId, births: &[BirthRange]) {
    out.push(tag);
    out.extend_from_slice(lineage.as_bytes());
    put_ranges(out, births);
}

fn take_births(take: &mut Take<'_>) -> Result<(LineageId, Vec<BirthRange>), FormatError> {
    Ok((LineageId(take.array()?), take_ranges(take, RANGES_MAX)?))
}

fn put_ranges(out: &mut Vec<u8>, births: &[BirthRange]) {
    out.put_varint(length_u64(births.len()));
    let mut next = 0;
    for range in births {
        out.put_varint(range.first.0 - next);
        out.put_varint(range.length);
        next = range.first.0 + range.length;
    }
}

fn take_ranges(take: &mut Take<'_>, limit: usize) -> Result<Vec<BirthRange>, FormatError> {
    let count = take.count(limit)?;
    let mut births = Vec::with_capacity(count);
    let mut next = 0_u64;
    for _ in 0..count {
        let at = take.position();
        let first = next.checked_add(take.varint()?).ok_or(FormatError::Number { at })?;
        let length = take.varint()?;
        take.require(length > 0, "empty range of births")?;
        next = first.checked_add(length).ok_or(FormatError::Number { at })?;
        births.push(BirthRange { first: Birth(first), length });
    }
    Ok(births)
}

fn take_port(take: &mut Take<'_>) -> Result<u16, FormatError> {
    let at = take.position();
    u16::try_from(take.varint()?).map_err(|_| FormatError::Number { at })
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_bytes(&text.as_bytes()[..end]);
}

fn take_text(take: &mut Take<'_>) -> Result<String, FormatError> {
    let at = take.position();
    let text = std::str::from_utf8(take.bytes(TEXT_BYTES_MAX)?);
    text.map(str::to_owned).map_err(|_| FormatError::Unexpected { at, what: "text that is not utf-8" })
}
