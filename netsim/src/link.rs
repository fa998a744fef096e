//! One node's access link: what its uplink sends next, and when its downlink is free.

use std::collections::VecDeque;
use std::time::Duration;

use pageswarm_swarm::{BirthSet, RequestId, Time, Urgency};

use crate::lengths::Lengths;
use crate::message::Message;

/// Bytes of chunks that an uplink sends before it turns to the next answer.
const SLICE_BYTES: u64 = 16 << 10;

/// An answer that is being sent.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) to: usize,
    pub(crate) request: RequestId,
    pub(crate) urgency: Urgency,
    /// What is still to be sent.
    pub(crate) births: BirthSet,
    pub(crate) sent_bytes: u64,
    /// An answer is one stream: a delayed slice delays those after it.
    pub(crate) in_order: Time,
}

/// A small message that waits for the uplink.
#[derive(Debug)]
pub(crate) struct Small {
    pub(crate) to: usize,
    /// On the wire.
    pub(crate) bytes: u64,
    pub(crate) message: Message,
}

/// What the uplink sends next.
#[derive(Debug)]
pub(crate) enum Next {
    /// All small messages that wait, together.
    Control(Vec<Small>),
    /// A slice of the answer at the front, which was moved to the back if anything is left of it.
    Slice { to: usize, request: RequestId, births: BirthSet, bytes: u64, ended: Option<Answer> },
}

/// One node's link.
#[derive(Debug, Default)]
pub(crate) struct Link {
    control: Vec<Small>,
    urgent: VecDeque<Answer>,
    normal: VecDeque<Answer>,
    pub(crate) is_sending: bool,
    /// When what was given to the uplink has left it.
    pub(crate) up_free_at: Time,
    down_free_at: Time,
}

impl Link {
    pub(crate) fn send(&mut self, small: Small) {
        self.control.push(small);
    }

    pub(crate) fn answer(&mut self, answer: Answer) {
        match answer.urgency {
            Urgency::Fault => self.urgent.push_back(answer),
            Urgency::Deadline | Urgency::Normal => self.normal.push_back(answer),
        }
    }

    /// Stops an answer; returns it if it was being sent.
    pub(crate) fn abandon(&mut self, to: usize, request: RequestId) -> Option<Answer> {
        for lane in [&mut self.urgent, &mut self.normal] {
            let at = lane.iter().position(|answer| answer.to == to && answer.request == request);
            if let Some(at) = at {
                return lane.remove(at);
            }
        }
        None
    }

    /// Everything that waits to go to a node is gone.
    pub(crate) fn drop_all_to(&mut self, to: usize) {
        self.control.retain(|small| small.to != to);
        self.urgent.retain(|answer| answer.to != to);
        self.normal.retain(|answer| answer.to != to);
    }

    /// What to send now.
    pub(crate) fn next(&mut self, lengths: &Lengths) -> Option<Next> {
        if !self.control.is_empty() {
            return Some(Next::Control(std::mem::take(&mut self.control)));
        }
        let lane = if self.urgent.is_empty() { &mut self.normal } else { &mut self.urgent };
        let mut answer = lane.pop_front()?;
        let mut births = BirthSet::new();
        let mut bytes = 0;
        for birth in answer.births.iter() {
            let length = lengths.of(birth);
            if bytes > 0 && bytes + length > SLICE_BYTES {
                break;
            }
            births.insert(birth);
            bytes += length;
        }
        answer.births.subtract(&births);
        answer.sent_bytes += bytes;
        let (to, request) = (answer.to, answer.request);
        let mut ended = None;
        if answer.births.is_empty() {
            ended = Some(answer);
        } else {
            lane.push_back(answer);
        }
        Some(Next::Slice { to, request, births, bytes, ended })
    }

    /// The time of arrival of the next slice of an answer, not before the one before it.
    pub(crate) fn keep_order(&mut self, to: usize, request: RequestId, at: Time) -> Time {
        let lanes = self.urgent.iter_mut().chain(&mut self.normal);
        let mut same = lanes.filter(|answer| answer.to == to && answer.request == request);
        same.next().map_or(at, |answer| {
            answer.in_order = answer.in_order.max(at);
            answer.in_order
        })
    }

    /// When bytes have come through the downlink whose last bit reaches it now and whose first did `took` before: bits
    /// pass as they come, as far as the downlink is free and fast enough.
    pub(crate) fn receive(&mut self, now: Time, took: Duration, bytes: u64, rate: u64) -> Time {
        let first = Time::ZERO.after(now.since(Time::ZERO).saturating_sub(took));
        let through = self.down_free_at.max(first).after(transfer_time(bytes, rate));
        self.down_free_at = through.max(now);
        self.down_free_at
    }
}

/// How long bytes take at a rate in bytes per second.
pub(crate) fn transfer_time(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
