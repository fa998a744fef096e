//! libp2p: gossip of heads and revocations among members, and the lineages that a DHT names.
//!
//! Only members that said hello on the data plane are allowed to connect.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use futures::StreamExt as _;
use libp2p::gossipsub::{self, IdentTopic, MessageAuthenticity, ValidationMode};
use libp2p::swarm::{NetworkBehaviour, SwarmEvent};
use libp2p::{
    Multiaddr, PeerId, allow_block_list, connection_limits, identify, identity, kad, noise, ping, tcp, yamux,
};
use pageswarm_checkpoint::record::HEAD_BYTES_MAX;
use pageswarm_checkpoint::wire::MEMBERSHIP_BYTES_MAX;
use pageswarm_checkpoint::{LineageId, NodeId};
use tokio::sync::mpsc;

use crate::limits::PEERS_MAX;

/// What the rest of the node asks of gossip.
#[derive(Debug)]
pub enum GossipCommand {
    /// A member that may connect, and where.
    Allow(NodeId, SocketAddr),
    /// One that may not any more.
    Forbid(NodeId),
    /// Announce a signed head.
    Head(Vec<u8>),
    /// Announce a signed result of a simulation, with its worker's certificate.
    Result(Vec<u8>),
    /// Announce the revocation list.
    Revocations(Vec<u8>),
    /// Say in the DHT that this node follows a lineage.
    Provide(LineageId),
}

/// What gossip tells the rest of the node.
#[derive(Debug)]
pub enum GossipEvent {
    /// A signed head from whoever; not yet checked.
    Head(Vec<u8>),
    /// A result of a simulation from whoever; not yet checked.
    Result(Vec<u8>),
    /// A revocation list from whoever; not yet checked.
    Revocations(Vec<u8>),
}

/// Why there is no gossip.
#[derive(Debug, thiserror::Error)]
pub enum GossipError {
    /// libp2p cannot be set up.
    #[error("libp2p cannot be set up: {reason}")]
    Setup {
        /// In libp2p's words.
        reason: String,
    },
    /// The address cannot be bound.
    #[error("cannot listen on tcp {address}: choose another --gossip-listen address or port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: libp2p::TransportError<std::io::Error>,
    },
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    members: allow_block_list::Behaviour<allow_block_list::AllowedPeers>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    gossip: gossipsub::Behaviour,
    lineages: kad::Behaviour<kad::store::MemoryStore>,
}

/// The gossip task's state.
pub struct Gossip {
    swarm: libp2p::Swarm<Behaviour>,
    heads: IdentTopic,
    revocations: IdentTopic,
    results: IdentTopic,
    addresses: BTreeMap<NodeId, (PeerId, Multiaddr)>,
    connected: BTreeSet<PeerId>,
    waiting: Option<Vec<u8>>,
}

impl Gossip {
    /// Listens on `address`; returns the port that was bound.
    ///
    /// # Errors
    ///
    /// [`GossipError`].
    pub async fn open(
        key: &SigningKey,
        swarm_id: NodeId,
        address: SocketAddr,
    ) -> Result<(Self, u16), GossipError> {
        let setup = |reason: &dyn std::fmt::Display| GossipError::Setup { reason: reason.to_string() };
        let pair = identity::Keypair::ed25519_from_bytes(key.to_bytes()).map_err(|error| setup(&error))?;
        let mut swarm = libp2p::SwarmBuilder::with_existing_identity(pair)
            .with_tokio()
            .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
            .map_err(|error| setup(&error))?
            .with_behaviour(|pair| behaviour(pair, swarm_id))
            .map_err(|error| setup(&error))?
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600)))
            .build();
        let heads = IdentTopic::new(format!("pageswarm/1/{swarm_id}/heads"));
        let revocations = IdentTopic::new(format!("pageswarm/1/{swarm_id}/revocations"));
        let results = IdentTopic::new(format!("pageswarm/1/{swarm_id}/results"));
        for topic in [&heads, &revocations, &results] {
            swarm.behaviour_mut().gossip.subscribe(topic).map_err(|error| setup(&error))?;
        }
        swarm.listen_on(tcp_multiaddr(address)).map_err(|source| GossipError::Listen { address, source })?;
        let port = loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => {
                    break address.iter().find_map(|part| match part {
                        libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
                        _ => None,
                    });
                }
                SwarmEvent::ListenerClosed { reason: Err(source), .. } => {
                    let source = libp2p::TransportError::Other(source);
                    return Err(GossipError::Listen { address, source });
                }
                _ => {}
            }
        };
        let port = port.unwrap_or(address.port());
        let gossip = Self {
            swarm,
            heads,
            revocations,
            results,
            addresses: BTreeMap::new(),
            connected: BTreeSet::new(),
            waiting: None,
        };
        Ok((gossip, port))
    }

    /// This node, in libp2p's terms.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    /// Runs until the node drops its end of `commands`.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<GossipCommand>,
        events: mpsc::Sender<GossipEvent>,
    ) {
        let mut redial = tokio::time::interval(Duration::from_secs(2));
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                event = self.swarm.select_next_some() => self.event(event, &events).await,
                _ = redial.tick() => self.dial_missing(),
            }
        }
    }

    fn command(&mut self, command: GossipCommand) {
        match command {
            GossipCommand::Allow(node, address) => {
                let Some(peer) = peer_id(&node) else { return };
                self.swarm.behaviour_mut().members.allow_peer(peer);
                self.addresses.insert(node, (peer, tcp_multiaddr(address)));
                self.dial_missing();
            }
            GossipCommand::Forbid(node) => {
                self.addresses.remove(&node);
                if let Some(peer) = peer_id(&node) {
                    self.swarm.behaviour_mut().members.disallow_peer(peer);
                }
            }
            GossipCommand::Head(record) => self.publish_head(record),
            // Those who do not hear it hear of it when they connect, or with the worker's next one.
            GossipCommand::Result(record) => {
                let topic = self.results.clone();
                if let Err(error) = self.swarm.behaviour_mut().gossip.publish(topic, record) {
                    tracing::debug!(%error, "result not gossiped");
                }
            }
            GossipCommand::Revocations(record) => {
                let topic = self.revocations.clone();
                if let Err(error) = self.swarm.behaviour_mut().gossip.publish(topic, record) {
                    tracing::debug!(%error, "revocations not gossiped");
                }
            }
            GossipCommand::Provide(lineage) => {
                let key = kad::RecordKey::new(lineage.as_bytes());
                if let Err(error) = self.swarm.behaviour_mut().lineages.start_providing(key) {
                    tracing::debug!(%error, "lineage not provided");
                }
            }
        }
    }

    /// A head that nobody listens to yet waits for the first subscriber; only the latest matters.
    fn publish_head(&mut self, record: Vec<u8>) {
        let topic = self.heads.clone();
        match self.swarm.behaviour_mut().gossip.publish(topic, record.clone()) {
            Ok(_) | Err(gossipsub::PublishError::Duplicate) => self.waiting = None,
            Err(error) => {
                tracing::debug!(%error, "head not gossiped");
                self.waiting = Some(record);
            }
        }
    }

    async fn event(&mut self, event: SwarmEvent<BehaviourEvent>, events: &mpsc::Sender<GossipEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Message { message, .. })) => {
                let heard = if message.topic == self.heads.hash() {
                    GossipEvent::Head(message.data)
                } else if message.topic == self.results.hash() {
                    GossipEvent::Result(message.data)
                } else {
                    GossipEvent::Revocations(message.data)
                };
                if events.send(heard).await.is_err() {
                    tracing::debug!("node no longer listens to gossip");
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(gossipsub::Event::Subscribed { .. })) => {
                if let Some(record) = self.waiting.take() {
                    self.publish_head(record);
                }
            }
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                self.connected.insert(peer_id);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.connected.remove(&peer_id);
            }
            _ => {}
        }
    }

    /// Dials members that are not connected; the one with the smaller name dials, so that one connection results.
    fn dial_missing(&mut self) {
        let me = *self.swarm.local_peer_id();
        for (peer, address) in self.addresses.values() {
            if *peer > me && !self.connected.contains(peer) && !self.swarm.is_connected(peer) {
                let options = libp2p::swarm::dial_opts::DialOpts::peer_id(*peer)
                    .addresses(vec![address.clone()])
                    .condition(libp2p::swarm::dial_opts::PeerCondition::DisconnectedAndNotDialing)
                    .build();
                if let Err(error) = self.swarm.dial(options) {
                    tracing::debug!(%peer, %error, "gossip dial");
                }
            }
        }
    }
}

impl std::fmt::Debug for Gossip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gossip").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

fn behaviour(
    pair: &identity::Keypair,
    swarm_id: NodeId,
) -> Result<Behaviour, Box<dyn std::error::Error + Send + Sync>> {
    let connections = u32::try_from(PEERS_MAX)?;
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_established(Some(connections * 2))
        .with_max_established_per_peer(Some(2))
        .with_max_pending_incoming(Some(connections));
    let gossip = gossipsub::ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .max_transmit_size(MEMBERSHIP_BYTES_MAX + HEAD_BYTES_MAX)
        .heartbeat_interval(Duration::from_millis(500))
        .flood_publish(true)
        .build()?;
    let protocol = format!("/pageswarm/1/{}", swarm_id.short());
    let peer = pair.public().to_peer_id();
    let kad_protocol = libp2p::StreamProtocol::try_from_owned(format!("{protocol}/lineages"))?;
    Ok(Behaviour {
        limits: connection_limits::Behaviour::new(limits),
        members: allow_block_list::Behaviour::default(),
        identify: identify::Behaviour::new(identify::Config::new(protocol, pair.public())),
        ping: ping::Behaviour::default(),
        gossip: gossipsub::Behaviour::new(MessageAuthenticity::Signed(pair.clone()), gossip)?,
        lineages: kad::Behaviour::with_config(
            peer,
            kad::store::MemoryStore::new(peer),
            kad::Config::new(kad_protocol),
        ),
    })
}

/// A node in libp2p's terms, if its id is a key.
pub(crate) fn peer_id(node: &NodeId) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

/// The node that a peer of libp2p is: the id of one with an Ed25519 key holds the key itself, not a hash.
pub(crate) fn node_id(peer: &PeerId) -> Option<NodeId> {
    const IDENTITY: u64 = 0;
    let hash: &libp2p::multihash::Multihash<64> = peer.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    let key = identity::PublicKey::try_decode_protobuf(hash.digest()).ok()?.try_into_ed25519().ok()?;
    Some(NodeId(key.to_bytes()))
}

fn tcp_multiaddr(address: SocketAddr) -> Multiaddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => Multiaddr::from(ip),
        IpAddr::V6(ip) => Multiaddr::from(ip),
    };
    ip.with(libp2p::multiaddr::Protocol::Tcp(address.port()))
}
