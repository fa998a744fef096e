//! Goal: the testbed of docker-compose.yml brings a swarm up from an image, and a killed container costs no checkpoint.
//! Method: an image around the built binary on a Debian base made by debootstrap; a publisher and four nodes as
//! containers with Docker's default seccomp profile and no capability; one node is killed while it fetches, and the API
//! of the others says what arrived. Prints how long its steps took.

mod base;
mod container;
mod daemon;
mod testbed;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pageswarm_node::api::views::{CheckpointRequest, CheckpointView, SelfCheckView};
use pageswarm_tests::cluster::until;
use pageswarm_tests::skip::{Need, skipped};

use container::Container;
use daemon::{Daemon, compose_found, found};
use testbed::Testbed;

/// Nodes beside the publisher.
const NODES: usize = 4;
/// Checkpoints that the publisher's VM takes.
const CHECKPOINTS: u64 = 10;
/// The node that is killed.
const VICTIM: usize = 3;
/// For whatever one node does; the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(90);

/// Prints how long each step took.
struct Steps {
    start: Instant,
    last: Instant,
}

impl Steps {
    fn done(&mut self, step: &str) {
        let now = Instant::now();
        let (took, all) = (now - self.last, now - self.start);
        println!("{:>6.1} s  {step} (at {:.1} s)", took.as_secs_f64(), all.as_secs_f64());
        self.last = now;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_container_costs_no_checkpoint() -> Result<()> {
    let tools = ["docker", "dockerd", "debootstrap", "setpriv", "tar", "umount"];
    let missing = tools.into_iter().filter(|tool| !found(tool));
    let lacking: Vec<&str> = missing.chain((!compose_found()).then_some("docker-compose")).collect();
    if !lacking.is_empty() {
        println!("SKIP: not installed: {}", lacking.join(", "));
        return Ok(());
    }
    if skipped(&[Need::Root, Need::Kvm]) {
        return Ok(());
    }
    if !std::path::Path::new("/dev/userfaultfd").exists() {
        println!("SKIP: there is no /dev/userfaultfd");
        return Ok(());
    }
    let mut steps = Steps { start: Instant::now(), last: Instant::now() };
    let Some(tarball) = or_skip(base::tarball().await)? else {
        return Ok(());
    };
    steps.done("base image by debootstrap, or from the cache");
    let Some(daemon) = or_skip(Daemon::start().await)? else {
        return Ok(());
    };
    steps.done("docker daemon");
    let testbed = Testbed::build(&daemon, &tarball).await?;
    steps.done("image around the built binary");
    let outcome = scenario(&testbed, &mut steps).await;
    if outcome.is_err() {
        testbed.print_logs().await;
    }
    let down = testbed.down().await;
    let ended = daemon.end().await;
    steps.done("everything taken down");
    outcome.and(down).and(ended)
}

/// What is installed and does not work is a failure where CI says that it must, and a visible skip elsewhere.
fn or_skip<T>(made: Result<T>) -> Result<Option<T>> {
    match made {
        Ok(made) => Ok(Some(made)),
        Err(error) if std::env::var("CI").as_deref() == Ok("true") => Err(error),
        Err(error) => {
            println!("SKIP: {error:#}");
            Ok(None)
        }
    }
}

async fn scenario(testbed: &Testbed<'_>, steps: &mut Steps) -> Result<()> {
    testbed.up(NODES, CHECKPOINTS).await?;
    let publisher = testbed.containers("publisher").await?.pop().context("no publisher")?;
    let nodes = testbed.containers("node").await?;
    ensure!(nodes.len() == NODES, "{} nodes", nodes.len());
    for member in nodes.iter().chain([&publisher]) {
        member.wait_peers(NODES, PATIENCE).await?;
        member.check_confinement()?;
    }
    steps.done("containers up, every node connected with all others");

    let lineage = publisher.lineage(PATIENCE).await?;
    kill_while_it_fetches(testbed, &nodes[VICTIM], &lineage).await?;
    steps.done("a node killed with SIGKILL while it fetches");

    let survivors: Vec<&Container> =
        nodes.iter().enumerate().filter(|(n, _)| *n != VICTIM).map(|(_, node)| node).collect();
    let shares = survivors
        .iter()
        .enumerate()
        .map(|(number, node)| take_share(node, &lineage, number, survivors.len()));
    let roots: Vec<(u64, String)> = futures::future::try_join_all(shares).await?.concat();
    steps.done("every checkpoint fetched by one of the others, read back and hashed");

    let heads: Vec<CheckpointView> =
        publisher.client.get(&format!("/api/v1/lineages/{lineage}/checkpoints")).await?;
    ensure!(heads.len() as u64 == CHECKPOINTS, "{} checkpoints were announced", heads.len());
    for head in &heads {
        let rebuilt = roots.iter().find(|(index, _)| *index == head.index).map(|(_, root)| root);
        ensure!(rebuilt == Some(&head.state_root), "checkpoint {} was rebuilt as {rebuilt:?}", head.index);
    }
    futures::future::try_join_all(survivors.iter().map(|node| hold_all(node, &lineage, &heads))).await?;
    steps.done("all checkpoints held whole by each of the others");

    resume(survivors[0], &lineage).await?;
    steps.done("the last one resumed lazily in a container, its guest checked all memory");
    let metrics = testbed.published("/metrics").await?;
    let last = format!("pageswarm_checkpoint_index {}", CHECKPOINTS - 1);
    ensure!(metrics.contains(&last), "the published port does not show {last}: {metrics}");
    Ok(())
}

/// Lets the victim fetch checkpoint 0, which is all of the guest's memory, and kills it after the first bytes.
async fn kill_while_it_fetches(testbed: &Testbed<'_>, victim: &Container, lineage: &str) -> Result<()> {
    let asking = async {
        match victim.fetch(lineage, 0, PATIENCE).await {
            Ok(fetched) => {
                bail!("the victim had all in {} ms, before it could be killed", fetched.took_ms);
            }
            Err(error) => {
                println!("the victim's fetch was cut off: {error:#}");
                Ok(())
            }
        }
    };
    let killing = async {
        until("the victim receives chunks", PATIENCE, async || {
            let transfer = victim.status().await.ok()?.transfer;
            (transfer.from_writer_bytes + transfer.from_peers_bytes > 0).then_some(())
        })
        .await?;
        testbed.kill(victim).await
    };
    // The fetch stays asked for until the kill: a node gives up what nobody waits for.
    let (cut_off, killed) = tokio::join!(asking, killing);
    killed?;
    cut_off?;
    ensure!(victim.status().await.is_err(), "the killed node still answers");
    Ok(())
}

/// Fetches and rebuilds every checkpoint whose number falls to this node; their roots.
async fn take_share(node: &Container, lineage: &str, number: usize, of: usize) -> Result<Vec<(u64, String)>> {
    let mut roots = Vec::new();
    for index in (number as u64..CHECKPOINTS).step_by(of) {
        node.fetch(lineage, index, PATIENCE).await?;
        roots.push((index, node.rebuild(lineage, index).await?.state_root));
    }
    Ok(roots)
}

/// Fetches what this node lacks and makes sure that it then lacks nothing of any checkpoint.
async fn hold_all(node: &Container, lineage: &str, heads: &[CheckpointView]) -> Result<()> {
    for head in heads {
        node.fetch(lineage, head.index, PATIENCE).await?;
    }
    for head in heads {
        let held = node.checkpoint(lineage, head.index).await?;
        ensure!(
            held.lacked_chunks == 0,
            "{} lacks {} chunks of checkpoint {}",
            node.name,
            held.lacked_chunks,
            head.index
        );
        ensure!(
            held.head.state_root == head.state_root,
            "{} knows another checkpoint {}",
            node.name,
            head.index
        );
    }
    Ok(())
}

async fn resume(node: &Container, lineage: &str) -> Result<()> {
    let patience_ms = u64::try_from(PATIENCE.as_millis()).ok();
    let request = CheckpointRequest {
        index: CHECKPOINTS - 1,
        patience_ms,
        lineage: lineage.to_owned(),
        by_faults: true,
        ..Default::default()
    };
    let check: SelfCheckView = node.client.post("/api/v1/checkpoints/self-check", &request).await?;
    ensure!(check.holds, "the resumed guest's self-check: {check:?}");
    ensure!(check.faults > Some(0), "no page fault was answered: {check:?}");
    Ok(())
}
