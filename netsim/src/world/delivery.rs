//! The receiving side: downlink, verification, store, and the engine's inputs.

use pageswarm_swarm::{BirthSet, Ended, Input, Refusal};

use super::{Event, Slice, World, node_id, true_content};
use crate::host::LINEAGE;
use crate::link::transfer_time;
use crate::message::Message;

impl World {
    /// Chunks queue for the downlink; small messages pass by the queue.
    pub(super) fn arrive(&mut self, from: usize, to: usize, epoch: u64, message: Message) {
        if self.connections.epoch(from, to) != Some(epoch) {
            return;
        }
        let now = self.scheduler.now();
        let (bytes, rate) = (message.bytes(), self.options.down);
        let at = match &message {
            Message::Chunks { .. } => self.hosts[to].link.receive(now, bytes, rate),
            _ => now.after(transfer_time(bytes, rate)),
        };
        self.scheduler.at(at, Event::Deliver { from, to, epoch, message });
    }

    pub(super) fn deliver(&mut self, from: usize, to: usize, epoch: u64, message: Message) {
        if self.connections.epoch(from, to) != Some(epoch) {
            return;
        }
        let (peer, lineage) = (node_id(from), LINEAGE);
        let input = match message {
            Message::Cancel { request } => Input::AskedCancelled { peer, request },
            Message::Chunks { request, chunks, bytes, is_last } => {
                let slice = Slice { request, chunks, bytes, is_last };
                let life = self.hosts[to].life;
                let stored = Event::Stored { node: to, life, from, slice };
                self.scheduler.after(self.options.store_delay, stored);
                return;
            }
            Message::Deferred { request, births, holder } => {
                Input::ChunksDeferred { peer, request, lineage, births, holder }
            }
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

    /// Verified chunks go to the store, then to the engine; wrong ones only to the engine.
    pub(super) fn stored(&mut self, node: usize, from: usize, slice: Slice) {
        let Slice { request, chunks, bytes, is_last } = slice;
        let (peer, lineage) = (node_id(from), LINEAGE);
        let mut births = BirthSet::new();
        let mut wrong = Vec::new();
        for (birth, content) in chunks {
            if content != true_content(self.options.seed, birth) {
                wrong.push(birth);
                continue;
            }
            births.insert(birth);
            if self.hosts[node].store.insert(birth, content).is_some() {
                self.hosts[node].duplicate_bytes += self.length(birth);
            }
        }
        let host = &mut self.hosts[node];
        host.received_chunk_bytes += bytes;
        host.rejected += wrong.len() as u64;
        let good = bytes.saturating_sub(wrong.iter().map(|birth| self.length(*birth)).sum());
        if !births.is_empty() {
            let input = Input::ChunksArrived { peer, request, lineage, births, bytes: good };
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
