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
use super::views::{CheckpointFigures, StatusView};
use crate::node::Node;

/// All metrics as text.
///
/// # Errors
///
/// Only if writing to memory fails.
pub fn text(node: &Node) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("pageswarm");
    let latest = node.machines.all().iter().filter_map(|machine| machine.figures(0).last().cloned()).next_back();
    let snapshot = Snapshot {
        status: server::status_view(node),
        connections_refused: node.counters.connections_refused.load(Ordering::Relaxed),
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
    latest: Option<CheckpointFigures>,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (transfer, store) = (&self.status.transfer, &self.status.store);
        for (source, help, bytes) in [
            ("writer_received", "Encoded chunk bytes received from writers of lineages", transfer.from_writer_bytes),
            ("peers_received", "Encoded chunk bytes received from other members", transfer.from_peers_bytes),
            ("duplicate", "Encoded chunk bytes that were held already when they came", transfer.duplicate_bytes),
            ("sent", "Encoded chunk bytes sent", transfer.served_bytes),
        ] {
            counter(&mut encoder, &format!("chunks_{source}"), help, Some(&Unit::Bytes), bytes)?;
        }
        let (down, up) = (transfer.objects_down_bytes, transfer.objects_up_bytes);
        counter(&mut encoder, "metadata_received", "Metadata bytes received", Some(&Unit::Bytes), down)?;
        counter(&mut encoder, "metadata_sent", "Metadata bytes sent", Some(&Unit::Bytes), up)?;
        for (name, help, count) in [
            ("chunks_corrupt", "Chunks that arrived with wrong bytes", transfer.corrupt_chunks),
            ("chunks_deferred", "Chunks that a writer said another node has", transfer.deferred_chunks),
            ("chunks_bad", "Chunks found bad in the store", store.bad_chunks),
            ("requests_timed_out", "Requests given up because the peer was silent", transfer.timed_out_requests),
            ("records_refused", "Heads and other records refused", transfer.refused_records),
            ("connections_refused", "Connections refused", self.connections_refused),
            ("checkpoints_fetched", "Checkpoints fetched whole", transfer.checkpoints_fetched),
        ] {
            counter(&mut encoder, name, help, None, count)?;
        }
        gauge(&mut encoder, "peers", "Connected members", None, self.status.peers.len() as u64)?;
        gauge(&mut encoder, "lineages", "Lineages followed", None, self.status.lineages.len() as u64)?;
        gauge(&mut encoder, "store_chunks", "Chunks held", None, store.chunks)?;
        let bytes = Some(&Unit::Bytes);
        gauge(&mut encoder, "store_decoded", "Decoded bytes of the chunks held", bytes, store.decoded_bytes)?;
        gauge(&mut encoder, "store_packs", "Bytes of all packs", bytes, store.pack_bytes)?;
        let receive_buffer = self.status.receive_buffer_bytes;
        gauge(&mut encoder, "receive_buffer", "UDP receive buffer that the kernel granted", bytes, receive_buffer)?;
        if let Some(latest) = &self.latest {
            checkpoint_gauges(&mut encoder, latest)?;
        }
        Ok(())
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
