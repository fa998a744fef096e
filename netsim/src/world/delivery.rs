//! The receiving side: downlink, verification, store, and the engine's inputs.

use pageswarm_swarm::{BirthSet, Ended, Input, Refusal};

use super::{Event, Slice, World, node_id};
use crate::host::LINEAGE;
use crate::message::Message;

impl World {
    /// Chunks queue for the downlink, then for the disk.
    pub(super) fn arrive(&mut self, from: usize, to: usize, epoch: u64, slice: Slice) {
        if self.hosts[to].epoch(from) != Some(epoch) {
            return;
        }
        let now = self.scheduler.now();
        let host = &mut self.hosts[to];
        let received = host.link.receive(now, slice.took, slice.bytes, host.rates.down);
        let life = host.life;
        if self.processor.is_limited() {
            self.scheduler.at(received, Event::Received { node: to, life, from, slice });
        } else {
            let stored = Event::Stored { node: to, life, from, slice };
            self.scheduler.at(received.after(self.options.store_delay), stored);
        }
    }

    /// Chunks wait for the processor before they go to the disk.
    pub(super) fn received(&mut self, node: usize, life: u64, from: usize, slice: Slice) {
        let taken = self.processor.slice(self.scheduler.now(), slice.bytes, slice.is_last);
        let stored = Event::Stored { node, life, from, slice };
        self.scheduler.at(taken.after(self.options.store_delay), stored);
    }

    /// A small message waits for the processor.
    pub(super) fn read(&mut self, from: usize, to: usize, epoch: u64, message: Message) {
        let read = self.processor.message(self.scheduler.now());
        self.scheduler.at(read, Event::Deliver { from, to, epoch, message });
    }

    pub(super) fn deliver(&mut self, from: usize, to: usize, epoch: u64, message: Message) {
        if self.hosts[to].epoch(from) != Some(epoch) {
            return;
        }
        let (peer, lineage) = (node_id(from), LINEAGE);
        let input = match message {
            Message::Cancel { request } => Input::AskedCancelled { peer, request },
            Message::Deferred { request, births, holder } => {
                Input::ChunksDeferred { peer, request, lineage, births, holder }
            }
            Message::Have { .. } if self.options.is_central && from != 0 => return,
            Message::Have { births } => Input::PeerHas { peer, lineage, births },
            Message::Lack { births } => Input::PeerLacks { peer, lineage, births },
            Message::NotHeld { request, births } => Input::ChunksNotHeld { peer, request, lineage, births },
            Message::Refused { request, why } => {
                let how = match why {
                    Refusal::Busy => Ended::Busy,
                    Refusal::NotAllowed => Ended::NotAllowed,
                    Refusal::Unreasonable => Ended::Failed,
                };
                Input::RequestEnded { peer, request, how }
            }
            Message::Request { request, births, urgency, patience } => {
                Input::Asked { peer, request, lineage, births, urgency, patience }
            }
        };
        self.feed(to, input);
    }

    /// Verified chunks go to the store, then to the engine; wrong ones only to the engine; what a failing disk does
    /// not take, to nobody.
    pub(super) fn stored(&mut self, node: usize, from: usize, slice: Slice) {
        let Slice { request, births, wrong, bytes, is_last, .. } = slice;
        let (peer, lineage) = (node_id(from), LINEAGE);
        let now = self.scheduler.now();
        let host = &mut self.hosts[node];
        host.received_chunk_bytes += bytes;
        host.rejected += wrong.len() as u64;
        let errors = self.options.disk_error_permille;
        let births = if errors > 0 && self.rng.below(1000) < errors {
            BirthSet::new()
        } else {
            let known = self.lengths.sum(&births.and(host.store.held()));
            host.duplicate_bytes += known;
            let right = host.store.accept(&births, &wrong);
            let new = self.lengths.sum(&right).saturating_sub(known);
            host.progress.gain(now.since(host.joined_at), self.bound.time(), new);
            right
        };
        if !births.is_empty() {
            let bytes = self.lengths.sum(&births);
            let input = Input::ChunksArrived { peer, request, lineage, births, bytes };
            self.feed(node, input);
        }
        for birth in wrong {
            self.feed(node, Input::ChunkCorrupt { peer, request, lineage, birth });
        }
        if is_last {
            self.feed(node, Input::RequestEnded { peer, request, how: Ended::Served });
        }
    }
}
