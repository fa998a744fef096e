//! What engines ask for, carried out: messages sent, answers queued, wake-ups scheduled.

use pageswarm_checkpoint::Birth;
use pageswarm_swarm::{BirthSet, Input, Output, Patience, RequestId, Time, Urgency};

use super::{Event, Slice, World, node_of};
use crate::link::{Answer, Next, Small, transfer_time};
use crate::message::{Message, chunks_bytes};
use crate::options::Behaviour;

impl World {
    /// Gives an input to a node's engine, if it is up, and carries out the effects.
    pub(super) fn feed(&mut self, node: usize, input: Input) {
        let now = self.scheduler.now();
        let Some(engine) = self.hosts[node].engine.as_mut() else {
            return;
        };
        engine.handle(now, input);
        let mut outputs = std::mem::take(&mut self.outputs);
        let until = loop {
            match engine.poll() {
                Output::Wait { until, .. } => break until,
                output => outputs.push(output),
            }
        };
        self.trace.note(&[now.0, node as u64, outputs.len() as u64]);
        for output in outputs.drain(..) {
            self.carry_out(node, output);
        }
        self.outputs = outputs;
        self.schedule_wake(node, until);
        self.send_next(node);
    }

    fn schedule_wake(&mut self, node: usize, until: Option<Time>) {
        let Some(until) = until else { return };
        let host = &mut self.hosts[node];
        if host.engine.is_some() && host.wakes_at.is_none_or(|at| until < at) {
            host.wakes_at = Some(until);
            self.scheduler.at(until, Event::Wake { node, life: host.life, at: until });
        }
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        let now = self.scheduler.now();
        match output {
            Output::AbandonServe { peer, request } => self.abandon(node, node_of(peer), request),
            Output::AnnounceHave { to, births, .. } => {
                let births = match self.hosts[node].behaviour {
                    Behaviour::Boasting => BirthSet::range(Birth(0), Birth(self.options.chunks - 1)),
                    _ => births,
                };
                self.send(node, node_of(to), Message::Have { births });
            }
            Output::AnnounceLack { to, births, .. } => {
                self.send(node, node_of(to), Message::Lack { births });
            }
            Output::Ban { peer, until, .. } => self.banned(node, node_of(peer), until),
            Output::CancelRequest { peer, request } => {
                self.send(node, node_of(peer), Message::Cancel { request });
            }
            Output::Defer { peer, request, births, holder, .. } => {
                self.send(node, node_of(peer), Message::Deferred { request, births, holder });
            }
            Output::FaultDone { birth, .. } => {
                let host = &mut self.hosts[node];
                if let Some(since) = host.faults.remove(&birth) {
                    let took = u64::try_from(now.since(since).as_nanos()).unwrap_or(u64::MAX);
                    host.fault_ns.push(took);
                    self.open_faults -= usize::from(host.counts());
                }
            }
            Output::Meet { peer } => {
                let delay = self.options.latency * 2;
                self.scheduler.after(delay, Event::Meet { a: node, b: node_of(peer) });
            }
            Output::NotHeld { peer, request, births, .. } => {
                if self.hosts[node].behaviour != Behaviour::Boasting {
                    self.send(node, node_of(peer), Message::NotHeld { request, births });
                }
            }
            Output::Refuse { peer, request, why } => {
                self.send(node, node_of(peer), Message::Refused { request, why });
            }
            Output::Request { peer, request, births, urgency, patience, .. } => {
                // There is nobody else to be sent to.
                let patience = if self.options.is_central { Patience::Insist } else { patience };
                let message = Message::Request { request, births, urgency, patience };
                self.send(node, node_of(peer), message);
            }
            Output::Serve { peer, request, births, urgency, .. } => {
                self.serve(node, node_of(peer), request, births, urgency);
            }
            Output::WantComplete { want } if self.simulations.is_some() => {
                self.interval_arrived(node, want.0);
            }
            Output::WantComplete { .. } => self.set_complete(node, Some(now)),
            Output::Event(_) | Output::Wait { .. } => {}
            Output::FaultRefused { .. } | Output::WantRefused { .. } => {
                panic!("a run stays far below the limits on wants and faults")
            }
        }
    }

    pub(super) fn send(&mut self, node: usize, to: usize, message: Message) {
        let bytes = message.bytes();
        self.trace.note(&[to as u64, bytes]);
        if self.hosts[node].epoch(to).is_some() {
            self.hosts[node].link.send(Small { to, bytes, message });
        }
    }

    fn serve(&mut self, node: usize, to: usize, request: RequestId, births: BirthSet, urgency: Urgency) {
        self.trace.note(&[to as u64, request.0]);
        let host = &mut self.hosts[node];
        if host.behaviour != Behaviour::Withholding && host.epoch(to).is_some() {
            let answer = Answer { to, request, urgency, births, sent_bytes: 0, in_order: Time::ZERO };
            host.link.answer(answer);
        }
    }

    fn abandon(&mut self, node: usize, peer: usize, request: RequestId) {
        if let Some(answer) = self.hosts[node].link.abandon(peer, request) {
            let life = self.hosts[node].life;
            let bytes = answer.sent_bytes;
            self.scheduler
                .after(std::time::Duration::ZERO, Event::Served { node, life, peer, request, bytes });
        }
    }

    /// Lets the uplink begin its next transfer if it is free.
    pub(super) fn send_next(&mut self, node: usize) {
        let host = &mut self.hosts[node];
        if host.link.is_sending || host.engine.is_none() {
            return;
        }
        let Some(next) = host.link.next(&self.lengths) else { return };
        host.link.is_sending = true;
        self.messages += 1;
        match next {
            Next::Control(messages) => self.send_control(node, messages),
            Next::Slice { to, request, births, bytes, ended } => {
                let wrong = self.lies(node, &births);
                let took = transfer_time(chunks_bytes(bytes), self.hosts[node].up);
                let slice = Slice { request, births, wrong, bytes, took, is_last: ended.is_some() };
                self.send_slice(node, to, slice, ended);
            }
        }
    }

    /// When `bytes` that are `ready` at a time have left the uplink.
    fn occupy_uplink(&mut self, node: usize, bytes: u64, ready: Time) -> Time {
        let host = &mut self.hosts[node];
        let begins = ready.max(host.link.up_free_at);
        let sent = begins.after(transfer_time(bytes, host.up));
        host.link.up_free_at = sent;
        // What takes work is prepared while the thing before it is sent.
        let next = if self.processor.is_limited() { begins } else { sent };
        self.scheduler.at(next, Event::UplinkFree { node, life: host.life });
        sent
    }

    fn send_control(&mut self, node: usize, messages: Vec<Small>) {
        let bytes = messages.iter().map(|small| small.bytes).sum();
        self.hosts[node].sent_other_bytes += bytes;
        let now = self.scheduler.now();
        let ready = messages.iter().fold(now, |ready, _| ready.max(self.processor.message(now)));
        let sent = self.occupy_uplink(node, bytes, ready);
        for Small { to, bytes, message } in messages {
            let Some(epoch) = self.hosts[node].epoch(to) else {
                continue;
            };
            let through = transfer_time(bytes, self.hosts[to].rates.down);
            let delivered = self.arrival(sent).after(through);
            if self.is_repeated() {
                let message = message.clone();
                let again = self.arrival(delivered);
                self.hand_over(again, (node, to, epoch), message);
            }
            self.hand_over(delivered, (node, to, epoch), message);
        }
    }

    /// A small message reaches its receiver.
    fn hand_over(&mut self, at: Time, (from, to, epoch): (usize, usize, u64), message: Message) {
        let event = match self.processor.is_limited() {
            true => Event::Read { from, to, epoch, message },
            false => Event::Deliver { from, to, epoch, message },
        };
        self.scheduler.at(at, event);
    }

    fn send_slice(&mut self, node: usize, to: usize, slice: Slice, ended: Option<Answer>) {
        self.hosts[node].sent_chunk_bytes += slice.bytes;
        let (request, life) = (slice.request, self.hosts[node].life);
        let ready = self.processor.slice(self.scheduler.now(), slice.bytes, slice.is_last);
        let sent = self.occupy_uplink(node, chunks_bytes(slice.bytes), ready);
        let mut arrives = self.arrival(sent);
        arrives = self.racks.cross(node, to, arrives, slice.took, chunks_bytes(slice.bytes));
        arrives = match &ended {
            Some(answer) => arrives.max(answer.in_order),
            None => self.hosts[node].link.keep_order(to, request, arrives),
        };
        if let Some(answer) = ended {
            let bytes = answer.sent_bytes;
            self.scheduler.at(sent, Event::Served { node, life, peer: to, request, bytes });
        }
        if let Some(epoch) = self.hosts[node].epoch(to) {
            if self.is_repeated() {
                let (slice, again) = (slice.clone(), self.arrival(arrives));
                self.scheduler.at(again, Event::Arrive { from: node, to, epoch, slice });
            }
            self.scheduler.at(arrives, Event::Arrive { from: node, to, epoch, slice });
        }
    }

    /// When what left the uplink reaches the other side; what is lost is sent again.
    fn arrival(&mut self, sent: Time) -> Time {
        let arrives = sent.after(self.options.latency);
        let loss = self.options.loss_permille;
        if loss > 0 && self.rng.below(1000) < loss {
            return arrives.after(self.options.latency * 2 + std::time::Duration::from_millis(5));
        }
        arrives
    }

    fn is_repeated(&mut self) -> bool {
        let repeat = self.options.repeat_permille;
        repeat > 0 && self.rng.below(1000) < repeat
    }

    /// Of the chunks that a node sends, those with wrong bytes.
    fn lies(&mut self, node: usize, births: &BirthSet) -> Vec<Birth> {
        if self.hosts[node].behaviour != Behaviour::Corrupting {
            return Vec::new();
        }
        births.iter().filter(|_| self.rng.below(2) == 0).collect()
    }
}
