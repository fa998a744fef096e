//! One engine driven by hand: inputs in, effects out, time under the test's control.

#![expect(dead_code, reason = "each test file uses the part that it needs")]

use pageswarm_checkpoint::{Birth, LineageId, NodeId};
use pageswarm_swarm::{
    BirthSet, Config, Ended, Engine, Input, Output, Patience, RequestId, Time, Urgency, WantId,
};

/// The lineage of most tests.
pub(crate) const LINEAGE: LineageId = LineageId([9; 32]);
/// The engine under test.
pub(crate) const ME: NodeId = NodeId([0xee; 32]);
/// The lineage's writer.
pub(crate) const WRITER: NodeId = NodeId([1; 32]);

/// A peer that is not the writer.
pub(crate) fn peer(number: u8) -> NodeId {
    NodeId([0x10 + number; 32])
}

/// Births from `first` to `last`.
pub(crate) fn births(first: u64, last: u64) -> BirthSet {
    BirthSet::range(Birth(first), Birth(last))
}

/// A request that the engine sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) peer: NodeId,
    pub(crate) request: RequestId,
    pub(crate) lineage: LineageId,
    pub(crate) births: BirthSet,
    pub(crate) urgency: Urgency,
    pub(crate) patience: Patience,
}

pub(crate) struct Driver {
    pub(crate) engine: Engine,
    pub(crate) now: Time,
    pub(crate) until: Option<Time>,
    /// Requests that are neither answered nor cancelled.
    pub(crate) open: Vec<Sent>,
}

impl Driver {
    /// An engine with the lineage open; the writer is not connected yet.
    pub(crate) fn new(config: Config) -> Self {
        let engine = Engine::new(config, ME, 5);
        let mut driver = Self { engine, now: Time::ZERO, until: None, open: Vec::new() };
        driver.tell(Input::Open { lineage: LINEAGE, writer: Some(WRITER) });
        driver
    }

    /// Gives one input; checks the books; returns the effects.
    pub(crate) fn tell(&mut self, input: Input) -> Vec<Output> {
        self.engine.handle(self.now, input);
        let mut outputs = Vec::new();
        loop {
            match self.engine.poll() {
                Output::Wait { until, .. } => {
                    self.until = until;
                    break;
                }
                output => outputs.push(output),
            }
        }
        for output in &outputs {
            self.note(output);
        }
        self.engine.assert_invariants();
        outputs
    }

    fn note(&mut self, output: &Output) {
        match output.clone() {
            Output::Request { peer, request, lineage, births, urgency, patience } => {
                self.open.push(Sent { peer, request, lineage, births, urgency, patience });
            }
            Output::CancelRequest { request, .. } => {
                self.open.retain(|sent| sent.request != request);
            }
            Output::Ban { peer, .. } => self.open.retain(|sent| sent.peer != peer),
            _ => {}
        }
    }

    /// A peer connects, follows, and holds the births.
    pub(crate) fn join(&mut self, peer: NodeId, has: &BirthSet) -> Vec<Output> {
        let mut outputs = self.tell(Input::PeerUp { peer });
        outputs.extend(self.tell(Input::PeerFollows { peer, lineage: LINEAGE }));
        outputs.extend(self.has(peer, has));
        outputs
    }

    pub(crate) fn has(&mut self, peer: NodeId, births: &BirthSet) -> Vec<Output> {
        self.tell(Input::PeerHas { peer, lineage: LINEAGE, births: births.clone() })
    }

    pub(crate) fn want(&mut self, number: u64, births: &BirthSet) -> Vec<Output> {
        self.tell(Input::Want {
            want: WantId(number),
            lineage: LINEAGE,
            births: births.clone(),
            deadline: None,
        })
    }

    /// Chunks of an open request arrive, all of 4096 bytes.
    pub(crate) fn arrive(&mut self, sent: &Sent, births: &BirthSet) -> Vec<Output> {
        if births == &sent.births {
            self.open.retain(|other| other.request != sent.request);
        }
        self.tell(Input::ChunksArrived {
            peer: sent.peer,
            request: sent.request,
            lineage: sent.lineage,
            births: births.clone(),
            bytes: births.len() * 4096,
        })
    }

    /// Answers every open request of the peers that `which` picks in full, a millisecond apart.
    pub(crate) fn answer(&mut self, which: impl Fn(&Sent) -> bool) -> Vec<Output> {
        let mut outputs = Vec::new();
        for sent in self.open.clone() {
            if which(&sent) && self.open.iter().any(|open| open.request == sent.request) {
                self.now = Time(self.now.0 + 1_000_000);
                outputs.extend(self.arrive(&sent, &sent.births));
            }
        }
        outputs
    }

    /// Ticks at every time the engine asks for until `end`; fails if it asks for the past.
    pub(crate) fn pass(&mut self, end: Time) -> Vec<Output> {
        let mut outputs = Vec::new();
        let mut last = None;
        while let Some(until) = self.until.filter(|until| *until <= end) {
            assert!(last.is_none_or(|last| until > last), "a tick must get on: {until:?}");
            last = Some(until);
            self.now = self.now.max(until);
            outputs.extend(self.tell(Input::Tick));
        }
        self.now = self.now.max(end);
        outputs
    }

    pub(crate) fn ended(&mut self, sent: &Sent, how: Ended) -> Vec<Output> {
        self.open.retain(|other| other.request != sent.request);
        self.tell(Input::RequestEnded { peer: sent.peer, request: sent.request, how })
    }

    /// What is asked of a peer now.
    pub(crate) fn asked_of(&self, peer: NodeId) -> BirthSet {
        let mut asked = BirthSet::new();
        for sent in self.open.iter().filter(|sent| sent.peer == peer) {
            asked.add(&sent.births);
        }
        asked
    }

    /// A request for the birth.
    pub(crate) fn request_for(&self, birth: u64) -> Sent {
        let found = self.open.iter().find(|sent| sent.births.contains(Birth(birth)));
        found.expect("it is asked for").clone()
    }

    /// A peer asks us.
    pub(crate) fn asked(
        &mut self,
        peer: NodeId,
        request: u64,
        births: &BirthSet,
        patience: Patience,
    ) -> Vec<Output> {
        self.tell(Input::Asked {
            peer,
            request: RequestId(request),
            lineage: LINEAGE,
            births: births.clone(),
            urgency: Urgency::Normal,
            patience,
        })
    }
}

/// Whether the want was reported complete.
pub(crate) fn completes(outputs: &[Output], want: u64) -> bool {
    outputs.contains(&Output::WantComplete { want: WantId(want) })
}

/// What is served to a peer in these effects.
pub(crate) fn served(outputs: &[Output], to: NodeId) -> BirthSet {
    let mut all = BirthSet::new();
    for output in outputs {
        if let Output::Serve { peer, births, .. } = output
            && *peer == to
        {
            all.add(births);
        }
    }
    all
}
