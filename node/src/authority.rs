//! The swarm's authority on the node that holds its key: invitations, certificates, revocations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use pageswarm_checkpoint::membership::{Certificate, Revocations, Role};
use pageswarm_checkpoint::{NodeId, node_id};
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::identity::{self, KeyError};
use crate::limits::INVITATIONS_MAX;

const KEY_FILE: &str = "swarm.key";
const INVITATIONS_FILE: &str = "invitations.json";

/// Why the authority does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Its key.
    #[error("swarm key")]
    Key(#[from] KeyError),
    /// Its list of invitations.
    #[error("invitations in {path}")]
    Invitations {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The ticket was never issued here, used before, or expired.
    #[error("invitation is unknown, used or expired: ask an admin for a new ticket")]
    NotInvited,
    /// Too many at once.
    #[error("{INVITATIONS_MAX} invitations are open: let some expire")]
    TooManyInvitations,
    /// The list is full.
    #[error("revocation list is full: start a new swarm")]
    RevocationsFull,
}

/// Holds the swarm's key.
#[derive(Debug)]
pub struct Authority {
    key: SigningKey,
    path: PathBuf,
    invitations: Mutex<BTreeMap<String, Invitation>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Invitation {
    role: String,
    expires_unix_s: u64,
    member_for_s: u64,
}

impl Authority {
    /// The authority kept in `directory`, if this node has it.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`].
    pub fn load(directory: &Path) -> Result<Option<Self>, AuthorityError> {
        identity::load(&directory.join(KEY_FILE))?.map(|key| Self::with_key(directory, key)).transpose()
    }

    /// The authority kept in `directory`, made if there is none.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`].
    pub fn load_or_create(directory: &Path) -> Result<Self, AuthorityError> {
        Self::with_key(directory, identity::load_or_create(&directory.join(KEY_FILE))?)
    }

    fn with_key(directory: &Path, key: SigningKey) -> Result<Self, AuthorityError> {
        let path = directory.join(INVITATIONS_FILE);
        let io = |source| AuthorityError::Invitations { path: path.clone(), source };
        let invitations = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| io(error.into()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(io(error)),
        };
        Ok(Self { key, path, invitations: Mutex::new(invitations) })
    }

    /// The swarm's name.
    #[must_use]
    pub fn swarm(&self) -> NodeId {
        node_id(&self.key)
    }

    /// A certificate from now on.
    #[must_use]
    pub fn certify(&self, node: NodeId, role: Role, member_for: Duration) -> Vec<u8> {
        let now = clock::unix_s();
        let certificate = Certificate {
            swarm: self.swarm(),
            node,
            role,
            not_before_unix_s: now,
            not_after_unix_s: now.saturating_add(member_for.as_secs()),
        };
        certificate.sign(&self.key)
    }

    /// A secret that one node can exchange for a certificate until it expires.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`].
    pub fn invite(
        &self,
        role: Role,
        open_for: Duration,
        member_for: Duration,
    ) -> Result<[u8; 16], AuthorityError> {
        let secret = identity::random::<16>()?;
        let now = clock::unix_s();
        let mut invitations = self.invitations.lock().unwrap_or_else(PoisonError::into_inner);
        invitations.retain(|_, invitation| invitation.expires_unix_s >= now);
        if invitations.len() >= INVITATIONS_MAX {
            return Err(AuthorityError::TooManyInvitations);
        }
        let invitation = Invitation {
            role: role.name().to_owned(),
            expires_unix_s: now.saturating_add(open_for.as_secs()),
            member_for_s: member_for.as_secs(),
        };
        invitations.insert(kept_name(&secret), invitation);
        self.keep(&invitations)?;
        Ok(secret)
    }

    /// The certificate for an invitation, which is used up by it.
    ///
    /// # Errors
    ///
    /// [`AuthorityError`].
    pub fn redeem(&self, secret: &[u8; 16], node: NodeId) -> Result<Vec<u8>, AuthorityError> {
        let mut invitations = self.invitations.lock().unwrap_or_else(PoisonError::into_inner);
        let invitation = invitations.remove(&kept_name(secret)).ok_or(AuthorityError::NotInvited)?;
        self.keep(&invitations)?;
        let role = invitation.role.parse::<Role>().map_err(|_| AuthorityError::NotInvited)?;
        if invitation.expires_unix_s < clock::unix_s() {
            return Err(AuthorityError::NotInvited);
        }
        Ok(self.certify(node, role, Duration::from_secs(invitation.member_for_s)))
    }

    /// A fresh certificate for a member, as long as the one it has.
    #[must_use]
    pub fn renew(&self, certificate: &Certificate) -> Vec<u8> {
        let length = certificate.not_after_unix_s.saturating_sub(certificate.not_before_unix_s);
        self.certify(certificate.node, certificate.role, Duration::from_secs(length))
    }

    /// The next revocation list, with `node` in it.
    ///
    /// # Errors
    ///
    /// [`AuthorityError::RevocationsFull`].
    pub fn revoke(&self, list: &Revocations, node: NodeId) -> Result<Vec<u8>, AuthorityError> {
        Ok(list.with(node).ok_or(AuthorityError::RevocationsFull)?.sign(&self.key))
    }

    fn keep(&self, invitations: &BTreeMap<String, Invitation>) -> Result<(), AuthorityError> {
        let io = |source| AuthorityError::Invitations { path: self.path.clone(), source };
        let part = self.path.with_extension("part");
        let text = serde_json::to_vec_pretty(invitations).map_err(|error| io(error.into()))?;
        std::fs::write(&part, text).map_err(io)?;
        std::fs::rename(&part, &self.path).map_err(io)
    }
}

/// Invitations are kept by the hash of their secret: who reads the file cannot join with it.
fn kept_name(secret: &[u8; 16]) -> String {
    blake3::hash(secret).to_hex().to_string()
}
