//! One connection with a member: hello, control messages, and the streams it opens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pageswarm_checkpoint::membership::MembershipError;
use pageswarm_checkpoint::result::RESULTS_LISTED_MAX;
use pageswarm_checkpoint::wire::{BirthRange, Control, Hello, Opening, Place};
use pageswarm_checkpoint::{LineageId, NodeId};
use pageswarm_swarm::{BirthSet, Input};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::events::What;
use crate::gossip::GossipCommand;
use crate::limits;
use crate::node::Node;
use crate::peers::{Direction, NotKept, Peer, Replaced, close};
use crate::transport::frames::{self, FrameError};
use crate::transport::tls;
use crate::{births, leases, objects, place, results, uploads};

/// Why there is no session with a node.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection cannot be opened.
    #[error("cannot connect")]
    Connect(#[from] quinn::ConnectError),
    /// The connection ended. What the other side said is in the source.
    #[error("connection ended")]
    Connection(#[from] quinn::ConnectionError),
    /// A stream.
    #[error("control stream")]
    Frame(#[from] FrameError),
    /// The other side took too long.
    #[error("no hello within {} s", limits::HELLO_TIMEOUT.as_secs())]
    Slow,
    /// It is not a member.
    #[error("not a member of this swarm")]
    Member(#[from] MembershipError),
    /// It is a member that this node does not keep.
    #[error("connection is not kept")]
    NotKept(#[from] NotKept),
    /// It speaks another language.
    #[error("expected a hello")]
    NoHello,
    /// An address of this node's own was dialed.
    #[error("connected with itself")]
    Itself,
    /// The admin node did not renew the certificate.
    #[error("renewal refused: {why}")]
    RenewalRefused {
        /// In the admin node's words.
        why: String,
    },
}

/// Connects with the node at `address` and says hello. The session then runs by itself.
///
/// # Errors
///
/// [`SessionError`].
pub async fn dial(node: &Arc<Node>, address: SocketAddr) -> Result<NodeId, SessionError> {
    let connection = node.endpoint.connect(address, tls::SERVER_NAME)?.await?;
    let greeted = timeout(limits::HELLO_TIMEOUT, async {
        let (mut send, mut receive) = connection.open_bi().await?;
        frames::write(&mut send, &Opening::Control.encode()).await?;
        frames::write(&mut send, &Control::Hello(node.hello()).encode()).await?;
        let hello = read_hello(&connection, &mut receive).await?;
        Ok::<_, SessionError>((send, receive, hello))
    });
    let greeted = greeted.await.map_err(|_| SessionError::Slow)?;
    let (send, receive, hello) = greeted.inspect_err(|_| note_if_parted(node, &connection))?;
    let peer = establish(node, connection, Control::Hello(hello), Direction::Dialed, (send, receive)).await?;
    Ok(peer)
}

/// Accepts connections until the endpoint closes.
pub async fn accept(node: Arc<Node>) {
    let strangers = Arc::new(tokio::sync::Semaphore::new(limits::STRANGERS_MAX));
    while let Some(incoming) = node.endpoint.accept().await {
        let Ok(place) = Arc::clone(&strangers).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            let outcome = timeout(limits::HELLO_TIMEOUT, greet(&node, incoming)).await;
            drop(place);
            match outcome {
                // Nobody was refused by an address that leads back here.
                Ok(Ok(()) | Err(SessionError::Itself)) => {}
                Ok(Err(error)) => node.report_refusal(&error),
                Err(_) => node.report_refusal(&SessionError::Slow),
            }
        });
    }
}

/// The acceptor's side of a hello, or a join.
async fn greet(node: &Arc<Node>, incoming: quinn::Incoming) -> Result<(), SessionError> {
    let connection = incoming.await?;
    loop {
        let (mut send, mut receive) = match connection.accept_bi().await {
            Ok(streams) => streams,
            // Whoever only came to join is gone now.
            Err(quinn::ConnectionError::ApplicationClosed(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let opening = frames::read(&mut receive).await?.ok_or(SessionError::NoHello)?;
        match Opening::decode(&opening).map_err(FrameError::from)? {
            Opening::Join { invitation } => {
                admit_joiner(node, &connection, &mut send, invitation).await?;
            }
            Opening::Control => {
                let hello = read_hello(&connection, &mut receive).await?;
                let peer = tls::peer_id(&connection).ok_or(SessionError::NoHello)?;
                if let Err(error) = node.members.admit(&peer, &hello.certificate) {
                    connection.close(close::NOT_MEMBER, error.to_string().as_bytes());
                    return Err(error.into());
                }
                establish(node, connection, Control::Hello(hello), Direction::Accepted, (send, receive))
                    .await?;
                return Ok(());
            }
            _ => {
                connection.close(close::NOT_MEMBER, b"say hello first");
                return Err(SessionError::NoHello);
            }
        }
    }
}

async fn admit_joiner(
    node: &Arc<Node>,
    connection: &Connection,
    send: &mut SendStream,
    invitation: [u8; 16],
) -> Result<(), SessionError> {
    let joiner = tls::peer_id(connection).ok_or(SessionError::NoHello)?;
    let certificate = match &node.authority {
        Some(authority) => authority.redeem(&invitation, joiner).map_err(|error| error.to_string()),
        None => Err("this node is not an admin of the swarm".to_owned()),
    };
    objects::write_answer(send, certificate).await?;
    Ok(())
}

async fn read_hello(connection: &Connection, receive: &mut RecvStream) -> Result<Hello, SessionError> {
    let frame = match frames::read(receive).await {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(SessionError::NoHello),
        // What the other side said when it closed is worth more than that a stream ended.
        Err(error) => {
            return Err(connection
                .close_reason()
                .map_or(SessionError::Frame(error), SessionError::Connection));
        }
    };
    match Control::decode(&frame).map_err(FrameError::from)? {
        Control::Hello(hello) => Ok(hello),
        _ => Err(SessionError::NoHello),
    }
}

/// Checks the hello and starts the session's tasks.
async fn establish(
    node: &Arc<Node>,
    connection: Connection,
    hello: Control,
    direction: Direction,
    (send, receive): (SendStream, RecvStream),
) -> Result<NodeId, SessionError> {
    let Control::Hello(hello) = hello else {
        return Err(SessionError::NoHello);
    };
    let id = tls::peer_id(&connection).ok_or(SessionError::NoHello)?;
    if id == node.id {
        connection.close(close::DONE, b"connected with itself");
        return Err(SessionError::Itself);
    }
    let certificate = node.members.admit(&id, &hello.certificate).inspect_err(|error| {
        connection.close(close::NOT_MEMBER, error.to_string().as_bytes());
    })?;
    let (control, queue) = mpsc::channel(limits::CONTROL_QUEUE);
    let peer = Arc::new(Peer::new(
        certificate,
        connection,
        &hello,
        direction,
        control,
        Arc::clone(&node.counters.metadata),
    ));
    let mut kept = node.peers.keep(node.id, &peer);
    if matches!(kept, Err(NotKept::Full { .. })) {
        // Once begun it goes on to its end, so that the engine hears of it.
        let made = tokio::spawn(make_room(Arc::clone(node))).await;
        if made.unwrap_or(false) {
            kept = node.peers.keep(node.id, &peer);
        }
    }
    let replaced = kept.inspect_err(|error| {
        let is_full = matches!(error, NotKept::Full { .. });
        if is_full && direction == Direction::Dialed {
            node.peers.note_parted(id, peer.connection.remote_address());
        }
        let code = if is_full { close::PARTED } else { close::DUPLICATE };
        peer.connection.close(code, error.to_string().as_bytes());
    })?;
    let gossip_address = SocketAddr::new(peer.address.ip(), hello.gossip_port);
    node.gossip_try(GossipCommand::Allow(id, gossip_address));
    tokio::spawn(converse(Arc::clone(node), peer, replaced, (send, receive), queue));
    Ok(id)
}

/// Parts with a member that can be spared; false if there is none.
async fn make_room(node: Arc<Node>) -> bool {
    let spare = node.hub.spare_peers().await;
    let Some(parted) = node.peers.part_with_one(&spare) else {
        return false;
    };
    node.peers.note_parted(parted.id, parted.address);
    let parted = parted.id;
    // Its session does not say so any more, because it is not the one that is kept.
    node.hub.input(Input::PeerDown { peer: parted }).await;
    true
}

/// Notes that the other side has no place for this node, if that is why the connection ended.
fn note_if_parted(node: &Node, connection: &Connection) {
    if let Some(quinn::ConnectionError::ApplicationClosed(closed)) = connection.close_reason()
        && closed.error_code == close::PARTED
        && let Some(peer) = tls::peer_id(connection)
    {
        node.peers.note_parted(peer, connection.remote_address());
    }
}

/// Runs the session to its end.
async fn converse(
    node: Arc<Node>,
    peer: Arc<Peer>,
    replaced: Replaced,
    streams: (SendStream, RecvStream),
    queue: mpsc::Receiver<Control>,
) {
    let ended = hold(&node, &peer, replaced, streams, queue).await;
    let why = ended.err().map_or_else(|| "ended".to_owned(), |error| crate::report::chain(&error));
    note_if_parted(&node, &peer.connection);
    peer.connection.close(close::PROTOCOL, why.as_bytes());
    // If it was parted with while it began, the engine heard so before it heard of it.
    if node.peers.drop_peer(&peer) || node.peers.get(&peer.id).is_none() {
        node.hub.input(Input::PeerDown { peer: peer.id }).await;
    }
    tracing::info!(peer = %peer.id.short(), why, "disconnected");
    node.events.add(What::Disconnected { peer: peer.id.to_string(), why });
}

/// The session until it ends.
async fn hold(
    node: &Arc<Node>,
    peer: &Arc<Peer>,
    replaced: Replaced,
    (mut send, receive): (SendStream, RecvStream),
    queue: mpsc::Receiver<Control>,
) -> Result<(), SessionError> {
    // Whoever hears the acceptor's hello is kept.
    if peer.direction == Direction::Accepted {
        let hello = Control::Hello(node.hello()).encode();
        let written = timeout(limits::HELLO_TIMEOUT, frames::write(&mut send, &hello)).await;
        written.map_err(|_| SessionError::Slow)??;
    }
    tracing::info!(peer = %peer.id.short(), address = %peer.address, role = %peer.certificate.role, "connected");
    if replaced == Replaced::EarlierSession {
        // The earlier session does not say so itself, because it is no longer the one that is kept.
        node.hub.input(Input::PeerDown { peer: peer.id }).await;
    }
    node.hub.input(Input::PeerUp { peer: peer.id }).await;
    introduce(node, peer);
    let (followed, follows) = mpsc::channel(limits::LINEAGES_MAX);
    tokio::select! {
        ended = read_control(node, peer, receive, followed) => ended,
        () = tell_results(node, peer, follows) => Ok(()),
        ended = write_control(send, queue) => ended,
        ended = accept_streams(node, peer) => ended,
    }
}

/// What a new peer should know: where this node is, other members, heads, lineages, who was thrown out.
fn introduce(node: &Arc<Node>, peer: &Peer) {
    // Before anything that makes the peer choose whom to ask.
    if node.config.place != Place::default() {
        peer.tell(Control::Place(node.config.place.clone()));
    }
    peer.tell(Control::Peers(node.peers.known()));
    if let Some(record) = node.members.revocations_record() {
        peer.tell(Control::Revocations(record));
    }
    for lineage in node.lineages.ids() {
        peer.tell(Control::Follow(lineage));
    }
    let heads = node.lineages.latest_heads();
    for part in heads.chunks(pageswarm_checkpoint::wire::LIST_MAX) {
        peer.tell(Control::Heads(part.to_vec()));
    }
}

/// Tells the peer the latest result of every worker for each lineage that it follows, as fast as it reads.
async fn tell_results(node: &Node, peer: &Peer, mut follows: mpsc::Receiver<LineageId>) {
    while let Some(lineage) = follows.recv().await {
        for part in node.results.latest(&lineage).chunks(RESULTS_LISTED_MAX) {
            peer.tell_waiting(Control::Results(part.to_vec())).await;
        }
    }
}

async fn write_control(mut send: SendStream, mut queue: mpsc::Receiver<Control>) -> Result<(), SessionError> {
    // Control messages are few and everything waits for them.
    if send.set_priority(3).is_err() {
        return Ok(());
    }
    while let Some(message) = queue.recv().await {
        frames::write(&mut send, &message.encode()).await?;
    }
    Ok(())
}

async fn read_control(
    node: &Arc<Node>,
    peer: &Arc<Peer>,
    mut receive: RecvStream,
    followed: mpsc::Sender<LineageId>,
) -> Result<(), SessionError> {
    let mut sets = SetReader::default();
    while let Some(frame) = frames::read(&mut receive).await? {
        match Control::decode(&frame).map_err(FrameError::from)? {
            Control::Hello(_) => return Err(SessionError::NoHello),
            Control::Peers(peers) => node.hear_of(&peers),
            Control::Heads(heads) => {
                for record in heads {
                    node.offer_head(record).await;
                }
            }
            Control::Follow(lineage) => {
                // A peer that says it again and again is told no more, and fills no list of events.
                if peer.note_follow(lineage) {
                    node.events.add(What::Connected { peer: peer.id.to_string() });
                    node.hub.input(Input::PeerFollows { peer: peer.id, lineage }).await;
                    // It has room for every lineage that a peer may follow.
                    let _full = followed.try_send(lineage);
                }
            }
            // Sets of a lineage are told to those who follow it, and this node follows those it knows.
            Control::Have { lineage, .. } | Control::Lack { lineage, .. }
                if node.lineages.writer(&lineage).is_none() => {}
            Control::Have { lineage, births } => {
                let births = sets.read(&births);
                node.hub.input(Input::PeerHas { peer: peer.id, lineage, births }).await;
                sets.rest().await;
            }
            Control::Lack { lineage, births } => {
                let births = sets.read(&births);
                node.hub.input(Input::PeerLacks { peer: peer.id, lineage, births }).await;
                sets.rest().await;
            }
            Control::Revocations(record) => node.offer_revocations(record),
            Control::Results(list) => results::hearing::hear(node, list),
            Control::Need(need) => node.spreads.hear(peer.id, need),
            Control::Place(place) => {
                let labels = place::labels(&place);
                if peer.note_place(place) {
                    node.hub.input(Input::PeerLabels { peer: peer.id, labels }).await;
                }
            }
        }
    }
    Ok(())
}

/// Reads the sets that a peer announces. A few bytes can say a set that takes milliseconds to add up, and nothing is
/// wrong with it; so a peer whose sets take long is read the more slowly.
#[derive(Debug, Default)]
struct SetReader {
    owed: Duration,
}

impl SetReader {
    /// How much longer the pauses are than the work: sets of one peer take at most a twentieth of a processor.
    const PAUSES: u32 = 20;
    /// Shorter pauses are put together.
    const PAUSE_MIN: Duration = Duration::from_millis(5);

    fn read(&mut self, ranges: &[BirthRange]) -> BirthSet {
        let started = Instant::now();
        let births = births::from_ranges(ranges);
        self.owed += started.elapsed() * Self::PAUSES;
        births
    }

    async fn rest(&mut self) {
        if self.owed >= Self::PAUSE_MIN {
            tokio::time::sleep(std::mem::take(&mut self.owed)).await;
        }
    }
}

async fn accept_streams(node: &Arc<Node>, peer: &Arc<Peer>) -> Result<(), SessionError> {
    loop {
        let (send, mut receive) = peer.connection.accept_bi().await?;
        let (node, peer, in_use) = (Arc::clone(node), Arc::clone(peer), peer.use_stream());
        tokio::spawn(async move {
            let _in_use = in_use;
            let opening = match timeout(limits::HELLO_TIMEOUT, frames::read(&mut receive)).await {
                Ok(Ok(Some(frame))) => Opening::decode(&frame),
                _ => return,
            };
            match opening {
                Ok(Opening::Run(run)) => uploads::answer(&node, &peer, run, send).await,
                Ok(Opening::Object(request)) => objects::answer(&node, &peer, request, send).await,
                Ok(Opening::Lease(request)) => leases::host::answer_peer(&node, &peer, request, send).await,
                Ok(Opening::Renew) => renew(&node, &peer, send).await,
                Ok(Opening::Control | Opening::Join { .. }) | Err(_) => {
                    peer.connection.close(close::PROTOCOL, b"malformed request");
                }
            }
        });
    }
}

async fn renew(node: &Node, peer: &Peer, mut send: SendStream) {
    let certificate = match &node.authority {
        Some(authority) => Ok(authority.renew(&peer.certificate)),
        None => Err("this node is not an admin of the swarm".to_owned()),
    };
    if let Err(error) = objects::write_answer(&mut send, certificate).await {
        tracing::debug!(%error, "renewal not sent");
    }
}

/// Asks a connected admin for a fresh certificate.
///
/// # Errors
///
/// [`SessionError`].
pub async fn ask_renewal(peer: &Peer) -> Result<Vec<u8>, SessionError> {
    let _in_use = peer.use_stream();
    let (mut send, mut receive) = peer.connection.open_bi().await?;
    frames::write(&mut send, &Opening::Renew.encode()).await?;
    let answer = timeout(limits::HELLO_TIMEOUT, objects::read_answer(&mut receive, limits::OBJECT_BYTES_MAX));
    let answer = answer.await.map_err(|_| SessionError::Slow)?;
    answer?.map_err(|why| SessionError::RenewalRefused { why })
}
