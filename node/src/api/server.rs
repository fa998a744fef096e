//! Routes of the API and what answers them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::middleware::map_response;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{Html, IntoResponse};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::{Stream, StreamExt as _, stream};
use pageswarm_checkpoint::membership::{Role, Ticket};
use pageswarm_checkpoint::{CheckpointIndex, Head, LineageId};
use tokio::net::{TcpListener, UnixListener};

use super::error::ApiError;
use super::views::{
    BranchView, CheckpointDetailView, CheckpointRequest, CheckpointView, ErrorView, FetchView, ImportRequest,
    ImportView, LackedView, LineageBytesView, LineageView, PeerView, RebuildView, RevocationRequest,
    SelfCheckView, SpreadView, StatusView, StoreView, TicketRequest, TicketView, TransferView,
};
use super::{listen, metrics, rejections, simulations, spreads, traces, vms, work};
use crate::exit::{ExitCode, Failure};
use crate::fetch;
use crate::hub::View;
use crate::import::{self, ImportOptions};
use crate::limits::{EVENT_STREAMS_MAX, HTTP_AGE_MAX};
use crate::lineages::{Lineage, MapError};
use crate::machines::{self, Filled};
use crate::node::Node;
use crate::peers::Peer;
use crate::rebuild::RebuildError;
use crate::{addresses, births, place, rebuild, spread};

pub(super) type Answer<T> = Result<Json<T>, ApiError>;
type Shared = State<Arc<Node>>;

const PATIENCE_DEFAULT: Duration = Duration::from_secs(60);
/// Heads listed in one answer.
const CHECKPOINTS_LISTED: usize = 10_000;

/// Why the API cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The unix socket.
    #[error("api socket {path}")]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The TCP address.
    #[error("cannot listen on tcp {address}: choose another --http address or port")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Serves the API until the node ends. Returns the TCP address that was bound.
///
/// # Errors
///
/// [`ServeError`].
pub async fn start(node: &Arc<Node>) -> Result<Option<SocketAddr>, ServeError> {
    let path = node.config.api_socket();
    let socket = |source| ServeError::Socket { path: path.clone(), source };
    // The store's lock says that no other node lives here, so an old socket is a leftover.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(socket(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(socket)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(socket)?;
    let all = reading().merge(changing()).with_state(Arc::clone(node));
    let all = all.layer(map_response(rejections::as_failures));
    tokio::spawn(listen::serve(listener, all, None));
    let Some(address) = node.config.http_listen else {
        return Ok(None);
    };
    let tcp = |source| ServeError::Tcp { address, source };
    let listener = TcpListener::bind(address).await.map_err(tcp)?;
    let bound = listener.local_addr().map_err(tcp)?;
    let some = reading().with_state(Arc::clone(node)).layer(map_response(rejections::as_failures));
    tokio::spawn(listen::serve(listener, some, Some(HTTP_AGE_MAX)));
    Ok(Some(bound))
}

fn reading() -> Router<Arc<Node>> {
    Router::new()
        .route("/", get(dashboard))
        .route("/assets/{name}", get(asset))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/api/v1/status", get(status))
        .route("/api/v1/events", get(events))
        .route("/api/v1/lineages/{lineage}/checkpoints", get(checkpoints))
        .route("/api/v1/lineages/{lineage}/checkpoints/{index}", get(checkpoint))
        .route("/api/v1/lineages/{lineage}/lacked", get(lacked))
        .route("/api/v1/lineages/{lineage}/bytes", get(lineage_bytes))
        .route("/api/v1/lineages/{lineage}/spread", get(lineage_spread))
        .merge(vms::reading())
        .merge(work::reading())
        .merge(traces::reading())
}

fn changing() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/v1/checkpoints/import", post(import_checkpoint))
        .route("/api/v1/checkpoints/fetch", post(fetch_checkpoint))
        .route("/api/v1/checkpoints/rebuild", post(rebuild_checkpoint))
        .route("/api/v1/checkpoints/self-check", post(self_check))
        .route("/api/v1/tickets", post(ticket))
        .route("/api/v1/revocations", post(revoke))
        .route("/api/v1/end", post(end))
        .merge(vms::changing())
        .merge(simulations::changing())
        .merge(work::changing())
        .merge(traces::changing())
}

async fn dashboard() -> Html<&'static str> {
    Html(include_str!("../../assets/dashboard.html"))
}

async fn asset(Path(name): Path<String>) -> impl IntoResponse {
    let found = match name.as_str() {
        "dashboard.js" => Some(("text/javascript", include_str!("../../assets/dashboard.js"))),
        "dashboard.css" => Some(("text/css", include_str!("../../assets/dashboard.css"))),
        "uPlot.iife.min.js" => {
            Some(("text/javascript", include_str!("../../assets/vendor/uPlot.iife.min.js")))
        }
        "uPlot.min.css" => Some(("text/css", include_str!("../../assets/vendor/uPlot.min.css"))),
        _ => None,
    };
    match found {
        Some((kind, text)) => Ok(([(header::CONTENT_TYPE, kind)], text)),
        None => Err(ApiError::not_found("no such file")),
    }
}

async fn ready(State(node): Shared) -> impl IntoResponse {
    // A node is ready once its store is open and it takes part in the swarm; both precede this server.
    format!("ok, {} peers\n", node.peers.all().len())
}

async fn metrics_text(State(node): Shared) -> Result<impl IntoResponse, ApiError> {
    let text = tokio::task::spawn_blocking(move || metrics::text(&node)).await.map_err(|_| ending())?;
    let text = text.map_err(|error| ApiError::failed(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

async fn status(State(node): Shared) -> Answer<StatusView> {
    blocking(node, |node| Ok(status_view(node))).await
}

/// The node at a glance. From a thread that may block.
#[must_use]
pub fn status_view(node: &Node) -> StatusView {
    let certificate = node.members.certificate();
    let view = node.hub.view();
    let peers: Vec<PeerView> = node.peers.all().iter().map(|peer| peer_view(peer, &view)).collect();
    let faults = node.counters.faults_fetched.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let transfer = TransferView {
        from_writer_bytes: view.stats.bytes_from_writer,
        from_peers_bytes: view.stats.bytes_from_peers,
        duplicate_bytes: view.stats.bytes_duplicate,
        served_bytes: view.stats.bytes_served,
        objects_down_bytes: node.counters.metadata.received.load(Ordering::Relaxed),
        objects_up_bytes: node.counters.metadata.sent.load(Ordering::Relaxed),
        corrupt_chunks: view.stats.chunks_corrupt,
        deferred_chunks: view.stats.chunks_deferred,
        timed_out_requests: view.stats.requests_timed_out,
        refused_records: node.counters.records_refused.load(Ordering::Relaxed),
        checkpoints_fetched: node.counters.checkpoints_fetched.load(Ordering::Relaxed),
        faults_fetched: faults.count(),
        fault_fetch_p50_us: faults.percentile(50).map(micros),
        fault_fetch_p99_us: faults.percentile(99).map(micros),
    };
    let (up, down) = spread::own_rates(node);
    let running = node.machines.all();
    StatusView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: node.id.to_string(),
        swarm: node.members.swarm().to_string(),
        role: certificate.role.to_string(),
        member_until_unix_s: certificate.not_after_unix_s,
        data_address: node.data_address.to_string(),
        gossip_port: node.gossip_port,
        receive_buffer_bytes: node.receive_buffer_bytes as u64,
        uptime_ms: millis(node.clock.elapsed()),
        peers,
        store: store_view(node),
        transfer,
        lineages: node.lineages.all().iter().map(|lineage| lineage_view(node, lineage)).collect(),
        link: spreads::link_view(up, down),
        spreads: spreads::views(node),
        vms: running
            .iter()
            .filter(|machine| machine.ended().is_none())
            .map(|vm| vms::drive_view(vm))
            .collect(),
    }
}

fn peer_view(peer: &Peer, view: &View) -> PeerView {
    let path = peer.connection.stats().path;
    PeerView {
        node: peer.id.to_string(),
        address: peer.address.to_string(),
        role: peer.certificate.role.to_string(),
        place: peer.place().map(place::text).unwrap_or_default(),
        rtt_us: u64::try_from(path.rtt.as_micros()).unwrap_or(u64::MAX),
        sent_packets: path.sent_packets,
        lost_packets: path.lost_packets,
        packet_bytes: path.current_mtu,
        chunks_down_bytes: peer.traffic.chunks_down.load(Ordering::Relaxed),
        chunks_up_bytes: peer.traffic.chunks_up.load(Ordering::Relaxed),
        objects_down_bytes: peer.traffic.objects_down.load(Ordering::Relaxed),
        objects_up_bytes: peer.traffic.objects_up.load(Ordering::Relaxed),
        rate_bytes_per_s: view.peers.get(&peer.id).map_or(0, |stats| stats.bytes_per_s),
        held_chunks: view.peers.get(&peer.id).map_or(0, |stats| stats.held_births),
    }
}

fn store_view(node: &Node) -> StoreView {
    let stats = node.store.stats().unwrap_or_default();
    StoreView {
        chunks: stats.chunks,
        decoded_bytes: stats.chunk_bytes_decoded,
        stored_bytes: stats.chunk_bytes_stored,
        pack_bytes: stats.pack_bytes,
        duplicates: stats.duplicates,
        bad_chunks: stats.bad_chunks,
        quota_bytes: stats.quota_bytes,
    }
}

fn lineage_view(node: &Node, lineage: &Lineage) -> LineageView {
    LineageView {
        lineage: lineage.id.to_string(),
        writer: lineage.genesis.writer.to_string(),
        own: lineage.genesis.writer == node.id,
        pages: lineage.genesis.pages,
        interval_ms: lineage.genesis.interval_ms,
        parent: lineage.genesis.parent.map(|parent| BranchView {
            lineage: parent.lineage.to_string(),
            index: parent.index.0,
            state_root: parent.state_root.to_string(),
        }),
        latest: lineage.applied.as_ref().map(|(head, _)| head.index.0),
        held: lineage.held.map(|index| index.0),
        births: lineage.births,
    }
}

async fn events(
    State(node): Shared,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, (StatusCode, Json<ErrorView>)> {
    let (kept, receiver) = node.events.listen(EVENT_STREAMS_MAX).ok_or_else(|| {
        let message = format!("{EVENT_STREAMS_MAX} clients listen already, as many as may: try again later");
        (StatusCode::SERVICE_UNAVAILABLE, Json(ErrorView { exit_code: ExitCode::Failed as u8, message }))
    })?;
    let later = stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(event) => return Some((event, receiver)),
                // The numbers show the listener what it missed.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return None,
            }
        }
    });
    let all = stream::iter(kept).chain(later).map(|event| {
        let text = serde_json::to_string(&event).unwrap_or_default();
        Ok(sse::Event::default().id(event.number.to_string()).data(text))
    });
    Ok(Sse::new(all).keep_alive(KeepAlive::default()))
}

#[derive(serde::Deserialize)]
pub(super) struct From {
    #[serde(default)]
    pub(super) from: u64,
}

async fn checkpoints(
    State(node): Shared,
    Path(lineage): Path<String>,
    Query(From { from }): Query<From>,
) -> Answer<Vec<CheckpointView>> {
    let id = lineage_id(&lineage)?;
    blocking(node, move |node| {
        node.lineages.get(&id).ok_or_else(|| unknown_lineage(id))?;
        let listed = node.store.heads(id, CheckpointIndex(from), CHECKPOINTS_LISTED).map_err(failed)?;
        let mut views = Vec::with_capacity(listed.len());
        for (index, _) in listed {
            if let Some(head) = node.lineages.head(&id, index).map_err(failed)? {
                views.push(checkpoint_view(&head));
            }
        }
        Ok(views)
    })
    .await
}

async fn checkpoint(
    State(node): Shared,
    Path((lineage, index)): Path<(String, u64)>,
) -> Answer<CheckpointDetailView> {
    let (id, index) = (lineage_id(&lineage)?, CheckpointIndex(index));
    blocking(node, move |node| {
        let unknown = MapError::UnknownCheckpoint { lineage: id, index };
        let head = node.lineages.head(&id, index).map_err(failed)?.ok_or(unknown).map_err(failed)?;
        let map = node.lineages.map_at(&id, index).map_err(failed)?;
        let mut lacked_chunks = 0;
        for (lineage, births) in node.lineages.demand(&id, index).map_err(failed)? {
            lacked_chunks += node.lineages.lacked(lineage, &births).map_err(failed)?.len();
        }
        let changed_pages = node.lineages.changed_pages(&id, index).map_err(failed)?;
        let filled_pages = map.ram.chunks().count() as u64;
        Ok(CheckpointDetailView { head: checkpoint_view(&head), changed_pages, filled_pages, lacked_chunks })
    })
    .await
}

fn checkpoint_view(head: &Head) -> CheckpointView {
    CheckpointView {
        lineage: head.lineage.to_string(),
        index: head.index.0,
        state_root: head.state_root.to_string(),
        delta_bytes: head.delta.length,
        births: head.births,
        taken_unix_ms: head.taken_unix_ms,
        keyframe: head.keyframe.map(|(index, _)| index.0),
    }
}

async fn lacked(State(node): Shared, Path(lineage): Path<String>) -> Answer<LackedView> {
    let id = lineage_id(&lineage)?;
    let (lacked, bytes) = node.lineages.lacked_ever(&id);
    let ranges = births::to_messages(&lacked).concat();
    let ranges = ranges.into_iter().map(|range| (range.first.0, range.length)).collect();
    Ok(Json(LackedView { ranges, bytes }))
}

async fn lineage_bytes(State(node): Shared, Path(lineage): Path<String>) -> Answer<LineageBytesView> {
    let id = lineage_id(&lineage)?;
    blocking(node, move |node| {
        let lineage = node.lineages.get(&id).ok_or_else(|| unknown_lineage(id))?;
        let sum = |lengths: Vec<u32>| lengths.into_iter().map(u64::from).sum();
        Ok(LineageBytesView {
            born_bytes: sum(node.lineages.lengths(&lineage).map_err(failed)?),
            lacked_bytes: sum(node.lineages.lacked_ever(&id).1),
        })
    })
    .await
}

async fn lineage_spread(State(node): Shared, Path(lineage): Path<String>) -> Answer<SpreadView> {
    let id = lineage_id(&lineage)?;
    blocking(node, move |node| {
        node.lineages.get(&id).ok_or_else(|| unknown_lineage(id))?;
        let mut views = spreads::views(node).into_iter();
        let nothing = || ApiError::not_found("no connected node lacked anything of this lineage yet");
        views.find(|view| view.lineage == lineage).ok_or_else(nothing)
    })
    .await
}

async fn fetch_checkpoint(State(node): Shared, Json(request): Json<CheckpointRequest>) -> Answer<FetchView> {
    let (id, index) = announced(&node, &request).await?;
    let patience = patience(&request);
    let fetched = tokio::time::timeout(patience, fetch::fetch(&node, id, index)).await;
    let late = || {
        let message = format!(
            "checkpoint {index} is not complete after {} s: `status` shows who has it",
            patience.as_secs()
        );
        ApiError(Failure::new(ExitCode::NotFound, message))
    };
    let fetched = fetched.map_err(|_| late())?.map_err(failed)?;
    Ok(Json(FetchView {
        lacked_chunks: fetched.lacked_chunks,
        held_chunks: fetched.held_chunks,
        took_ms: millis(fetched.took),
    }))
}

async fn import_checkpoint(State(node): Shared, Json(request): Json<ImportRequest>) -> Answer<ImportView> {
    let options = ImportOptions {
        memory: PathBuf::from(request.memory),
        state: request.state.map(PathBuf::from),
        lineage: request.lineage.as_deref().map(lineage_id).transpose()?,
    };
    // It goes on to its end even if whoever asked has gone: a lineage half way in an image could not be continued.
    let importing = tokio::spawn(async move { import::import(&node, options).await });
    let (lineage, figures) = importing.await.map_err(|_| ending())?.map_err(failed)?;
    Ok(Json(ImportView {
        lineage: lineage.to_string(),
        index: figures.index,
        state_root: figures.state_root,
        unchanged_pages: figures.unchanged_pages,
        zero_pages: figures.zero_pages,
        duplicate_pages: figures.duplicate_pages,
        new_pages: figures.new_pages,
        new_bytes: figures.new_bytes,
        publish_us: figures.publish_us,
    }))
}

async fn rebuild_checkpoint(
    State(node): Shared,
    Json(request): Json<CheckpointRequest>,
) -> Answer<RebuildView> {
    let (id, index) = announced(&node, &request).await?;
    let start = Instant::now();
    blocking(node, move |node| {
        let output = request.output.map(PathBuf::from);
        let rebuilt = rebuild::rebuild(node, &id, index, output.as_deref()).map_err(failed)?;
        if let Some(path) = &request.state_output {
            let written = std::fs::write(path, &rebuilt.state.devices).map_err(RebuildError::Image);
            written.map_err(failed)?;
        }
        Ok(RebuildView {
            state_root: rebuilt.state_root.to_string(),
            filled_pages: rebuilt.pages,
            took_ms: millis(start.elapsed()),
        })
    })
    .await
}

async fn self_check(State(node): Shared, Json(request): Json<CheckpointRequest>) -> Answer<SelfCheckView> {
    let (id, index) = announced(&node, &request).await?;
    let memory = if request.by_faults { Filled::ByFaults } else { Filled::FromImage };
    let check = machines::self_check(&node, id, index, patience(&request), memory).await.map_err(failed)?;
    let percentile = |percent| check.lazy.as_ref()?.fault_times.percentile(percent).map(micros);
    Ok(Json(SelfCheckView {
        holds: check.holds(),
        counter_before: check.operations_before,
        counter_after: check.operations_after,
        whole_passes: check.whole_passes,
        wrong_page: check.wrong_page,
        died: check.died.clone(),
        first_report_ms: check.first_report.map(millis),
        took_ms: millis(check.took),
        faults: check.lazy.as_ref().map(|lazy| lazy.faults),
        fault_p50_us: percentile(50),
        fault_p99_us: percentile(99),
    }))
}

async fn ticket(State(node): Shared, Json(request): Json<TicketRequest>) -> Answer<TicketView> {
    let authority = node.authority.as_ref().ok_or_else(not_admin)?;
    let role: Role = request.role.parse().map_err(ApiError::usage)?;
    let (open_for, member_for) =
        (Duration::from_secs(request.open_for_s), Duration::from_secs(request.member_for_s));
    let addresses = addresses::for_ticket(&node.config.advertise, node.data_address).map_err(failed)?;
    let invitation = authority.invite(role, open_for, member_for).map_err(failed)?;
    let ticket = Ticket { swarm: node.members.swarm(), admin: node.id, invitation, addresses };
    Ok(Json(TicketView { ticket: ticket.to_string() }))
}

async fn revoke(
    State(node): Shared,
    Json(request): Json<RevocationRequest>,
) -> Answer<BTreeMap<String, u64>> {
    let authority = node.authority.as_ref().ok_or_else(not_admin)?;
    let member = request.node.parse().map_err(|error| ApiError::failed(&error))?;
    let record = authority.revoke(&node.members.revocations(), member).map_err(failed)?;
    node.offer_revocations(record.clone());
    for peer in node.peers.all() {
        peer.tell(pageswarm_checkpoint::wire::Control::Revocations(record.clone()));
    }
    Ok(Json(BTreeMap::from([("version".to_owned(), node.members.revocations().version)])))
}

async fn end(State(node): Shared) -> &'static str {
    node.end();
    "ending\n"
}

/// The checkpoint named, once its delta is known here.
pub(super) async fn announced(
    node: &Node,
    request: &CheckpointRequest,
) -> Result<(LineageId, CheckpointIndex), ApiError> {
    let (id, index) = (lineage_id(&request.lineage)?, CheckpointIndex(request.index));
    fetch::wait_announced(node, id, index, patience(request)).await.map_err(failed)?;
    Ok((id, index))
}

pub(super) fn patience(request: &CheckpointRequest) -> Duration {
    patience_of(request.patience_ms)
}

pub(super) fn patience_of(ms: Option<u64>) -> Duration {
    ms.map_or(PATIENCE_DEFAULT, Duration::from_millis)
}

pub(super) fn lineage_id(text: &str) -> Result<LineageId, ApiError> {
    text.parse().map_err(|error| ApiError(Failure::new(ExitCode::Usage, format!("lineage: {error}"))))
}

pub(super) fn unknown_lineage(id: LineageId) -> ApiError {
    failed(MapError::UnknownLineage(id))
}

fn not_admin() -> ApiError {
    let message = "this node does not hold the swarm's key: ask on the node that created the swarm";
    ApiError(Failure::new(ExitCode::NotMember, message))
}

fn ending() -> ApiError {
    ApiError(Failure::new(ExitCode::Failed, "node is ending"))
}

pub(super) fn failed(error: impl std::error::Error + 'static) -> ApiError {
    ApiError::failed(&error)
}

pub(super) async fn blocking<T: Send + 'static>(
    node: Arc<Node>,
    work: impl FnOnce(&Node) -> Result<T, ApiError> + Send + 'static,
) -> Answer<T> {
    let outcome = tokio::task::spawn_blocking(move || work(&node)).await;
    Ok(Json(outcome.map_err(|_| ending())??))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
