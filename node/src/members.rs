//! Membership as this node sees it: its own certificate, the revocation list, and the check of others.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use pageswarm_checkpoint::NodeId;
use pageswarm_checkpoint::membership::{Certificate, MembershipError, Revocations, Role};
use pageswarm_checkpoint::record::RecordError;

use crate::clock;

const CERTIFICATE_FILE: &str = "certificate";
const REVOCATIONS_FILE: &str = "revocations";
const SWARM_FILE: &str = "swarm";

/// Why membership cannot be loaded or kept.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// A file cannot be read or written.
    #[error("membership file {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// This node's own certificate does not hold.
    #[error("this node's certificate does not hold; ask an admin of the swarm for a new ticket")]
    Own(#[source] MembershipError),
    /// A revocation list that the authority did not sign.
    #[error("revocation list was not signed by this swarm")]
    Revocations(#[source] RecordError),
    /// The directory was never joined to a swarm.
    #[error("{directory} belongs to no swarm yet: start with --create-swarm, or with --join and a ticket")]
    NoSwarm {
        /// The node's directory.
        directory: PathBuf,
    },
}

/// The swarm, this node's place in it, and who was thrown out.
#[derive(Debug)]
pub struct Members {
    directory: PathBuf,
    swarm: NodeId,
    me: NodeId,
    skew_s: u64,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    certificate: Certificate,
    certificate_record: Vec<u8>,
    revocations: Revocations,
    revocations_record: Option<Vec<u8>>,
}

impl Members {
    /// Keeps a fresh certificate in `directory` and loads it.
    ///
    /// # Errors
    ///
    /// [`MembersError`].
    pub fn install(
        directory: &Path,
        me: NodeId,
        swarm: NodeId,
        record: &[u8],
        skew_s: u64,
    ) -> Result<Self, MembersError> {
        Certificate::open(record, &swarm).map_err(MembersError::Own)?;
        write(&directory.join(SWARM_FILE), swarm.to_string().as_bytes())?;
        write(&directory.join(CERTIFICATE_FILE), record)?;
        Self::load(directory, me, skew_s)
    }

    /// Whether `directory` was joined to a swarm before.
    #[must_use]
    pub fn exist(directory: &Path) -> bool {
        directory.join(CERTIFICATE_FILE).exists()
    }

    /// Loads what [`Members::install`] kept.
    ///
    /// # Errors
    ///
    /// [`MembersError`], also if the certificate expired.
    pub fn load(directory: &Path, me: NodeId, skew_s: u64) -> Result<Self, MembersError> {
        let no_swarm = || MembersError::NoSwarm { directory: directory.to_owned() };
        let swarm = read(&directory.join(SWARM_FILE))?.ok_or_else(no_swarm)?;
        let swarm = String::from_utf8_lossy(&swarm).trim().parse().map_err(|_| no_swarm())?;
        let certificate_record = read(&directory.join(CERTIFICATE_FILE))?.ok_or_else(no_swarm)?;
        let certificate = Certificate::open(&certificate_record, &swarm).map_err(MembersError::Own)?;
        let revocations_record = read(&directory.join(REVOCATIONS_FILE))?;
        let revocations = match &revocations_record {
            Some(record) => Revocations::open(record, &swarm).map_err(MembersError::Revocations)?,
            None => Revocations::default(),
        };
        certificate.check(&me, clock::unix_s(), skew_s, &revocations).map_err(MembersError::Own)?;
        let state = State { certificate, certificate_record, revocations, revocations_record };
        Ok(Self { directory: directory.to_owned(), swarm, me, skew_s, state: RwLock::new(state) })
    }

    /// The swarm.
    #[must_use]
    pub const fn swarm(&self) -> NodeId {
        self.swarm
    }

    /// This node's certificate as it is sent to others.
    #[must_use]
    pub fn certificate_record(&self) -> Vec<u8> {
        self.read(|state| state.certificate_record.clone())
    }

    /// This node's certificate.
    #[must_use]
    pub fn certificate(&self) -> Certificate {
        self.read(|state| state.certificate.clone())
    }

    /// The signed revocation list, if there ever was one.
    #[must_use]
    pub fn revocations_record(&self) -> Option<Vec<u8>> {
        self.read(|state| state.revocations_record.clone())
    }

    /// The revocation list.
    #[must_use]
    pub fn revocations(&self) -> Revocations {
        self.read(|state| state.revocations.clone())
    }

    /// The certificate in `record`, if it makes `node` a member now.
    ///
    /// # Errors
    ///
    /// [`MembershipError`] says what is wrong.
    pub fn admit(&self, node: &NodeId, record: &[u8]) -> Result<Certificate, MembershipError> {
        let certificate = Certificate::open(record, &self.swarm)?;
        self.read(|state| certificate.check(node, clock::unix_s(), self.skew_s, &state.revocations))?;
        Ok(certificate)
    }

    /// Whether `certificate`, admitted before, still holds.
    ///
    /// # Errors
    ///
    /// [`MembershipError`] says what changed.
    pub fn still_holds(&self, certificate: &Certificate) -> Result<(), MembershipError> {
        self.read(|state| {
            certificate.check(&certificate.node, clock::unix_s(), self.skew_s, &state.revocations)
        })
    }

    /// The certificate in `record`, if it allows `node` to publish results of simulations; otherwise as
    /// [`Self::admit_writer`].
    ///
    /// # Errors
    ///
    /// [`MembershipError`] says what is wrong.
    pub fn admit_worker(&self, node: &NodeId, record: &[u8]) -> Result<Certificate, MembershipError> {
        self.admit_author(node, record, Role::Worker)
    }

    /// The certificate in `record`, if it allows `node` to write lineages. A writer whose certificate expired since
    /// it wrote is still believed: its heads were announced while it was a member. A revoked one is not.
    ///
    /// # Errors
    ///
    /// [`MembershipError`] says what is wrong.
    pub fn admit_writer(&self, node: &NodeId, record: &[u8]) -> Result<Certificate, MembershipError> {
        self.admit_author(node, record, Role::Publisher)
    }

    fn admit_author(&self, node: &NodeId, record: &[u8], role: Role) -> Result<Certificate, MembershipError> {
        let certificate = Certificate::open(record, &self.swarm)?;
        let while_valid = certificate.not_after_unix_s.min(clock::unix_s());
        self.read(|state| certificate.check(node, while_valid, self.skew_s, &state.revocations))?;
        certificate.allows(role)?;
        Ok(certificate)
    }

    /// Replaces this node's certificate by a renewed one.
    ///
    /// # Errors
    ///
    /// [`MembersError`].
    pub fn renew(&self, record: Vec<u8>) -> Result<(), MembersError> {
        let certificate = self.admit(&self.me, &record).map_err(MembersError::Own)?;
        write(&self.directory.join(CERTIFICATE_FILE), &record)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.certificate = certificate;
        state.certificate_record = record;
        Ok(())
    }

    /// Takes over a revocation list if it is newer; true if it was.
    ///
    /// # Errors
    ///
    /// [`MembersError`].
    pub fn install_revocations(&self, record: Vec<u8>) -> Result<bool, MembersError> {
        let list = Revocations::open(&record, &self.swarm).map_err(MembersError::Revocations)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if list.version <= state.revocations.version {
            return Ok(false);
        }
        write(&self.directory.join(REVOCATIONS_FILE), &record)?;
        state.revocations = list;
        state.revocations_record = Some(record);
        Ok(true)
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, MembersError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(MembersError::Io { path: path.to_owned(), source }),
    }
}

/// Replaces the file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), MembersError> {
    let part = path.with_extension("part");
    let done = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path));
    done.map_err(|source| MembersError::Io { path: path.to_owned(), source })
}
