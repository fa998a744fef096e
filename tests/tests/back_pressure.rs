//! Goal: a VM whose checkpoints are not taken as fast as it makes them does what it was told to, and stops doing it when
//! they are. Method: real nodes, a guest that dirties far more than its node may send, and a follower that fetches
//! checkpoint after checkpoint until it is told to stop.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use pageswarm_node::api::views::{CheckpointRequest, FetchView, RunRequest, VmView};
use pageswarm_tests::cluster::{Ground, NodeProcess, PATIENCE, until};
use pageswarm_tests::skip::{Need, skipped};
use tokio::sync::watch;

/// How long a guest may take to fall behind: a follower must have its first checkpoint, all of RAM.
const SLOWLY: Duration = Duration::from_secs(90);
const INTERVAL_MS: u64 = 200;

/// A publisher with a slow uplink and its follower.
struct Scene {
    _ground: Ground,
    publisher: NodeProcess,
    follower: NodeProcess,
    lineage: String,
}

impl Scene {
    async fn new(when_behind: &str, checkpoints: Option<u64>) -> anyhow::Result<Self> {
        let ground = Ground::new()?;
        let publisher = ground.create("publisher", &["--upload-limit", "2MiB"]).await?;
        let follower = ground.join("follower", &publisher, "reader", &[]).await?;
        let request = RunRequest {
            workload: "specjbb".to_owned(),
            ram_bytes: 64 << 20,
            interval_ms: INTERVAL_MS,
            strategy: "pre-copy".to_owned(),
            checkpoints,
            seed: 7,
            witness: Vec::new(),
            witness_directory: None,
            when_behind: Some(when_behind.to_owned()),
            resume: None,
        };
        let view: VmView = publisher.client().post("/api/v1/vms", &request).await?;
        assert_eq!(view.drive.when_behind, when_behind);
        let lineage = view.lineage.context("a VM without a lineage")?;
        follower.wait_checkpoint(&lineage, 0).await?;
        Ok(Self { _ground: ground, publisher, follower, lineage })
    }

    async fn vm(&self) -> anyhow::Result<VmView> {
        Ok(self.publisher.client().get("/api/v1/vms/0?from=0").await?)
    }

    async fn fetch(&self, index: u64, patience: Duration) -> anyhow::Result<FetchView> {
        let patience_ms = u64::try_from(patience.as_millis()).ok();
        let lineage = self.lineage.clone();
        let request = CheckpointRequest { lineage, index, patience_ms, ..CheckpointRequest::default() };
        Ok(self.follower.client().post("/api/v1/checkpoints/fetch", &request).await?)
    }

    /// The newest checkpoint that the follower knows.
    async fn known(&self) -> anyhow::Result<u64> {
        let status = self.follower.status().await?;
        let view = status.lineages.into_iter().find(|view| view.lineage == self.lineage);
        view.and_then(|view| view.latest).context("the follower knows no checkpoint")
    }

    /// Fetches the newest checkpoint known, again and again, until told to stop.
    async fn follow(&self, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
        let following = async {
            loop {
                let newest = self.known().await?;
                self.fetch(newest, SLOWLY).await?;
                let newer = async || (self.known().await.ok()? > newest).then_some(());
                until("a newer checkpoint is known", SLOWLY, newer).await?;
            }
        };
        tokio::select! {
            failed = following => failed,
            _ = stop.wait_for(|stop| *stop) => Ok(()),
        }
    }

    async fn until_vm(&self, what: &str, holds: impl Fn(&VmView) -> bool) -> anyhow::Result<VmView> {
        until(what, SLOWLY, async || self.vm().await.ok().filter(|vm| holds(vm))).await
    }

    /// Runs `check` while the follower follows.
    async fn while_followed<T>(&self, check: impl AsyncFnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let (stop, stopped) = watch::channel(false);
        let checking = async {
            let checked = check().await;
            stop.send_replace(true);
            checked
        };
        Ok(tokio::try_join!(checking, self.follow(stopped))?.0)
    }

    /// Figures of the backlog in status and metrics are those of a VM that is behind.
    async fn shows_backlog(&self) -> anyhow::Result<()> {
        let shown = until("status and metrics show the backlog", PATIENCE, async || {
            let drive = self.publisher.status().await.ok()?.vms.into_iter().next()?;
            let metrics = self.publisher.client().text("/metrics").await.ok()?;
            let line = metrics
                .lines()
                .find_map(|line| line.strip_prefix("pageswarm_backlog_to_send_bytes{vm=\"0\"} "));
            let bytes: f64 = line?.parse().ok()?;
            (drive.is_behind && drive.to_send_bytes > 0 && bytes > 0.0).then_some(drive)
        });
        let drive = shown.await?;
        // The limit is 2 MiB a second.
        let ms = drive.to_send_bytes * 1000 / (2 << 20);
        assert!(drive.to_send_ms.abs_diff(ms) <= 1, "{drive:?}");
        Ok(())
    }
}

#[tokio::test]
async fn an_interval_is_lengthened_while_behind_and_shortened_again() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let scene = Scene::new("lengthen", None).await?;
    scene
        .while_followed(async || {
            scene.until_vm("the interval doubles", |vm| vm.drive.interval_ms >= 2 * INTERVAL_MS).await?;
            scene.shows_backlog().await?;
            // The guest itself takes the longer interval over.
            let longer = |vm: &VmView| {
                vm.checkpoints.last().is_some_and(|last| last.interval_us >= 2 * INTERVAL_MS * 1000)
            };
            scene.until_vm("a checkpoint ends a longer interval", longer).await
        })
        .await?;
    let vm =
        scene.until_vm("the interval is as it was set", |vm| vm.drive.interval_ms == INTERVAL_MS).await?;
    assert!(!vm.drive.is_paused && !vm.drive.is_withholding);
    let index = vm.checkpoints.last().context("no checkpoint")?.index;
    let shorter = |vm: &VmView| {
        let later = vm.checkpoints.iter().filter(|one| one.index > index);
        later.clone().any(|one| one.interval_us < 2 * INTERVAL_MS * 1000)
    };
    scene.until_vm("a checkpoint ends a shorter interval", shorter).await?;
    Ok(())
}

#[tokio::test]
async fn a_vm_is_paused_while_behind_and_goes_on() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let scene = Scene::new("pause", None).await?;
    let stood = scene
        .while_followed(async || {
            scene.until_vm("the VM is paused", |vm| vm.drive.is_paused).await?;
            scene.shows_backlog().await?;
            // What was on its way when it was paused has arrived; then nothing changes for three intervals.
            let mut since: Option<(Instant, VmView)> = None;
            until("the guest stands still", SLOWLY, async || {
                let now = scene.vm().await.ok()?;
                let figures = |vm: &VmView| (vm.drive.is_paused, vm.counter, vm.checkpoints.len());
                let (at, before) = since.get_or_insert_with(|| (Instant::now(), now.clone()));
                if !now.drive.is_paused || figures(before) != figures(&now) {
                    since = None;
                    return None;
                }
                (at.elapsed() >= 3 * Duration::from_millis(INTERVAL_MS)).then_some(now)
            })
            .await
        })
        .await?;
    let gone_on = |vm: &VmView| {
        !vm.drive.is_paused && vm.counter > stood.counter && vm.checkpoints.len() > stood.checkpoints.len()
    };
    let vm = scene.until_vm("the VM goes on", gone_on).await?;
    assert_eq!(vm.drive.interval_ms, INTERVAL_MS);
    Ok(())
}

#[tokio::test]
async fn checkpoints_are_kept_from_others_while_behind_and_the_last_is_not() -> anyhow::Result<()> {
    if skipped(&[Need::Kvm]) {
        return Ok(());
    }
    let scene = Scene::new("drop-distribution", None).await?;
    let vm = scene
        .while_followed(async || {
            scene.until_vm("checkpoints are withheld", |vm| vm.drive.is_withholding).await?;
            scene.shows_backlog().await?;
            let some = |vm: &VmView| vm.checkpoints.iter().filter(|one| one.withheld).count() >= 5;
            let vm = scene.until_vm("five were withheld", some).await?;
            let newest = vm.checkpoints.last().context("no checkpoint")?;
            assert!(!newest.withheld || scene.known().await? < newest.index, "it was announced");
            assert_eq!(vm.drive.interval_ms, INTERVAL_MS, "it records as before");
            anyhow::Ok(vm)
        })
        .await?;
    let withheld = vm.checkpoints.iter().rev().find(|one| one.withheld).context("none was withheld")?.index;
    // What was withheld is whole where it was recorded.
    scene.publisher.rebuild(&scene.lineage, withheld).await?;
    // When room is there again the next is announced, and with it what it consists of.
    let again = |vm: &VmView| vm.checkpoints.iter().any(|one| one.index > withheld && !one.withheld);
    let vm = scene.until_vm("a checkpoint is announced again", again).await?;
    scene.publisher.client().post_only("/api/v1/vms/0/stop").await?;
    let announced = vm.checkpoints.iter().rev().find(|one| !one.withheld).context("none announced")?.index;
    ensure!(announced > withheld, "{announced} is before {withheld}");
    scene.follower.wait_checkpoint(&scene.lineage, announced).await?;
    let ended = scene.until_vm("the VM has ended", |vm| vm.ended.is_some()).await?;
    let last = ended.checkpoints.last().context("no checkpoint")?.index;
    scene.follower.wait_checkpoint(&scene.lineage, last).await?;
    scene.fetch(last, SLOWLY).await?;
    scene.follower.rebuild(&scene.lineage, last).await?;
    // Nobody offers what only the withheld one consists of.
    let lacked = scene.follower.checkpoint(&scene.lineage, withheld).await?.lacked_chunks;
    ensure!(lacked > 0, "all of checkpoint {withheld} is in later ones");
    let refused = scene.fetch(withheld, Duration::from_secs(2)).await;
    assert!(refused.is_err(), "a withheld checkpoint was given out: {refused:?}");
    Ok(())
}
