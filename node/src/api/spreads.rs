//! Spreads and links as the API shows them.

use std::num::NonZeroU64;
use std::time::Duration;

use pageswarm_checkpoint::wire::LinkRate;
use pageswarm_swarm::Link;

use super::views::{BindingView, LinkView, SpreadNodeView, SpreadView};
use crate::node::Node;
use crate::spread::{self, Binding, Observed};

/// The latest spread of each lineage of which any connected node lacked something. From a thread that may block.
#[must_use]
pub fn views(node: &Node) -> Vec<SpreadView> {
    spread::look(node).iter().map(view).collect()
}

/// What the links of a node can do.
#[must_use]
pub fn link_view(up: LinkRate, down: LinkRate) -> LinkView {
    LinkView {
        up_bytes_per_s: up.bytes_per_s().map(NonZeroU64::get),
        up_is_configured: matches!(up, LinkRate::Configured(_)),
        down_bytes_per_s: down.bytes_per_s().map(NonZeroU64::get),
    }
}

fn view(observed: &Observed) -> SpreadView {
    let nodes = observed.nodes.iter().map(|need| SpreadNodeView {
        node: need.node.to_string(),
        lacked_bytes: need.lacked_bytes,
        missing_bytes: need.missing_bytes,
        link: link_view(need.up, need.down),
    });
    SpreadView {
        lineage: observed.lineage.to_string(),
        goes_on: observed.goes_on(),
        union_bytes: observed.union_bytes,
        lacked_bytes: observed.lacked_bytes,
        missing_bytes: observed.missing_bytes,
        gain_permille: observed.gain_permille,
        busy_ms: millis(observed.busy),
        bound_ms: observed.bound.map(|binding| millis(binding.time)),
        left_ms: millis(observed.left),
        over_bound_permille: observed.over_bound_permille(),
        binds: observed.bound.map(|binding| binding_view(observed, binding)),
        nodes: nodes.collect(),
    }
}

fn binding_view(observed: &Observed, binding: Binding) -> BindingView {
    let (link, node) = match binding.link {
        Link::WriterUp => ("writer-up", Some(observed.writer)),
        Link::NodeDown(node) => ("node-down", Some(node)),
        Link::SwarmUp => ("swarm-up", None),
    };
    BindingView {
        link: link.to_owned(),
        node: node.map(|node| node.to_string()),
        bytes_per_s: binding.rate.bytes_per_s().map_or(0, NonZeroU64::get),
        is_configured: matches!(binding.rate, LinkRate::Configured(_)),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
