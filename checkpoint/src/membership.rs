//! Who may take part in a swarm: certificates, revocation lists and tickets.
//!
//! The swarm's authority is an Ed25519 key. It signs a certificate for each member's own key, with a role and an
//! expiry, and a list of the members that were thrown out since. A ticket invites one node, once.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::SigningKey;

use crate::codec::{FormatError, Put, Take, length_u64};
use crate::ids::NodeId;
use crate::record::{RecordError, sign, verify};

const CERTIFICATE_DOMAIN: &[u8] = b"pageswarm certificate 1";
const REVOCATIONS_DOMAIN: &[u8] = b"pageswarm revocations 1";
const TICKET_PREFIX: &str = "pageswarm1:";
const ADDRESSES_MAX: usize = 16;
const ADDRESS_BYTES_MAX: usize = 256;
/// The most members one revocation list may name.
pub const REVOKED_MAX: usize = 1500;

/// What a member may do; each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Fetch and pass on checkpoints.
    Reader,
    /// Publish results of simulation as its own artefact lineage.
    Worker,
    /// Publish lineages of virtual machines.
    Publisher,
    /// Hold the swarm's key: invite, renew, revoke.
    Admin,
}

/// A member's proof of membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The swarm, named by its authority's public key.
    pub swarm: NodeId,
    /// The member.
    pub node: NodeId,
    /// What it may do.
    pub role: Role,
    /// Valid from, in seconds since 1970.
    pub not_before_unix_s: u64,
    /// Valid until, in seconds since 1970.
    pub not_after_unix_s: u64,
}

/// The members thrown out, in a list that only grows; a higher version replaces a lower one.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Revocations {
    /// Counts up with each change.
    pub version: u64,
    /// Ascending.
    pub nodes: Vec<NodeId>,
}

/// An invitation for one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The swarm's authority.
    pub swarm: NodeId,
    /// The admin node that issued it: the secret is shown to nobody else.
    pub admin: NodeId,
    /// The secret that the admin node exchanges for a certificate, once.
    pub invitation: [u8; 16],
    /// `address:port` of the admin node's data plane.
    pub addresses: Vec<String>,
}

/// Why a certificate does not prove membership now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// The authority did not sign it, or it is malformed.
    #[error("certificate was not issued by this swarm")]
    Record(#[from] RecordError),
    /// It names another swarm.
    #[error("certificate is for another swarm")]
    OtherSwarm,
    /// It was issued to another key than the one that the connection proves.
    #[error("certificate belongs to another node")]
    OtherNode,
    /// Its time is over.
    #[error("certificate expired {ago_s} s ago")]
    Expired {
        /// Seconds since its end.
        ago_s: u64,
    },
    /// Its time has not come.
    #[error("certificate is not valid for another {in_s} s: check this machine's clock")]
    NotYetValid {
        /// Seconds until its start.
        in_s: u64,
    },
    /// The member was thrown out.
    #[error("member was revoked")]
    Revoked,
    /// The member's role does not allow what it does.
    #[error("role {held} may not do what takes role {needed}")]
    Role {
        /// The member's.
        held: Role,
        /// The least that would do.
        needed: Role,
    },
}

/// The text is not a ticket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It does not start as tickets do.
    #[error("a ticket starts with {TICKET_PREFIX}")]
    Prefix,
    /// A character that tickets do not have.
    #[error("ticket is garbled near character {at}: copy it whole")]
    Character {
        /// Position of the character.
        at: usize,
    },
    /// The content is cut off or changed.
    #[error("ticket is garbled: copy it whole")]
    Format(#[from] FormatError),
}

impl Role {
    const ALL: [Self; 4] = [Self::Reader, Self::Worker, Self::Publisher, Self::Admin];

    /// The role's name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Worker => "worker",
            Self::Publisher => "publisher",
            Self::Admin => "admin",
        }
    }

    const fn tag(self) -> u8 {
        match self {
            Self::Reader => 1,
            Self::Worker => 2,
            Self::Publisher => 3,
            Self::Admin => 4,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| "expected reader, worker, publisher or admin".to_owned())
    }
}

impl Certificate {
    /// The signed record.
    #[must_use]
    pub fn sign(&self, authority: &SigningKey) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(self.swarm.as_bytes());
        out.extend_from_slice(self.node.as_bytes());
        out.push(self.role.tag());
        out.put_varint(self.not_before_unix_s);
        out.put_varint(self.not_after_unix_s);
        sign(CERTIFICATE_DOMAIN, out, authority)
    }

    /// Reads a certificate that `swarm` signed; [`Certificate::check`] tells whether it holds now.
    ///
    /// # Errors
    ///
    /// [`MembershipError::Record`] or [`MembershipError::OtherSwarm`].
    pub fn open(record: &[u8], swarm: &NodeId) -> Result<Self, MembershipError> {
        let fields = verify(CERTIFICATE_DOMAIN, record, swarm)?;
        let certificate = Self::decode(fields).map_err(RecordError::Format)?;
        if certificate.swarm == *swarm { Ok(certificate) } else { Err(MembershipError::OtherSwarm) }
    }

    fn decode(fields: &[u8]) -> Result<Self, FormatError> {
        let mut take = Take::new(fields);
        let version = take.byte()?;
        take.require(version == 1, "certificate version")?;
        let (swarm, node) = (NodeId(take.array()?), NodeId(take.array()?));
        let tag = take.byte()?;
        let role = Role::ALL.into_iter().find(|role| role.tag() == tag);
        let role = role.ok_or(FormatError::Unexpected { at: take.position(), what: "role" })?;
        let (not_before_unix_s, not_after_unix_s) = (take.varint()?, take.varint()?);
        take.finish()?;
        Ok(Self { swarm, node, role, not_before_unix_s, not_after_unix_s })
    }

    /// Whether `node` is a member at `now_unix_s`, with clocks that differ by up to `skew_s`.
    ///
    /// # Errors
    ///
    /// [`MembershipError`] says what is wrong.
    pub fn check(
        &self,
        node: &NodeId,
        now_unix_s: u64,
        skew_s: u64,
        revocations: &Revocations,
    ) -> Result<(), MembershipError> {
        if self.node != *node {
            return Err(MembershipError::OtherNode);
        }
        if revocations.contains(node) {
            return Err(MembershipError::Revoked);
        }
        let end = self.not_after_unix_s.saturating_add(skew_s);
        if now_unix_s > end {
            return Err(MembershipError::Expired { ago_s: now_unix_s.saturating_sub(self.not_after_unix_s) });
        }
        let start = self.not_before_unix_s.saturating_sub(skew_s);
        if now_unix_s < start {
            return Err(MembershipError::NotYetValid { in_s: start - now_unix_s });
        }
        Ok(())
    }

    /// Whether the role allows what takes `needed`.
    ///
    /// # Errors
    ///
    /// [`MembershipError::Role`].
    pub fn allows(&self, needed: Role) -> Result<(), MembershipError> {
        if self.role >= needed { Ok(()) } else { Err(MembershipError::Role { held: self.role, needed }) }
    }
}

impl Revocations {
    /// Whether `node` was thrown out.
    #[must_use]
    pub fn contains(&self, node: &NodeId) -> bool {
        self.nodes.binary_search(node).is_ok()
    }

    /// The next version, with `node` in it; `None` when the list is full.
    #[must_use]
    pub fn with(&self, node: NodeId) -> Option<Self> {
        let mut nodes = self.nodes.clone();
        if let Err(at) = nodes.binary_search(&node) {
            nodes.insert(at, node);
        }
        (nodes.len() <= REVOKED_MAX).then_some(Self { version: self.version + 1, nodes })
    }

    /// The signed record.
    #[must_use]
    pub fn sign(&self, authority: &SigningKey) -> Vec<u8> {
        let mut out = vec![1];
        out.put_varint(self.version);
        out.put_varint(length_u64(self.nodes.len()));
        self.nodes.iter().for_each(|node| out.extend_from_slice(node.as_bytes()));
        sign(REVOCATIONS_DOMAIN, out, authority)
    }

    /// Reads a list that `swarm` signed.
    ///
    /// # Errors
    ///
    /// [`RecordError`].
    pub fn open(record: &[u8], swarm: &NodeId) -> Result<Self, RecordError> {
        let mut take = Take::new(verify(REVOCATIONS_DOMAIN, record, swarm)?);
        let version = take.byte()?;
        take.require(version == 1, "revocations version")?;
        let version = take.varint()?;
        let mut nodes: Vec<NodeId> = Vec::new();
        for _ in 0..take.count(REVOKED_MAX)? {
            let node = NodeId(take.array()?);
            take.require(nodes.last().is_none_or(|last| *last < node), "order of revoked members")?;
            nodes.push(node);
        }
        take.finish()?;
        Ok(Self { version, nodes })
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::new();
        out.extend_from_slice(self.swarm.as_bytes());
        out.extend_from_slice(self.admin.as_bytes());
        out.extend_from_slice(&self.invitation);
        out.put_varint(length_u64(self.addresses.len()));
        self.addresses.iter().for_each(|address| out.put_bytes(address.as_bytes()));
        let check = blake3::hash(&out);
        out.extend_from_slice(&check.as_bytes()[..4]);
        f.write_str(TICKET_PREFIX)?;
        out.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let digits = text.trim().strip_prefix(TICKET_PREFIX).ok_or(TicketError::Prefix)?;
        let bytes = from_hex(digits)?;
        let length = bytes.len().checked_sub(4).ok_or(FormatError::Truncated { at: 0 })?;
        let (fields, check) = bytes.split_at(length);
        let mut take = Take::new(fields);
        take.require(blake3::hash(fields).as_bytes()[..4] == *check, "check digits")?;
        let (swarm, admin, invitation) = (NodeId(take.array()?), NodeId(take.array()?), take.array()?);
        let mut addresses = Vec::new();
        for _ in 0..take.count(ADDRESSES_MAX)? {
            let address = std::str::from_utf8(take.bytes(ADDRESS_BYTES_MAX)?);
            addresses
                .push(address.map_err(|_| FormatError::Unexpected { at: 0, what: "address" })?.to_owned());
        }
        take.finish()?;
        Ok(Self { swarm, admin, invitation, addresses })
    }
}

fn from_hex(digits: &str) -> Result<Vec<u8>, TicketError> {
    let values: Vec<u8> = digits
        .bytes()
        .enumerate()
        .map(|(at, digit)| {
            let value = char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            value.ok_or(TicketError::Character { at })
        })
        .collect::<Result<_, _>>()?;
    Ok(values.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::node_id;

    fn authority() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    fn certificate() -> Certificate {
        Certificate {
            swarm: node_id(&authority()),
            node: NodeId([7; 32]),
            role: Role::Reader,
            not_before_unix_s: 1000,
            not_after_unix_s: 2000,
        }
    }

    #[test]
    fn a_certificate_holds_for_its_node_and_time_only() {
        let (certificate, none) = (certificate(), Revocations::default());
        let swarm = node_id(&authority());
        assert_eq!(Certificate::open(&certificate.sign(&authority()), &swarm), Ok(certificate.clone()));
        let node = certificate.node;
        assert_eq!(certificate.check(&node, 1500, 0, &none), Ok(()));
        assert_eq!(certificate.check(&node, 2300, 300, &none), Ok(()));
        assert_eq!(certificate.check(&node, 2301, 300, &none), Err(MembershipError::Expired { ago_s: 301 }));
        assert_eq!(
            certificate.check(&node, 600, 300, &none),
            Err(MembershipError::NotYetValid { in_s: 100 })
        );
        assert_eq!(certificate.check(&swarm, 1500, 0, &none), Err(MembershipError::OtherNode));
        let revoked = none.with(node).unwrap();
        assert_eq!(certificate.check(&node, 1500, 0, &revoked), Err(MembershipError::Revoked));
        assert!(certificate.allows(Role::Publisher).is_err());
    }

    #[test]
    fn another_authority_is_refused() {
        let other = SigningKey::from_bytes(&[2; 32]);
        let record = certificate().sign(&other);
        assert!(Certificate::open(&record, &node_id(&authority())).is_err());
        assert_eq!(Certificate::open(&record, &node_id(&other)), Err(MembershipError::OtherSwarm));
    }

    #[test]
    fn revocations_round_trip() {
        let list = Revocations::default().with(NodeId([9; 32])).unwrap().with(NodeId([3; 32])).unwrap();
        assert_eq!(list.version, 2);
        assert_eq!(Revocations::open(&list.sign(&authority()), &node_id(&authority())), Ok(list));
    }

    #[test]
    fn a_ticket_round_trips_and_notices_a_changed_digit() {
        let ticket = Ticket {
            swarm: node_id(&authority()),
            admin: NodeId([4; 32]),
            invitation: [5; 16],
            addresses: vec!["127.0.0.1:4000".to_owned(), "[::1]:4000".to_owned()],
        };
        let text = ticket.to_string();
        assert_eq!(text.parse(), Ok(ticket));
        let changed = text.replacen("05", "06", 1);
        assert!(changed.parse::<Ticket>().is_err());
        assert!(text[..text.len() - 3].parse::<Ticket>().is_err());
        assert!("hello".parse::<Ticket>().is_err());
    }
}
