//! What a running node looks after from time to time: connections, bad chunks, memberships.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pageswarm_checkpoint::membership::Role;
use pageswarm_swarm::{BirthSet, Input};

use super::Node;
use crate::config::MembershipStart;
use crate::events::What;
use crate::{report, session};

pub(super) async fn dial_once(node: Arc<Node>, address: SocketAddr) {
    if !node.peers.start_dial(address) {
        return;
    }
    if let Err(error) = session::dial(&node, address).await {
        tracing::debug!(%address, error = report::chain(&error), "dial");
    }
    node.peers.end_dial(&address);
}

/// Dials configured and known members until they are connected, or as many as a node looks for.
pub(super) async fn keep_connected(node: Arc<Node>) {
    let ticket = match &node.config.membership {
        MembershipStart::Join(ticket) => Some(ticket),
        _ => None,
    };
    loop {
        let connected: Vec<SocketAddr> = node.peers.all().iter().map(|peer| peer.address).collect();
        let known = node.peers.to_dial().into_iter().map(|(_, address)| address);
        // All addresses of a ticket are the admin's: once one led to it, the others are of no use.
        let ticket = ticket.filter(|ticket| node.peers.get(&ticket.admin).is_none());
        let of_admin =
            ticket.iter().flat_map(|ticket| &ticket.addresses).filter_map(|text| text.parse().ok());
        let configured = node.config.peers.iter().copied().chain(of_admin);
        let missing =
            configured.filter(|address| !connected.contains(address) && !node.peers.is_left_alone(*address));
        for address in missing.chain(known).filter(|address| *address != node.data_address) {
            tokio::spawn(dial_once(Arc::clone(&node), address));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// What has to be looked after from time to time: bad chunks, memberships, renewal.
pub(super) async fn keep_house(node: Arc<Node>) {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let mut turns = 0_u64;
    loop {
        tick.tick().await;
        turns += 1;
        node.effort.sample();
        report_bad_chunks(&node).await;
        if turns.is_multiple_of(2) {
            node.close_ended_memberships();
        }
        if turns.is_multiple_of(20) {
            node.images.drop_idle(Instant::now());
            renew_membership(&node).await;
        }
    }
}

/// Chunks that the store found bad are missing now: the engine fetches again what is wanted.
async fn report_bad_chunks(node: &Arc<Node>) {
    for bad in node.store.take_bad_chunks() {
        node.counters.chunks_bad.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%bad, "bad chunk");
        node.events.add(What::ChunkBad { hash: bad.hash.to_string(), why: bad.to_string() });
        let (searching, hash) = (Arc::clone(node), bad.hash);
        let found = tokio::task::spawn_blocking(move || searching.lineages.births_of(hash)).await;
        for (lineage, birth) in found.ok().and_then(Result::ok).unwrap_or_default() {
            node.hub.input(Input::LocalLost { lineage, births: BirthSet::range(birth, birth) }).await;
        }
    }
}

/// At half of its life a certificate is renewed, by this node if it is the authority, else by a connected admin.
async fn renew_membership(node: &Arc<Node>) {
    let certificate = node.members.certificate();
    let middle = certificate.not_before_unix_s.midpoint(certificate.not_after_unix_s);
    if crate::clock::unix_s() < middle {
        return;
    }
    let mut renewed = node.authority.as_ref().map(|authority| authority.renew(&certificate));
    if renewed.is_none() {
        for peer in node.peers.all().into_iter().filter(|peer| peer.certificate.role == Role::Admin) {
            if let Ok(record) = session::ask_renewal(&peer).await {
                renewed = Some(record);
                break;
            }
        }
    }
    if let Some(Err(error)) = renewed.map(|record| node.members.renew(record)) {
        node.note_refused_record(&report::chain(&error));
    }
}
