//! `pageswarm status`.

use super::{NodeArgs, print};
use crate::api::client::Client;
use crate::api::views::{BindingView, LineageView, PeerView, SpreadView, StatusView};
use crate::exit::Failure;

/// Shows a running node.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Shows it.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(args: StatusArgs) -> Result<(), Failure> {
    let status: StatusView = Client::new(&args.node.dir).get("/api/v1/status").await?;
    if args.node.json {
        return print::json(&status);
    }
    let (store, transfer) = (&status.store, &status.transfer);
    print::line(&format!(
        "node {} ({}) of swarm {}, up {} s, data plane udp {}",
        short(&status.node),
        status.role,
        short(&status.swarm),
        status.uptime_ms / 1000,
        status.data_address
    ))?;
    print::line(&format!(
        "store: {} chunks, {} decoded, {} in packs, {} found bad",
        store.chunks,
        print::bytes(store.decoded_bytes),
        print::bytes(store.pack_bytes),
        store.bad_chunks
    ))?;
    print::line(&format!(
        "chunks: {} from writers, {} from other members, {} sent, {} received twice",
        print::bytes(transfer.from_writer_bytes),
        print::bytes(transfer.from_peers_bytes),
        print::bytes(transfer.served_bytes),
        print::bytes(transfer.duplicate_bytes)
    ))?;
    print::line("")?;
    print::line(&print::table(&peer_rows(&status.peers)))?;
    print::line(&print::table(&lineage_rows(&status.lineages)))?;
    super::vm::print_drives(&status.vms)?;
    status.spreads.iter().try_for_each(|spread| print::line(&spread_text(spread)))
}

/// A spread and its distance from what the links allow, on two lines.
fn spread_text(spread: &SpreadView) -> String {
    let name = short(&spread.lineage);
    let what = format!(
        "{} lacked by nodes, {} of them different, {} missing; gain at most {}",
        print::bytes(spread.lacked_bytes),
        print::bytes(spread.union_bytes),
        print::bytes(spread.missing_bytes),
        print::permille(spread.gain_permille)
    );
    let verb = if spread.goes_on { "spreads" } else { "was spread" };
    let Some((bound_ms, binds)) = spread.bound_ms.zip(spread.binds.as_ref()) else {
        return format!("lineage {name} {verb}: {what}\n  no bound: too few rates of links are known yet");
    };
    let over = spread.over_bound_permille.map_or_else(|| "-".to_owned(), print::permille);
    let distance = if spread.goes_on {
        format!(
            "{over} of the bound at best ({} ms so far, at least {} ms to go)",
            spread.busy_ms, spread.left_ms
        )
    } else {
        format!("{over} of the bound ({} ms)", spread.busy_ms)
    };
    format!(
        "lineage {name} {verb}: {what}\n  {distance}; the links need {bound_ms} ms: {}",
        binding_text(binds)
    )
}

/// The link that binds, in words.
#[must_use]
pub fn binding_text(binds: &BindingView) -> String {
    let whose = match (binds.link.as_str(), binds.node.as_deref()) {
        ("writer-up", Some(node)) => format!("the uplink of its writer {}", short(node)),
        ("node-down", Some(node)) => format!("the downlink of node {}", short(node)),
        _ => "all uplinks together".to_owned(),
    };
    let known = if binds.is_configured { "configured" } else { "measured" };
    format!("{whose} binds, {}/s {known}", print::bytes(binds.bytes_per_s))
}

/// The first ten digits of a name.
#[must_use]
pub fn short(name: &str) -> String {
    name.chars().take(10).collect()
}

fn peer_rows(peers: &[PeerView]) -> Vec<Vec<String>> {
    let heading = ["member", "role", "address", "rtt", "lost", "received", "sent", "chunks it holds"]
        .map(str::to_owned)
        .to_vec();
    let rows = peers.iter().map(|peer| {
        vec![
            short(&peer.node),
            peer.role.clone(),
            peer.address.clone(),
            print::milliseconds(peer.rtt_us),
            format!("{:.1} %", peer.lost_packets as f64 * 100.0 / peer.sent_packets.max(1) as f64),
            print::bytes(peer.chunks_down_bytes + peer.objects_down_bytes),
            print::bytes(peer.chunks_up_bytes + peer.objects_up_bytes),
            peer.held_chunks.to_string(),
        ]
    });
    std::iter::once(heading).chain(rows).collect()
}

fn lineage_rows(lineages: &[LineageView]) -> Vec<Vec<String>> {
    let heading = ["lineage", "writer", "latest", "held", "births", "branch of"].map(str::to_owned).to_vec();
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let rows = lineages.iter().map(|lineage| {
        let parent = lineage.parent.as_ref();
        vec![
            short(&lineage.lineage),
            if lineage.own { "this node".to_owned() } else { short(&lineage.writer) },
            number(lineage.latest),
            number(lineage.held),
            lineage.births.to_string(),
            parent.map_or_else(String::new, |parent| format!("{} {}", short(&parent.lineage), parent.index)),
        ]
    });
    std::iter::once(heading).chain(rows).collect()
}
