//! Discovery by mDNS: this node's data plane is announced in the local network, and those that others announce
//! are dialed.
//!
//! What is heard there is the word of strangers. It leads to a dial and to nothing else: the hello shows who is
//! a member, and an address is remembered, and told to other members, only after it.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use libp2p::core::transport::ListenerId;
use libp2p::mdns::{self, tokio::Behaviour};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{FromSwarm, NetworkBehaviour as _, NewListenAddr, ToSwarm};
use libp2p::{Multiaddr, PeerId};
use pageswarm_checkpoint::NodeId;

use crate::limits::{ANNOUNCEMENTS_MAX, PEERS_MAX};
use crate::node::Node;
use crate::{addresses, gossip};

/// How often neighbours that are not connected are dialed again, and this machine's interfaces are looked at.
const AGAIN: Duration = Duration::from_secs(15);
/// How often others are asked for their addresses once some are known; an answer may have been lost.
const QUERY_INTERVAL: Duration = Duration::from_secs(60);
/// How long nothing is heard after too much was.
const FLOOD_PAUSE: Duration = Duration::from_secs(60);

/// Why there is no discovery.
#[derive(Debug, thiserror::Error)]
pub enum MulticastError {
    /// The system does not say which interfaces there are.
    #[error("cannot watch this machine's network interfaces: start without --mdns")]
    Interfaces(#[from] std::io::Error),
}

/// The discovery task's state.
pub struct Multicast {
    me: PeerId,
    data_address: SocketAddr,
    mdns: Behaviour,
    /// Those who announce a data plane at present.
    neighbours: BTreeSet<(NodeId, SocketAddr)>,
}

impl Multicast {
    /// Starts to announce the data plane that is bound to `data_address`, and to ask for those of others.
    ///
    /// # Errors
    ///
    /// [`MulticastError`].
    pub fn open(me: PeerId, data_address: SocketAddr) -> Result<Self, MulticastError> {
        let mut outside = addresses::reached_at(data_address)?;
        outside.retain(|address| !address.ip().is_loopback());
        if outside.is_empty() && !data_address.ip().is_unspecified() {
            tracing::warn!(%data_address, "nothing to announce by mDNS: only this machine reaches it");
        }
        // It speaks one of the two: IPv4 wherever there is a choice.
        let enable_ipv6 = !outside.is_empty() && outside.iter().all(SocketAddr::is_ipv6);
        let config = mdns::Config { query_interval: QUERY_INTERVAL, enable_ipv6, ..mdns::Config::default() };
        let mdns = Behaviour::new(config, me)?;
        let mut multicast = Self { me, data_address, mdns, neighbours: BTreeSet::new() };
        multicast.announce();
        Ok(multicast)
    }

    /// Runs as long as the node does.
    pub async fn run(mut self, node: Arc<Node>) {
        let (me, data_address) = (self.me, self.data_address);
        loop {
            self.listen(&node).await;
            tracing::warn!(
                "more than {ANNOUNCEMENTS_MAX} addresses in the local network: mDNS pauses for {} s",
                FLOOD_PAUSE.as_secs()
            );
            tokio::time::sleep(FLOOD_PAUSE).await;
            self = match Self::open(me, data_address) {
                Ok(again) => again,
                Err(error) => {
                    tracing::error!(error = crate::report::chain(&error), "mDNS ends");
                    return;
                }
            };
        }
    }

    /// Ends when more is announced than a node is ready to remember; all that was heard is forgotten then.
    /// libp2p itself sets no limit, and lets the announcer say for how long it is to be remembered.
    async fn listen(mut self, node: &Arc<Node>) {
        let mut again = tokio::time::interval(AGAIN);
        while self.mdns.discovered_nodes().len() <= ANNOUNCEMENTS_MAX {
            tokio::select! {
                event = next_event(&mut self.mdns) => self.note(event, node),
                _ = again.tick() => {
                    self.announce();
                    for (id, address) in &self.neighbours {
                        node.try_neighbour(*id, *address);
                    }
                }
            }
        }
    }

    /// Says at which addresses the data plane is reached now. Each interface announces its own address only, so
    /// those that the machine no longer has are not announced, and need not be taken back.
    fn announce(&mut self) {
        let reached = match addresses::reached_at(self.data_address) {
            Ok(reached) => reached,
            Err(error) => {
                tracing::warn!(%error, "cannot list network interfaces");
                return;
            }
        };
        for address in reached {
            let address = quic_multiaddr(address);
            let listening = NewListenAddr { listener_id: ListenerId::next(), addr: &address };
            self.mdns.on_swarm_event(FromSwarm::NewListenAddr(listening));
        }
    }

    fn note(&mut self, event: mdns::Event, node: &Arc<Node>) {
        match event {
            mdns::Event::Discovered(found) => {
                for (id, address) in found.iter().filter_map(|(peer, address)| neighbour(peer, address)) {
                    if self.neighbours.len() < PEERS_MAX && self.neighbours.insert((id, address)) {
                        node.try_neighbour(id, address);
                    }
                }
            }
            mdns::Event::Expired(gone) => {
                for gone in gone.iter().filter_map(|(peer, address)| neighbour(peer, address)) {
                    self.neighbours.remove(&gone);
                }
            }
        }
    }
}

impl std::fmt::Debug for Multicast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Multicast").field("neighbours", &self.neighbours).finish_non_exhaustive()
    }
}

/// The next thing heard. There is no libp2p swarm around the behaviour, because these are not addresses of libp2p:
/// all that the behaviour asks of one is to remember them for connections of its own.
async fn next_event(mdns: &mut Behaviour) -> mdns::Event {
    poll_fn(|context| {
        loop {
            match mdns.poll(context) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => return Poll::Ready(event),
                Poll::Ready(_) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

fn quic_multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Udp(address.port())).with(Protocol::QuicV1)
}

/// The node and its data plane, if the announcement has the form that nodes give it. Other programs that use
/// libp2p announce themselves under the same name.
fn neighbour(peer: &PeerId, address: &Multiaddr) -> Option<(NodeId, SocketAddr)> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else {
        return None;
    };
    match (parts.next()?, parts.next(), parts.next()) {
        (Protocol::QuicV1, None | Some(Protocol::P2p(_)), None) => {
            Some((gossip::node_id(peer)?, SocketAddr::new(ip, port)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    #[test]
    fn an_announced_data_plane_is_a_neighbour_and_nothing_else_is() {
        let id = pageswarm_checkpoint::node_id(&SigningKey::from_bytes(&[7; 32]));
        let peer = gossip::peer_id(&id).unwrap();
        for address in ["10.0.0.5:7420", "[2001:db8::5]:7420"] {
            let address: SocketAddr = address.parse().unwrap();
            let announced = quic_multiaddr(address);
            assert_eq!(neighbour(&peer, &announced), Some((id, address)));
            assert_eq!(neighbour(&peer, &announced.with(Protocol::P2p(peer))), Some((id, address)));
        }
        let others = [
            "/ip4/10.0.0.5/tcp/7421",
            "/ip4/10.0.0.5/udp/7420",
            "/ip4/10.0.0.5/udp/7420/quic-v1/p2p-circuit",
            "/dns4/node/udp/7420/quic-v1",
        ];
        for other in others {
            assert_eq!(neighbour(&peer, &other.parse().unwrap()), None, "{other}");
        }
        // A key that its peer id does not hold, only a hash of it.
        let hashed: PeerId = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC".parse().unwrap();
        assert_eq!(neighbour(&hashed, &quic_multiaddr("10.0.0.5:7420".parse().unwrap())), None);
    }
}
