//! Goal: no sequence of inputs makes the engine panic, spin or unbalance its books, and after any of them an honest
//! environment completes every want. Method: random operations, late and contradictory ones included, then a fair
//! phase with one honest holder of everything.

mod driver;

use driver::{Driver, LINEAGE, WRITER, births, peer};
use pageswarm_checkpoint::{Birth, NodeId};
use pageswarm_swarm::{
    BirthSet, Config, Ended, Input, Label, Labels, Patience, RequestId, Time, Urgency, WantId,
};
use proptest::prelude::*;

/// Births in play.
const BIRTHS: u64 = 400;

#[derive(Clone, Debug)]
enum Operation {
    Input(Input),
    /// Answer the open request with this rank in full.
    Answer(usize),
    /// Answer a part of it.
    AnswerPart(usize, u64),
    /// End it.
    End(usize, Ended),
    /// Say that it is deferred to this peer.
    Defer(usize, u8),
    /// Say that it is not held, from the birth on.
    NotHeld(usize, u64),
    /// Its first chunk has the wrong bytes.
    Corrupt(usize),
    /// Let this many milliseconds pass.
    Pass(u64),
}

fn some_peer() -> impl Strategy<Value = NodeId> {
    (0_u8..5).prop_map(|number| if number == 0 { WRITER } else { peer(number) })
}

/// No rack, or one of two.
fn rack(number: u64) -> Labels {
    Labels { rack: (number > 0).then_some(Label(number)), ..Labels::default() }
}

fn some_births() -> impl Strategy<Value = BirthSet> {
    let ranges = prop::collection::vec((0..BIRTHS, 0_u64..40), 1..4);
    ranges.prop_map(|ranges| {
        let mut set = BirthSet::new();
        for (first, length) in ranges {
            set.insert_range(Birth(first), Birth((first + length).min(BIRTHS - 1)));
        }
        set
    })
}

fn from_a_peer() -> impl Strategy<Value = Input> {
    let lineage = LINEAGE;
    let asks = (some_peer(), 0_u64..40, some_births(), any::<bool>(), any::<bool>());
    let has = (some_peer(), some_births());
    let lacks = (some_peer(), some_births());
    let arrives = (some_peer(), 0_u64..60, some_births());
    prop_oneof![
        some_peer().prop_map(|peer| Input::PeerUp { peer }),
        some_peer().prop_map(|peer| Input::PeerDown { peer }),
        some_peer().prop_map(move |peer| Input::PeerFollows { peer, lineage }),
        some_peer().prop_map(move |peer| Input::PeerUnfollows { peer, lineage }),
        has.prop_map(move |(peer, births)| Input::PeerHas { peer, lineage, births }),
        (some_peer(), 0_u64..3).prop_map(|(peer, number)| Input::PeerLabels { peer, labels: rack(number) }),
        lacks.prop_map(move |(peer, births)| Input::PeerLacks { peer, lineage, births }),
        asks.prop_map(move |(peer, request, births, is_urgent, insists)| Input::Asked {
            peer,
            request: RequestId(request),
            lineage,
            births,
            urgency: if is_urgent { Urgency::Fault } else { Urgency::Normal },
            patience: if insists { Patience::Insist } else { Patience::MayDefer },
        }),
        (some_peer(), 0_u64..40)
            .prop_map(|(peer, request)| { Input::Served { peer, request: RequestId(request), bytes: 9 } }),
        (some_peer(), 0_u64..40)
            .prop_map(|(peer, request)| { Input::AskedCancelled { peer, request: RequestId(request) } }),
        arrives.prop_map(move |(peer, request, births)| {
            let bytes = births.len() * 1000;
            Input::ChunksArrived { peer, request: RequestId(request), lineage, births, bytes }
        }),
    ]
}

fn from_this_node() -> impl Strategy<Value = Input> {
    let lineage = LINEAGE;
    let wants = (0_u64..4, some_births(), prop::option::of(0_u64..20_000));
    let lengths = (0..BIRTHS, prop::collection::vec(0_u32..300_000, 0..50));
    prop_oneof![
        some_births().prop_map(move |births| Input::LocalHas { lineage, births }),
        some_births().prop_map(move |births| Input::LocalLost { lineage, births }),
        (0..BIRTHS).prop_map(move |birth| Input::Fault { lineage, birth: Birth(birth) }),
        (0..BIRTHS).prop_map(move |birth| Input::Unfault { lineage, birth: Birth(birth) }),
        (0_u64..4).prop_map(|want| Input::Unwant { want: WantId(want) }),
        Just(Input::Close { lineage }),
        Just(Input::Open { lineage, writer: Some(WRITER) }),
        lengths
            .prop_map(move |(first, lengths)| { Input::Lengths { lineage, first: Birth(first), lengths } }),
        wants.prop_map(move |(want, births, deadline)| Input::Want {
            want: WantId(want),
            lineage,
            births,
            deadline: deadline.map(Time::from_millis),
        }),
    ]
}

fn some_operation() -> impl Strategy<Value = Operation> {
    let how =
        prop_oneof![Just(Ended::Busy), Just(Ended::Failed), Just(Ended::NotAllowed), Just(Ended::Served)];
    prop_oneof![
        3 => from_a_peer().prop_map(Operation::Input),
        3 => from_this_node().prop_map(Operation::Input),
        3 => (0_usize..20).prop_map(Operation::Answer),
        1 => (0_usize..20, 0..BIRTHS).prop_map(|(rank, from)| Operation::AnswerPart(rank, from)),
        1 => (0_usize..20, how).prop_map(|(rank, how)| Operation::End(rank, how)),
        1 => (0_usize..20, 0_u8..6).prop_map(|(rank, holder)| Operation::Defer(rank, holder)),
        1 => (0_usize..20, 0..BIRTHS).prop_map(|(rank, from)| Operation::NotHeld(rank, from)),
        1 => (0_usize..20).prop_map(Operation::Corrupt),
        2 => (0_u64..1500).prop_map(Operation::Pass),
    ]
}

fn apply(node: &mut Driver, operation: Operation) {
    let open = |node: &Driver, rank: usize| {
        let count = node.open.len();
        (count > 0).then(|| node.open[rank % count].clone())
    };
    match operation {
        Operation::Input(input) => {
            if let Input::PeerDown { peer } = &input {
                node.open.retain(|sent| sent.peer != *peer);
            }
            node.tell(input);
        }
        Operation::Answer(rank) => {
            if let Some(sent) = open(node, rank) {
                node.arrive(&sent, &sent.births);
            }
        }
        Operation::AnswerPart(rank, from) => {
            if let Some(sent) = open(node, rank) {
                let part = sent.births.and(&births(from, BIRTHS));
                node.arrive(&sent, &part);
            }
        }
        Operation::End(rank, how) => {
            if let Some(sent) = open(node, rank) {
                node.ended(&sent, how);
            }
        }
        Operation::Defer(rank, holder) => {
            if let Some(sent) = open(node, rank) {
                let (peer_id, request, lineage) = (sent.peer, sent.request, sent.lineage);
                let (births, holder) = (sent.births, peer(holder));
                node.tell(Input::ChunksDeferred { peer: peer_id, request, lineage, births, holder });
            }
        }
        Operation::NotHeld(rank, from) => {
            if let Some(sent) = open(node, rank) {
                let births = sent.births.and(&births(from, BIRTHS));
                let (peer, request, lineage) = (sent.peer, sent.request, sent.lineage);
                node.tell(Input::ChunksNotHeld { peer, request, lineage, births });
            }
        }
        Operation::Corrupt(rank) => {
            if let Some(sent) = open(node, rank) {
                let birth = sent.births.first().expect("requests are not empty");
                let (peer, request, lineage) = (sent.peer, sent.request, sent.lineage);
                node.tell(Input::ChunkCorrupt { peer, request, lineage, birth });
            }
        }
        Operation::Pass(millis) => {
            let end = Time(node.now.0 + millis * 1_000_000);
            node.pass(end);
        }
    }
}

/// An honest holder of everything joins and answers; all others stay as they are, and answer nothing.
fn completes_in_a_fair_environment(node: &mut Driver) {
    let honest = peer(100);
    node.tell(Input::Open { lineage: LINEAGE, writer: Some(WRITER) });
    node.join(honest, &births(0, BIRTHS));
    for _ in 0..3000 {
        if node.engine.missing(LINEAGE).is_none_or(BirthSet::is_empty) {
            return;
        }
        node.answer(|sent| sent.peer == honest);
        let end = Time(node.now.0 + 20_000_000);
        node.pass(end);
    }
    panic!("still missing {:?}, asked {:?}", node.engine.missing(LINEAGE), node.open);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_keeps_the_books_and_a_fair_environment_completes_it(
        operations in prop::collection::vec(some_operation(), 1..120),
        here in 0_u64..2,
    ) {
        let mut node = Driver::new(Config { labels: rack(here), ..Config::default() });
        for number in 1..4 {
            node.join(peer(number), &births(0, u64::from(number) * 100));
        }
        node.want(0, &births(0, BIRTHS / 2));
        for operation in operations {
            apply(&mut node, operation);
        }
        completes_in_a_fair_environment(&mut node);
    }
}
