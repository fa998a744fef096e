//! What the demo took, beside what its recording and its links allow.

use std::num::NonZeroU64;
use std::time::Duration;

use pageswarm_swarm::{Distribution, Link, Part};
use serde::Serialize;

use super::outcome::{NodeTraffic, millis};
use crate::api::views::{BindingView, CheckpointView, StatusView};
use crate::cli::print;
use crate::cli::status::binding_text;

/// 50th, 99th and 100th percentile.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

/// The recording, which all that is spread waits for.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Bound {
    pub(super) recording_ms: u64,
    pub(super) makespan_ms: u64,
    pub(super) ratio_permille: u64,
}

/// The least time in which the links could have brought all that nodes lacked, each link at the highest rate that was
/// seen on it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct LinksBound {
    pub(super) bound_ms: Option<u64>,
    pub(super) ratio_permille: Option<u64>,
    pub(super) binds: Option<BindingView>,
}

impl Percentiles {
    pub(super) fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let at = |percent: usize| {
            let rank = (values.len() * percent).div_ceil(100).max(1) - 1;
            values.get(rank).copied().unwrap_or(0)
        };
        Self { p50: at(50), p99: at(99), max: values.last().copied().unwrap_or(0) }
    }
}

impl Bound {
    pub(super) fn of(heads: &[CheckpointView], took: Duration) -> Self {
        let first = heads.first().map_or(0, |head| head.taken_unix_ms);
        let last = heads.last().map_or(0, |head| head.taken_unix_ms);
        let recording_ms = last.saturating_sub(first).max(1);
        let started_before = crate::clock::unix_ms().saturating_sub(first);
        let makespan_ms = started_before.min(millis(took));
        Self { recording_ms, makespan_ms, ratio_permille: makespan_ms * 1000 / recording_ms }
    }
}

impl LinksBound {
    pub(super) fn of(writer: &StatusView, nodes: &[NodeTraffic], union_bytes: u64, makespan_ms: u64) -> Self {
        let parts: Vec<Part> = nodes
            .iter()
            .map(|node| Part {
                node: node.name,
                lacked_bytes: node.lacked_bytes,
                up: node.link.up_bytes_per_s.and_then(NonZeroU64::new),
                down: node.link.down_bytes_per_s.and_then(NonZeroU64::new),
            })
            .collect();
        let writer_up = writer.link.up_bytes_per_s.and_then(NonZeroU64::new);
        let Some(bound) = (Distribution { writer_up, union_bytes, parts: &parts }).bound() else {
            return Self::default();
        };
        let (link, node) = match bound.binds {
            Link::WriterUp => ("writer-up", Some(writer.node.clone())),
            Link::NodeDown(node) => ("node-down", Some(node.to_string())),
            Link::SwarmUp => ("swarm-up", None),
        };
        let binds = BindingView {
            link: link.to_owned(),
            node,
            bytes_per_s: bound.bytes_per_s.get(),
            is_configured: false,
        };
        let bound_ms = millis(bound.time);
        let ratio_permille = (makespan_ms * 1000).checked_div(bound_ms);
        Self { bound_ms: Some(bound_ms), ratio_permille, binds: Some(binds) }
    }

    pub(super) fn text(&self) -> String {
        let (Some(bound_ms), Some(binds)) = (self.bound_ms, &self.binds) else {
            return "not known: no rates of links".to_owned();
        };
        let ratio = self.ratio_permille.map_or_else(|| "-".to_owned(), print::permille);
        format!("{ratio} (the same time; the links alone need {bound_ms} ms: {})", binding_text(binds))
    }
}
