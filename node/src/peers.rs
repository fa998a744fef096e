//! The members this node is connected with, and the addresses of those it heard of.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use pageswarm_checkpoint::membership::Certificate;
use pageswarm_checkpoint::wire::{Control, Hello, PeerAddress, Place};
use pageswarm_checkpoint::{LineageId, NodeId};
use tokio::sync::mpsc;

use crate::limits::{AWAITED_AGAIN, LEASED_FOR, LINEAGES_MAX, PARTED_FOR, PEERS_MAX, PEERS_SOUGHT_QUARTERS};

/// One connected member.
#[derive(Debug)]
pub struct Peer {
    /// Who it is.
    pub id: NodeId,
    /// Its data plane, as others can reach it.
    pub address: SocketAddr,
    /// What makes it a member.
    pub certificate: Certificate,
    /// The connection.
    pub connection: quinn::Connection,
    /// Whether this node opened the connection.
    pub direction: Direction,
    /// Drawn when the peer's process started.
    pub session: [u8; 8],
    /// Control messages on their way.
    control: mpsc::Sender<Control>,
    follows: Mutex<BTreeSet<LineageId>>,
    place: OnceLock<Place>,
    streams: Arc<Mutex<Streams>>,
    /// Bytes exchanged.
    pub traffic: Traffic,
    /// Of all peers together; it outlives them.
    metadata: Arc<MetadataTotals>,
}

/// Metadata bytes exchanged with all peers there were since the node started.
#[derive(Debug, Default)]
pub struct MetadataTotals {
    /// Bytes received.
    pub received: AtomicU64,
    /// Bytes sent.
    pub sent: AtomicU64,
}

/// Which side opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// This node.
    Dialed,
    /// The peer.
    Accepted,
}

/// Encoded bytes of chunks and metadata exchanged with one peer.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Encoded chunk bytes received.
    pub chunks_down: AtomicU64,
    /// Encoded chunk bytes sent.
    pub chunks_up: AtomicU64,
    /// Metadata bytes received.
    pub objects_down: AtomicU64,
    /// Metadata bytes sent.
    pub objects_up: AtomicU64,
}

/// Streams between this node and a peer, other than that of control messages.
#[derive(Debug)]
struct Streams {
    open: usize,
    /// When either of the two last said something of leases.
    leased: Option<Instant>,
}

/// A stream between this node and a peer: as long as it is there the two are not parted.
#[derive(Debug)]
pub struct StreamInUse(Arc<Mutex<Streams>>);

impl Drop for StreamInUse {
    fn drop(&mut self) {
        let mut streams = lock(&self.0);
        streams.open = streams.open.saturating_sub(1);
    }
}

/// All of them.
#[derive(Debug)]
pub struct Peers {
    peers_max: usize,
    /// Draws whom to dial.
    random: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connected: BTreeMap<NodeId, Arc<Peer>>,
    known: BTreeMap<NodeId, SocketAddr>,
    dialing: BTreeSet<SocketAddr>,
    banned: BTreeMap<NodeId, Instant>,
    /// Members that have no place for this node, and until when they are left alone.
    parted: BTreeMap<NodeId, Instant>,
    /// Members for which somebody waited, and until when nobody waits again.
    awaited: BTreeMap<NodeId, Instant>,
}

impl State {
    /// Whether a member is not to be dialed now. Whoever has no peer at all tries everyone.
    fn is_left_alone(&self, node: &NodeId, now: Instant) -> bool {
        let is_until = |until: &Instant| *until > now;
        let is_parted = !self.connected.is_empty() && self.parted.get(node).is_some_and(is_until);
        is_parted || self.banned.get(node).is_some_and(is_until)
    }
}

/// What a connection that is kept takes the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// Nothing.
    Nothing,
    /// Another connection with the same process of the peer.
    Duplicate,
    /// The connection with an earlier process of the peer: what was known of that one is void.
    EarlierSession,
}

/// Why a connection is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// There is one already, and it is the one that both sides keep.
    #[error("connected already")]
    Duplicate,
    /// As many as a node may have, and it needs them all.
    #[error("this node is connected with {peers_max} members, as many as it may")]
    Full {
        /// Its limit.
        peers_max: usize,
    },
    /// The peer misbehaved.
    #[error("banned for another {for_s} s")]
    Banned {
        /// Seconds left.
        for_s: u64,
    },
}

impl Peer {
    /// A peer whose hello was accepted; `control` carries what is sent to it, `metadata` counts for all peers.
    #[must_use]
    pub fn new(
        certificate: Certificate,
        connection: quinn::Connection,
        hello: &Hello,
        direction: Direction,
        control: mpsc::Sender<Control>,
        metadata: Arc<MetadataTotals>,
    ) -> Self {
        // A socket for IPv6 sees IPv4 addresses in a form that members with a socket for IPv4 cannot dial.
        let ip = connection.remote_address().ip().to_canonical();
        Self {
            id: certificate.node,
            address: SocketAddr::new(ip, hello.data_port),
            certificate,
            connection,
            direction,
            session: hello.session,
            control,
            follows: Mutex::default(),
            place: OnceLock::new(),
            streams: Arc::new(Mutex::new(Streams { open: 0, leased: None })),
            traffic: Traffic::default(),
            metadata,
        }
    }

    /// A stream begins.
    #[must_use]
    pub fn use_stream(&self) -> StreamInUse {
        lock(&self.streams).open += 1;
        StreamInUse(Arc::clone(&self.streams))
    }

    /// One of the two asks the other for a lease, or renews one: for a while they are not parted.
    pub fn note_lease(&self) {
        lock(&self.streams).leased = Some(Instant::now());
    }

    /// Whether there is a stream between the two, or one of them works for the other.
    fn is_in_use(&self, now: Instant) -> bool {
        let streams = lock(&self.streams);
        let works = |at: Instant| now.saturating_duration_since(at) < LEASED_FOR;
        streams.open > 0 || streams.leased.is_some_and(works)
    }

    /// Counts metadata bytes that this peer sent.
    pub fn count_metadata_received(&self, bytes: u64) {
        Traffic::add(&self.traffic.objects_down, bytes);
        Traffic::add(&self.metadata.received, bytes);
    }

    /// Counts metadata bytes that were sent to this peer.
    pub fn count_metadata_sent(&self, bytes: u64) {
        Traffic::add(&self.traffic.objects_up, bytes);
        Traffic::add(&self.metadata.sent, bytes);
    }

    /// Queues a control message; a peer that does not read its messages is disconnected.
    pub fn tell(&self, message: Control) {
        if self.control.try_send(message).is_err() {
            self.connection.close(close::SLOW, b"control messages are not read");
        }
    }

    /// Tells the peer something that can wait until it has read what was said before.
    pub async fn tell_waiting(&self, message: Control) {
        // A session that ended has nobody to tell.
        let _ended = self.control.send(message).await;
    }

    /// Notes that the peer follows a lineage; true if that is news.
    pub fn note_follow(&self, lineage: LineageId) -> bool {
        let mut follows = lock(&self.follows);
        follows.len() < LINEAGES_MAX && follows.insert(lineage)
    }

    /// Notes where the peer says it is; false if it said so before, which counts.
    pub fn note_place(&self, place: Place) -> bool {
        self.place.set(place).is_ok()
    }

    /// Where the peer says it is.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.place.get()
    }

    /// Whether the peer follows a lineage.
    #[must_use]
    pub fn follows(&self, lineage: &LineageId) -> bool {
        lock(&self.follows).contains(lineage)
    }
}

/// Codes with which connections are closed.
pub mod close {
    use quinn::VarInt;

    /// The other side is not a member, or not any more.
    pub const NOT_MEMBER: VarInt = VarInt::from_u32(1);
    /// The other side broke the protocol.
    pub const PROTOCOL: VarInt = VarInt::from_u32(2);
    /// There is another connection between the two.
    pub const DUPLICATE: VarInt = VarInt::from_u32(3);
    /// The other side does not read.
    pub const SLOW: VarInt = VarInt::from_u32(4);
    /// The other side misbehaved.
    pub const BANNED: VarInt = VarInt::from_u32(5);
    /// This node ends.
    pub const DONE: VarInt = VarInt::from_u32(6);
    /// The place is for a member that is needed more.
    pub const PARTED: VarInt = VarInt::from_u32(7);
}

impl Peers {
    /// None yet, and so many at most.
    #[must_use]
    pub fn new(peers_max: usize) -> Self {
        Self { peers_max, random: RandomState::new(), state: Mutex::default() }
    }

    /// Keeps a peer. If both sides dialed, both keep the connection that the smaller name opened. A connection
    /// with another session replaces the old one, whoever opened it: the peer was restarted, which the old
    /// connection would show only when it times out. TLS proved the peer's key, so nobody else can do that to it.
    ///
    /// # Errors
    ///
    /// [`NotKept`].
    pub fn keep(&self, me: NodeId, peer: &Arc<Peer>) -> Result<Replaced, NotKept> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        state.banned.retain(|_, until| *until > now);
        if let Some(until) = state.banned.get(&peer.id) {
            return Err(NotKept::Banned { for_s: until.duration_since(now).as_secs() + 1 });
        }
        let replaced = match state.connected.get(&peer.id) {
            None if state.connected.len() >= self.peers_max => {
                return Err(NotKept::Full { peers_max: self.peers_max });
            }
            None => Replaced::Nothing,
            Some(old) if old.session != peer.session => {
                old.connection.close(close::DUPLICATE, b"this node was restarted");
                Replaced::EarlierSession
            }
            Some(old) => {
                let preferred = if me < peer.id { Direction::Dialed } else { Direction::Accepted };
                let old_lives = old.connection.close_reason().is_none();
                if old_lives && (old.direction == preferred || peer.direction != preferred) {
                    return Err(NotKept::Duplicate);
                }
                old.connection.close(close::DUPLICATE, b"another connection is kept");
                Replaced::Duplicate
            }
        };
        state.connected.insert(peer.id, Arc::clone(peer));
        state.known.insert(peer.id, peer.address);
        Ok(replaced)
    }

    /// Forgets a peer if `peer` is still the connection that is kept; true if it was.
    pub fn drop_peer(&self, peer: &Arc<Peer>) -> bool {
        let mut state = lock(&self.state);
        let current = state.connected.get(&peer.id).is_some_and(|kept| Arc::ptr_eq(kept, peer));
        if current {
            state.connected.remove(&peer.id);
        }
        current
    }

    /// Ends the connection with the first of these peers that nothing else needs, to make room for another; which.
    pub fn part_with_one(&self, spare: &[NodeId]) -> Option<Arc<Peer>> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let is_free = |id: &&NodeId| state.connected.get(*id).is_some_and(|peer| !peer.is_in_use(now));
        let id = *spare.iter().find(is_free)?;
        let peer = state.connected.remove(&id)?;
        peer.connection.close(close::PARTED, b"making room for another member");
        Some(peer)
    }

    /// Whether it is worth to wait for a member: nobody did lately.
    pub fn start_waiting(&self, id: NodeId) -> bool {
        let mut state = lock(&self.state);
        let now = Instant::now();
        state.awaited.retain(|_, until| *until > now);
        let is_new = !state.awaited.contains_key(&id);
        if is_new && state.awaited.len() < PEERS_MAX * 4 {
            state.awaited.insert(id, now + AWAITED_AGAIN);
        }
        is_new
    }

    /// Notes that a member has no place for this node, or this node none for it.
    pub fn note_parted(&self, id: NodeId, address: SocketAddr) {
        let mut state = lock(&self.state);
        let now = Instant::now();
        if state.known.len() < PEERS_MAX * 4 {
            state.known.entry(id).or_insert(address);
        }
        state.parted.retain(|_, until| *until > now);
        if state.parted.len() < PEERS_MAX * 4 {
            state.parted.insert(id, now + PARTED_FOR);
        }
    }

    /// Whether an address is that of a member that is not to be dialed now.
    #[must_use]
    pub fn is_left_alone(&self, address: SocketAddr) -> bool {
        let (state, now) = (lock(&self.state), Instant::now());
        state.known.iter().any(|(node, known)| *known == address && state.is_left_alone(node, now))
    }

    /// How many more members this node looks for by itself.
    #[must_use]
    pub fn sought(&self) -> usize {
        let sought = (self.peers_max * PEERS_SOUGHT_QUARTERS / 4).max(1);
        sought.saturating_sub(lock(&self.state).connected.len())
    }

    /// Where a member is that is not connected.
    #[must_use]
    pub fn address_of(&self, id: &NodeId) -> Option<SocketAddr> {
        let state = lock(&self.state);
        state.known.get(id).copied().filter(|_| !state.connected.contains_key(id))
    }

    /// The connected peer of that name.
    #[must_use]
    pub fn get(&self, id: &NodeId) -> Option<Arc<Peer>> {
        lock(&self.state).connected.get(id).cloned()
    }

    /// All connected peers, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Peer>> {
        lock(&self.state).connected.values().cloned().collect()
    }

    /// Addresses of all members heard of.
    #[must_use]
    pub fn known(&self) -> Vec<PeerAddress> {
        let state = lock(&self.state);
        let known = state.known.iter().take(pageswarm_checkpoint::wire::LIST_MAX);
        known.map(|(node, address)| PeerAddress { node: *node, address: address.to_string() }).collect()
    }

    /// Members heard of that are not connected: as many as this node still looks for, drawn from all of them.
    #[must_use]
    pub fn to_dial(&self) -> Vec<(NodeId, SocketAddr)> {
        let sought = self.sought();
        let state = lock(&self.state);
        let now = Instant::now();
        let is_missing =
            |node: &NodeId| !state.connected.contains_key(node) && !state.is_left_alone(node, now);
        let missing = state.known.iter().filter(|(node, _)| is_missing(node));
        let mut missing: Vec<_> = missing.map(|(node, address)| (*node, *address)).collect();
        if missing.len() > sought {
            missing.sort_by_cached_key(|(node, _)| self.random.hash_one((node, now)));
            missing.truncate(sought);
        }
        missing
    }

    /// Notes where a member is; true if it is worth a dial now.
    pub fn hear_of(&self, node: NodeId, address: SocketAddr) -> bool {
        let is_sought = self.sought() > 0;
        let mut state = lock(&self.state);
        if state.known.len() >= PEERS_MAX * 4 && !state.known.contains_key(&node) {
            return false;
        }
        state.known.entry(node).or_insert(address);
        is_sought && !state.connected.contains_key(&node) && !state.is_left_alone(&node, Instant::now())
    }

    /// Claims an address for dialing; false if a dial is under way.
    pub fn start_dial(&self, address: SocketAddr) -> bool {
        lock(&self.state).dialing.insert(address)
    }

    /// Ends the claim.
    pub fn end_dial(&self, address: &SocketAddr) {
        lock(&self.state).dialing.remove(address);
    }

    /// Closes the connection and refuses the peer until then.
    pub fn ban(&self, id: NodeId, until: Instant, why: &str) {
        let mut state = lock(&self.state);
        if state.banned.len() < PEERS_MAX * 4 {
            state.banned.insert(id, until);
        }
        if let Some(peer) = state.connected.get(&id) {
            peer.connection.close(close::BANNED, why.as_bytes());
        }
    }
}

impl Traffic {
    /// Adds to one of the counts.
    pub fn add(count: &AtomicU64, bytes: u64) {
        count.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
