//! Members that hold a valid certificate and misbehave: they cost an honest node some time, never a byte and little
//! memory. Method: two real nodes on the loopback, and members made by hand that do their worst on real sockets. The
//! follower fetches an image before they come, which is the yardstick, then one as large among them; what it fetched
//! is read back and hashed against its signed head, and its time, the nodes' memory and the bans are compared with
//! what is stated here.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use pageswarm_checkpoint::wire::Refusal;
use pageswarm_node::api::views::{ImportRequest, ImportView};
use pageswarm_node::limits::STREAMS_PER_PEER_MAX;
use pageswarm_node::peers::close;
use pageswarm_swarm::Config;
use pageswarm_swarm::limits::{CORRUPT_STRIKES_MAX, RUN_BYTES_SPLIT, UPLOAD_QUEUE_MAX};
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE, until};
use pageswarm_tests::events;
use pageswarm_tests::hostile::{Ended, Greedy, Lie, Prey, Rogue};
use pageswarm_tests::noise::noise;
use tokio::time::timeout;

const PAGE_BYTES: u64 = 4096;
const IMAGE_BYTES: usize = 16 << 20;

/// Beside half of the honest time: what a machine with two cores and other things to do may add.
const ROOM: Duration = Duration::from_secs(2);
/// A node relies for so long on the offers of a member that has never answered it (swarm/src/pace.rs).
const FIRST_SILENCE: Duration = Duration::from_secs(2);
/// From the first request to the ban of a member that sends wrong bytes.
const BANNED_WITHIN: Duration = Duration::from_secs(5);
/// What one member may make a node hold of its answers: QUIC's send window of 32 MiB, and eight answers of 4 MiB: half
/// of the places for bulk, and half of those for page faults.
const ANSWERS_BYTES_MAX: u64 = 128 << 20;
/// What one member may make a node hold of its lies: a message of a few bytes stands for a set of 16 MiB, of which
/// there are up to six copies at a time until it is found to be too large.
const LIES_BYTES_MAX: u64 = 256 << 20;

/// An imported checkpoint.
struct Image {
    lineage: String,
    prey: Prey,
}

/// A publisher, a follower, and how long the follower takes for an image when both are alone.
struct Pair {
    publisher: NodeProcess,
    follower: NodeProcess,
    honest: Duration,
    ground: Ground,
}

impl Pair {
    async fn new() -> anyhow::Result<Self> {
        let ground = Ground::new()?;
        let publisher = ground.create("publisher", &[]).await?;
        let follower = ground.join("follower", &publisher, "reader", &[]).await?;
        let mut pair = Self { publisher, follower, honest: Duration::ZERO, ground };
        let yardstick = pair.publish(1).await?;
        pair.honest = pair.fetch(&yardstick).await?;
        Ok(pair)
    }

    /// Fetches an image while a member asks the publisher without end; how long that took, and by how much the
    /// publisher's memory grew.
    async fn fetch_beside(&self, image: &Image, greedy: &mut Greedy) -> anyhow::Result<(Duration, u64)> {
        let working = async {
            greedy.ask(2 * UPLOAD_QUEUE_MAX).await?;
            tokio::select! {
                took = self.fetch(image) => took,
                () = greedy.ask_without_end() => bail!("it has an end"),
            }
        };
        growth_while(&self.publisher, working).await
    }

    /// Imports noise as the first checkpoint of a lineage; on return the follower knows of it.
    async fn publish(&self, seed: u64) -> anyhow::Result<Image> {
        let path = self.ground.path(&format!("image-{seed}"));
        std::fs::write(&path, noise(seed, IMAGE_BYTES))?;
        let memory = path.to_string_lossy().into_owned();
        let request = ImportRequest { memory, state: None, lineage: None };
        let import = self.publisher.client().post("/api/v1/checkpoints/import", &request);
        let imported: ImportView = timeout(PATIENCE, import).await.context("the import does not end")??;
        let births = self.follower.wait_checkpoint(&imported.lineage, 0).await?.births;
        ensure!(births >= IMAGE_BYTES as u64 / PAGE_BYTES, "{births} births only");
        let prey = Prey { lineage: imported.lineage.parse()?, births };
        Ok(Image { lineage: imported.lineage, prey })
    }

    /// Lets the follower fetch the image and checks every byte; how long the fetch took.
    async fn fetch(&self, image: &Image) -> anyhow::Result<Duration> {
        let before = self.follower.status().await?.store;
        let (fetched, rebuilt) = self.follower.get(&image.lineage, 0).await?;
        let promised = self.publisher.checkpoint(&image.lineage, 0).await?.head.state_root;
        assert_eq!(rebuilt.state_root, promised);
        assert_eq!(self.follower.checkpoint(&image.lineage, 0).await?.lacked_chunks, 0);
        let after = self.follower.status().await?.store;
        assert_eq!(after.bad_chunks, 0, "wrong chunks are in the store");
        let added = after.chunks - before.chunks;
        assert!(added <= fetched.lacked_chunks, "{added} chunks came, {} were lacked", fetched.lacked_chunks);
        Ok(Duration::from_millis(fetched.took_ms))
    }

    /// The statement about time: one and a half times the honest time, what the misbehaviour may cost, and room.
    fn assert_in_time(&self, took: Duration, cost: Duration) {
        let bound = self.honest * 3 / 2 + cost + ROOM;
        println!("{took:?} among hostile members, {:?} without them, at most {bound:?}", self.honest);
        assert!(took <= bound, "it took {took:?}, {:?} without hostile members", self.honest);
    }

    /// The two honest nodes are as they were.
    async fn assert_unharmed(&self) -> anyhow::Result<()> {
        for (node, other) in [(&self.publisher, &self.follower), (&self.follower, &self.publisher)] {
            let peers = node.status().await?.peers;
            assert!(peers.iter().any(|peer| peer.node == other.id), "two honest nodes were parted");
        }
        Ok(())
    }
}

/// Checks that `node` banned the rogue for that reason: it ended the connection, says so, and does not take it back.
async fn assert_banned(node: &NodeProcess, rogue: &Rogue, ended: &Ended, why: &str) -> anyhow::Result<()> {
    if let Some(closed) = &ended.closed {
        assert_eq!(closed.code, u64::from(close::BANNED), "{closed:?}");
        assert!(closed.why.contains(why), "{closed:?}");
    }
    let event = events::wait_for_text(node.directory(), PATIENCE, "peer_banned", &rogue.id()).await?;
    assert_eq!(event["why"], why);
    let refusal = rogue.refusal(node).await?;
    assert!(refusal.contains("banned"), "{refusal}");
    Ok(())
}

/// Resident memory of a node's process.
fn resident_bytes(node: &NodeProcess) -> anyhow::Result<u64> {
    let process = node.process_id().context("the node has ended")?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
    Ok(kib << 10)
}

/// What `work` came to, and by how much the node's memory had grown at most meanwhile, looked at every 20 ms.
async fn growth_while<T>(
    node: &NodeProcess,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<(T, u64)> {
    let before = resident_bytes(node)?;
    let mut most = before;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let mut work = std::pin::pin!(work);
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome?,
            _ = ticks.tick() => most = most.max(resident_bytes(node)?),
        }
    };
    let grown = most.max(resident_bytes(node)?) - before;
    println!("the node's memory grew by up to {} MiB, from {} MiB", grown >> 20, before >> 20);
    Ok((outcome, grown))
}

/// How many requests were refused, one of them as busy. Refusals can be behind answers that nobody reads, in a window
/// that these fill: they come once some of that is read.
async fn refused_in_the_end(greedy: &mut Greedy) -> anyhow::Result<usize> {
    let mut refusals = Vec::new();
    until("a request is refused as busy", PATIENCE, async || {
        refusals.extend(greedy.refusals().await);
        refusals.contains(&Refusal::Busy).then_some(())
    })
    .await?;
    Ok(refusals.len())
}

#[tokio::test]
async fn wrong_bytes_are_dropped_and_their_sender_is_banned() -> anyhow::Result<()> {
    let pair = Pair::new().await?;
    let image = pair.publish(2).await?;
    let rogue = Rogue::join(&pair.publisher).await?;
    let wrong = rogue.offer(&pair.follower, &[image.prey]).await?.answer_wrong();
    let start = Instant::now();
    let took = pair.fetch(&image).await?;
    let ended = wrong.ended().await?;
    let banned_after = ended.at.duration_since(start);
    println!("banned {banned_after:?} after the fetch began");
    assert!(banned_after <= BANNED_WITHIN, "it was banned after {banned_after:?}");
    assert_banned(&pair.follower, &rogue, &ended, "CorruptChunks").await?;
    events::wait_for_text(pair.follower.directory(), PATIENCE, "chunk_corrupt", &rogue.id()).await?;
    until("the wrong chunks are counted", PATIENCE, async || {
        let counted = pair.follower.status().await.ok()?.transfer.corrupt_chunks;
        (counted >= u64::from(CORRUPT_STRIKES_MAX)).then_some(())
    })
    .await?;
    pair.assert_in_time(took, Duration::ZERO);
    pair.assert_unharmed().await
}

/// A silent member is relied on for two seconds, then left alone: it is asked for one small run at a time, and after
/// each silence it rests for longer. Six silences in a row end in a ban, some 29 s after the first request: 2, 2, 2,
/// 3.2, 6.4 and 10 s, and 3.1 s of rests. Here the first few of them are watched.
#[tokio::test]
async fn a_member_that_never_answers_is_left_alone() -> anyhow::Result<()> {
    const WATCHED: Duration = Duration::from_secs(5);
    let mut pair = Pair::new().await?;
    let (image, last) = (pair.publish(2).await?, pair.publish(3).await?);
    let rogue = Rogue::join(&pair.publisher).await?;
    let hostile = rogue.offer(&pair.follower, &[image.prey, last.prey]).await?;
    let (_silent, asked) = hostile.stay_silent();
    let took = pair.fetch(&image).await?;
    let asked_before = asked.borrow().len();
    println!("it was asked for {asked_before} runs while another node answered");
    assert!(asked_before > 0, "it was never asked");
    until("the silence is noticed", PATIENCE, async || {
        (pair.follower.status().await.ok()?.transfer.timed_out_requests > 0).then_some(())
    })
    .await?;
    pair.assert_in_time(took, FIRST_SILENCE);
    pair.assert_unharmed().await?;

    // Now nobody else offers what is wanted.
    pair.publisher.end().await?;
    let publisher = &pair.publisher.id;
    until("the publisher is gone", PATIENCE, async || {
        let peers = pair.follower.status().await.ok()?.peers;
        peers.iter().all(|peer| peer.node != *publisher).then_some(())
    })
    .await?;
    if let Ok(fetched) = timeout(WATCHED, pair.follower.fetch(&last.lineage, 0)).await {
        bail!("nobody can have answered: {fetched:?}");
    }
    let runs = asked.borrow()[asked_before..].to_vec();
    println!("chunks of the runs that it was asked for within {WATCHED:?}: {runs:?}");
    assert!((1..=3).contains(&runs.len()), "a silent member is asked {} times", runs.len());
    assert!(runs.iter().all(|chunks| *chunks as u64 <= RUN_BYTES_SPLIT / PAGE_BYTES), "{runs:?}");
    let peers = pair.follower.status().await?.peers;
    assert!(peers.iter().any(|peer| peer.node == rogue.id()), "it is left alone, not banned yet");
    Ok(())
}

/// The writer believes that whoever asked will pass it on, and sends others there: they insist after a second.
#[tokio::test]
async fn a_member_that_asks_without_end_is_limited() -> anyhow::Result<()> {
    let pair = Pair::new().await?;
    let image = pair.publish(2).await?;
    let rogue = Rogue::join(&pair.publisher).await?;
    let mut greedy = rogue.follow(&pair.publisher, image.prey).await?.greedy();
    let (took, grown) = pair.fetch_beside(&image, &mut greedy).await?;
    pair.assert_in_time(took, Config::default().defer_wait);
    assert!(grown < ANSWERS_BYTES_MAX, "the publisher grew by {grown} bytes");
    let refused = refused_in_the_end(&mut greedy).await?;
    println!("of {} requests {refused} were refused", greedy.asked());
    // All others wait in a stream each, or were answered before the member's window was full.
    let open = greedy.asked() - refused;
    assert!(open <= 2 * STREAMS_PER_PEER_MAX as usize, "{open} requests were taken");
    pair.assert_unharmed().await
}

#[tokio::test]
async fn members_that_lie_about_what_they_hold_are_banned() -> anyhow::Result<()> {
    let pair = Pair::new().await?;
    let image = pair.publish(2).await?;
    let mut liars = Vec::new();
    for lie in [Lie::Far, Lie::EverySecond] {
        let rogue = Rogue::join(&pair.publisher).await?;
        let hostile = rogue.follow(&pair.follower, image.prey).await?;
        liars.push((rogue, hostile, lie));
    }
    // All at once, when all are connected.
    let liars: Vec<_> =
        liars.into_iter().map(|(rogue, hostile, lie)| (rogue, hostile.tell(lie), lie)).collect();
    let (took, grown) = growth_while(&pair.follower, pair.fetch(&image)).await?;
    for (rogue, work, lie) in liars {
        let ended = work.ended().await.with_context(|| format!("{lie:?}"))?;
        assert_banned(&pair.follower, &rogue, &ended, "HostileSets").await?;
    }
    pair.assert_in_time(took, FIRST_SILENCE);
    assert!(grown < LIES_BYTES_MAX, "the follower grew by {grown} bytes");
    pair.assert_unharmed().await
}

/// As many of them as the follower has threads on a small machine.
#[tokio::test]
async fn sets_of_many_ranges_do_not_stop_a_node() -> anyhow::Result<()> {
    let pair = Pair::new().await?;
    let image = pair.publish(2).await?;
    let mut liars = Vec::new();
    for _ in 0..2 {
        let rogue = Rogue::join(&pair.publisher).await?;
        let work = rogue.follow(&pair.follower, image.prey).await?.tell(Lie::Strips);
        liars.push((rogue, work));
    }
    let took = pair.fetch(&image).await?;
    for (rogue, work) in liars {
        let ended = work.ended().await?;
        assert_banned(&pair.follower, &rogue, &ended, "HostileSets").await?;
    }
    pair.assert_in_time(took, FIRST_SILENCE);
    pair.assert_unharmed().await
}

#[tokio::test]
async fn three_hostile_members_together_cost_time_only() -> anyhow::Result<()> {
    let pair = Pair::new().await?;
    let image = pair.publish(2).await?;
    let liar = Rogue::join(&pair.publisher).await?;
    let mute = Rogue::join(&pair.publisher).await?;
    let glutton = Rogue::join(&pair.publisher).await?;
    let mut greedy = glutton.follow(&pair.publisher, image.prey).await?.greedy();
    let (_silent, asked) = mute.offer(&pair.follower, &[image.prey]).await?.stay_silent();
    let wrong = liar.offer(&pair.follower, &[image.prey]).await?.answer_wrong();
    let (took, grown) = pair.fetch_beside(&image, &mut greedy).await?;
    pair.assert_in_time(took, FIRST_SILENCE + Config::default().defer_wait);
    assert!(grown < ANSWERS_BYTES_MAX, "the publisher grew by {grown} bytes");
    assert_banned(&pair.follower, &liar, &wrong.ended().await?, "CorruptChunks").await?;
    assert!(!asked.borrow().is_empty(), "the silent one was never asked");
    refused_in_the_end(&mut greedy).await?;
    pair.assert_unharmed().await
}
