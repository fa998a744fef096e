//! Who is refused: strangers, expired and revoked members, members of other swarms, wrong roles, used tickets, and
//! requests for lineages that the asker does not follow. Method: real nodes, and a member made by hand that holds
//! whatever certificate the case takes; judged by how the node closes the connection, by its events and exit codes.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ed25519_dalek::SigningKey;
use pageswarm_checkpoint::membership::{Certificate, Role, Ticket};
use pageswarm_checkpoint::wire::{
    Control, ObjectAnswer, ObjectRequest, Opening, Patience, Refusal, RunAnswer, RunRequest, Urgency,
};
use pageswarm_checkpoint::{
    Birth, CheckpointIndex, Genesis, Head, LineageId, NodeId, ObjectHash, ObjectName, StateRoot, node_id,
};
use pageswarm_node::exit::ExitCode;
use pageswarm_node::limits::HELLO_TIMEOUT;
use pageswarm_node::peers::close;
use pageswarm_node::transport::{endpoint, frames};
use pageswarm_node::{clock, identity, objects};
use pageswarm_tests::calls::Guest;
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE, Place, until};
use pageswarm_tests::command::{node_run, pageswarm, run};
use pageswarm_tests::events;
use pageswarm_tests::member::{self, Member, Session};
use pageswarm_tests::skip::{Need, skipped};

fn certificate(
    authority: &SigningKey,
    node: NodeId,
    role: Role,
    valid_unix_s: std::ops::Range<u64>,
) -> Vec<u8> {
    let certificate = Certificate {
        swarm: node_id(authority),
        node,
        role,
        not_before_unix_s: valid_unix_s.start,
        not_after_unix_s: valid_unix_s.end,
    };
    certificate.sign(authority)
}

fn authority_of(admin: &NodeProcess) -> anyhow::Result<SigningKey> {
    identity::load(&admin.directory().join("swarm.key"))?.context("the admin has no swarm key")
}

fn now() -> u64 {
    clock::unix_s()
}

fn run_request(lineage: LineageId) -> RunRequest {
    RunRequest {
        lineage,
        urgency: Urgency::Normal,
        patience: Patience::Insist,
        chunks: (0..4).map(|birth| (Birth(birth), None)).collect(),
    }
}

async fn assert_refused(
    member: &Member,
    node: &NodeProcess,
    certificate: Vec<u8>,
    why: &str,
) -> anyhow::Result<()> {
    let refused = member.connect(node.address, certificate).await;
    let refused = refused.err().context("the node kept the connection")?.to_string();
    assert!(refused.contains(&format!("refused with {}", close::NOT_MEMBER)), "closed otherwise: {refused}");
    assert!(refused.contains(why), "{why:?} is not in: {refused}");
    events::wait_for_text(node.directory(), PATIENCE, "connection_refused", why).await?;
    Ok(())
}

#[tokio::test]
async fn whoever_holds_no_certificate_of_the_swarm_is_refused() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let admin = ground.create("admin", &[]).await?;
    let authority = authority_of(&admin)?;
    let valid = now() - 10..now() + 1000;
    let member = Member::new()?;
    let own = certificate(&member.key, member.id(), Role::Admin, valid.clone());
    assert_refused(&member, &admin, own, "not issued by this swarm").await?;
    let stolen = certificate(&authority, NodeId([7; 32]), Role::Reader, valid.clone());
    assert_refused(&member, &admin, stolen, "belongs to another node").await?;
    let mut cut = certificate(&authority, member.id(), Role::Reader, valid.clone());
    cut.pop();
    assert_refused(&member, &admin, cut, "not issued by this swarm").await?;
    let early = certificate(&authority, member.id(), Role::Reader, now() + 900..now() + 1000);
    assert_refused(&member, &admin, early, "not valid for another").await?;
    // The control: with the right one it is kept.
    let right = certificate(&authority, member.id(), Role::Reader, valid);
    let _session = member.connect(admin.address, right).await?;
    Ok(())
}

#[tokio::test]
async fn another_swarms_member_gets_no_page() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let here = ground.create("here", &[]).await?;
    let lineage = here.run_vm(Guest { checkpoints: Some(1), ..Guest::default() }).await?;
    here.wait_checkpoint(&lineage, 0).await?;
    let there = ground.create("there", &["--peer", &here.address.to_string()]).await?;
    events::wait_for_text(here.directory(), PATIENCE, "connection_refused", "not issued by this swarm")
        .await?;

    let member = Member::new()?;
    let certificate = member.join(&there.ticket("publisher", 1000).await?).await?;
    assert_refused(&member, &here, certificate, "not issued by this swarm").await?;
    // Without a hello there is nothing either.
    let stranger = member.stranger(here.address).await?;
    let answers = member::ask_run(&stranger, run_request(lineage.parse()?)).await;
    assert!(answers.as_ref().map_or(true, Vec::is_empty), "a stranger got {answers:?}");
    assert_eq!(member::closed(&stranger).await?.code, u64::from(close::NOT_MEMBER));
    assert!(here.status().await?.peers.is_empty() && there.status().await?.peers.is_empty());
    assert!(there.status().await?.lineages.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_membership_ends_with_its_certificate() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let exact = ["--clock-skew", "0s"];
    let admin = ground.create("admin", &exact).await?;
    let ticket = admin.ticket("reader", 3).await?;
    let mut node = NodeProcess::start(&ground.path("node"), &["--join", &ticket], &exact).await?;
    node.wait_peer(&admin).await?;
    until("the expired member is disconnected", PATIENCE, async || {
        admin.status().await.ok()?.peers.is_empty().then_some(())
    })
    .await?;
    assert!(now() > node.status().await?.member_until_unix_s, "disconnected before the certificate expired");
    node.kill().await?;
    let again = run(node_run(node.directory(), node.address)?.args(exact)).await?;
    assert_eq!(again.code, Some(i32::from(ExitCode::NotMember as u8)), "{}", again.text);
    assert!(again.text.contains("expired") && again.text.contains("new ticket"), "{}", again.text);

    let member = Member::new()?;
    let expired = certificate(&authority_of(&admin)?, member.id(), Role::Reader, now() - 100..now() - 2);
    assert_refused(&member, &admin, expired, "expired").await
}

#[tokio::test]
async fn a_revoked_member_is_disconnected_everywhere() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let admin = ground.create("admin", &[]).await?;
    let other = ground.join("other", &admin, "reader", &[]).await?;
    let member = Member::new()?;
    let certificate = member.join(&admin.ticket("publisher", 1000).await?).await?;
    let at_admin = member.connect(admin.address, certificate.clone()).await?;
    let at_other = member.connect(other.address, certificate.clone()).await?;
    let directory = admin.directory().to_str().context("path is not text")?;
    let revoked = pageswarm(&["swarm", "revoke", "--dir", directory, &member.id().to_string()]).await?;
    assert_eq!(revoked.code, Some(0), "{}", revoked.text);
    for session in [&at_admin, &at_other] {
        let closed = session.closed().await?;
        assert_eq!(closed.code, u64::from(close::NOT_MEMBER), "{closed:?}");
        assert!(closed.why.contains("revoked"), "{closed:?}");
    }
    for node in [&admin, &other] {
        assert_refused(&member, node, certificate.clone(), "revoked").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_reader_may_not_run_vms_or_invite() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let admin = ground.create("admin", &[]).await?;
    let reader = ground.join("reader", &admin, "reader", &[]).await?;
    let directory = reader.directory().to_str().context("path is not text")?;
    let refused = ExitCode::NotMember as u8;
    let ran = pageswarm(&["vm", "run", "--dir", directory, "--memory", "64MiB"]).await?;
    assert_eq!(ran.code, Some(i32::from(refused)), "{}", ran.text);
    assert!(ran.text.contains("role reader") && ran.text.contains("publisher"), "{}", ran.text);
    let invited = pageswarm(&["swarm", "ticket", "--dir", directory]).await?;
    assert_eq!(invited.code, Some(i32::from(refused)), "{}", invited.text);
    Ok(())
}

/// Gives a writer's genesis and certificate to a node that asks, and nothing else.
async fn answer(session: &Session, genesis: &[u8], certificate: &[u8]) -> anyhow::Result<()> {
    while let Some((opening, mut send)) = session.asked().await {
        let record = match opening {
            Opening::Object(ObjectRequest::Genesis(_)) => genesis,
            Opening::Object(ObjectRequest::WriterCertificate(_)) => certificate,
            _ => {
                frames::write(&mut send, &ObjectAnswer::NotHeld.encode()).await?;
                continue;
            }
        };
        objects::write_answer(&mut send, Ok(record.to_vec())).await?;
    }
    anyhow::bail!("the node closed the connection")
}

#[tokio::test]
async fn a_lineage_written_by_a_reader_is_refused() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let admin = ground.create("admin", &[]).await?;
    let authority = authority_of(&admin)?;
    for (role, learnt) in [(Role::Reader, false), (Role::Publisher, true)] {
        let writer = Member::new()?;
        let certificate = certificate(&authority, writer.id(), role, now() - 10..now() + 1000);
        let genesis =
            Genesis { writer: writer.id(), nonce: [1; 16], pages: 64, interval_ms: 100, parent: None };
        let (genesis, lineage) = genesis.sign(&writer.key);
        let head = Head {
            lineage,
            index: CheckpointIndex(0),
            parent: ObjectHash(lineage.0),
            state_root: StateRoot([2; 32]),
            delta: ObjectName { hash: ObjectHash([3; 32]), length: 10 },
            keyframe: None,
            births: 0,
            taken_unix_ms: 0,
        };
        let mut session = writer.connect(admin.address, certificate.clone()).await?;
        session.tell(&Control::Follow(lineage)).await?;
        session.tell(&Control::Heads(vec![head.sign(&writer.key)])).await?;
        let answering = answer(&session, &genesis, &certificate);
        let judged = async {
            if learnt {
                let known = async || {
                    let status = admin.status().await.ok()?;
                    status.lineages.iter().any(|view| view.lineage == lineage.to_string()).then_some(())
                };
                return until("a publisher's lineage is followed", PATIENCE, known).await;
            }
            events::wait_for_text(admin.directory(), PATIENCE, "record_refused", "role reader").await?;
            assert!(admin.status().await?.lineages.is_empty(), "a reader's lineage is followed");
            Ok(())
        };
        tokio::select! {
            judged = judged => judged?,
            ended = answering => ended?,
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_ticket_admits_one_node_once() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let admin = ground.create("admin", &[]).await?;
    let ticket = admin.ticket("reader", 1000).await?;
    let first = Member::new()?;
    first.join(&ticket).await.context("the first use")?;
    let second = Member::new()?.join(&ticket).await;
    assert!(second.is_err(), "the ticket was taken twice");
    let any = "127.0.0.1:0".parse()?;
    let third = run(node_run(&ground.path("third"), any)?.args(["--join", &ticket])).await?;
    assert_eq!(third.code, Some(i32::from(ExitCode::NotMember as u8)), "{}", third.text);
    assert!(third.text.contains("used") && third.text.contains("new ticket"), "{}", third.text);

    let directory = admin.directory().to_str().context("path is not text")?;
    let brief = pageswarm(&["swarm", "ticket", "--dir", directory, "--open-for", "0s"]).await?;
    let opened = now();
    until("the clock moves on", Duration::from_secs(5), async || (now() > opened + 1).then_some(())).await?;
    let late = Member::new()?.join(brief.text.trim()).await;
    assert!(late.is_err(), "an expired invitation was taken");
    Ok(())
}

#[tokio::test]
async fn a_ticket_carries_addresses_that_lead_to_the_admin() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let everywhere = Place { listen: "0.0.0.0:0".parse()?, namespace: None };
    let admin = NodeProcess::start_at(everywhere, &ground.path("admin"), &["--create-swarm"], &[]).await?;
    let ticket: Ticket = admin.ticket("reader", 1000).await?.parse()?;
    let addresses = ticket.addresses.iter().map(|text| text.parse::<SocketAddr>());
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    assert!(addresses.iter().all(|address| !address.ip().is_unspecified()), "{addresses:?}");
    assert!(addresses.iter().all(|address| address.port() == admin.address.port()), "{addresses:?}");
    assert!(addresses.is_sorted_by_key(|address| address.ip().is_loopback()), "{addresses:?}");
    let _node = ground.join("node", &admin, "reader", &[]).await?;

    let advertise = ["--advertise", "192.0.2.7:7420", "--advertise", "[2001:db8::7]:7420"];
    let advertising = ground.create("advertising", &advertise).await?;
    let ticket: Ticket = advertising.ticket("reader", 1000).await?.parse()?;
    assert_eq!(ticket.addresses, ["192.0.2.7:7420", "[2001:db8::7]:7420"]);
    Ok(())
}

#[tokio::test]
async fn a_ticket_leads_past_addresses_where_nobody_answers() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let admin = ground.create("admin", &[]).await?;
    let mut ticket: Ticket = admin.ticket("reader", 1000).await?.parse()?;
    let silent = [UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?];
    for socket in &silent {
        ticket.addresses.insert(0, socket.local_addr()?.to_string());
    }
    // Nobody has an address for documentation (RFC 5737).
    ticket.addresses.insert(0, "192.0.2.1:9".to_owned());
    let start = Instant::now();
    let node = NodeProcess::start(&ground.path("node"), &["--join", &ticket.to_string()], &[]).await?;
    node.wait_peer(&admin).await?;
    let took = start.elapsed();
    println!("joined in {took:?}");
    assert!(took < HELLO_TIMEOUT, "{took:?}: a silent address is waited for to its end");
    Ok(())
}

#[tokio::test]
async fn an_invitation_that_is_not_answered_is_presented_at_the_next_address() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let admin = ground.create("admin", &[]).await?;
    let mut ticket: Ticket = admin.ticket("reader", 1000).await?.parse()?;
    // The admin's own key, on a way to it that breaks when the invitation comes.
    let key = identity::load(&admin.directory().join("node.key"))?.context("the admin has no key")?;
    let broken = endpoint::open("127.0.0.1:0".parse()?, &key)?.endpoint;
    ticket.addresses.insert(0, broken.local_addr()?.to_string());
    let breaking = async {
        let connection = broken.accept().await.context("the endpoint is closed")?.await?;
        let _presented = connection.accept_bi().await?;
        connection.close(close::PROTOCOL, b"broken");
        anyhow::Ok(())
    };
    let member = Member::new()?;
    let ticket = ticket.to_string();
    let breaking = tokio::time::timeout(PATIENCE, breaking);
    let (joined, broke) = tokio::join!(member.join(&ticket), breaking);
    broke.context("nobody came")??;
    let _session = member.connect(admin.address, joined?).await?;
    Ok(())
}

#[tokio::test]
async fn a_ticket_that_leads_nowhere_says_where_it_led_and_stays_good() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let admin = ground.create("admin", &[]).await?;
    let everywhere = Place { listen: "0.0.0.0:0".parse()?, namespace: None };
    let other = NodeProcess::start_at(everywhere, &ground.path("other"), &["--create-swarm"], &[]).await?;
    let good = admin.ticket("reader", 1000).await?;
    let mut ticket: Ticket = good.parse()?;
    // The last is of a kind that a node which listens on an IPv4 address cannot use.
    let hosts = ["127.0.0.1", "127.0.0.2", "[::1]"];
    ticket.addresses = hosts.map(|host| format!("{host}:{}", other.address.port())).into();
    let node = node_run(&ground.path("node"), "127.0.0.1:0".parse()?);
    let refused = run(node?.args(["--join", &ticket.to_string()])).await?;
    assert_eq!(refused.code, Some(i32::from(ExitCode::NotMember as u8)), "{}", refused.text);
    for said in ticket.addresses.iter().map(String::as_str).chain(["another node is there", "UDP"]) {
        assert!(refused.text.contains(said), "{said:?} is not in: {}", refused.text);
    }
    Member::new()?.join(&good).await.context("the invitation was spent on another node")?;
    Ok(())
}

#[tokio::test]
async fn a_member_is_answered_for_lineages_that_it_follows_only() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let lineage = publisher.run_vm(Guest { checkpoints: Some(1), ..Guest::default() }).await?;
    publisher.wait_checkpoint(&lineage, 0).await?;
    let member = Member::new()?;
    let certificate = member.join(&publisher.ticket("reader", 1000).await?).await?;
    let mut session = member.connect(publisher.address, certificate).await?;
    let refused = vec![RunAnswer::Refused { why: Refusal::NotAllowed }];
    assert_eq!(session.run(run_request(LineageId([9; 32]))).await?, refused, "an unknown lineage");
    let lineage: LineageId = lineage.parse()?;
    assert_eq!(session.run(run_request(lineage)).await?, refused, "a lineage that it does not follow");
    session.tell(&Control::Follow(lineage)).await?;
    // The control: the same request is answered once it follows.
    let served = async || {
        let answers = session.run(run_request(lineage)).await.ok()?;
        answers.iter().any(|answer| matches!(answer, RunAnswer::Chunk { .. })).then_some(())
    };
    until("a follower is served", PATIENCE, served).await
}
