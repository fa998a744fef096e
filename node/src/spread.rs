//! How far the spread of a lineage is from what the links allow, as any node sees it.
//!
//! A node's **need** is what it lacks of a lineage and wants, from when it lacks something until it has lacked nothing
//! for [`QUIET`]. Needs that follow each other that closely are one **spread**. Each node tells the others on their
//! connection what it needs and how fast its links are, at most once a second; whoever is asked puts together what it
//! heard. What is estimated, and what that does to the figures, is in docs/api.md.

mod heard;
mod observed;
mod own;
mod peak;
mod telling;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::wire::{LinkRate, Need};
use pageswarm_checkpoint::{LineageId, NodeId};

use crate::backlog::Following;
use crate::lineages::Lineage;
use crate::node::Node;
use heard::Heard;

pub use observed::{Binding, NodeNeed, Observed, Span, Weight};
pub use own::{OwnNeed, OwnNeeds};
pub use peak::Peak;
pub use telling::tell;

/// How long a node must have lacked nothing for its next need to be another one.
pub const QUIET: Duration = Duration::from_secs(1);
/// How old an answer may be.
const SEEN_AGE_MAX: Duration = Duration::from_millis(400);

/// What was heard of other nodes' needs, and what followed from it last.
#[derive(Debug, Default)]
pub struct Spreads {
    heard: Mutex<Heard>,
    seen: Mutex<Option<(Instant, Vec<Observed>)>>,
}

impl Spreads {
    /// Takes in what a connected member told.
    pub fn hear(&self, peer: NodeId, need: Need) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).take(peer, need, Instant::now());
    }

    /// What each connected member that told of a need of the lineage wants of it.
    #[must_use]
    pub fn following(&self, lineage: &Lineage, now: Instant) -> Vec<Following> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).following(lineage, now)
    }

    /// Forgets members that are not connected any more.
    fn keep_only(&self, connected: impl Fn(&NodeId) -> bool) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).keep_only(connected);
    }
}

/// The latest spread of each lineage of which any node lacked something. From a thread that may block.
#[must_use]
pub fn look(node: &Node) -> Vec<Observed> {
    let mut seen = node.spreads.seen.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, observed)) = &*seen
        && at.elapsed() < SEEN_AGE_MAX
    {
        return observed.clone();
    }
    let mine: BTreeMap<LineageId, OwnNeed> =
        node.hub.needs_blocking().into_iter().map(|need| (need.lineage, need)).collect();
    let observed: Vec<Observed> = node
        .lineages
        .all()
        .iter()
        .filter_map(|lineage| observe(node, lineage, mine.get(&lineage.id)))
        .collect();
    *seen = Some((Instant::now(), observed.clone()));
    observed
}

fn observe(node: &Node, lineage: &Lineage, mine: Option<&OwnNeed>) -> Option<Observed> {
    let now = Instant::now();
    let mut nodes: Vec<NodeNeed> = {
        let heard = node.spreads.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let peers = node.peers.all().into_iter().filter(|peer| peer.follows(&lineage.id));
        peers.map(|peer| heard.need(peer.id, lineage, now)).collect()
    };
    let (up, down) = own_rates(node);
    nodes.push(mine.map_or_else(
        || NodeNeed::nothing(node.id, up, down),
        |need| NodeNeed {
            node: node.id,
            up,
            down,
            lacked_bytes: need.lacked_bytes,
            born_bytes: need.born_bytes,
            missing_bytes: need.missing_bytes,
            spans: need.times.iter().map(|time| Span::at_hearing(*time, Duration::ZERO)).collect(),
            births: need.lacked.clone(),
        },
    ));
    let latest = observed::latest(nodes)?;
    let weight = node.hub.weigh_blocking(lineage.id, latest.union())?;
    Some(latest.against_links(lineage.id, lineage.genesis.writer, weight))
}

/// What this node's links can do, up and down.
#[must_use]
pub fn own_rates(node: &Node) -> (LinkRate, LinkRate) {
    let view = node.hub.view();
    let measured = |peak| LinkRate::measured(peak);
    let limit = node.config.upload_bytes_per_s.and_then(std::num::NonZeroU64::new);
    (limit.map_or_else(|| measured(view.up_peak), LinkRate::Configured), measured(view.down_peak))
}
