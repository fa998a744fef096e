//! Transfers through failures: a node killed in the middle, a publisher gone, late joiners, branches. Method: real
//! nodes on the loopback, killed with SIGKILL; every checkpoint is read back and hashed against its signed head.

use anyhow::{Context as _, ensure};
use pageswarm_tests::calls::Guest;
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE, until};
use pageswarm_tests::events;
use pageswarm_tests::skip::{Need, skipped};

/// Nodes that may finish before they can be killed, until one is caught in the middle.
const ATTEMPTS: u64 = 5;

async fn assert_rebuilt(node: &NodeProcess, lineage: &str, index: u64) -> anyhow::Result<()> {
    let promised = node.checkpoint(lineage, index).await?.head.state_root;
    let (_, rebuilt) = node.get(lineage, index).await?;
    assert_eq!(rebuilt.state_root, promised, "checkpoint {index} in {}", node.directory().display());
    assert_eq!(node.checkpoint(lineage, index).await?.lacked_chunks, 0);
    Ok(())
}

/// Waits until `survivor` is connected with the new process of `node`, and not before the old connection timed out.
async fn assert_taken_back(survivor: &NodeProcess, node: &NodeProcess) -> anyhow::Result<()> {
    let left = events::wait_for_text(survivor.directory(), PATIENCE, "disconnected", &node.id).await?;
    let why = left["why"].as_str().context("no reason")?;
    ensure!(!why.contains("timed out"), "the old connection was kept until it timed out: {why}");
    node.wait_peer(survivor).await?;
    survivor.wait_peer(node).await
}

#[tokio::test]
async fn a_node_that_is_killed_and_started_again_is_taken_back_at_once() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let mut first = ground.create("first", &[]).await?;
    let mut second = ground.join("second", &first, "reader", &[]).await?;
    first.wait_peer(&second).await?;
    // The side that opened the connection, then the one that accepted it.
    second.kill().await?;
    second.restart(&[&first]).await?;
    assert_taken_back(&first, &second).await?;
    first.kill().await?;
    first.restart(&[&second]).await?;
    assert_taken_back(&second, &first).await
}

#[tokio::test]
async fn a_node_killed_in_mid_transfer_finishes_after_a_restart() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let guest = Guest { checkpoints: Some(2), ram_bytes: 256 << 20, ..Guest::default() };
    let lineage = publisher.run_vm(guest).await?;
    publisher.wait_checkpoint(&lineage, 1).await?;
    for attempt in 0..ATTEMPTS {
        let mut node = ground.join(&format!("node-{attempt}"), &publisher, "reader", &[]).await?;
        node.wait_checkpoint(&lineage, 1).await?;
        let lacked = node.checkpoint(&lineage, 1).await?.lacked_chunks;
        assert!(lacked > 0);
        let some_arrived = async || (node.status().await.ok()?.store.chunks > 200).then_some(());
        tokio::select! {
            fetched = node.fetch(&lineage, 1) => { fetched?; }
            arrived = until("the first chunks arrive", PATIENCE, some_arrived) => arrived?,
        }
        node.kill().await?;
        node.restart(&[&publisher]).await?;
        let left = node.checkpoint(&lineage, 1).await?.lacked_chunks;
        println!("attempt {attempt}: {left} of {lacked} chunks were still lacking after the kill");
        node.wait_peer(&publisher).await?;
        assert_rebuilt(&node, &lineage, 1).await?;
        if left > 0 && left < lacked {
            return Ok(());
        }
    }
    anyhow::bail!("no node was caught in the middle of its transfer")
}

/// The latest checkpoint of each of the lineages that the node says it holds wholly.
async fn held(node: &NodeProcess, lineages: [&str; 2]) -> anyhow::Result<[Option<u64>; 2]> {
    let status = node.status().await?;
    let find = |lineage: &str| status.lineages.iter().find(|view| view.lineage == lineage)?.held;
    Ok(lineages.map(find))
}

#[tokio::test]
async fn a_node_that_is_started_again_knows_what_it_holds() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let mut publisher = ground.create("publisher", &[]).await?;
    let mut reader = ground.join("reader", &publisher, "reader", &[]).await?;
    let lineage = publisher.run_vm(Guest { checkpoints: Some(3), ..Guest::default() }).await?;
    reader.wait_checkpoint(&lineage, 2).await?;
    let guest = Guest { checkpoints: Some(2), ..Guest::default() };
    let branch = publisher.continue_as_branch(guest, &lineage, 2).await?;
    reader.wait_checkpoint(&branch, 1).await?;
    // Of the checkpoint that the branch begins with the reader gets what the branch did not change at once.
    reader.fetch(&lineage, 1).await?;
    reader.fetch(&branch, 0).await?;
    for (node, expected) in [(&mut reader, [Some(1), Some(0)]), (&mut publisher, [Some(2), Some(1)])] {
        assert_eq!(held(node, [&lineage, &branch]).await?, expected, "before the kill");
        node.kill().await?;
        node.restart(&[]).await?;
        assert_eq!(held(node, [&lineage, &branch]).await?, expected, "after the restart");
    }
    Ok(())
}

#[tokio::test]
async fn without_the_publisher_the_others_finish_and_late_joiners_too() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let admin = ground.create("admin", &[]).await?;
    let mut publisher = ground.join("publisher", &admin, "publisher", &[]).await?;
    let other = ground.join("other", &admin, "reader", &[]).await?;
    let third = ground.join("third", &admin, "reader", &[]).await?;
    for node in [&other, &third] {
        node.wait_peer(&publisher).await?;
    }
    let lineage = publisher.run_vm(Guest { checkpoints: Some(4), ..Guest::default() }).await?;
    for node in [&admin, &other, &third] {
        node.wait_checkpoint(&lineage, 3).await?;
    }
    // Two nodes take two checkpoints each: jointly they hold everything, none of them does alone.
    for (node, indices) in [(&admin, [0, 2]), (&other, [1, 3])] {
        for index in indices {
            assert_rebuilt(node, &lineage, index).await?;
        }
    }
    for (node, index) in [(&admin, 3), (&other, 0), (&third, 3)] {
        let lacked = node.checkpoint(&lineage, index).await?.lacked_chunks;
        ensure!(lacked > 0, "checkpoint {index} is in {} already", node.directory().display());
    }
    publisher.kill().await?;
    let everywhere = async |node: &NodeProcess| {
        for index in [3, 0, 2, 1] {
            assert_rebuilt(node, &lineage, index).await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(everywhere(&admin), everywhere(&other), everywhere(&third))?;
    let transfer = third.status().await?.transfer;
    assert!(transfer.from_peers_bytes > 0, "the third node got nothing from members");
    assert_eq!(
        transfer.from_writer_bytes, 0,
        "the third node got bytes from a publisher that was killed before"
    );

    let late = ground.join("late", &admin, "reader", &[]).await?;
    late.wait_checkpoint(&lineage, 3).await?;
    for index in [0, 3] {
        assert_rebuilt(&late, &lineage, index).await?;
    }
    Ok(())
}

#[tokio::test]
async fn eight_nodes_with_room_for_four_peers_each_get_all_checkpoints() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let (ground, few) = (Ground::new()?, ["--peers-max", "4"]);
    let publisher = ground.create("publisher", &few).await?;
    let mut readers = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        readers.push(ground.join(name, &publisher, "reader", &few).await?);
    }
    let lineage = publisher.run_vm(Guest { checkpoints: Some(7), ..Guest::default() }).await?;
    for reader in &readers {
        reader.wait_checkpoint(&lineage, 6).await?;
    }
    let rebuilt = |index: usize| assert_rebuilt(&readers[index], &lineage, index as u64);
    let [a, b, c, d, e, f, g] = [0, 1, 2, 3, 4, 5, 6].map(rebuilt);
    tokio::try_join!(a, b, c, d, e, f, g)?;
    let mut sought = 0;
    for node in readers.iter().chain([&publisher]) {
        // One whose peers all needed its place for others has none for some seconds, until it dials again.
        let connected = until("it is connected", 3 * PATIENCE, async || {
            let peers = node.status().await.ok()?.peers.len();
            (peers > 0).then_some(peers)
        });
        let peers = connected.await.with_context(|| node.directory().display().to_string())?;
        ensure!(peers <= 4, "{} is connected with {peers}", node.directory().display());
        sought += node.metric("pageswarm_connections_sought_total").await?;
    }
    ensure!(sought > 0, "nobody had to ask for a connection");
    Ok(())
}

#[tokio::test]
async fn a_late_joiner_gets_an_old_checkpoint_while_the_vm_runs() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let lineage = publisher.run_vm(Guest { checkpoints: None, ..Guest::default() }).await?;
    publisher.wait_checkpoint(&lineage, 5).await?;
    let late = ground.join("late", &publisher, "reader", &[]).await?;
    late.wait_checkpoint(&lineage, 5).await?;
    for index in [1, 4] {
        assert_rebuilt(&late, &lineage, index).await?;
        let theirs = publisher.checkpoint(&lineage, index).await?.head.state_root;
        assert_eq!(late.rebuild(&lineage, index).await?.state_root, theirs);
    }
    let check = late.self_check(&lineage, 1, PATIENCE).await?;
    assert!(check.holds, "{check:?}");
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_continued_on_two_nodes_gives_two_branches_that_share_pages() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let first = ground.create("first", &[]).await?;
    let second = ground.join("second", &first, "publisher", &[]).await?;
    let reader = ground.join("reader", &first, "reader", &[]).await?;
    reader.wait_peer(&second).await?;
    let lineage = first.run_vm(Guest { checkpoints: Some(2), ..Guest::default() }).await?;
    second.wait_checkpoint(&lineage, 1).await?;
    let guest = Guest { checkpoints: Some(2), ..Guest::default() };
    let branches = [
        first.continue_as_branch(guest, &lineage, 1).await?,
        second.continue_as_branch(guest, &lineage, 1).await?,
    ];
    assert_ne!(branches[0], branches[1]);
    let root = first.checkpoint(&lineage, 1).await?.head.state_root;
    assert_rebuilt(&reader, &lineage, 1).await?;
    let mut held = reader.status().await?.store.chunks;
    for (branch, writer) in branches.iter().zip([&first, &second]) {
        writer.wait_checkpoint(branch, 1).await?;
        let known = reader.wait_checkpoint(branch, 1).await?;
        let parent = known.parent.context("a branch without a parent")?;
        assert_eq!((parent.lineage, parent.index, &parent.state_root), (lineage.clone(), 1, &root));
        assert_eq!(known.writer, writer.id);
        let detail = reader.checkpoint(branch, 1).await?;
        // A branch numbers only what is new in it; the rest of its pages are its ancestor's.
        assert!(detail.head.births < detail.filled_pages, "the branch shares no page with its ancestor");
        assert_rebuilt(&reader, branch, 1).await?;
        let grown = reader.status().await?.store.chunks - held;
        held += grown;
        println!(
            "{} pages, {} births of its own, {grown} chunks more",
            detail.filled_pages, detail.head.births
        );
        assert!(grown <= detail.head.births, "pages that the branches share were stored once more");
    }
    Ok(())
}
