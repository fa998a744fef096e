//! Traces that workers take travel through the swarm as checkpoints do: whoever is a member can fetch one, also when its
//! worker is gone, and gets the file that it would have written itself; what a result names and is not that is refused.
//! Method: a real VM on KVM, real nodes, the real command line, a worker that is killed, and a hand-made one that lies.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pageswarm_checkpoint::wire::Control;
use pageswarm_checkpoint::{
    AnnouncedResult, ArtefactPlace, CheckpointIndex, LineageId, Outcome, SimulationFailure, SimulationResult,
    Trace, object_hash,
};
use pageswarm_node::api::traces::TraceView;
use pageswarm_node::exit::ExitCode;
use pageswarm_node::work::build_of;
use pageswarm_tests::calls::Guest;
use pageswarm_tests::cluster::{Ground, NodeProcess, until};
use pageswarm_tests::command::{Outcome as Ran, pageswarm, program};
use pageswarm_tests::member::Member;
use pageswarm_tests::skip::{Need, skipped};

const CHECKPOINTS: u64 = 4;
const INTERVALS: u64 = CHECKPOINTS - 1;
const TRACES: usize = 3;
const LONG: Duration = Duration::from_secs(120);

/// `pageswarm WORDS --dir NODE REST`.
async fn run(node: &NodeProcess, words: &[&str], rest: &[&str]) -> anyhow::Result<Ran> {
    let directory = node.directory().to_string_lossy().into_owned();
    pageswarm(&[words, &["--dir", &directory], rest].concat()).await
}

async fn run_well(node: &NodeProcess, words: &[&str], rest: &[&str]) -> anyhow::Result<Ran> {
    let ran = run(node, words, rest).await?;
    ensure!(ran.code == Some(0), "{words:?} {rest:?}: {ran:?}");
    Ok(ran)
}

/// Waits until the node knows of so many traces.
async fn offered(node: &NodeProcess, lineage: &str, traces: usize) -> anyhow::Result<Vec<TraceView>> {
    until(&format!("{traces} traces"), LONG, async || {
        let path = format!("/api/v1/lineages/{lineage}/traces");
        let views: Vec<TraceView> = node.client().get(&path).await.ok()?;
        (views.len() >= traces).then_some(views)
    })
    .await
}

async fn get(node: &NodeProcess, lineage: &str, interval: u64, output: &Path) -> anyhow::Result<Ran> {
    let (interval, output) = (interval.to_string(), output.to_string_lossy());
    run(node, &["trace", "get"], &["--patience", "20s", lineage, &interval, &output]).await
}

#[tokio::test]
async fn a_trace_outlives_its_worker_and_is_what_anyone_would_take() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let files = tempfile::tempdir()?;
    let publisher = ground.create("publisher", &["--simulate-twice", "0%"]).await?;
    let mut worker = ground.join("worker", &publisher, "worker", &[]).await?;
    let one = ground.join("one", &publisher, "reader", &[]).await?;
    let two = ground.join("two", &publisher, "reader", &[]).await?;
    let guest = Guest { checkpoints: Some(CHECKPOINTS), interval_ms: 50, ..Guest::default() };
    let lineage = publisher.run_vm(guest).await?;
    for node in [&worker, &one, &two] {
        node.wait_checkpoint(&lineage, CHECKPOINTS - 1).await?;
    }
    let early = files.path().join("early");
    let ran = get(&one, &lineage, 1, &early).await?;
    ensure!(ran.code == Some(ExitCode::NotFound as i32) && ran.text.contains("--trace"), "{ran:?}");
    ensure!(!early.exists(), "a trace that nobody took was written");

    let ran = run_well(&worker, &["sim", "work"], &[&lineage, "--until-done", "--trace"]).await?;
    ensure!(ran.text.contains("trace of"), "{ran:?}");
    let views = offered(&one, &lineage, TRACES).await?;
    for (view, interval) in views.iter().zip(0..) {
        println!("{view:?}");
        assert_eq!((view.interval, &view.worker), (interval, &worker.id));
        ensure!(view.bytes > 10_000 && view.options == "trace with values", "{view:?}");
    }
    let of_worker = files.path().join("of-worker");
    let ran = get(&one, &lineage, 1, &of_worker).await?;
    ensure!(ran.code == Some(0) && ran.text.contains(&views[1].digest), "{ran:?}");

    worker.kill().await?;
    let of_reader = files.path().join("of-reader");
    let ran = get(&two, &lineage, 1, &of_reader).await?;
    ensure!(ran.code == Some(0), "{ran:?}");
    let own = files.path().join("own");
    run_well(&two, &["trace", "record"], &[&lineage, "1", &own.to_string_lossy()]).await?;
    let own = std::fs::read(own)?;
    ensure!(std::fs::read(of_worker)? == own && std::fs::read(of_reader)? == own, "traces differ");
    ensure!(object_hash(&own).to_string() == views[1].digest, "the result names another file");
    // Nobody fetched the others while their worker lived.
    let lost = files.path().join("lost");
    let ran = get(&two, &lineage, 2, &lost).await?;
    ensure!(ran.code == Some(ExitCode::NotFound as i32) && !lost.exists(), "{ran:?}");

    worker.restart(&[]).await?;
    let options = [lineage.as_str(), "2", "--publish", "--trace", "--without-values"];
    run_well(&worker, &["sim", "run"], &options).await?;
    let views = offered(&two, &lineage, TRACES + 1).await?;
    let last =
        views.iter().find(|view| view.index == INTERVALS).context("the lineage of artefacts goes on")?;
    assert_eq!((last.interval, &last.artefacts), (2, &views[0].artefacts));
    ensure!(last.options == "trace without values", "{last:?}");
    let ran = get(&two, &lineage, 2, &lost).await?;
    ensure!(ran.code == Some(0) && lost.exists(), "{ran:?}");
    run_well(&two, &["trace", "ls"], &[&lineage]).await.map(|ran| println!("{}", ran.text))
}

#[tokio::test]
async fn a_trace_that_is_too_large_ends_the_work_and_a_false_one_is_refused() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let files = tempfile::tempdir()?;
    let publisher = ground.create("publisher", &["--simulate-twice", "0%"]).await?;
    let worker = ground.join("worker", &publisher, "worker", &[]).await?;
    let guest = Guest { checkpoints: Some(CHECKPOINTS), interval_ms: 50, ..Guest::default() };
    let lineage = publisher.run_vm(guest).await?;
    worker.wait_checkpoint(&lineage, CHECKPOINTS - 1).await?;

    let small = [lineage.as_str(), "--until-done", "--trace", "--trace-size-max", "1"];
    let ran = run(&worker, &["sim", "work"], &small).await?;
    ensure!(ran.code == Some(ExitCode::DiskFull as i32) && ran.text.contains("larger limit"), "{ran:?}");
    let left = std::fs::read_dir(worker.directory())?.filter_map(Result::ok);
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    ensure!(!left.iter().any(|name| name.to_string_lossy().starts_with(".trace-")), "{left:?}");
    run_well(&worker, &["sim", "run"], &[&lineage, "0", "--publish", "--trace"]).await?;
    let true_one = offered(&publisher, &lineage, 1).await?.remove(0);

    // The place is that of another worker's trace.
    let liar = Member::new()?;
    let certificate = liar.join(&publisher.ticket("worker", 1000).await?).await?;
    let mut session = liar.connect(publisher.address, certificate.clone()).await?;
    let place = ArtefactPlace {
        lineage: true_one.artefacts.parse::<LineageId>()?,
        index: CheckpointIndex(true_one.index),
    };
    let result = SimulationResult {
        worker: liar.id(),
        lineage: lineage.parse()?,
        number: 0,
        parent: SimulationResult::first_parent(lineage.parse()?),
        interval: CheckpointIndex(1),
        input_root: publisher.checkpoint(&lineage, 1).await?.head.state_root.parse()?,
        simulator: build_of(&program()?)?,
        options: b"trace with values".to_vec(),
        outcome: Outcome::Failed(SimulationFailure::NotReplayed),
        simulation_ms: 1,
        finished_unix_ms: 2,
        trace: Some(Trace { digest: [7; 32], bytes: true_one.bytes, place: Some(place) }),
    };
    let record = result.sign(&liar.key);
    session.tell(&Control::Results(vec![AnnouncedResult { certificate, record }])).await?;
    offered(&publisher, &lineage, 2).await?;
    let output = files.path().join("false");
    let ran = get(&publisher, &lineage, 1, &output).await?;
    ensure!(ran.code == Some(ExitCode::CheckFailed as i32) && !output.exists(), "{ran:?}");
    let ran = get(&publisher, &lineage, 0, &output).await?;
    ensure!(ran.code == Some(0), "{ran:?}");
    Ok(())
}
