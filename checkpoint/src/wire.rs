//! What nodes say to each other on the data plane: the first frame of every stream, control messages, runs.
//!
//! Nothing here is trusted: a record inside a message is opened by whoever uses it, a chunk is decoded and
//! hashed, and every list has a limit that is checked before anything is allocated.

use crate::codec::{FormatError, Put, Take, length_u64};
use crate::ids::{Birth, LineageId, NodeId};
use crate::record::{GENESIS_BYTES_MAX, HEAD_BYTES_MAX};
use crate::result::AnnouncedResult;

mod lease;
mod need;
mod object;
mod place;
mod run;

pub use lease::{JOBS_MAX, LEASE_LIST_MAX, LeaseAnswer, LeaseRefusal, LeaseRequest, LeaseWish};
pub use need::{LinkRate, NEED_RANGES_MAX, NEED_TIMES_MAX, Need, NeedTime};
pub use object::{ObjectAnswer, ObjectRequest};
pub use place::{PLACE_NAME_BYTES_MAX, Place};
pub use run::{Patience, RUN_CHUNKS_MAX, Refusal, RunAnswer, RunRequest, STEPS_MAX, Urgency};

/// The ALPN protocol name; a breaking change of this module changes it.
pub const ALPN: &[u8] = b"pageswarm/1";
/// The most bytes a frame on a stream may take, its length excluded.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// The most ranges one set of births may have in a message; larger sets are sent in parts.
pub const RANGES_MAX: usize = 65_536;
/// The most heads or peers one message may name.
pub const LIST_MAX: usize = 256;
/// The most bytes a certificate or a revocation list may take.
pub const MEMBERSHIP_BYTES_MAX: usize = 64 * 1024;
const TEXT_BYTES_MAX: usize = 512;

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
    /// Asks for an interval to simulate; a [`LeaseAnswer`] comes back.
    Lease(LeaseRequest),
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
    /// Signed results of simulations, the latest of each worker's log for a lineage that the sender knows.
    Results(Vec<AnnouncedResult>),
    /// Where the sender is; said once.
    Place(Place),
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
            Self::Lease(request) => {
                out.push(6);
                request.put(&mut out);
            }
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
            6 => Self::Lease(LeaseRequest::take(&mut take)?),
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
            Self::Results(results) => {
                out.push(9);
                AnnouncedResult::put_list(results, &mut out);
            }
            Self::Place(place) => {
                out.push(10);
                place.put(&mut out);
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
            9 => Self::Results(AnnouncedResult::take_list(&mut take)?),
            10 => Self::Place(Place::take(&mut take)?),
            _ => {
                return Err(FormatError::Unexpected { at: 0, what: "kind of control message" });
            }
        };
        take.finish()?;
        Ok(message)
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
    take_text_of(take, TEXT_BYTES_MAX)
}

fn take_text_of(take: &mut Take<'_>, bytes_max: usize) -> Result<String, FormatError> {
    let at = take.position();
    let text = std::str::from_utf8(take.bytes(bytes_max)?);
    text.map(str::to_owned).map_err(|_| FormatError::Unexpected { at, what: "text that is not utf-8" })
}
