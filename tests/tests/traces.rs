//! Traces that workers take travel through the swarm as checkpoints do: whoever is a member can fetch one, also when its
//! worker is gone, and gets the file that it would have written itself; what a result names and is not that is refused.
//! Method: a real VM on KVM, real nodes, the real command line, a worker that is killed, and a hand-made one that lies.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ed25519_dalek::SigningKey;
use pageswarm_checkpoint::codec::Take;
use pageswarm_checkpoint::wire::{Control, ObjectRequest};
use pageswarm_checkpoint::{
    AnnouncedResult, ArtefactPlace, CheckpointIndex, LineageId, ObjectHash, Outcome, SimulationFailure,
    SimulationResult, StateRoot, Trace, node_id, object_hash,
};
use pageswarm_node::api::traces::TraceView;
use pageswarm_node::exit::ExitCode;
use pageswarm_node::identity;
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
async fn a_trace_that_is_too_large_ends_the_work() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &["--simulate-twice", "0%"]).await?;
    let worker = ground.join("worker", &publisher, "worker", &[]).await?;
    let guest = Guest { checkpoints: Some(CHECKPOINTS), interval_ms: 50, ..Guest::default() };
    let lineage = publisher.run_vm(guest).await?;
    worker.wait_checkpoint(&lineage, CHECKPOINTS - 1).await?;
    let small = [lineage.as_str(), "--until-done", "--trace", "--trace-size-max", "1"];
    let ran = run(&worker, &["sim", "work"], &small).await?;
    ensure!(ran.code == Some(ExitCode::DiskFull as i32) && ran.text.contains("larger limit"), "{ran:?}");
    Ok(())
}

/// Results that name a true trace of interval 0 as what it is not.
struct Lies {
    lineage: LineageId,
    publisher_roots: Vec<StateRoot>,
    place: ArtefactPlace,
    bytes: u64,
    number: u64,
    parent: ObjectHash,
}

impl Lies {
    fn tell(&mut self, key: &SigningKey, interval: u64, digest: [u8; 32]) -> anyhow::Result<Vec<u8>> {
        let trace = Trace { digest, bytes: self.bytes, place: Some(self.place) };
        let result = SimulationResult {
            worker: node_id(key),
            lineage: self.lineage,
            number: self.number,
            parent: self.parent,
            interval: CheckpointIndex(interval),
            input_root: self.publisher_roots[usize::try_from(interval)?],
            simulator: build_of(&program()?)?,
            options: b"trace with values".to_vec(),
            outcome: Outcome::Failed(SimulationFailure::NotReplayed),
            simulation_ms: 1,
            finished_unix_ms: 2,
            trace: Some(trace),
        };
        let record = result.sign(key);
        (self.number, self.parent) = (self.number + 1, object_hash(&record));
        Ok(record)
    }
}

#[tokio::test]
async fn a_trace_that_is_not_what_its_result_names_is_refused() -> anyhow::Result<()> {
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
    run_well(&worker, &["sim", "run"], &[&lineage, "0", "--publish", "--trace"]).await?;
    let view = offered(&publisher, &lineage, 1).await?.remove(0);

    let other = Member::new()?;
    let certificate = other.join(&publisher.ticket("worker", 1000).await?).await?;
    let mut session = other.connect(publisher.address, certificate.clone()).await?;
    let key = identity::load(&worker.directory().join("node.key"))?.context("the worker has a key")?;
    let id: LineageId = lineage.parse()?;
    let request = ObjectRequest::Results { lineage: id, worker: node_id(&key), from: 0 };
    let log = session.object(request).await?.context("the publisher has the worker's log")?;
    let true_one = AnnouncedResult::take_list(&mut Take::new(&log))?.remove(0);
    let place = ArtefactPlace { lineage: view.artefacts.parse()?, index: CheckpointIndex(view.index) };
    let mut publisher_roots = Vec::new();
    for index in 0..CHECKPOINTS {
        publisher_roots.push(publisher.checkpoint(&lineage, index).await?.head.state_root.parse()?);
    }
    let true_digest = view.digest.parse::<ObjectHash>()?.0;
    let (number, parent) = (1, true_one.hash());
    let mut own = Lies { lineage: id, publisher_roots, place, bytes: view.bytes, number, parent };
    // By the worker itself: the trace of another interval, and bytes that are not those named.
    let of_another = own.tell(&key, 1, true_digest)?;
    let of_nothing = own.tell(&key, 2, [7; 32])?;
    let announced = |record| AnnouncedResult { certificate: true_one.certificate.clone(), record };
    session.tell(&Control::Results(vec![announced(of_another), announced(of_nothing)])).await?;
    // By another: what is not its own.
    (own.number, own.parent) = (0, SimulationResult::first_parent(id));
    let record = own.tell(&other.key, 0, true_digest)?;
    session.tell(&Control::Results(vec![AnnouncedResult { certificate, record }])).await?;
    offered(&publisher, &lineage, 4).await?;
    for (interval, by) in [("0", other.id()), ("1", node_id(&key)), ("2", node_id(&key))] {
        let output = files.path().join("false");
        let (by, path) = (by.to_string(), output.to_string_lossy());
        let ran = run(&publisher, &["trace", "get"], &["--worker", &by, &lineage, interval, &path]).await?;
        ensure!(ran.code == Some(ExitCode::CheckFailed as i32) && !output.exists(), "{interval}: {ran:?}");
    }
    let ran = get(&publisher, &lineage, 0, &files.path().join("true")).await?;
    ensure!(ran.code == Some(0), "the false offer of another keeps the true one from being tried: {ran:?}");
    Ok(())
}
