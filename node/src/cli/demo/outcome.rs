//! The demo's result: gathered from the nodes, judged, and printed as tables.

use std::collections::BTreeMap;
use std::time::Duration;

use pageswarm_checkpoint::{NodeId, PAGE_BYTES};
use serde::Serialize;

use super::bounds::{Bound, LinksBound, Percentiles};
use super::cluster::Cluster;
use super::follower::Followed;
use super::simulated;
use super::{DemoArgs, WITNESSES};
use crate::api::simulations::SimulationView;
use crate::api::views::{CheckpointFigures, CheckpointView, LackedView, LinkView, StatusView, VmView};
use crate::cli::print;
use crate::exit::{ExitCode, Failure};

/// A measurement is void below this share of the set dirty rate, in percent.
const RATE_PERCENT_MIN: u64 = 90;

/// Everything that the demo saw.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    nodes: u32,
    /// What ran the recorded guest.
    processor: String,
    workload: String,
    memory_bytes: u64,
    interval_ms: u64,
    checkpoints_wanted: u64,
    seed: u64,
    took_ms: u64,
    downtime_us: Percentiles,
    rate_set: u64,
    rate_achieved: u64,
    taken: Vec<CheckpointFigures>,
    heads: Vec<CheckpointView>,
    followed: Vec<Followed>,
    traffic: Vec<NodeTraffic>,
    publisher_sent_bytes: u64,
    publisher_metadata_bytes: u64,
    union_bytes: u64,
    /// Against the recording alone.
    bound: Bound,
    /// Against the links, at the highest rates that they had.
    links: LinksBound,
    vm_failure: Option<String>,
}

/// What one node received and from whom.
#[derive(Debug, Serialize)]
pub(super) struct NodeTraffic {
    node: u64,
    from_publisher_bytes: u64,
    from_peers_bytes: u64,
    duplicate_bytes: u64,
    metadata_bytes: u64,
    sent_bytes: u64,
    pub(super) lacked_bytes: u64,
    /// Decoded bytes of its checkpoints that it held before it fetched them.
    own_store_bytes: u64,
    #[serde(skip)]
    pub(super) name: NodeId,
    pub(super) link: LinkView,
}

impl Outcome {
    pub(super) async fn gather(
        args: &DemoArgs,
        cluster: &Cluster,
        lineage: &str,
        vm: u64,
        followed: Vec<Followed>,
        took: Duration,
    ) -> Result<Self, Failure> {
        let publisher = cluster.publisher();
        let view: VmView = publisher.get(&format!("/api/v1/vms/{vm}?from=0")).await?;
        let heads: Vec<CheckpointView> =
            publisher.get(&format!("/api/v1/lineages/{lineage}/checkpoints")).await?;
        let (traffic, union_bytes) = gather_traffic(cluster, lineage, &followed).await?;
        let status: StatusView = publisher.get("/api/v1/status").await?;
        let measured: Vec<&CheckpointFigures> = view.checkpoints.iter().skip(1).collect();
        let bound = Bound::of(&heads, took);
        let mean = |sum: u64| sum / (measured.len() as u64).max(1);
        Ok(Self {
            nodes: args.nodes,
            processor: view.processor,
            workload: args.workload.name().to_owned(),
            memory_bytes: args.memory,
            interval_ms: u64::try_from(args.interval.as_millis()).unwrap_or(u64::MAX),
            checkpoints_wanted: args.checkpoints,
            seed: args.seed,
            took_ms: millis(took),
            downtime_us: Percentiles::of(measured.iter().map(|figures| figures.downtime_us).collect()),
            rate_set: measured.first().map_or(0, |figures| figures.rate_set),
            rate_achieved: mean(measured.iter().map(|figures| figures.rate_achieved).sum()),
            links: LinksBound::of(&status, &traffic, union_bytes, bound.makespan_ms),
            bound,
            taken: view.checkpoints,
            heads,
            followed,
            traffic,
            publisher_sent_bytes: status.transfer.served_bytes,
            publisher_metadata_bytes: status.transfer.objects_up_bytes,
            union_bytes,
            vm_failure: view
                .wrong_page
                .map(|page| format!("the publisher's guest found a wrong byte in page {page}")),
        })
    }

    /// Why the demo did not hold, if it did not.
    pub(super) fn verdict(&self) -> Result<(), String> {
        if let Some(why) = &self.vm_failure {
            return Err(why.clone());
        }
        let wanted = self.checkpoints_wanted;
        if self.heads.len() as u64 != wanted || self.followed.len() as u64 != wanted {
            return Err(format!(
                "{} of {wanted} checkpoints were taken, {} were followed",
                self.heads.len(),
                self.followed.len()
            ));
        }
        let failed: Vec<String> =
            self.followed.iter().filter_map(|checkpoint| self.fault(checkpoint)).collect();
        if !failed.is_empty() {
            return Err(failed.join("; "));
        }
        let compared = self.followed.iter().filter(|checkpoint| checkpoint.bytes_equal == Some(true)).count();
        if compared as u64 != WITNESSES.min(wanted) {
            let wanted = WITNESSES.min(wanted);
            return Err(format!("{compared} checkpoints were compared byte for byte, not {wanted}"));
        }
        // An interpreter promises no speed: there only the proof counts.
        if self.is_too_slow() && self.processor == "kvm" {
            return Err(format!(
                "void: the guest dirtied {} of {} pages/s, less than {RATE_PERCENT_MIN} %; give it an idle machine",
                self.rate_achieved, self.rate_set
            ));
        }
        Ok(())
    }

    fn is_too_slow(&self) -> bool {
        self.rate_achieved * 100 < self.rate_set * RATE_PERCENT_MIN
    }

    fn promised_root(&self, index: u64) -> Option<&str> {
        self.heads.iter().find(|head| head.index == index).map(|head| head.state_root.as_str())
    }

    fn fault(&self, checkpoint: &Followed) -> Option<String> {
        let index = checkpoint.index;
        if let Some(why) = &checkpoint.failure {
            return Some(format!("checkpoint {index}: {why}"));
        }
        if checkpoint.state_root.as_deref() != self.promised_root(index) {
            return Some(format!("checkpoint {index}: the state root differs"));
        }
        if checkpoint.bytes_equal == Some(false) {
            return Some(format!("checkpoint {index}: the bytes differ"));
        }
        let simulated = checkpoint.simulation.as_ref().map(|simulation| simulation.state_root.as_str());
        if simulated.is_some() && simulated != self.promised_root(index + 1) {
            return Some(format!("interval {index}: its simulated end differs from the next checkpoint"));
        }
        match &checkpoint.self_check {
            Some(check) if check.holds => None,
            Some(check) => {
                let why = check.died.clone().unwrap_or_else(|| "the guest's self-check failed".to_owned());
                Some(format!("checkpoint {index}: {why}"))
            }
            None => Some(format!("checkpoint {index}: the guest was not resumed")),
        }
    }

    /// The tables.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("\n");
        text.push_str(&print::table(&self.checkpoint_rows()));
        text.push('\n');
        text.push_str(&print::table(&self.traffic_rows()));
        text.push('\n');
        for (name, value) in self.capture_summary().into_iter().chain(self.swarm_summary()) {
            text.push_str(&format!("{name:<34}{value}\n"));
        }
        match self.verdict() {
            Ok(()) => text.push_str("\nevery checkpoint was rebuilt and proven\n"),
            Err(why) => text.push_str(&format!("\nFAILED: {why}\n")),
        }
        text
    }

    fn checkpoint_rows(&self) -> Vec<Vec<String>> {
        let heading = [
            "checkpoint",
            "downtime",
            "dirty",
            "new",
            "duplicate",
            "zero",
            "patched",
            "new bytes",
            "delta",
            "node",
            "lacked",
            "fetched in",
            "root",
            "bytes",
            "self-check",
            "simulated",
        ];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        for taken in &self.taken {
            let followed = self.followed.iter().find(|checkpoint| checkpoint.index == taken.index);
            let mut row = vec![
                taken.index.to_string(),
                print::milliseconds(taken.downtime_us),
                taken.dirty_pages.to_string(),
                taken.new_pages.to_string(),
                taken.duplicate_pages.to_string(),
                taken.zero_pages.to_string(),
                taken.patched_pages.to_string(),
                print::bytes(taken.new_bytes),
                print::bytes(taken.delta_bytes),
            ];
            row.extend(followed.map_or_else(Vec::new, |followed| self.followed_cells(followed)));
            rows.push(row);
        }
        rows
    }

    fn followed_cells(&self, followed: &Followed) -> Vec<String> {
        let holds = |yes: bool| if yes { "equal" } else { "DIFFERS" }.to_owned();
        let check =
            followed.self_check.as_ref().map_or("-", |check| if check.holds { "holds" } else { "FAILS" });
        vec![
            followed.node.to_string(),
            followed.lacked_chunks.to_string(),
            format!("{} ms", followed.fetch_ms),
            holds(followed.state_root.as_deref() == self.promised_root(followed.index)),
            followed.bytes_equal.map_or_else(String::new, holds),
            check.to_owned(),
            followed.simulation.as_ref().map_or_else(String::new, |simulation| {
                holds(Some(simulation.state_root.as_str()) == self.promised_root(followed.index + 1))
            }),
        ]
    }

    fn traffic_rows(&self) -> Vec<Vec<String>> {
        let heading = [
            "node",
            "lacked",
            "from publisher",
            "from peers",
            "received twice",
            "metadata",
            "sent",
            "from its own store",
        ];
        let rows = self.traffic.iter().map(|node| {
            vec![
                node.node.to_string(),
                print::bytes(node.lacked_bytes),
                print::bytes(node.from_publisher_bytes),
                print::bytes(node.from_peers_bytes),
                print::bytes(node.duplicate_bytes),
                print::bytes(node.metadata_bytes),
                print::bytes(node.sent_bytes),
                print::bytes(node.own_store_bytes),
            ]
        });
        std::iter::once(heading.map(str::to_owned).to_vec()).chain(rows).collect()
    }

    fn capture_summary(&self) -> Vec<(&'static str, String)> {
        let downtime = self.downtime_us;
        let sum = |figure: fn(&CheckpointFigures) -> u64| self.taken.iter().map(figure).sum::<u64>();
        vec![
            (
                "checkpoints",
                format!(
                    "{} of {} MiB, every {} ms, workload {} on {}",
                    self.taken.len(),
                    self.memory_bytes >> 20,
                    self.interval_ms,
                    self.workload,
                    if self.processor == "kvm" { "kvm" } else { "the interpreter" }
                ),
            ),
            (
                "dirty rate",
                format!(
                    "{} of {} pages/s set{}",
                    self.rate_achieved,
                    self.rate_set,
                    if self.is_too_slow() { ", so that all figures of speed are void" } else { "" }
                ),
            ),
            (
                "downtime p50 / p99 / max",
                format!(
                    "{} / {} / {} (without checkpoint 0 and without the writing of witness images)",
                    print::milliseconds(downtime.p50),
                    print::milliseconds(downtime.p99),
                    print::milliseconds(downtime.max)
                ),
            ),
            (
                "pages dirty",
                format!(
                    "{}: {} new ({} as patches), {} duplicate ({}), {} zero ({}), {} unchanged",
                    sum(|f| f.dirty_pages),
                    sum(|f| f.new_pages),
                    sum(|f| f.patched_pages),
                    sum(|f| f.duplicate_pages),
                    print::bytes(sum(|f| f.duplicate_pages) * PAGE_BYTES as u64),
                    sum(|f| f.zero_pages),
                    print::bytes(sum(|f| f.zero_pages) * PAGE_BYTES as u64),
                    sum(|f| f.unchanged_pages)
                ),
            ),
            (
                "bytes of new chunks",
                format!(
                    "{}, of these {} in patches",
                    print::bytes(sum(|f| f.new_bytes)),
                    print::bytes(sum(|f| f.patched_bytes))
                ),
            ),
        ]
    }

    fn swarm_summary(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            (
                "publisher sent",
                format!(
                    "{} of chunks, {} of metadata",
                    print::bytes(self.publisher_sent_bytes),
                    print::bytes(self.publisher_metadata_bytes)
                ),
            ),
            ("union of what nodes lacked", print::bytes(self.union_bytes)),
            ("publisher egress over the union", ratio(self.publisher_sent_bytes, self.union_bytes)),
            (
                "time over the recording",
                format!(
                    "{}.{:03} ({} ms from the first checkpoint to the last check; the recording alone took {} ms)",
                    self.bound.ratio_permille / 1000,
                    self.bound.ratio_permille % 1000,
                    self.bound.makespan_ms,
                    self.bound.recording_ms
                ),
            ),
            ("time over the bound of the links", self.links.text()),
        ];
        let simulations: Vec<&SimulationView> =
            self.followed.iter().filter_map(|checkpoint| checkpoint.simulation.as_ref()).collect();
        let took = Duration::from_millis(self.took_ms);
        rows.extend(simulated::rows(&self.taken, &simulations, self.nodes, took));
        rows.push(("wall time", format!("{} ms", self.took_ms)));
        rows
    }
}

/// What each node received, and the encoded bytes of all that any of them lacked: each chunk once, in the shortest form
/// in which it came to any of them.
async fn gather_traffic(
    cluster: &Cluster,
    lineage: &str,
    followed: &[Followed],
) -> Result<(Vec<NodeTraffic>, u64), Failure> {
    let mut union: BTreeMap<u64, u32> = BTreeMap::new();
    let mut traffic = Vec::new();
    for (node, client) in (0_u64..).zip(cluster.nodes()) {
        let status: StatusView = client.get("/api/v1/status").await?;
        let lacked: LackedView = client.get(&format!("/api/v1/lineages/{lineage}/lacked")).await?;
        let births = lacked.ranges.iter().flat_map(|(first, length)| *first..first.saturating_add(*length));
        for (birth, bytes) in births.zip(&lacked.bytes).filter(|(_, bytes)| **bytes > 0) {
            union.entry(birth).and_modify(|least| *least = (*least).min(*bytes)).or_insert(*bytes);
        }
        let mine = followed.iter().filter(|checkpoint| checkpoint.node == node);
        // Nearly all of them are pages; what else a checkpoint has is a few blobs.
        let held: u64 = mine.map(|checkpoint| checkpoint.held_chunks).sum();
        traffic.push(NodeTraffic {
            node,
            from_publisher_bytes: status.transfer.from_writer_bytes,
            from_peers_bytes: status.transfer.from_peers_bytes,
            duplicate_bytes: status.transfer.duplicate_bytes,
            metadata_bytes: status.transfer.objects_down_bytes,
            sent_bytes: status.transfer.served_bytes,
            lacked_bytes: lacked.bytes.iter().copied().map(u64::from).sum(),
            own_store_bytes: held * PAGE_BYTES as u64,
            name: status.node.parse().map_err(|_| Failure::new(ExitCode::Failed, "a node without a name"))?,
            link: status.link,
        });
    }
    Ok((traffic, union.into_values().map(u64::from).sum()))
}

fn ratio(of: u64, to: u64) -> String {
    let permille = of.saturating_mul(1000) / to.max(1);
    format!("{}.{:03}", permille / 1000, permille % 1000)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
