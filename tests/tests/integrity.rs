//! Wrong bytes on the wire and on the disk, and a source that dies: noticed, reported, fetched again, never given to
//! a guest. Method: real nodes, a hand-made member that passes on what the publisher sends with one bit changed,
//! bytes changed in the files of a stopped node.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use pageswarm_checkpoint::wire::{BirthRange, Control, ObjectAnswer, Opening, Patience, RunAnswer};
use pageswarm_checkpoint::{Birth, LineageId};
use pageswarm_node::limits::FAULT_TIMEOUT;
use pageswarm_node::peers::close;
use pageswarm_node::transport::frames;
use pageswarm_tests::calls::Guest;
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE, until};
use pageswarm_tests::events;
use pageswarm_tests::member::{Member, Session};
use pageswarm_tests::skip::{Need, skipped};
use quinn::SendStream;

/// Guests whose pages take long enough to arrive that a source can die meanwhile.
const LARGE_BYTES: u64 = 256 << 20;

/// Answers `asker` with what `source` sends, one bit of every chunk changed.
async fn pass_on_bent(source: &Session, asker: &Session) -> anyhow::Result<()> {
    while let Some((opening, mut send)) = asker.asked().await {
        match opening {
            Opening::Run(mut run) => {
                run.patience = Patience::Insist;
                for answer in source.run(run).await? {
                    write(&mut send, &bent(answer)).await?;
                }
            }
            _ => frames::write(&mut send, &ObjectAnswer::NotHeld.encode()).await?,
        }
        let _gone = send.finish();
    }
    Ok(())
}

async fn write(send: &mut SendStream, answer: &RunAnswer) -> anyhow::Result<()> {
    // The asker may have banned us meanwhile; the loop sees that.
    let _gone = frames::write(send, &answer.encode()).await;
    Ok(())
}

fn bent(answer: RunAnswer) -> RunAnswer {
    match answer {
        RunAnswer::Chunk { birth, mut chunk } => {
            if let Some(byte) = chunk.bytes.last_mut() {
                *byte ^= 1;
            }
            RunAnswer::Chunk { birth, chunk }
        }
        other => other,
    }
}

/// Checks that events, status and metrics name the wrong bytes and the ban of their sender.
async fn assert_reported(victim: &NodeProcess, hostile: &str) -> anyhow::Result<()> {
    events::wait_for_text(victim.directory(), PATIENCE, "chunk_corrupt", hostile).await?;
    events::wait_for_text(victim.directory(), PATIENCE, "peer_banned", hostile).await?;
    let status = victim.status().await?;
    println!("{} chunks came with wrong bytes", status.transfer.corrupt_chunks);
    assert!(status.transfer.corrupt_chunks > 0);
    assert!(victim.metric("pageswarm_chunks_corrupt_total").await? >= status.transfer.corrupt_chunks);
    Ok(())
}

#[tokio::test]
async fn wrong_bytes_on_the_wire_are_refused_and_their_sender_banned() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let victim = ground.join("victim", &publisher, "reader", &[]).await?;
    let lineage = publisher.run_vm(Guest { checkpoints: Some(2), ..Guest::default() }).await?;
    let births = victim.wait_checkpoint(&lineage, 1).await?.births;
    let member = Member::new()?;
    let certificate = member.join(&publisher.ticket("reader", 1000).await?).await?;
    let id: LineageId = lineage.parse()?;
    let mut source = member.connect(publisher.address, certificate.clone()).await?;
    let mut asker = member.connect(victim.address, certificate.clone()).await?;
    source.tell(&Control::Follow(id)).await?;
    asker.tell(&Control::Follow(id)).await?;
    let all = vec![BirthRange { first: Birth(0), length: births }];
    asker.tell(&Control::Have { lineage: id, births: all }).await?;

    let (got, passed_on) = tokio::join!(victim.get(&lineage, 1), async {
        tokio::select! {
            ended = pass_on_bent(&source, &asker) => ended,
            () = tokio::time::sleep(PATIENCE) => anyhow::bail!("the hostile member was not banned"),
        }
    });
    passed_on?;
    let (_, rebuilt) = got?;
    assert_eq!(rebuilt.state_root, publisher.checkpoint(&lineage, 1).await?.head.state_root);
    let closed = asker.closed().await?;
    assert_eq!(closed.code, u64::from(close::BANNED), "{closed:?}");
    assert_reported(&victim, &member.id().to_string()).await?;
    // Nothing wrong is in the store: every chunk was hashed again just now, and the guest finds no wrong byte.
    assert_eq!(victim.status().await?.store.bad_chunks, 0);
    let check = victim.self_check(&lineage, 1, PATIENCE).await?;
    assert!(check.holds, "{check:?}");
    let again = match member.connect(victim.address, certificate).await {
        Ok(session) => session.closed().await?.why,
        Err(error) => error.to_string(),
    };
    assert!(again.contains("banned"), "{again}");
    Ok(())
}

/// Changes one bit in each of `count` places spread over the largest file of `directory` with that ending.
fn bend_file(directory: &Path, ending: &str, count: u64) -> anyhow::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(ending) {
            files.push((entry.metadata()?.len(), entry.path()));
        }
    }
    let (length, path) =
        files.into_iter().max().with_context(|| format!("no {ending} in {}", directory.display()))?;
    ensure!(length > 4096, "{} is too short", path.display());
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path)?;
    for place in 1..=count {
        let at = length * place / (count + 1);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 0x10], at)?;
    }
    Ok(())
}

/// A publisher, and a node that has fetched checkpoint 1 and was stopped. It keeps no copy of what it proved, so that a
/// guest gets its pages from the store.
async fn stopped_holder(ground: &Ground) -> anyhow::Result<(NodeProcess, NodeProcess, String)> {
    let publisher = ground.create("publisher", &[]).await?;
    let mut node = ground.join("node", &publisher, "reader", &["--image-memory", "0"]).await?;
    let lineage = publisher.run_vm(Guest { checkpoints: Some(2), ..Guest::default() }).await?;
    node.wait_checkpoint(&lineage, 1).await?;
    node.get(&lineage, 1).await?;
    node.end().await?;
    Ok((publisher, node, lineage))
}

/// Gets the checkpoint again and again until all that was damaged is replaced.
async fn heal(publisher: &NodeProcess, node: &NodeProcess, lineage: &str) -> anyhow::Result<()> {
    let root = publisher.checkpoint(lineage, 1).await?.head.state_root;
    let rebuilt = until("the checkpoint is whole again", PATIENCE, async || {
        node.fetch(lineage, 1).await.ok()?;
        node.rebuild(lineage, 1).await.ok()
    })
    .await?;
    assert_eq!(rebuilt.state_root, root);
    Ok(())
}

/// Checks that chunks came from others since the node was started again.
async fn fetched_again(node: &NodeProcess) -> anyhow::Result<()> {
    let peers = node.status().await?.peers;
    let bytes: u64 = peers.iter().map(|peer| peer.chunks_down_bytes).sum();
    ensure!(bytes > 0, "nothing was fetched again");
    Ok(())
}

#[tokio::test]
async fn a_bit_flipped_in_a_pack_is_noticed_reported_and_fetched_again() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let (publisher, mut node, lineage) = stopped_holder(&ground).await?;
    bend_file(&node.directory().join("store/packs"), ".pack", 8)?;
    node.restart(&[&publisher]).await?;
    node.wait_peer(&publisher).await?;
    heal(&publisher, &node, &lineage).await?;
    events::wait_for(node.directory(), PATIENCE, |event| event["event"] == "chunk_bad").await?;
    fetched_again(&node).await?;
    let check = node.self_check(&lineage, 1, PATIENCE).await?;
    assert!(check.holds, "{check:?}");
    Ok(())
}

#[tokio::test]
async fn a_guest_never_sees_a_bit_flipped_in_a_pack() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let (publisher, mut node, lineage) = stopped_holder(&ground).await?;
    bend_file(&node.directory().join("store/packs"), ".pack", 8)?;
    node.restart(&[&publisher]).await?;
    node.wait_peer(&publisher).await?;
    // Straight to the guest, with nothing healed before: what is found bad just then comes from the swarm.
    let check = node.self_check(&lineage, 1, PATIENCE).await?;
    assert!(check.holds, "{check:?}");
    assert!(check.counter_after > check.counter_before);
    events::wait_for(node.directory(), PATIENCE, |event| event["event"] == "chunk_bad").await?;
    fetched_again(&node).await?;
    Ok(())
}

#[tokio::test]
async fn a_guest_starts_from_the_copy_of_a_proven_checkpoint() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let node = ground.join("node", &publisher, "reader", &[]).await?;
    let guest = Guest { checkpoints: Some(2), ..Guest::default() };
    let ram_bytes = guest.ram_bytes;
    let lineage = publisher.run_vm(guest).await?;
    node.wait_checkpoint(&lineage, 1).await?;
    node.get(&lineage, 1).await?;
    assert_eq!(node.metric("pageswarm_images_bytes").await?, ram_bytes);
    // In the middle of the pack are pages. With the copy nobody reads them again, so nobody finds them bad.
    bend_file(&node.directory().join("store/packs"), ".pack", 1)?;
    let check = node.self_check(&lineage, 1, PATIENCE).await?;
    assert!(check.holds, "{check:?}");
    assert_eq!(node.metric("pageswarm_chunks_bad_total").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_bit_flipped_in_the_index_never_reaches_a_checkpoint() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let (publisher, mut node, lineage) = stopped_holder(&ground).await?;
    let index = node.directory().join("store/index");
    bend_file(&index, ".log", 8)?;
    node.restart(&[&publisher]).await?;
    let repaired =
        events::wait_for(node.directory(), PATIENCE, |event| event["event"] == "store_repaired").await?;
    let found = [&repaired["records_recovered"], &repaired["index_rebuilt"]];
    ensure!(found[0].as_u64() > Some(0) || found[1] == true, "{repaired}");
    node.wait_peer(&publisher).await?;
    node.wait_checkpoint(&lineage, 1).await?;
    heal(&publisher, &node, &lineage).await?;
    let check = node.self_check(&lineage, 1, PATIENCE).await?;
    assert!(check.holds, "{check:?}");
    Ok(())
}

#[tokio::test]
async fn a_guest_without_its_pages_gets_them_by_faults_over_the_swarm() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let node = ground.join("node", &publisher, "reader", &[]).await?;
    let lineage = publisher.run_vm(Guest { checkpoints: Some(2), ..Guest::default() }).await?;
    node.wait_checkpoint(&lineage, 1).await?;
    let lacked = node.checkpoint(&lineage, 1).await?.lacked_chunks;
    assert!(lacked > 1000, "the node lacks {lacked} chunks only");
    let check = node.self_check(&lineage, 1, PATIENCE).await?;
    println!("{check:?}");
    assert!(check.holds, "{check:?}");
    assert!(check.faults > Some(0), "no page was missing when the guest touched it");
    Ok(())
}

#[tokio::test]
async fn a_guest_whose_only_source_dies_fails_in_time_and_names_the_page() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let mut publisher = ground.create("publisher", &[]).await?;
    let node = ground.join("node", &publisher, "reader", &[]).await?;
    let lineage =
        publisher.run_vm(Guest { checkpoints: Some(2), ram_bytes: LARGE_BYTES, ..Guest::default() }).await?;
    node.wait_checkpoint(&lineage, 1).await?;
    let patience = FAULT_TIMEOUT * 2;
    let killing = async {
        let arriving = async || (node.status().await.ok()?.store.chunks > 20).then_some(());
        until("the guest's first pages arrive", PATIENCE, arriving).await?;
        publisher.kill().await?;
        anyhow::Ok(Instant::now())
    };
    let (check, killed) = tokio::join!(node.self_check(&lineage, 1, patience), killing);
    let (check, took) = (check?, killed?.elapsed());
    println!("{took:?} after the source died: {check:?}");
    let left = node.checkpoint(&lineage, 1).await?.lacked_chunks;
    ensure!(left > 0, "everything had arrived before the source was killed");
    let died = check.died.context("the guest lacks pages and did not fail")?;
    assert!(died.contains("page "), "the reason does not name the page: {died}");
    assert!(!check.holds);
    assert_eq!(check.wrong_page, None);
    assert!(took < FAULT_TIMEOUT + Duration::from_secs(5), "it took {took:?}");
    node.status().await.context("the node still serves")?;
    Ok(())
}
