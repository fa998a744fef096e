//! What engines ask for, carried out: messages sent, answers queued, wake-ups scheduled.

use pageswarm_checkpoint::Birth;
use pageswarm_swarm::{BirthSet, Input, Output, RequestId, Time, Urgency};

use super::{Event, World, node_of, true_content};
use crate::link::{Answer, Next, transfer_time};
use crate::message::{Content, Message};
use crate::options::Behaviour;

impl World {
    /// Gives an input to a node's engine, if it is up, and carries out the effects.
    pub(super) fn feed(&mut self, node: usize, input: Input) {
        let now = self.scheduler.now();
        let Some(engine) = self.hosts[node].engine.as_mut() else {
            return;
        };
        engine.handle(now, input);
        let mut outputs = Vec::new();
        let until = loop {
            match engine.poll() {
                Output::Wait { until, .. } => break until,
                output => outputs.push(output),
            }
        };
        self.trace.note(&[now.0, node as u64, outputs.len() as u64]);
        for output in outputs {
            self.carry_out(node, output);
        }
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
                    Behaviour::Honest | Behaviour::Corrupting => births,
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
                if let Some(since) = self.hosts[node].faults.remove(&birth) {
                    let took = u64::try_from(now.since(since).as_nanos()).unwrap_or(u64::MAX);
                    self.hosts[node].fault_ns.push(took);
                }
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
                let message = Message::Request { request, births, urgency, patience };
                self.send(node, node_of(peer), message);
            }
            Output::Serve { peer, request, births, urgency, .. } => {
                self.serve(node, node_of(peer), request, &births, urgency);
            }
            Output::WantComplete { .. } => self.hosts[node].complete_at = Some(now),
            Output::Event(_) | Output::Wait { .. } => {}
            Output::FaultRefused { .. } | Output::WantRefused { .. } => {
                panic!("a run stays far below the limits on wants and faults")
            }
        }
    }

    fn send(&mut self, node: usize, to: usize, message: Message) {
        self.trace.note(&[to as u64, message.bytes()]);
        if self.connections.epoch(node, to).is_some() {
            self.hosts[node].link.send(to, message);
        }
    }

    fn serve(&mut self, node: usize, to: usize, request: RequestId, births: &BirthSet, urgency: Urgency) {
        let chunks = births.iter().map(|birth| (birth, self.length(birth))).collect();
        self.trace.note(&[to as u64, request.0, births.len()]);
        let answer = Answer { to, request, urgency, chunks, sent_bytes: 0, in_order: Time::ZERO };
        self.hosts[node].link.answer(answer);
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
        let Some(next) = host.link.next() else { return };
        host.link.is_sending = true;
        let (life, up) = (host.life, host.up);
        let (to, message, of_answer) = match next {
            Next::Control { to, message } => (to, message, None),
            Next::Slice { to, request, births, bytes, ended } => {
                host.sent_chunk_bytes += bytes;
                let chunks = births.into_iter().map(|birth| (birth, self.content(node, birth)));
                let (chunks, is_last) = (chunks.collect(), ended.is_some());
                let message = Message::Chunks { request, chunks, bytes, is_last };
                (to, message, Some((request, ended)))
            }
        };
        let sent = self.scheduler.now().after(transfer_time(message.bytes(), up));
        self.scheduler.at(sent, Event::UplinkFree { node, life });
        let mut arrives = sent.after(self.options.latency);
        if self.rng.below(1000) < self.options.loss_permille {
            arrives = arrives.after(self.options.latency * 2 + std::time::Duration::from_millis(5));
        }
        if let Some((request, ended)) = of_answer {
            arrives = match &ended {
                Some(answer) => arrives.max(answer.in_order),
                None => self.hosts[node].link.keep_order(to, request, arrives),
            };
            if let Some(answer) = ended {
                let bytes = answer.sent_bytes;
                self.scheduler.at(sent, Event::Served { node, life, peer: to, request, bytes });
            }
        }
        if let Some(epoch) = self.connections.epoch(node, to) {
            self.scheduler.at(arrives, Event::Arrive { from: node, to, epoch, message });
        }
    }

    /// What a node sends as a chunk's bytes.
    fn content(&mut self, node: usize, birth: Birth) -> Content {
        let Content(right) = true_content(self.options.seed, birth);
        let lies = self.hosts[node].behaviour == Behaviour::Corrupting && self.rng.below(2) == 0;
        Content(if lies { !right } else { right })
    }
}
