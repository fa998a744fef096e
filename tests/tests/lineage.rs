//! One writer, one chain: no two heads share (lineage, index) whatever happens to the publisher, and heads that are
//! forged or contradict are refused. Method: real nodes, the publisher killed with SIGKILL at random moments, and after
//! each sync that a checkpoint takes; heads of all nodes compared; forged heads signed with the publisher's own key file
//! and told by a hand-made member.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use ed25519_dalek::SigningKey;
use pageswarm_checkpoint::wire::{Control, ObjectRequest};
use pageswarm_checkpoint::{CheckpointIndex, Head, LineageId, StateRoot};
use pageswarm_node::identity;
use pageswarm_tests::calls::Guest;
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE, until};
use pageswarm_tests::events;
use pageswarm_tests::halted::{Halted, Synced};
use pageswarm_tests::member::{Member, Session};
use pageswarm_tests::skip::{Need, skipped};

/// Rounds of run and kill.
const ROUNDS: u64 = 3;

type Heads = BTreeMap<(String, u64), String>;

/// Takes in all heads that the node knows; panics where one contradicts another node's.
async fn collect(heads: &mut Heads, node: &NodeProcess) -> anyhow::Result<()> {
    for lineage in node.status().await?.lineages {
        for view in node.checkpoints(&lineage.lineage).await? {
            let text = serde_json::to_string(&view)?;
            let known = heads.entry((view.lineage, view.index)).or_insert_with(|| text.clone());
            assert_eq!(
                *known,
                text,
                "two heads share (lineage, index), one in {}",
                node.directory().display()
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_publisher_never_gives_an_index_twice() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let mut publisher = ground.create("publisher", &[]).await?;
    let mut followers = Vec::new();
    let mut heads = Heads::new();
    for round in 0..ROUNDS {
        let follower = ground.join(&format!("follower-{round}"), &publisher, "reader", &[]).await?;
        let guest = Guest { checkpoints: None, interval_ms: 40, ..Guest::default() };
        let lineage = publisher.run_vm(guest).await?;
        follower.wait_checkpoint(&lineage, 2).await?;
        // Not a wait for anything: the moment of the kill is to be any.
        let [moment] = identity::random::<1>()?;
        println!("round {round}: killed {moment} ms after checkpoint 2 was heard of");
        tokio::time::sleep(Duration::from_millis(u64::from(moment))).await;
        publisher.kill().await?;
        let heard = follower.checkpoints(&lineage).await?;
        publisher.restart(&[]).await?;
        let kept = publisher.checkpoints(&lineage).await?;
        let kept_upto = kept.last().map(|view| view.index);
        let heard_upto = heard.last().map(|view| view.index);
        assert!(
            kept_upto >= heard_upto,
            "checkpoint {heard_upto:?} was announced and is not durable: {kept_upto:?}"
        );
        collect(&mut heads, &publisher).await?;
        collect(&mut heads, &follower).await?;
        followers.push(follower);
    }
    let lineages: Vec<_> = publisher.status().await?.lineages.into_iter().collect();
    assert_eq!(lineages.len() as u64, ROUNDS, "each run after a restart is a lineage of its own");
    // What was committed and perhaps not announced reaches everyone now.
    for follower in &followers {
        for lineage in &lineages {
            follower.wait_checkpoint(&lineage.lineage, lineage.latest.context("no checkpoint")?).await?;
        }
        collect(&mut heads, follower).await?;
    }
    Ok(())
}

/// The latest checkpoint of the lineage that the node lists.
async fn last_listed(node: &NodeProcess, lineage: &str) -> anyhow::Result<Option<u64>> {
    Ok(node.checkpoints(lineage).await?.last().map(|view| view.index))
}

/// Kills the publisher when a sync of a checkpoint is done and nothing that follows it, and starts it again.
async fn kill_after_sync(
    ground: &Ground,
    publisher: &mut NodeProcess,
    heads: &mut Heads,
    (synced, nth): (Synced, u32),
) -> anyhow::Result<()> {
    let name = |role: &str| format!("{role}-{synced:?}-{nth}");
    let follower = ground.join(&name("follower"), publisher, "reader", &[]).await?;
    let guest = Guest { checkpoints: None, interval_ms: 40, ..Guest::default() };
    let lineage = publisher.run_vm(guest).await?;
    follower.wait_checkpoint(&lineage, 1).await?;
    let halted = Halted::at_sync(publisher, synced, nth).await?;
    // What was announced, and not what is being committed. Everything else in the node works on: if it told more than
    // that it would do so now, and to whoever comes just now too.
    let told = last_listed(publisher, &lineage).await?.context("no checkpoint is acknowledged")?;
    let newcomer = ground.join(&name("newcomer"), publisher, "reader", &[]).await?;
    for node in [&follower, &newcomer] {
        node.wait_checkpoint(&lineage, told).await?;
    }
    halted.kill(publisher).await?;
    for node in [&follower, &newcomer] {
        let heard = last_listed(node, &lineage).await?;
        assert_eq!(heard, Some(told), "a checkpoint that is not acknowledged was announced");
        collect(heads, node).await?;
    }
    publisher.restart(&[&follower, &newcomer]).await?;
    let kept = last_listed(publisher, &lineage).await?;
    assert_eq!(kept, Some(told + 1), "what was synced is not what the restarted publisher has");
    collect(heads, publisher).await?;
    for node in [&follower, &newcomer] {
        node.wait_checkpoint(&lineage, told + 1).await?;
        collect(heads, node).await?;
    }
    println!("checkpoint {} was announced by the second process only", told + 1);
    Ok(())
}

#[tokio::test]
async fn a_publisher_killed_at_any_of_its_syncs_keeps_one_head_per_index() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm, Need::Strace]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    let mut publisher = ground.create("publisher", &[]).await?;
    let mut heads = Heads::new();
    // A checkpoint takes these two. Of the process only its memory is lost, so both times all that was written is kept.
    let syncs = [(Synced::Pack, 1), (Synced::Index, 1), (Synced::Pack, 2), (Synced::Index, 3)];
    for sync in syncs {
        kill_after_sync(&ground, &mut publisher, &mut heads, sync).await?;
    }
    let lineages = publisher.status().await?.lineages.len();
    assert_eq!(lineages, syncs.len(), "each run after a restart is a lineage of its own");
    Ok(())
}

#[tokio::test]
async fn what_was_committed_and_never_announced_is_announced_after_a_restart() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let ground = Ground::new()?;
    // Nobody is connected: nothing is announced.
    let mut publisher = ground.create("publisher", &[]).await?;
    let lineage = publisher.run_vm(Guest { checkpoints: None, interval_ms: 40, ..Guest::default() }).await?;
    publisher.wait_checkpoint(&lineage, 3).await?;
    publisher.kill().await?;
    publisher.restart(&[]).await?;
    let mut heads = Heads::new();
    collect(&mut heads, &publisher).await?;
    let last = heads.keys().map(|(_, index)| *index).max().context("nothing was kept")?;
    assert!(last >= 3, "checkpoint 3 was acknowledged and is lost, the last is {last}");
    let branch = publisher
        .continue_as_branch(Guest { checkpoints: Some(2), ..Guest::default() }, &lineage, last)
        .await?;
    assert_ne!(branch, lineage, "a restarted publisher must not continue its old lineage");
    let follower = ground.join("follower", &publisher, "reader", &[]).await?;
    follower.wait_checkpoint(&lineage, last).await?;
    publisher.wait_checkpoint(&branch, 1).await?;
    follower.wait_checkpoint(&branch, 1).await?;
    collect(&mut heads, &follower).await?;
    collect(&mut heads, &publisher).await?;
    assert_eq!(follower.checkpoints(&lineage).await?.len() as u64, last + 1);
    let (_, rebuilt) = follower.get(&lineage, last).await?;
    assert_eq!(rebuilt.state_root, publisher.checkpoint(&lineage, last).await?.head.state_root);
    Ok(())
}

/// A publisher with a finished lineage, a follower that knows it, and a hostile member at the follower.
struct Scene {
    _ground: Ground,
    publisher: NodeProcess,
    follower: NodeProcess,
    hostile: Session,
    lineage: String,
    writer: SigningKey,
    last: Head,
}

impl Scene {
    async fn new() -> anyhow::Result<Self> {
        let ground = Ground::new()?;
        let publisher = ground.create("publisher", &[]).await?;
        let follower = ground.join("follower", &publisher, "reader", &[]).await?;
        let lineage =
            publisher.run_vm(Guest { checkpoints: Some(3), interval_ms: 60, ..Guest::default() }).await?;
        follower.wait_checkpoint(&lineage, 2).await?;
        let member = Member::new()?;
        let certificate = member.join(&publisher.ticket("reader", 1000).await?).await?;
        let mut hostile = member.connect(follower.address, certificate).await?;
        let id: LineageId = lineage.parse()?;
        hostile.tell(&Control::Follow(id)).await?;
        let record = hostile.object(ObjectRequest::Head(id, CheckpointIndex(2))).await?;
        let last = Head::peek(&record.context("the follower does not give its head")?)?;
        let writer =
            identity::load(&publisher.directory().join("node.key"))?.context("the publisher has no key")?;
        Ok(Self { _ground: ground, publisher, follower, hostile, lineage, writer, last })
    }

    /// Tells the follower a head that it must refuse for `why`, and checks that nothing changed.
    async fn assert_refused(&mut self, head: Vec<u8>, why: &str) -> anyhow::Result<()> {
        let before = serde_json::to_string(&self.follower.checkpoints(&self.lineage).await?)?;
        let refused = self.follower.status().await?.transfer.refused_records;
        let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        self.hostile.tell(&Control::Heads(vec![head])).await?;
        until("the record is refused", PATIENCE, async || {
            (self.follower.status().await.ok()?.transfer.refused_records > refused).then_some(())
        })
        .await?;
        // Not one of those that were refused before.
        let refusal = |event: &serde_json::Value| {
            let is_new = event["unix_ms"].as_u64().is_some_and(|at| u128::from(at) >= since);
            is_new && event["event"] == "record_refused" && event["why"].to_string().contains(why)
        };
        events::wait_for(self.follower.directory(), PATIENCE, refusal).await?;
        let after = serde_json::to_string(&self.follower.checkpoints(&self.lineage).await?)?;
        assert_eq!(before, after, "a refused head changed what the follower knows");
        Ok(())
    }
}

#[tokio::test]
async fn an_equivocating_head_is_refused() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let mut scene = Scene::new().await?;
    // Signed by the writer itself: only the first head of an index counts.
    let other = Head { state_root: StateRoot([9; 32]), ..scene.last.clone() };
    let record = other.sign(&scene.writer);
    scene.assert_refused(record, "two heads").await?;
    // The same at an index that nobody has yet: the second of two is refused.
    let next = Head { index: scene.last.index.next(), ..scene.last.clone() };
    scene.hostile.tell(&Control::Heads(vec![next.sign(&scene.writer)])).await?;
    let second = Head { births: next.births + 1, ..next };
    let record = second.sign(&scene.writer);
    scene.assert_refused(record, "two heads").await?;
    let roots =
        (scene.publisher.get(&scene.lineage, 2).await?.1, scene.follower.get(&scene.lineage, 2).await?.1);
    assert_eq!(roots.0.state_root, roots.1.state_root);
    Ok(())
}

#[tokio::test]
async fn a_head_with_a_wrong_signature_is_refused() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let mut scene = Scene::new().await?;
    let stranger = SigningKey::from_bytes(&identity::random()?);
    let next = Head { index: scene.last.index.next(), ..scene.last.clone() };
    scene.assert_refused(next.sign(&stranger), "signature").await?;
    let mut bent = next.sign(&scene.writer);
    bent[50] ^= 1;
    scene.assert_refused(bent, "signature").await?;
    scene.assert_refused(vec![0; 40], "malformed").await?;
    Ok(())
}
