//! What happened on this node, numbered, for the API's event stream and the dashboard.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::clock;
use crate::limits::EVENTS_KEPT;

/// One thing that happened. Numbers ascend by one, so a listener notices what it missed.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Counts up from 1 since the node started.
    pub number: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(missing_docs, reason = "field names are the documentation of docs/api.md")]
pub enum What {
    Connected { peer: String },
    Disconnected { peer: String, why: String },
    ConnectionRefused { why: String },
    RecordRefused { why: String },
    PeerBanned { peer: String, why: String },
    ChunkCorrupt { peer: String, lineage: String, birth: u64 },
    ChunkBad { hash: String, why: String },
    CheckpointLearnt { lineage: String, index: u64 },
    CheckpointTaken { lineage: String, index: u64, downtime_us: u64 },
    CheckpointHeld { lineage: String, index: u64, took_ms: u64 },
    IntervalSimulated { lineage: String, interval: u64, lease_to_start_ms: Option<u64>, simulation_ms: u64 },
    WorkerLied { worker: String, lineage: String },
    VmStarted { vm: u64, lineage: Option<String> },
    VmReport { vm: u64, passes: u64, counter: u64 },
    VmEnded { vm: u64, why: String },
    StoreTrouble { why: String },
    StoreRepaired(StoreRepairs),
}

/// What was wrong with a store when it was opened. What is lost counts as not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StoreRepairs {
    /// Whether the index was damaged, and made anew from the packs.
    pub index_rebuilt: bool,
    /// Records that packs had and the index did not.
    pub records_recovered: u64,
    /// Bytes of a write that was interrupted, cut off.
    pub torn_bytes: u64,
    /// Regions of packs that hold no record.
    pub damaged_regions: u64,
    /// Packs that are shorter than they were.
    pub short_packs: u64,
    /// Chunks that were in what these packs lost.
    pub chunks_lost: u64,
    /// Objects that were in what these packs lost.
    pub objects_lost: u64,
}

/// The latest events, and a way to hear the next.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<(u64, VecDeque<Event>)>,
    sender: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Mutex::default(), sender: broadcast::channel(EVENTS_KEPT).0 }
    }
}

impl Events {
    /// Adds an event.
    pub fn add(&self, what: What) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 += 1;
        let event = Event { number: kept.0, unix_ms: clock::unix_ms(), what };
        if kept.1.len() >= EVENTS_KEPT {
            kept.1.pop_front();
        }
        kept.1.push_back(event.clone());
        // Nobody may be listening.
        let _nobody = self.sender.send(event);
    }

    /// The events kept, oldest first, and a receiver of those after; none if `listeners_max` listen already.
    #[must_use]
    pub fn listen(&self, listeners_max: usize) -> Option<(Vec<Event>, broadcast::Receiver<Event>)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = self.sender.receiver_count() < listeners_max;
        has_room.then(|| (kept.1.iter().cloned().collect(), self.sender.subscribe()))
    }
}
