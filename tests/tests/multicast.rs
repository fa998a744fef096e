//! Discovery by mDNS: members in one local network that know no address of each other are connected, others are
//! refused. Method: real nodes in two network namespaces with a cable between them.

use std::net::SocketAddr;

use anyhow::Context as _;
use pageswarm_checkpoint::membership::Ticket;
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE, Place};
use pageswarm_tests::events;
use pageswarm_tests::lan::Lan;
use pageswarm_tests::skip::{Need, skipped};

#[tokio::test]
async fn members_in_one_network_find_each_other() -> anyhow::Result<()> {
    if skipped(&[Need::Namespaces]) {
        return Ok(());
    }
    let lan = Lan::new().await?;
    let ground = Ground::new()?;
    let any: SocketAddr = "0.0.0.0:0".parse()?;
    let place = |end: usize| Place { listen: any, namespace: Some(lan.namespaces[end].clone()) };
    let mdns = ["--mdns"];
    let mut admin =
        NodeProcess::start_at(place(0), &ground.path("admin"), &["--create-swarm"], &mdns).await?;
    let ticket = admin.ticket("reader", 3600).await?;
    let addresses = ticket.parse::<Ticket>()?.addresses;
    let outside = SocketAddr::new(Lan::ADDRESSES[0], admin.address.port());
    assert_eq!(addresses.first(), Some(&outside.to_string()), "{addresses:?}");
    let mut member =
        NodeProcess::start_at(place(1), &ground.path("member"), &["--join", &ticket], &mdns).await?;
    member.wait_peer(&admin).await?;

    // Addresses of members are in memory only: after this nobody knows one.
    member.end().await?;
    admin.end().await?;
    admin.restart(&[]).await?;
    member.restart(&[]).await?;
    member.wait_peer(&admin).await?;
    admin.wait_peer(&member).await?;

    // Whoever announces itself is dialed, and still has to be a member.
    let stranger = ground.path("stranger");
    let _stranger = NodeProcess::start_at(place(1), &stranger, &["--create-swarm"], &mdns).await?;
    events::wait_for_text(admin.directory(), PATIENCE, "connection_refused", "not issued by this swarm")
        .await
        .context("the stranger does not find the admin")?;
    let peers = admin.status().await?.peers;
    assert_eq!(peers.iter().map(|peer| &peer.node).collect::<Vec<_>>(), [&member.id]);
    Ok(())
}
