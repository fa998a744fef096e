//! Intervals simulated on nodes that fetched their checkpoints: each ends bit for bit as the checkpoint after it; what
//! was not recorded, or does not exist, is refused. Method: a real VM on KVM, real nodes, the real command line; the
//! state root that a simulation ends with is compared with the signed head's.

use anyhow::{Context as _, ensure};
use pageswarm_node::api::simulations::SimulationView;
use pageswarm_node::api::views::{CheckpointRequest, ImportView};
use pageswarm_tests::calls::Guest;
use pageswarm_tests::cluster::{Ground, NodeProcess};
use pageswarm_tests::command::{Outcome, pageswarm};
use pageswarm_tests::noise::noise;
use pageswarm_tests::skip::{Need, skipped};
use std::time::{Duration, Instant};

/// Checkpoints of the recording; there is an interval less.
const CHECKPOINTS: u64 = 9;

async fn sim_run(node: &NodeProcess, arguments: &[&str]) -> anyhow::Result<Outcome> {
    let directory = node.directory().to_string_lossy().into_owned();
    let command = ["sim", "run", "--json", "--dir", &directory];
    pageswarm(&[&command, arguments].concat()).await
}

/// Simulates `count` intervals and compares the end of each with the head that this node has of it.
async fn assert_exact(node: &NodeProcess, lineage: &str, first: u64, count: u64) -> anyhow::Result<()> {
    let outcome = sim_run(node, &[lineage, &first.to_string(), "--count", &count.to_string()]).await?;
    ensure!(outcome.code == Some(0), "intervals from {first}: {outcome:?}");
    let views: Vec<SimulationView> = serde_json::from_str(&outcome.text)?;
    assert_eq!(views.len() as u64, count);
    for (view, interval) in views.iter().zip(first..) {
        assert_eq!(view.interval, interval);
        let head = node.checkpoint(lineage, interval + 1).await?.head;
        assert_eq!(view.state_root, head.state_root, "end of interval {interval}");
        ensure!(
            view.instructions > 10_000 && view.changed_pages > 0,
            "interval {interval} did nothing: {view:?}"
        );
        println!(
            "interval {interval}: {} instructions in {} ms, {} pages changed",
            view.instructions, view.simulation_ms, view.changed_pages
        );
    }
    Ok(())
}

#[tokio::test]
async fn intervals_end_as_their_checkpoints_on_nodes_that_fetched_them() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let workers = [
        ground.join("worker", &publisher, "reader", &[]).await?,
        ground.join("other", &publisher, "reader", &[]).await?,
    ];
    let guest = Guest { checkpoints: Some(CHECKPOINTS), interval_ms: 100, ..Guest::default() };
    let lineage = publisher.run_vm(guest).await?;
    for worker in &workers {
        worker.wait_checkpoint(&lineage, CHECKPOINTS - 1).await?;
    }
    let half = (CHECKPOINTS - 1) / 2;
    let [worker, other] = &workers;
    let (one, two) = tokio::join!(
        assert_exact(worker, &lineage, 0, half),
        assert_exact(other, &lineage, half, CHECKPOINTS - 1 - half)
    );
    one.and(two)
}

/// One interval, simulated on a node in one way.
async fn simulated(node: &NodeProcess, lineage: &str, restore: &str) -> anyhow::Result<SimulationView> {
    let outcome = sim_run(node, &[lineage, "3", "--restore", restore]).await?;
    ensure!(outcome.code == Some(0), "{restore} restore: {outcome:?}");
    let mut views: Vec<SimulationView> = serde_json::from_str(&outcome.text)?;
    ensure!(views.len() == 1, "{restore} restore: {views:?}");
    views.pop().context("one view")
}

#[tokio::test]
async fn a_lazy_simulation_fetches_what_it_touches_and_knows_it_the_next_time() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &[]).await?;
    let worker = ground.join("worker", &publisher, "reader", &[]).await?;
    let guest = Guest { checkpoints: Some(5), interval_ms: 100, ..Guest::default() };
    let lineage = publisher.run_vm(guest).await?;
    worker.wait_checkpoint(&lineage, 4).await?;
    let first = simulated(&worker, &lineage, "lazy").await?;
    let pages = worker.checkpoint(&lineage, 3).await?.filled_pages;
    let used = first.memory.as_ref().context("a lazy simulation says how it used its memory")?;
    ensure!(used.touched_pages > 100 && used.touched_pages < pages / 2, "{used:?} of {pages} pages");
    ensure!(used.hit_pages > used.touched_pages / 4 && used.hit_pages <= used.expected_pages, "{used:?}");
    ensure!(used.awaited_pages > 0, "nothing was here before: {used:?}");
    let held = worker.status().await?.store.chunks;
    ensure!(held < pages, "{held} chunks are held, the checkpoint has {pages} pages: all of it was fetched");
    // What it touched is known and here now.
    let again = simulated(&worker, &lineage, "lazy").await?;
    let known = again.memory.as_ref().context("a lazy simulation says how it used its memory")?;
    assert_eq!(
        (known.expected_pages, known.hit_pages),
        (used.touched_pages, used.touched_pages),
        "{known:?}"
    );
    assert_eq!((known.touched_pages, known.awaited_pages), (used.touched_pages, 0), "{known:?}");
    let full = simulated(&worker, &lineage, "full").await?;
    assert!(full.memory.is_none() && full.lacked_chunks > 0, "{full:?}");
    for other in [again, full] {
        assert_eq!(other.state_root, first.state_root);
        assert_eq!(other.instructions, first.instructions);
    }
    Ok(())
}

#[tokio::test]
async fn a_page_that_nobody_has_ends_a_lazy_simulation_in_time() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let mut publisher = ground.create("publisher", &[]).await?;
    let worker = ground.join("worker", &publisher, "reader", &[]).await?;
    let guest = Guest { checkpoints: Some(4), interval_ms: 100, ..Guest::default() };
    let lineage = publisher.run_vm(guest).await?;
    worker.wait_checkpoint(&lineage, 3).await?;
    // These bring the processor's states at both ends of interval 1, and not what interval 0 wrote.
    for interval in ["0", "2"] {
        let outcome = sim_run(&worker, &[&lineage, interval]).await?;
        ensure!(outcome.code == Some(0), "interval {interval}: {outcome:?}");
    }
    publisher.kill().await?;
    let clock = Instant::now();
    let outcome = sim_run(&worker, &[&lineage, "1"]).await?;
    assert_eq!(outcome.code, Some(19), "{outcome:?}");
    ensure!(outcome.text.contains("of checkpoint 1 did not come within 15 s"), "{outcome:?}");
    let took = clock.elapsed().as_secs();
    ensure!((14..25).contains(&took), "after {took} s: {outcome:?}");
    // Nothing of it is wanted any more.
    let clock = Instant::now();
    while worker.metric("pageswarm_wants").await? > 0 {
        ensure!(clock.elapsed() < Duration::from_secs(10), "wants stay open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn what_was_not_recorded_is_refused() -> anyhow::Result<()> {
    let ground = Ground::new()?;
    let node = ground.create("node", &[]).await?;
    let (image, directory) = (ground.path("image"), node.directory().to_string_lossy().into_owned());
    let mut lineage: Option<String> = None;
    for seed in [1, 2] {
        std::fs::write(&image, noise(seed, 64 * 4096))?;
        let mut command = vec![
            "checkpoint",
            "import",
            "--json",
            "--dir",
            &directory,
            "--memory",
            image.to_str().unwrap_or(""),
        ];
        if let Some(lineage) = &lineage {
            command.extend(["--lineage", lineage]);
        }
        let outcome = pageswarm(&command).await?;
        ensure!(outcome.code == Some(0), "import: {outcome:?}");
        lineage = Some(serde_json::from_str::<ImportView>(&outcome.text)?.lineage);
    }
    let lineage = lineage.unwrap_or_default();
    let refused = sim_run(&node, &[&lineage, "0"]).await?;
    assert_eq!(refused.code, Some(20), "{refused:?}");
    ensure!(refused.text.contains("no record of the interval"), "{refused:?}");
    let absent = sim_run(&node, &[&lineage, "1", "--patience", "200ms"]).await?;
    assert_eq!(absent.code, Some(19), "{absent:?}");
    for wrong in [["0", "--count", "0"], ["18446744073709551615", "--count", "1"]] {
        let outcome = sim_run(&node, &[&[lineage.as_str()][..], &wrong].concat()).await?;
        assert_eq!(outcome.code, Some(2), "{wrong:?}: {outcome:?}");
    }
    let beyond = CheckpointRequest { lineage, index: u64::MAX, ..CheckpointRequest::default() };
    let refused = node.client().post::<SimulationView>("/api/v1/simulations", &beyond).await;
    assert_eq!(refused.err().map(|failure| failure.code as u8), Some(2));
    Ok(())
}
