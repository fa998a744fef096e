//! Goal: any node says live how far a spread is from what the links allow, and which link binds. Method: real nodes whose
//! uplinks are limited, an imported image of noise, so that every byte and every rate is known, and all of it asked of
//! each node, over API, command line and metrics.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use pageswarm_node::api::views::{ImportView, SpreadView};
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE, until};
use pageswarm_tests::command::pageswarm;
use pageswarm_tests::noise::noise;

const MIB: u64 = 1 << 20;
const FOLLOWERS: u64 = 3;

/// A publisher and followers, all uplinks limited, and the lineage with the image.
struct Scene {
    _ground: Ground,
    publisher: NodeProcess,
    followers: Vec<NodeProcess>,
    lineage: String,
}

impl Scene {
    async fn new(image_mib: u64, publisher_limit: &str, follower_limit: &str) -> anyhow::Result<Self> {
        let ground = Ground::new()?;
        let publisher = ground.create("publisher", &["--upload-limit", publisher_limit]).await?;
        let mut followers: Vec<NodeProcess> = Vec::new();
        for number in 0..FOLLOWERS {
            let name = format!("follower-{number}");
            let limit = ["--upload-limit", follower_limit];
            let follower = ground.join(&name, &publisher, "reader", &limit).await?;
            for other in &followers {
                follower.wait_peer(other).await?;
            }
            followers.push(follower);
        }
        let memory = ground.path("memory");
        std::fs::write(&memory, noise(7, usize::try_from(image_mib * MIB)?))?;
        let (memory, directory) = (memory.to_string_lossy(), publisher.directory().to_string_lossy());
        let command = ["checkpoint", "import", "--json", "--dir", &directory, "--memory", &memory];
        let outcome = pageswarm(&command).await?;
        ensure!(outcome.code == Some(0), "import: {outcome:?}");
        let imported: ImportView = serde_json::from_str(&outcome.text)?;
        let lineage = imported.lineage;
        for follower in &followers {
            follower.wait_checkpoint(&lineage, 0).await?;
        }
        Ok(Self { _ground: ground, publisher, followers, lineage })
    }

    fn nodes(&self) -> impl Iterator<Item = &NodeProcess> {
        std::iter::once(&self.publisher).chain(&self.followers)
    }

    async fn spread_at(&self, node: &NodeProcess) -> Option<SpreadView> {
        node.client().get(&format!("/api/v1/lineages/{}/spread", self.lineage)).await.ok()
    }

    /// All followers fetch the image; meanwhile every node sees them at it. Returns how long it took.
    async fn spread(&self) -> anyhow::Result<u64> {
        let start = Instant::now();
        let fetching = async {
            let all = self.followers.iter().map(|follower| follower.fetch(&self.lineage, 0));
            let fetched = futures::future::join_all(all).await;
            fetched.into_iter().collect::<Result<Vec<_>, _>>()?;
            anyhow::Ok(u64::try_from(start.elapsed().as_millis())?)
        };
        let watching = async {
            for node in self.nodes() {
                let going_on = async || {
                    let spread = self.spread_at(node).await?;
                    let all_lack = spread.nodes.iter().filter(|one| one.missing_bytes > 0).count();
                    (spread.goes_on && all_lack as u64 == FOLLOWERS).then_some(spread)
                };
                let spread = until("the node sees the spread going on", PATIENCE, going_on).await?;
                ensure!(spread.left_ms > 0, "{spread:?}");
                let best = spread.over_bound_permille.context("no distance")?;
                ensure!(best >= 900, "{best} thousandths of the bound at best: {spread:?}");
            }
            anyhow::Ok(())
        };
        Ok(tokio::try_join!(fetching, watching)?.0)
    }

    /// What a node says once all have told that they lack nothing.
    async fn outcome(&self, node: &NodeProcess) -> anyhow::Result<SpreadView> {
        until("the spread is over", PATIENCE, async || {
            self.spread_at(node).await.filter(|spread| !spread.goes_on)
        })
        .await
    }
}

/// Bytes that are of the image or of the little that is published with it.
fn is_about(bytes: u64, image: u64) -> bool {
    (image..image + image / 100).contains(&bytes)
}

#[tokio::test]
async fn the_writers_uplink_binds_where_the_others_are_fast() -> anyhow::Result<()> {
    // 16 / 4 = 4 s at the writer; all uplinks together: 3 * 16 / (4 + 3 * 32) = 0.48 s.
    let scene = Scene::new(16, "4MiB", "32MiB").await?;
    let took_ms = scene.spread().await?;
    for node in scene.nodes() {
        let spread = scene.outcome(node).await?;
        assert!(is_about(spread.union_bytes, 16 * MIB), "{spread:?}");
        assert!(is_about(spread.lacked_bytes, 48 * MIB), "{spread:?}");
        assert!((2970..=3000).contains(&spread.gain_permille), "{spread:?}");
        let binds = spread.binds.context("nothing binds")?;
        assert_eq!((binds.link.as_str(), binds.node.as_ref()), ("writer-up", Some(&scene.publisher.id)));
        assert_eq!((binds.bytes_per_s, binds.is_configured), (4 * MIB, true));
        let bound = spread.bound_ms.context("no bound")?;
        assert!((4000..4050).contains(&bound), "{bound} ms");
        let over = spread.over_bound_permille.context("no distance")?;
        assert_eq!(over / 10, spread.busy_ms * 100 / bound, "{} ms of {bound}", spread.busy_ms);
        println!("{} ms, {over} thousandths of the bound; {took_ms} ms from outside", spread.busy_ms);
        assert!(over >= 900, "{over} thousandths: faster than the limit allows");
        assert!(spread.busy_ms <= took_ms + 100, "{} ms of {took_ms}", spread.busy_ms);
    }
    shown_elsewhere(&scene).await
}

/// The command line and the metrics of a follower say the same.
async fn shown_elsewhere(scene: &Scene) -> anyhow::Result<()> {
    let node = &scene.followers[0];
    let directory = node.directory().to_string_lossy();
    let outcome = pageswarm(&["status", "--dir", &directory]).await?;
    let says = format!("the uplink of its writer {} binds, 4.0 MiB/s configured", &scene.publisher.id[..10]);
    assert!(outcome.text.contains(&says), "{outcome:?}");
    let metrics = node.client().text("/metrics").await?;
    let name = format!("pageswarm_spread_bound_seconds{{lineage=\"{}\"}} ", scene.lineage);
    let seconds: f64 =
        metrics.lines().find_map(|line| line.strip_prefix(&name)).context(metrics.clone())?.parse()?;
    assert!((4.0..4.05).contains(&seconds), "{seconds} s");
    let binds = format!("link=\"writer-up\",node=\"{}\"}} 1", scene.publisher.id);
    assert!(metrics.contains(&binds), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn all_uplinks_together_bind_where_the_others_are_slow() -> anyhow::Result<()> {
    // 16 / 16 = 1 s at the writer; all uplinks together: 3 * 16 / (16 + 3 * 1) = 2.53 s.
    let scene = Scene::new(16, "16MiB", "1MiB").await?;
    scene.spread().await?;
    for node in scene.nodes() {
        let spread = scene.outcome(node).await?;
        let binds = spread.binds.context("nothing binds")?;
        let bound = spread.bound_ms.context("no bound")?;
        if binds.link == "swarm-up" {
            assert_eq!((binds.bytes_per_s, binds.is_configured, binds.node), (19 * MIB, true, None));
            assert!((2526..2560).contains(&bound), "{bound} ms");
        } else {
            // Downlinks have no limit here and are measured: one on which less was seen than its share of all uplinks
            // counts as slower than these.
            assert_eq!((binds.link.as_str(), binds.is_configured), ("node-down", false));
            assert!(bound >= 2526, "{bound} ms");
        }
        assert!(spread.over_bound_permille.context("no distance")? >= 900, "{}", spread.busy_ms);
    }
    Ok(())
}
