//! What a node is told at start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use pageswarm_checkpoint::membership::Ticket;
use pageswarm_checkpoint::wire::Place;
use pageswarm_vmm::{ProcessorKind, VmFailure};

use crate::leases::Share;

/// How to start a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where its keys, certificates, store and sockets are.
    pub directory: PathBuf,
    /// UDP address of the data plane; port 0 takes any.
    pub listen: SocketAddr,
    /// Addresses of the data plane that tickets carry; those of `listen` if there are none.
    pub advertise: Vec<SocketAddr>,
    /// TCP address of gossip; port 0 takes any.
    pub gossip_listen: SocketAddr,
    /// TCP address of metrics and dashboard, if they are to be reachable besides the API socket.
    pub http_listen: Option<SocketAddr>,
    /// How it becomes a member.
    pub membership: MembershipStart,
    /// Data planes of members to connect with at start.
    pub peers: Vec<SocketAddr>,
    /// Clock differences tolerated in certificates.
    pub clock_skew: Duration,
    /// Where it is.
    pub place: Place,
    /// Bytes that the store's packs may have.
    pub quota_bytes: Option<u64>,
    /// What runs the guests of its VMs.
    pub processor: ProcessorChoice,
    /// Bytes of RAM for the images of proven checkpoints.
    pub image_bytes: u64,
    /// Bytes of chunks that this node sends a second at most, all peers together.
    pub upload_bytes_per_s: Option<u64>,
    /// Members that this node is connected with at most.
    pub peers_max: usize,
    /// Whom this node asks for chunks.
    pub sources: Sources,
    /// How long a lease of an interval holds after each renewal.
    pub lease_term: Duration,
    /// Share of the intervals that different workers simulate twice.
    pub simulate_twice: Share,
    /// Whether members in the local network are found by multicast.
    pub mdns: Mdns,
}

/// What runs guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProcessorChoice {
    /// KVM or, where there is no /dev/kvm, the interpreter.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// The interpreter, a tenth to a third as fast.
    Interpreter,
}

impl ProcessorChoice {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Interpreter => "interpreter",
        }
    }

    /// What that is on this machine now.
    #[must_use]
    pub fn here(self) -> ProcessorKind {
        match self {
            Self::Auto if pageswarm_vmm::probe_kvm() == Err(VmFailure::KvmMissing) => {
                ProcessorKind::Interpreter
            }
            Self::Auto | Self::Kvm => ProcessorKind::Kvm,
            Self::Interpreter => ProcessorKind::Interpreter,
        }
    }
}

/// Whom a node asks for chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sources {
    /// Whoever holds them.
    Swarm,
    /// The writer of their lineage only: distribution from one server, to be compared with.
    Writer,
}

/// Discovery in the local network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mdns {
    /// Only tickets and known members lead to other nodes.
    Off,
    /// Nodes also announce themselves and find each other.
    On,
}

/// How a node becomes a member of its swarm.
#[derive(Clone, Debug)]
pub enum MembershipStart {
    /// It is one: its directory has a certificate.
    Kept,
    /// It makes a new swarm, unless its directory has one.
    Create,
    /// It exchanges a ticket for a certificate, unless its directory has one.
    Join(Ticket),
}

impl NodeConfig {
    /// The unix socket of the node's API.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        self.directory.join("api.sock")
    }
}
