//! One running node: its parts, how they start, and what they tell each other.

mod upkeep;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use pageswarm_checkpoint::membership::Role;
use pageswarm_checkpoint::wire::{Hello, PeerAddress};
use pageswarm_checkpoint::{AnnouncedResult, Head, NodeId, node_id};
use pageswarm_store::{IndexError, OpenError, OpenReport, Store, StoreOptions};
use pageswarm_swarm::{BanReason, Event as EngineEvent};
use pageswarm_vmm::Histogram;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::arrivals::Arrivals;
use crate::artefacts::Artefacts;
use crate::authority::{Authority, AuthorityError};
use crate::clock::EngineClock;
use crate::config::{Mdns, MembershipStart, NodeConfig};
use crate::effort::EffortGauge;
use crate::events::{Events, StoreRepairs, What};
use crate::gossip::{Gossip, GossipCommand, GossipError, GossipEvent};
use crate::hub::{self, Hub};
use crate::identity::{self, KeyError};
use crate::images::Images;
use crate::import::Imports;
use crate::join::{self, JoinError};
use crate::lazy_ram::Touched;
use crate::leases::{self, LeaseHost};
use crate::limits::{CODING_THREADS, RESULT_QUEUE, SIMULATIONS};
use crate::lineages::{LineageError, Lineages};
use crate::machines::Machines;
use crate::members::{Members, MembersError};
use crate::multicast::{Multicast, MulticastError};
use crate::peers::{MetadataTotals, Peers, close};
use crate::recent::RecentChunks;
use crate::results::{self, Results};
use crate::session::{self, SessionError};
use crate::spread::{self, Spreads};
use crate::transport::endpoint::{self, EndpointError};
use crate::uploads::Uploads;
use crate::{follow, recent, report};

/// How often it is looked whether a connection came about.
const MEETING_LOOKED_AT: Duration = Duration::from_millis(20);
/// How long a swarm's first member certifies itself for.
const ADMIN_MEMBER_FOR: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its directory.
    #[error("node directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its key.
    #[error("node key")]
    Key(#[from] KeyError),
    /// Its store.
    #[error("store")]
    Store(#[from] OpenError),
    /// Its data plane.
    #[error("data plane")]
    Endpoint(#[from] EndpointError),
    /// Its gossip.
    #[error("gossip")]
    Gossip(#[from] GossipError),
    /// Its discovery.
    #[error("discovery by mDNS")]
    Multicast(#[from] MulticastError),
    /// Its membership.
    #[error("membership")]
    Members(#[from] MembersError),
    /// The swarm's authority.
    #[error("swarm authority")]
    Authority(#[from] AuthorityError),
    /// The ticket.
    #[error("cannot join the swarm")]
    Join(#[from] JoinError),
    /// What the store says about lineages.
    #[error("lineages in the store")]
    Lineages(#[from] LineageError),
    /// What the store says about results.
    #[error("results in the store")]
    Results(#[from] IndexError),
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// Its key.
    pub key: SigningKey,
    /// How it was started.
    pub config: NodeConfig,
    /// Its clock.
    pub clock: EngineClock,
    /// Its store.
    pub store: Arc<Store>,
    /// Membership.
    pub members: Members,
    /// The swarm's authority, if this node holds its key.
    pub authority: Option<Authority>,
    /// The data plane.
    pub endpoint: quinn::Endpoint,
    /// The data plane's receive buffer, as the kernel granted it.
    pub receive_buffer_bytes: usize,
    /// Where the data plane listens.
    pub data_address: SocketAddr,
    /// Where gossip listens.
    pub gossip_port: u16,
    /// Connected members.
    pub peers: Peers,
    /// The engine.
    pub hub: Hub,
    /// What is known of lineages.
    pub lineages: Lineages,
    /// Chunks that passed through lately.
    pub recent: RecentChunks,
    /// RAM of checkpoints that were proven lately.
    pub images: Images,
    /// Answers under way.
    pub uploads: Uploads,
    /// Deltas on their way here.
    pub arrivals: Arrivals,
    /// Virtual machines.
    pub machines: Machines,
    /// The lineage that was imported to last.
    pub imports: Imports,
    /// The lineages of artefacts that this node writes.
    pub artefacts: Artefacts,
    /// What others need, and how lineages spread.
    pub spreads: Spreads,
    /// What happened.
    pub events: Events,
    /// Counts that nothing else keeps.
    pub counters: Counters,
    /// How busy the machine is.
    pub effort: EffortGauge,
    /// Places for decoding and encoding.
    pub coding: Arc<Semaphore>,
    /// Places for simulations.
    pub simulations: Arc<Semaphore>,
    /// What simulations touched.
    pub touched: Touched,
    /// Signed results of simulations.
    pub results: Results,
    /// Results that were told and wait to be taken in.
    pub heard_results: mpsc::Sender<Vec<AnnouncedResult>>,
    /// The lease tables that this node hosts.
    pub leases: LeaseHost,
    /// Held while an unknown lineage is learnt.
    pub learning: tokio::sync::Mutex<()>,
    /// Tells this process from an earlier one with the same key.
    session: [u8; 8],
    gossip: mpsc::Sender<GossipCommand>,
    ending: watch::Sender<bool>,
}

/// Counts that nothing else keeps.
#[derive(Debug, Default)]
pub struct Counters {
    /// Heads and other records refused.
    pub records_refused: AtomicU64,
    /// Connections refused.
    pub connections_refused: AtomicU64,
    /// Chunks found bad in the store.
    pub chunks_bad: AtomicU64,
    /// Chunks that arrived with wrong bytes.
    pub chunks_corrupt: AtomicU64,
    /// Checkpoints fetched whole.
    pub checkpoints_fetched: AtomicU64,
    /// Metadata exchanged with all peers, also with those that left.
    pub metadata: Arc<MetadataTotals>,
    /// How long guests waited for pages that were not here.
    pub faults_fetched: Mutex<Histogram>,
}

impl Node {
    /// Starts a node and its tasks.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(config: NodeConfig) -> Result<Arc<Self>, StartError> {
        let directory = config.directory.clone();
        let io = |source| StartError::Directory { path: directory.clone(), source };
        std::fs::create_dir_all(&directory).map_err(io)?;
        let store = Store::open(&directory.join("store"), StoreOptions { quota_bytes: config.quota_bytes })?;
        let store = Arc::new(store);
        let key = identity::load_or_create(&directory.join("node.key"))?;
        let id = node_id(&key);
        let data = endpoint::open(config.listen, &key)?;
        let (members, authority) = membership(&config, id, &data.endpoint).await?;
        let data_address = data.endpoint.local_addr().map_err(io)?;
        let (gossip, gossip_port) = Gossip::open(&key, members.swarm(), config.gossip_listen).await?;
        let multicast = match config.mdns {
            Mdns::On => Some(Multicast::open(gossip.peer(), data_address)?),
            Mdns::Off => None,
        };
        let lineages = Lineages::load(Arc::clone(&store))?;
        let results = load_results(&store, &members, id).await?;
        let (heard_results, hearing_results) = mpsc::channel(RESULT_QUEUE);
        let (hub, queue) = hub::channel();
        let (images, peers) = (Images::new(config.image_bytes), Peers::new(config.peers_max));
        let (commands, command_queue) = mpsc::channel(1024);
        let node = Arc::new(Self {
            id,
            key,
            config,
            clock: EngineClock::start(),
            store,
            members,
            authority,
            endpoint: data.endpoint,
            receive_buffer_bytes: data.receive_buffer_bytes,
            data_address,
            gossip_port,
            peers,
            hub,
            lineages,
            recent: RecentChunks::new(recent::bytes_default()),
            images,
            uploads: Uploads::default(),
            arrivals: Arrivals::default(),
            machines: Machines::default(),
            imports: Imports::default(),
            artefacts: Artefacts::default(),
            spreads: Spreads::default(),
            events: Events::default(),
            counters: Counters::default(),
            effort: EffortGauge::default(),
            coding: Arc::new(Semaphore::new(CODING_THREADS)),
            simulations: Arc::new(Semaphore::new(SIMULATIONS)),
            touched: Touched::default(),
            results,
            heard_results,
            leases: LeaseHost::default(),
            learning: tokio::sync::Mutex::default(),
            session: identity::random()?,
            gossip: commands,
            ending: watch::channel(false).0,
        });
        node.note_repairs();
        tokio::spawn(hub::run(Arc::clone(&node), queue, u64::from_le_bytes(identity::random()?)));
        node.start_hearing(gossip, command_queue, hearing_results);
        tokio::spawn(session::accept(Arc::clone(&node)));
        if let Some(multicast) = multicast {
            tokio::spawn(multicast.run(Arc::clone(&node)));
        }
        node.follow_all().await;
        node.start_keeping();
        Ok(node)
    }

    /// Follows the lineages that the store knows.
    async fn follow_all(self: &Arc<Self>) {
        for lineage in self.lineages.all() {
            follow::start(self, &lineage).await;
        }
    }

    /// Gossip, and what is heard of results.
    fn start_hearing(
        self: &Arc<Self>,
        gossip: Gossip,
        commands: mpsc::Receiver<GossipCommand>,
        results: mpsc::Receiver<Vec<AnnouncedResult>>,
    ) {
        let (heard, hearing) = mpsc::channel(1024);
        tokio::spawn(gossip.run(commands, heard));
        tokio::spawn(listen_to_gossip(Arc::clone(self), hearing));
        tokio::spawn(results::hearing::run(Arc::clone(self), results));
    }

    /// What goes on for as long as the node runs, whatever it is asked for.
    fn start_keeping(self: &Arc<Self>) {
        tokio::spawn(upkeep::keep_connected(Arc::clone(self)));
        tokio::spawn(upkeep::keep_house(Arc::clone(self)));
        tokio::spawn(spread::tell(Arc::clone(self)));
        tokio::spawn(leases::host::keep(Arc::clone(self)));
    }

    /// What this node says first on every connection.
    #[must_use]
    pub fn hello(&self) -> Hello {
        Hello {
            certificate: self.members.certificate_record(),
            data_port: self.data_address.port(),
            gossip_port: self.gossip_port,
            session: self.session,
        }
    }

    /// Hears of members and dials those that are not connected.
    pub fn hear_of(self: &Arc<Self>, peers: &[PeerAddress]) {
        for peer in peers.iter().filter(|peer| peer.node != self.id) {
            let Ok(address) = peer.address.parse() else {
                continue;
            };
            if self.peers.hear_of(peer.node, address) {
                tokio::spawn(upkeep::dial_once(Arc::clone(self), address));
            }
        }
    }

    /// Connects with a member that has something which is wanted here, if its address is known.
    pub fn meet(self: &Arc<Self>, id: NodeId) {
        if let Some(address) = self.peers.address_of(&id) {
            tokio::spawn(upkeep::dial_once(Arc::clone(self), address));
        }
    }

    /// As [`Self::meet`], and waits until the two are connected, or for so long; not for one that was waited for lately.
    pub async fn meet_within(self: &Arc<Self>, id: NodeId, patience: Duration) {
        if self.peers.address_of(&id).is_none() {
            return;
        }
        self.meet(id);
        if !self.peers.start_waiting(id) {
            return;
        }
        let until = tokio::time::Instant::now() + patience;
        while self.peers.get(&id).is_none() && tokio::time::Instant::now() < until {
            tokio::time::sleep(MEETING_LOOKED_AT).await;
        }
    }

    /// Dials a node that announces itself in the local network, unless it is connected. Anybody can announce
    /// anything there, so the address is not remembered before the hello: a false one must not take the place of a
    /// true one.
    pub fn try_neighbour(self: &Arc<Self>, id: NodeId, address: SocketAddr) {
        if id != self.id
            && self.peers.get(&id).is_none()
            && self.peers.sought() > 0
            && !self.peers.is_left_alone(address)
        {
            tokio::spawn(upkeep::dial_once(Arc::clone(self), address));
        }
    }

    /// Takes in a head from wherever it came.
    pub async fn offer_head(self: &Arc<Self>, record: Vec<u8>) {
        follow::offer_head(self, record).await;
    }

    /// Takes in a revocation list from wherever it came, and closes connections that it ends.
    pub fn offer_revocations(&self, record: Vec<u8>) {
        match self.members.install_revocations(record.clone()) {
            Ok(true) => {
                self.gossip_try(GossipCommand::Revocations(record));
                self.close_ended_memberships();
            }
            Ok(false) => {}
            Err(error) => self.note_refused_record(&report::chain(&error)),
        }
    }

    /// Closes connections with members that are none any more.
    pub fn close_ended_memberships(&self) {
        for peer in self.peers.all() {
            if let Err(error) = self.members.still_holds(&peer.certificate) {
                peer.connection.close(close::NOT_MEMBER, error.to_string().as_bytes());
                self.gossip_try(GossipCommand::Forbid(peer.id));
            }
        }
    }

    /// Passes a command to gossip; dropped with a warning if gossip is far behind.
    pub fn gossip_try(&self, command: GossipCommand) {
        if let Err(error) = self.gossip.try_send(command) {
            tracing::warn!(%error, "gossip command dropped");
        }
    }

    /// Notes a connection that did not come to a session.
    pub fn report_refusal(&self, error: &SessionError) {
        let why = report::chain(error);
        tracing::info!(why, "connection refused");
        self.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
        self.events.add(What::ConnectionRefused { why });
    }

    /// Notes a record that was not taken.
    pub fn note_refused_record(&self, why: &str) {
        tracing::warn!(why, "record refused");
        self.counters.records_refused.fetch_add(1, Ordering::Relaxed);
        self.events.add(What::RecordRefused { why: why.to_owned() });
    }

    /// Notes what was wrong with the store when it was opened, if anything was.
    fn note_repairs(&self) {
        let report = self.store.open_report();
        if *report == OpenReport::default() {
            return;
        }
        let OpenReport { index_rebuilt, records_recovered, torn_bytes, chunks_lost, objects_lost, .. } =
            *report;
        if index_rebuilt {
            tracing::warn!(
                records_recovered,
                torn_bytes,
                "store: the index was damaged and is made anew from the packs"
            );
        }
        if report.damaged_count > 0 || !report.short_packs.is_empty() {
            report.damaged.iter().for_each(|region| tracing::warn!(%region, "store: damage"));
            report.short_packs.iter().for_each(|pack| tracing::warn!(%pack, "store: lost its end"));
            tracing::warn!(records_recovered, torn_bytes, chunks_lost, objects_lost, "store was damaged");
        } else if !index_rebuilt {
            tracing::info!(records_recovered, torn_bytes, "store was not closed in order; nothing is lost");
        }
        let (damaged_regions, short_packs) = (report.damaged_count, report.short_packs.len() as u64);
        self.events.add(What::StoreRepaired(StoreRepairs {
            index_rebuilt,
            records_recovered,
            torn_bytes,
            damaged_regions,
            short_packs,
            chunks_lost,
            objects_lost,
        }));
    }

    /// Notes that the store could not do something.
    pub fn note_store_trouble(&self, error: &(dyn std::error::Error + 'static)) {
        let why = report::chain(error);
        tracing::error!(why, "store");
        self.events.add(What::StoreTrouble { why });
    }

    /// Carries out a ban.
    pub fn note_ban(&self, peer: NodeId, until: Instant, why: BanReason) {
        let why = format!("{why:?}");
        self.peers.ban(peer, until, &why);
        self.events.add(What::PeerBanned { peer: peer.to_string(), why });
    }

    /// Notes what the engine noticed.
    pub fn note_engine_event(&self, event: &EngineEvent) {
        tracing::debug!(?event, "engine");
        if let EngineEvent::ChunkCorrupt { peer, lineage, birth } = event {
            self.counters.chunks_corrupt.fetch_add(1, Ordering::Relaxed);
            let (peer, lineage) = (peer.to_string(), lineage.to_string());
            self.events.add(What::ChunkCorrupt { peer, lineage, birth: birth.0 });
        }
    }

    /// Notes that a checkpoint's delta was applied.
    pub fn note_learnt(&self, head: &Head) {
        self.events.add(What::CheckpointLearnt { lineage: head.lineage.to_string(), index: head.index.0 });
    }

    /// Asks the node to end.
    pub fn end(&self) {
        self.ending.send_replace(true);
    }

    /// Completes when the node was asked to end.
    pub async fn ended(&self) {
        let mut ending = self.ending.subscribe();
        // The sender lives as long as the node.
        let _node_gone = ending.wait_for(|ending| *ending).await;
    }

    /// Ends everything: virtual machines first, then connections, then the store's unsynced tail.
    pub async fn close(self: &Arc<Self>) {
        self.machines.end_all();
        self.endpoint.close(close::DONE, b"node ends");
        let idle = tokio::time::timeout(Duration::from_secs(2), self.endpoint.wait_idle());
        if idle.await.is_err() {
            tracing::debug!("peers did not confirm the end");
        }
        if let Err(error) = self.store.sync() {
            self.note_store_trouble(&error);
        }
    }
}

async fn membership(
    config: &NodeConfig,
    id: NodeId,
    endpoint: &quinn::Endpoint,
) -> Result<(Members, Option<Authority>), StartError> {
    let directory = &config.directory;
    let skew_s = config.clock_skew.as_secs();
    match &config.membership {
        _ if Members::exist(directory) => {}
        MembershipStart::Kept => {}
        MembershipStart::Create => {
            let authority = Authority::load_or_create(directory)?;
            let record = authority.certify(id, Role::Admin, ADMIN_MEMBER_FOR);
            Members::install(directory, id, authority.swarm(), &record, skew_s)?;
        }
        MembershipStart::Join(ticket) => {
            let record = join::join(endpoint, ticket).await?;
            Members::install(directory, id, ticket.swarm, &record, skew_s)?;
        }
    }
    Ok((Members::load(directory, id, skew_s)?, Authority::load(directory)?))
}

/// A node's own results are kept whatever happens: were they gone, it would use their numbers again.
async fn load_results(store: &Arc<Store>, members: &Members, id: NodeId) -> Result<Results, StartError> {
    let (store, revoked) = (Arc::clone(store), members.revocations().nodes);
    let loading = tokio::task::spawn_blocking(move || {
        Results::load(store, |worker| *worker != id && revoked.contains(worker))
    });
    match loading.await {
        Ok(loaded) => Ok(loaded?),
        Err(gone) => std::panic::resume_unwind(gone.into_panic()),
    }
}

async fn listen_to_gossip(node: Arc<Node>, mut heard: mpsc::Receiver<GossipEvent>) {
    while let Some(event) = heard.recv().await {
        match event {
            GossipEvent::Head(record) => node.offer_head(record).await,
            GossipEvent::Revocations(record) => node.offer_revocations(record),
            GossipEvent::Result(record) => match AnnouncedResult::decode(&record) {
                Ok(announced) => results::hearing::hear(&node, vec![announced]),
                Err(_) => node.note_refused_record("malformed result"),
            },
        }
    }
}
