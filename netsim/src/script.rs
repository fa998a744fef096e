//! A scripted optimal schedule instead of engines: what the network model gives when nothing is left to decide.
//!
//! The binomial pipeline (Ganesan and Seshadri, 2005) on a hypercube: in round `t` every vertex sends its newest piece
//! along dimension `t mod l`, and the publisher a new one. With N = 2^l - 1 receivers that takes M + floor(log2 N)
//! rounds for M pieces, which no schedule beats on equal links (Mundinger, Weber and Weiss, 2006). For other N, some
//! vertices are two nodes: in a round one of them sends outwards while the other takes what comes from outside and
//! passes on to the first what that lacks.
//!
//! The plan is made in rounds; it is carried out on the model's links: a node sends its next piece when its uplink is
//! free and the piece is there. Latency and disks take no time, since the closed form knows neither.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use pageswarm_swarm::Time;

use crate::link::{Link, transfer_time};
use crate::message::chunks_bytes;
use crate::scheduler::Scheduler;
use crate::trace::Trace;

/// Bytes of one piece: what an uplink sends at a time.
const PIECE_BYTES: u64 = crate::bound::PIECE_BYTES;
/// How far the time may be from the closed form, in 1/1000.
const TOLERANCE_PERMILLE: u64 = 10;

/// What a scripted run came to.
#[derive(Clone, Copy, Debug)]
pub struct ScriptReport {
    /// Nodes beside the publisher.
    pub receivers: usize,
    /// Pieces of 16 KiB.
    pub pieces: usize,
    /// When the last node had everything.
    pub time: Duration,
    /// The time in thousandths of the time that one piece takes.
    pub rounds_permille: u64,
    /// M + floor(log2 N), in thousandths.
    pub closed_permille: u64,
    /// Hash over everything that happened.
    pub trace: u64,
}

impl ScriptReport {
    /// Whether the model reproduces the closed form within 1 %.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.rounds_permille.abs_diff(self.closed_permille)
            <= self.closed_permille / 1000 * TOLERANCE_PERMILLE
    }
}

impl fmt::Display for ScriptReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |permille: u64| format!("{}.{:03}", permille / 1000, permille % 1000);
        writeln!(f, "trace {:016x}", self.trace)?;
        writeln!(f, "receivers {} pieces {} of {PIECE_BYTES} bytes", self.receivers, self.pieces)?;
        writeln!(
            f,
            "time {:?}: {} rounds, closed form {}",
            self.time,
            of(self.rounds_permille),
            of(self.closed_permille)
        )?;
        write!(f, "{}", if self.is_right() { "PASS" } else { "FAIL" })
    }
}

/// Pieces, one bit each.
#[derive(Clone, Debug)]
struct Pieces(Vec<u64>);

impl Pieces {
    fn none(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn insert(&mut self, piece: usize) {
        self.0[piece / 64] |= 1 << (piece % 64);
    }

    fn contains(&self, piece: usize) -> bool {
        self.0[piece / 64] >> (piece % 64) & 1 == 1
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// The highest piece that is here and, if given, not there.
    fn newest(&self, not_in: Option<&Self>) -> Option<usize> {
        let without = |at: usize| not_in.map_or(0, |other| other.0[at]);
        let word = |at: usize| self.0[at] & !without(at);
        let at = (0..self.0.len()).rev().find(|at| word(*at) != 0)?;
        Some(64 * at + 63 - usize::try_from(word(at).leading_zeros()).unwrap_or(63))
    }
}

/// One planned transfer.
#[derive(Clone, Copy, Debug)]
struct Send {
    to: usize,
    piece: usize,
}

/// Runs the schedule for `nodes` nodes, the publisher included, `bytes` each, on links of `rate` bytes per second.
#[must_use]
pub fn run_script(nodes: usize, bytes: u64, rate: u64) -> ScriptReport {
    let nodes = nodes.max(2);
    let pieces = usize::try_from((bytes / PIECE_BYTES).max(1)).unwrap_or(usize::MAX);
    let (time, trace) = carry_out(plan(nodes, pieces), pieces, rate);
    let round = transfer_time(chunks_bytes(PIECE_BYTES), rate).as_nanos();
    let hops = u64::from((nodes as u64 - 1).ilog2());
    ScriptReport {
        receivers: nodes - 1,
        pieces,
        time,
        rounds_permille: u64::try_from(time.as_nanos() * 1000 / round).unwrap_or(u64::MAX),
        closed_permille: (pieces as u64 + hops) * 1000,
        trace,
    }
}

/// What each node sends, in order.
fn plan(nodes: usize, pieces: usize) -> Vec<VecDeque<Send>> {
    let dimensions = usize::try_from(nodes.ilog2()).unwrap_or(0);
    let vertices = 1_usize << dimensions;
    // Vertex 0 is the publisher; the others have one node, or two as long as there are enough.
    let mut members: Vec<Vec<usize>> = (0..vertices).map(|vertex| vec![vertex]).collect();
    for (place, node) in (vertices..nodes).enumerate() {
        members[1 + place % (vertices - 1)].push(node);
    }
    let mut held = vec![Pieces::none(pieces); nodes];
    (0..pieces).for_each(|piece| held[0].insert(piece));
    let mut sends = vec![VecDeque::new(); nodes];
    let is_complete = |held: &[Pieces]| held.iter().all(|held| (0..pieces).all(|piece| held.contains(piece)));
    // A generous end, so that a wrong plan fails instead of running on.
    for round in 0..2 * pieces + 64 {
        if round >= pieces && is_complete(&held) {
            break;
        }
        let before = held.clone();
        for vertex in 0..vertices {
            let across = vertex ^ (1 << (round % dimensions.max(1)));
            let (sender, inner) = roles(&members[vertex], &before);
            let Some(newest) = before[sender].newest(None) else {
                continue;
            };
            if let Some(other) = inner
                && let Some(lacked) = before[other].newest(Some(&before[sender]))
            {
                sends[other].push_back(Send { to: sender, piece: lacked });
                held[sender].insert(lacked);
            }
            let piece = if vertex == 0 { round.min(pieces - 1) } else { newest };
            let (outer, outer_inner) = roles(&members[across], &before);
            let taker = outer_inner.unwrap_or(outer);
            let known = members[across].iter().any(|node| before[*node].contains(piece));
            if across != 0 && !known {
                sends[sender].push_back(Send { to: taker, piece });
                held[taker].insert(piece);
            } else if let Some(other) = inner
                && let Some(lacked) = before[sender].newest(Some(&held[other]))
            {
                sends[sender].push_back(Send { to: other, piece: lacked });
                held[other].insert(lacked);
            }
        }
    }
    sends
}

/// Who of a vertex sends outwards, and who, if it has two nodes, takes what comes from outside: the newest piece goes
/// out, and if both have it, it comes from whoever has less, who then receives from the other.
fn roles(members: &[usize], held: &[Pieces]) -> (usize, Option<usize>) {
    let rank = |node: &&usize| (held[**node].newest(None), std::cmp::Reverse(held[**node].count()));
    let sender = members.iter().max_by_key(rank).copied().unwrap_or(0);
    (sender, members.iter().copied().find(|node| *node != sender))
}

/// What happens on the links.
#[derive(Clone, Copy, Debug)]
enum Event {
    Arrive { to: usize, piece: usize },
    Hold { node: usize, piece: usize },
    UplinkFree { node: usize },
}

/// Carries a plan out; returns when the last piece was received, and a hash over the run.
fn carry_out(mut plan: Vec<VecDeque<Send>>, pieces: usize, rate: u64) -> (Duration, u64) {
    let bytes = chunks_bytes(PIECE_BYTES);
    let mut links: Vec<Link> = plan.iter().map(|_| Link::default()).collect();
    let mut held = vec![Pieces::none(pieces); plan.len()];
    (0..pieces).for_each(|piece| held[0].insert(piece));
    let (mut scheduler, mut trace, mut last) = (Scheduler::new(), Trace::new(), Time::ZERO);
    (0..plan.len()).for_each(|node| scheduler.at(Time::ZERO, Event::UplinkFree { node }));
    while let Some(event) = scheduler.next() {
        let now = scheduler.now();
        let node = match event {
            Event::Arrive { to, piece } => {
                let through = links[to].receive(now, transfer_time(bytes, rate), bytes, rate);
                scheduler.at(through, Event::Hold { node: to, piece });
                continue;
            }
            Event::Hold { node, piece } => {
                trace.note(&[now.0, node as u64, piece as u64]);
                held[node].insert(piece);
                last = now;
                node
            }
            Event::UplinkFree { node } => {
                links[node].is_sending = false;
                node
            }
        };
        if !links[node].is_sending
            && let Some(send) = plan[node].front().copied()
            && held[node].contains(send.piece)
        {
            plan[node].pop_front();
            links[node].is_sending = true;
            let sent = now.after(transfer_time(bytes, rate));
            scheduler.at(sent, Event::UplinkFree { node });
            scheduler.at(sent, Event::Arrive { to: send.to, piece: send.piece });
        }
    }
    let is_whole = held.iter().all(|held| (0..pieces).all(|piece| held.contains(piece)));
    (if is_whole { last.since(Time::ZERO) } else { Duration::MAX }, trace.hash())
}
