//! Metrics in the OpenMetrics text form that Prometheus scrapes.

use std::fmt;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::server;
use super::views::{CheckpointFigures, DriveView, SpreadView, StatusView};
use crate::node::Node;

/// All metrics as text.
///
/// # Errors
///
/// Only if writing to memory fails.
pub fn text(node: &Node) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("pageswarm");
    let latest =
        node.machines.all().iter().filter_map(|machine| machine.figures(0).last().cloned()).next_back();
    let snapshot = Snapshot {
        status: server::status_view(node),
        connections_refused: node.counters.connections_refused.load(Ordering::Relaxed),
        image_bytes: node.images.bytes(),
        wants: node.hub.view().wants as u64,
        meetings: node.hub.view().stats.meetings,
        latest,
    };
    registry.register_collector(Box::new(snapshot));
    let mut out = String::new();
    prometheus_client::encoding::text::encode(&mut out, &registry)?;
    Ok(out)
}

/// A node's counts at the moment of the scrape.
#[derive(Debug)]
struct Snapshot {
    status: StatusView,
    connections_refused: u64,
    image_bytes: u64,
    wants: u64,
    meetings: u64,
    latest: Option<CheckpointFigures>,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, bytes) in self.byte_counts() {
            counter(&mut encoder, name, help, Some(&Unit::Bytes), bytes)?;
        }
        for (name, help, count) in self.counts() {
            counter(&mut encoder, name, help, None, count)?;
        }
        for (name, help, unit, level) in self.levels() {
            gauge(&mut encoder, name, help, unit, level)?;
        }
        spread_gauges(&mut encoder, &self.status.spreads)?;
        drive_gauges(&mut encoder, &self.status.vms)?;
        match &self.latest {
            Some(latest) => checkpoint_gauges(&mut encoder, latest),
            None => Ok(()),
        }
    }
}

impl Snapshot {
    const fn byte_counts(&self) -> [(&'static str, &'static str, u64); 6] {
        let transfer = &self.status.transfer;
        [
            (
                "chunks_writer_received",
                "Encoded chunk bytes from writers of lineages",
                transfer.from_writer_bytes,
            ),
            ("chunks_peers_received", "Encoded chunk bytes from other members", transfer.from_peers_bytes),
            ("chunks_duplicate", "Encoded chunk bytes that were held already", transfer.duplicate_bytes),
            ("chunks_sent", "Encoded chunk bytes sent", transfer.served_bytes),
            ("metadata_received", "Metadata bytes received", transfer.objects_down_bytes),
            ("metadata_sent", "Metadata bytes sent", transfer.objects_up_bytes),
        ]
    }

    const fn counts(&self) -> [(&'static str, &'static str, u64); 9] {
        let transfer = &self.status.transfer;
        [
            ("chunks_corrupt", "Chunks that arrived with wrong bytes", transfer.corrupt_chunks),
            ("chunks_deferred", "Chunks that a writer said another node has", transfer.deferred_chunks),
            ("chunks_bad", "Chunks found bad in the store", self.status.store.bad_chunks),
            ("requests_timed_out", "Requests given up for silence", transfer.timed_out_requests),
            ("records_refused", "Heads and other records refused", transfer.refused_records),
            ("connections_refused", "Connections refused", self.connections_refused),
            ("connections_sought", "Connections asked for because of what is wanted", self.meetings),
            ("faults_fetched", "Page faults answered with what was not here", transfer.faults_fetched),
            ("checkpoints_fetched", "Checkpoints fetched whole", transfer.checkpoints_fetched),
        ]
    }

    const fn levels(&self) -> [(&'static str, &'static str, Option<&'static Unit>, u64); 8] {
        let (status, store) = (&self.status, &self.status.store);
        let bytes = Some(&Unit::Bytes);
        [
            ("wants", "Sets of chunks that something waits for", None, self.wants),
            ("peers", "Connected members", None, status.peers.len() as u64),
            ("lineages", "Lineages followed", None, status.lineages.len() as u64),
            ("store_chunks", "Chunks held", None, store.chunks),
            ("store_decoded", "Decoded bytes of the chunks held", bytes, store.decoded_bytes),
            ("store_packs", "Bytes of all packs", bytes, store.pack_bytes),
            ("images", "RAM copies of proven checkpoints", bytes, self.image_bytes),
            ("receive_buffer", "UDP receive buffer as granted", bytes, status.receive_buffer_bytes),
        ]
    }
}

fn checkpoint_gauges(encoder: &mut DescriptorEncoder<'_>, latest: &CheckpointFigures) -> fmt::Result {
    gauge(encoder, "checkpoint_index", "Latest checkpoint taken here", None, latest.index)?;
    let seconds = |microseconds: u64| {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of minutes are exact in a double")]
        let seconds = microseconds as f64 / 1e6;
        seconds
    };
    let downtime = ConstGauge::new(seconds(latest.downtime_us));
    let metric = encoder.encode_descriptor(
        "checkpoint_downtime",
        "How long the guest stood still for the latest checkpoint",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    downtime.encode(metric)?;
    let publish = ConstGauge::new(seconds(latest.publish_us));
    let metric = encoder.encode_descriptor(
        "checkpoint_publish",
        "From capture to announcement of the latest checkpoint",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    publish.encode(metric)?;
    gauge(encoder, "checkpoint_dirty_pages", "Pages that the tracker named", None, latest.dirty_pages)?;
    gauge(encoder, "checkpoint_new", "Encoded bytes of new chunks", Some(&Unit::Bytes), latest.new_bytes)
}

/// The latest spread of each lineage against the bound of the links.
fn spread_gauges(encoder: &mut DescriptorEncoder<'_>, spreads: &[SpreadView]) -> fmt::Result {
    type Figure = fn(&SpreadView) -> Option<u64>;
    let figures: [(&str, &str, Unit, u64, Figure); 7] = [
        ("spread_lacked", "Encoded bytes that nodes lacked", Unit::Bytes, 1, |s| Some(s.lacked_bytes)),
        ("spread_missing", "Of these, bytes still missing", Unit::Bytes, 1, |s| Some(s.missing_bytes)),
        ("spread_union", "Encoded bytes that any node lacked", Unit::Bytes, 1, |s| Some(s.union_bytes)),
        ("spread_busy", "Time in which a node lacked something", Unit::Seconds, 1000, |s| Some(s.busy_ms)),
        ("spread_bound", "The least that the links need", Unit::Seconds, 1000, |s| s.bound_ms),
        ("spread_over_bound", "Time over the links' bound", Unit::Ratios, 1000, |s| s.over_bound_permille),
        ("spread_gain", "Lacked bytes over the union", Unit::Ratios, 1000, |s| Some(s.gain_permille)),
    ];
    if spreads.is_empty() {
        return Ok(());
    }
    for (name, help, unit, parts, figure) in figures {
        let mut family = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?;
        for spread in spreads {
            let Some(value) = figure(spread) else { continue };
            let labels = [("lineage", spread.lineage.as_str())];
            #[expect(clippy::cast_precision_loss, reason = "a scrape needs no more than 15 digits")]
            let value = value as f64 / parts as f64;
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    let mut family =
        encoder.encode_descriptor("spread_binds", "The link that binds: 1", None, MetricType::Gauge)?;
    for (spread, binds) in spreads.iter().filter_map(|spread| Some((spread, spread.binds.as_ref()?))) {
        let node = binds.node.as_deref().unwrap_or_default();
        let labels = [("lineage", spread.lineage.as_str()), ("link", binds.link.as_str()), ("node", node)];
        ConstGauge::new(1_i64).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

/// What of the checkpoints of running VMs waits.
fn drive_gauges(encoder: &mut DescriptorEncoder<'_>, vms: &[DriveView]) -> fmt::Result {
    type Figure = fn(&DriveView) -> u64;
    let figures: [(&str, &str, Option<Unit>, u64, Figure); 6] = [
        ("backlog_to_store", "Captured and not stored yet", Some(Unit::Bytes), 1, |vm| vm.to_store_bytes),
        ("backlog_to_send", "Lacked by followers, held only here", Some(Unit::Bytes), 1, |vm| {
            vm.to_send_bytes
        }),
        ("backlog_store_wait", "Age of what is not stored", Some(Unit::Seconds), 1000, |vm| vm.to_store_ms),
        ("backlog_send_wait", "What the uplink needs", Some(Unit::Seconds), 1000, |vm| vm.to_send_ms),
        ("vm_interval", "From checkpoint to checkpoint", Some(Unit::Seconds), 1000, |vm| vm.interval_ms),
        ("vm_behind", "1 if more waits than may", None, 1, |vm| u64::from(vm.is_behind)),
    ];
    if vms.is_empty() {
        return Ok(());
    }
    for (name, help, unit, parts, figure) in figures {
        let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for vm in vms {
            #[expect(clippy::cast_precision_loss, reason = "a scrape needs no more than 15 digits")]
            let value = figure(vm) as f64 / parts as f64;
            ConstGauge::new(value).encode(family.encode_family(&[("vm", vm.vm)])?)?;
        }
    }
    Ok(())
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> fmt::Result {
    let metric: MetricEncoder<'_> = encoder.encode_descriptor(name, help, unit, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    value: u64,
) -> fmt::Result {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    let metric: MetricEncoder<'_> = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}
