//! Workers that share a lineage's intervals: all of them come to be proven, whoever is killed; a result is known to
//! every member and survives restarts; a liar is found out; who is no worker is refused. Method: a real VM on KVM, real
//! nodes that are killed with SIGKILL, and a hand-made worker that signs what it likes.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pageswarm_checkpoint::wire::{Control, LeaseAnswer, LeaseRefusal, LeaseRequest, LeaseWish};
use pageswarm_checkpoint::{
    AnnouncedResult, CheckpointIndex, LineageId, ObjectHash, Outcome, SimulationResult, StateRoot, Work,
};
use pageswarm_node::api::work::{StandingsView, WorkView};
use pageswarm_node::exit::{ExitCode, Failure};
use pageswarm_node::work::build_of;
use pageswarm_tests::calls::Guest;
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE, until};
use pageswarm_tests::command::{pageswarm, program};
use pageswarm_tests::member::{Member, Session};
use pageswarm_tests::skip::{Need, skipped};
use tokio::task::JoinSet;

const CHECKPOINTS: u64 = 9;
const INTERVALS: u64 = CHECKPOINTS - 1;
/// What other tests leave of the processor may be little.
const LONG: Duration = Duration::from_secs(120);

/// Records a lineage and waits until all nodes know its last checkpoint.
async fn record(publisher: &NodeProcess, nodes: &[&NodeProcess]) -> anyhow::Result<String> {
    let guest = Guest { checkpoints: Some(CHECKPOINTS), interval_ms: 100, ..Guest::default() };
    let lineage = publisher.run_vm(guest).await?;
    publisher.wait_checkpoint(&lineage, CHECKPOINTS - 1).await?;
    for node in nodes {
        node.wait_checkpoint(&lineage, CHECKPOINTS - 1).await?;
    }
    Ok(lineage)
}

async fn ended(mut work: JoinSet<Result<WorkView, Failure>>) -> anyhow::Result<WorkView> {
    let joined = tokio::time::timeout(LONG, work.join_next()).await.context("the work does not end")?;
    Ok(joined.context("no work")???)
}

/// Waits until the node knows standings that are as wanted.
async fn wait_standings(
    node: &NodeProcess,
    lineage: &str,
    wanted: impl Fn(&StandingsView) -> bool,
) -> anyhow::Result<StandingsView> {
    let mut last = None;
    let found = until("standings", LONG, async || {
        let view = node.standings(lineage).await.ok()?;
        let found = wanted(&view).then(|| view.clone());
        last = Some(view);
        found
    });
    let found = found.await;
    found.with_context(|| format!("{} knows {last:?}", node.directory().display()))
}

async fn wait_refused(node: &NodeProcess, records: u64) -> anyhow::Result<()> {
    until(&format!("{records} records refused"), PATIENCE, async || {
        let status = node.status().await.ok()?;
        (status.transfer.refused_records >= records).then_some(())
    })
    .await
}

fn proven(view: &StandingsView) -> u64 {
    view.exact + view.confirmed
}

fn results(view: &StandingsView) -> u64 {
    view.workers.iter().map(|worker| worker.results).sum()
}

#[tokio::test]
async fn workers_share_the_intervals_and_every_member_has_the_results() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &["--simulate-twice", "0%"]).await?;
    let one = ground.join("one", &publisher, "worker", &[]).await?;
    let two = ground.join("two", &publisher, "worker", &[]).await?;
    let mut reader = ground.join("reader", &publisher, "reader", &[]).await?;
    let lineage = record(&publisher, &[&one, &two, &reader]).await?;
    let (of_one, of_two) = (one.start_work(&lineage), two.start_work(&lineage));
    let (of_one, of_two) = (ended(of_one).await?, ended(of_two).await?);
    for published in of_one.published.iter().chain(&of_two.published) {
        println!("{published:?}");
        ensure!(published.outcome == "ended" && published.instructions > 10_000, "{published:?}");
    }
    ensure!(!of_one.published.is_empty() && !of_two.published.is_empty(), "one of them did nothing");
    let published = (of_one.published.len() + of_two.published.len()) as u64;
    let all = |view: &StandingsView| proven(view) == INTERVALS && results(view) == published;
    let view = wait_standings(&publisher, &lineage, all).await?;
    ensure!(view.is_host && view.intervals == INTERVALS, "{view:?}");
    ensure!(results(&view) <= INTERVALS + view.leases_hedged, "work was done twice: {view:?}");
    let late = ground.join("late", &publisher, "reader", &[]).await?;
    for node in [&one, &two, &reader, &late] {
        let own = wait_standings(node, &lineage, all).await?;
        ensure!(!own.is_host, "{own:?}");
    }
    reader.end().await?;
    reader.restart(&[]).await?;
    ensure!(all(&reader.standings(&lineage).await?), "a restart loses results");
    let directory = reader.directory().to_string_lossy().into_owned();
    let refused = pageswarm(&["sim", "work", "--dir", &directory, &lineage, "--until-done"]).await?;
    ensure!(refused.code == Some(ExitCode::NotMember as i32), "{refused:?}");
    let shown = pageswarm(&["sim", "status", "--dir", &directory, &lineage]).await?;
    ensure!(shown.code == Some(0) && shown.text.contains("8 intervals: 0 open"), "{shown:?}");
    Ok(())
}

#[tokio::test]
async fn a_killed_worker_costs_only_what_it_held() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let options = ["--simulate-twice", "0%", "--lease-term", "3s"];
    let publisher = ground.create("publisher", &options).await?;
    let mut mortal = ground.join("mortal", &publisher, "worker", &[]).await?;
    let lineage = record(&publisher, &[&mortal]).await?;
    let work = mortal.start_work(&lineage);
    let before =
        wait_standings(&publisher, &lineage, |view| results(view) >= 1 && !view.leases.is_empty()).await?;
    mortal.kill().await?;
    drop(work);
    ensure!(results(&before) < INTERVALS, "it was killed too late: {before:?}");
    let other = ground.join("other", &publisher, "worker", &[]).await?;
    other.wait_checkpoint(&lineage, CHECKPOINTS - 1).await?;
    let worked = ended(other.start_work(&lineage)).await?;
    let view = wait_standings(&publisher, &lineage, |view| proven(view) == INTERVALS).await?;
    let of_mortal = view.workers.iter().find(|worker| worker.worker == mortal.id);
    let of_mortal = of_mortal.context("its results are gone")?.results;
    ensure!(of_mortal >= results(&before), "{view:?}");
    // Its results count; only what it held, two leases at most, was left to the other.
    ensure!(worked.published.len() as u64 + of_mortal == INTERVALS, "{worked:?} {view:?}");
    ensure!(view.leases_expired + view.leases_hedged > 0, "{view:?}");
    Ok(())
}

#[tokio::test]
async fn another_node_takes_over_the_lease_table_of_a_killed_one() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let mut publisher = ground.create("publisher", &["--simulate-twice", "0%"]).await?;
    let heir = ground.join("heir", &publisher, "publisher", &["--simulate-twice", "0%"]).await?;
    let worker = ground.join("worker", &publisher, "worker", &[]).await?;
    worker.wait_peer(&heir).await?;
    let lineage = record(&publisher, &[&heir, &worker]).await?;
    for index in 0..CHECKPOINTS {
        heir.fetch(&lineage, index).await?;
    }
    let work = worker.start_work(&lineage);
    let before = wait_standings(&publisher, &lineage, |view| results(view) >= 1).await?;
    publisher.kill().await?;
    ensure!(before.is_host && results(&before) < INTERVALS, "it was killed too late: {before:?}");
    let worked = ended(work).await?;
    let view = wait_standings(&heir, &lineage, |view| proven(view) == INTERVALS).await?;
    ensure!(view.is_host, "{view:?}");
    ensure!(worked.published.len() as u64 == INTERVALS, "finished intervals were done again: {worked:?}");
    publisher.restart(&[&heir, &worker]).await?;
    let view = wait_standings(&publisher, &lineage, |view| proven(view) == INTERVALS).await?;
    ensure!(results(&view) == INTERVALS, "{view:?}");
    Ok(())
}

/// A hand-made worker's log.
struct Log<'a> {
    member: &'a Member,
    certificate: Vec<u8>,
    lineage: LineageId,
    number: u64,
    parent: ObjectHash,
}

impl Log<'_> {
    /// A result that has the right end, which is public, and made-up counts.
    async fn lie(&mut self, publisher: &NodeProcess, interval: u64) -> anyhow::Result<AnnouncedResult> {
        let lineage = self.lineage.to_string();
        let root = async |index| -> anyhow::Result<StateRoot> {
            let head = publisher.checkpoint(&lineage, index).await?.head;
            Ok(head.state_root.parse()?)
        };
        let work = Work { instructions: 1, reads: 2, writes: 3, changed_pages: 4 };
        let result = SimulationResult {
            worker: self.member.id(),
            lineage: self.lineage,
            number: self.number,
            parent: self.parent,
            interval: CheckpointIndex(interval),
            input_root: root(interval).await?,
            // That of the others: with another one it would be doubted instead of distrusted.
            simulator: build_of(&program()?)?,
            options: Vec::new(),
            outcome: Outcome::Ended { end_root: root(interval + 1).await?, work },
            simulation_ms: 5,
            finished_unix_ms: 6,
            trace: None,
        };
        let record = result.sign(&self.member.key);
        let announced = AnnouncedResult { certificate: self.certificate.clone(), record };
        (self.number, self.parent) = (self.number + 1, announced.hash());
        Ok(announced)
    }
}

async fn join<'a>(
    member: &'a Member,
    publisher: &NodeProcess,
    role: &str,
    lineage: &str,
) -> anyhow::Result<(Session, Log<'a>)> {
    let certificate = member.join(&publisher.ticket(role, 1000).await?).await?;
    let session = member.connect(publisher.address, certificate.clone()).await?;
    let lineage: LineageId = lineage.parse()?;
    let parent = SimulationResult::first_parent(lineage);
    Ok((session, Log { member, certificate, lineage, number: 0, parent }))
}

/// Leases one interval, as the host's candidates come.
async fn lease(session: &Session, lineage: LineageId) -> anyhow::Result<u64> {
    let mut lacks = Vec::new();
    loop {
        let wish = LeaseWish::Ask { jobs: 1, lacks: std::mem::take(&mut lacks) };
        match session.lease(LeaseRequest { lineage, wish }).await? {
            LeaseAnswer::Granted { interval, .. } => return Ok(interval.0),
            LeaseAnswer::Candidates(candidates) => lacks = candidates.into_iter().map(|at| (at, 0)).collect(),
            other => bail!("no lease: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_liar_is_found_out_and_who_is_no_worker_is_refused() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let publisher = ground.create("publisher", &["--simulate-twice", "100%"]).await?;
    let one = ground.join("one", &publisher, "worker", &[]).await?;
    let two = ground.join("two", &publisher, "worker", &[]).await?;
    let lineage = record(&publisher, &[&one, &two]).await?;

    let reader = Member::new()?;
    let (mut session, mut log) = join(&reader, &publisher, "reader", &lineage).await?;
    let id = log.lineage;
    let ask = LeaseRequest { lineage: id, wish: LeaseWish::Ask { jobs: 1, lacks: Vec::new() } };
    let refused = session.lease(ask.clone()).await?;
    assert_eq!(refused, LeaseAnswer::Refused(LeaseRefusal::NoWorker));
    let by_reader = log.lie(&publisher, 0).await?;

    let liar = Member::new()?;
    let (mut lying, mut log) = join(&liar, &publisher, "worker", &lineage).await?;
    let interval = lease(&lying, id).await?;
    let lie = log.lie(&publisher, interval).await?;
    let mut forged = lie.clone();
    forged.record[200] ^= 1;
    session.tell(&Control::Results(vec![by_reader, forged])).await?;
    wait_refused(&publisher, 2).await?;
    ensure!(results(&publisher.standings(&lineage).await?) == 0, "one of them was taken");

    lying.tell(&Control::Results(vec![lie])).await?;
    wait_standings(&publisher, &lineage, |view| view.unconfirmed == 1).await?;
    (log.number, log.parent) = (0, SimulationResult::first_parent(id));
    let second = log.lie(&publisher, (interval + 1) % INTERVALS).await?;
    lying.tell(&Control::Results(vec![second])).await?;
    wait_refused(&publisher, 3).await?;
    ensure!(results(&publisher.standings(&lineage).await?) == 1, "two results with one number were taken");
    let (of_one, of_two) = (one.start_work(&lineage), two.start_work(&lineage));
    let view = wait_standings(&publisher, &lineage, |view| view.confirmed == INTERVALS).await?;
    ended(of_one).await?;
    ended(of_two).await?;
    for worker in &view.workers {
        assert_eq!(worker.is_distrusted, worker.worker == liar.id().to_string(), "{view:?}");
    }
    ensure!(view.workers.iter().any(|worker| worker.is_distrusted), "{view:?}");
    assert_eq!(lying.lease(ask).await?, LeaseAnswer::Refused(LeaseRefusal::Distrusted));
    Ok(())
}
