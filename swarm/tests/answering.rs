//! Goal: peers are answered fairly, within limits, and the writer sends every chunk once before any twice.
//! Method: one engine, driven by hand, its books checked after every input.

mod driver;

use driver::{Driver, LINEAGE, ME, births, peer, served};
use pageswarm_checkpoint::{Birth, LineageId, NodeId};
use pageswarm_swarm::{BirthSet, Config, Input, Output, Patience, Refusal, RequestId, Time, Urgency, limits};

/// An engine that is the writer and holds the births, with two peers that hold nothing.
fn writer(config: Config) -> Driver {
    let mut node = Driver::new(config);
    node.tell(Input::Open { lineage: LINEAGE, writer: Some(ME) });
    node.tell(Input::LocalHas { lineage: LINEAGE, births: births(0, 99) });
    for number in 1..=2 {
        node.join(peer(number), &BirthSet::new());
    }
    node
}

fn deferral(outputs: &[Output]) -> Option<(BirthSet, NodeId)> {
    outputs.iter().find_map(|output| match output {
        Output::Defer { births, holder, .. } => Some((births.clone(), *holder)),
        _ => None,
    })
}

#[test]
fn the_writer_sends_the_second_asker_to_the_first() {
    let mut node = writer(Config::default());
    let first = node.asked(peer(1), 0, &births(0, 9), Patience::MayDefer);
    assert_eq!(served(&first, peer(1)), births(0, 9));
    let second = node.asked(peer(2), 0, &births(5, 14), Patience::MayDefer);
    assert_eq!(served(&second, peer(2)), births(10, 14));
    assert_eq!(deferral(&second), Some((births(5, 9), peer(1))));
    let insisting = node.asked(peer(2), 1, &births(5, 9), Patience::Insist);
    assert_eq!(served(&insisting, peer(2)), births(5, 9));
}

#[test]
fn the_writer_serves_again_when_the_holder_is_gone_or_never_announces() {
    let mut node = writer(Config::default());
    node.asked(peer(1), 0, &births(0, 9), Patience::MayDefer);
    node.tell(Input::PeerDown { peer: peer(1) });
    let outputs = node.asked(peer(2), 0, &births(0, 9), Patience::MayDefer);
    assert_eq!(served(&outputs, peer(2)), births(0, 9));

    let mut node = writer(Config::default());
    node.asked(peer(1), 0, &births(0, 9), Patience::MayDefer);
    node.tell(Input::Served { peer: peer(1), request: RequestId(0), bytes: 40_960 });
    node.pass(Time::from_millis(5000));
    let outputs = node.asked(peer(2), 0, &births(0, 9), Patience::MayDefer);
    assert_eq!(served(&outputs, peer(2)), births(0, 9));
}

#[test]
fn a_cancelled_request_was_not_sent() {
    let mut node = writer(Config { upload_slots: 1, ..Config::default() });
    node.asked(peer(1), 0, &births(50, 59), Patience::MayDefer);
    node.asked(peer(1), 1, &births(0, 9), Patience::MayDefer);
    node.tell(Input::AskedCancelled { peer: peer(1), request: RequestId(1) });
    let outputs = node.asked(peer(2), 0, &births(0, 9), Patience::MayDefer);
    assert_eq!(deferral(&outputs), None);
    let abandoned = node.tell(Input::AskedCancelled { peer: peer(1), request: RequestId(0) });
    let (peer, request) = (peer(1), RequestId(0));
    assert!(abandoned.contains(&Output::AbandonServe { peer, request }));
}

#[test]
fn another_holder_than_the_writer_never_defers() {
    let mut node = Driver::new(Config::default());
    node.tell(Input::LocalHas { lineage: LINEAGE, births: births(0, 9) });
    node.join(peer(1), &BirthSet::new());
    node.join(peer(2), &BirthSet::new());
    node.asked(peer(1), 0, &births(0, 9), Patience::MayDefer);
    let outputs = node.asked(peer(2), 0, &births(0, 9), Patience::MayDefer);
    assert_eq!(served(&outputs, peer(2)), births(0, 9));
}

#[test]
fn requests_without_right_or_reason_are_refused() {
    let mut node = writer(Config::default());
    let refusal = |outputs: &[Output]| {
        outputs.iter().find_map(|output| match output {
            Output::Refuse { why, .. } => Some(*why),
            _ => None,
        })
    };
    let stranger = node.asked(peer(7), 0, &births(0, 1), Patience::Insist);
    assert_eq!(refusal(&stranger), Some(Refusal::NotAllowed));
    let elsewhere = node.tell(Input::Asked {
        peer: peer(1),
        request: RequestId(0),
        lineage: LineageId([3; 32]),
        births: births(0, 1),
        urgency: Urgency::Normal,
        patience: Patience::Insist,
    });
    assert_eq!(refusal(&elsewhere), Some(Refusal::NotAllowed));
    let empty = node.asked(peer(1), 1, &BirthSet::new(), Patience::Insist);
    assert_eq!(refusal(&empty), Some(Refusal::Unreasonable));
    let long = node.asked(peer(1), 2, &births(0, limits::RUN_BIRTHS_MAX), Patience::Insist);
    assert_eq!(refusal(&long), Some(Refusal::Unreasonable));
    let mut last = Vec::new();
    for request in 10..10 + limits::UPLOAD_QUEUE_MAX as u64 + 1 {
        last = node.asked(peer(1), request, &births(0, 1), Patience::Insist);
    }
    assert_eq!(refusal(&last), Some(Refusal::Busy));
    node.tell(Input::PeerUnfollows { peer: peer(1), lineage: LINEAGE });
    let after = node.asked(peer(1), 999, &births(0, 1), Patience::Insist);
    assert_eq!(refusal(&after), Some(Refusal::NotAllowed));
    assert_eq!(node.engine.stats().uploads, 0, "its answers are dropped");
}

#[test]
fn what_is_not_held_is_said_so_at_once_or_when_it_was_lost_in_the_queue() {
    let mut node = writer(Config { upload_slots: 1, ..Config::default() });
    let outputs = node.asked(peer(1), 0, &births(95, 104), Patience::Insist);
    let request = RequestId(0);
    let (peer_1, lineage) = (peer(1), LINEAGE);
    let lacking = Output::NotHeld { peer: peer_1, request, lineage, births: births(100, 104) };
    assert!(outputs.contains(&lacking));
    node.asked(peer(2), 5, &births(0, 9), Patience::Insist);
    node.tell(Input::LocalLost { lineage, births: births(0, 4) });
    let outputs = node.tell(Input::Served { peer: peer_1, request, bytes: 1 });
    assert_eq!(served(&outputs, peer(2)), births(5, 9));
    let (peer, request) = (peer(2), RequestId(5));
    assert!(outputs.contains(&Output::NotHeld { peer, request, lineage, births: births(0, 4) }));
}

#[test]
fn a_serve_that_takes_too_long_frees_its_slot() {
    let mut node = writer(Config { upload_slots: 1, ..Config::default() });
    node.asked(peer(1), 0, &births(0, 0), Patience::Insist);
    node.asked(peer(2), 0, &births(1, 1), Patience::Insist);
    let outputs = node.pass(Time::from_millis(31_000));
    let (stuck, request) = (peer(1), RequestId(0));
    assert!(outputs.contains(&Output::AbandonServe { peer: stuck, request }));
    assert_eq!(served(&outputs, peer(2)), births(1, 1));
}

#[test]
fn gains_are_announced_together_and_soon() {
    let mut node = writer(Config::default());
    node.pass(Time::from_millis(100));
    let mut outputs = Vec::new();
    for birth in 200..210 {
        outputs.extend(node.tell(Input::LocalHas { lineage: LINEAGE, births: births(birth, birth) }));
    }
    assert!(outputs.is_empty(), "they wait for each other");
    let outputs = node.pass(Time::from_millis(150));
    let have = |to| Output::AnnounceHave { to, lineage: LINEAGE, births: births(200, 209) };
    assert_eq!(outputs, [have(peer(1)), have(peer(2))]);
}

#[test]
fn a_peer_that_begins_to_follow_is_told_everything() {
    let mut node = writer(Config::default());
    node.tell(Input::PeerUp { peer: peer(3) });
    let outputs = node.tell(Input::PeerFollows { peer: peer(3), lineage: LINEAGE });
    let to = peer(3);
    assert!(outputs.contains(&Output::AnnounceHave { to, lineage: LINEAGE, births: births(0, 99) }));
    assert!(node.engine.held(LINEAGE).is_some_and(|held| held.contains(Birth(99))));
}

/// Whom a set was announced to, with the set.
fn announced(outputs: &[Output]) -> Vec<(NodeId, BirthSet)> {
    let have = |output: &Output| match output {
        Output::AnnounceHave { to, births, .. } => Some((*to, births.clone())),
        _ => None,
    };
    outputs.iter().filter_map(have).collect()
}

#[test]
fn what_went_to_a_peer_that_left_is_offered_to_the_others_again() {
    let mut node = writer(Config::default());
    node.asked(peer(1), 0, &births(0, 9), Patience::MayDefer);
    let outputs = node.tell(Input::PeerDown { peer: peer(1) });
    assert_eq!(announced(&outputs), [(peer(2), births(0, 9))]);
    let mut node = writer(Config::default());
    node.asked(peer(1), 0, &births(0, 9), Patience::MayDefer);
    node.has(peer(2), &births(0, 9));
    let outputs = node.tell(Input::PeerDown { peer: peer(1) });
    assert!(announced(&outputs).is_empty(), "another peer has it by now");
}

#[test]
fn an_idle_uplink_offers_to_a_few_at_once_and_to_all_soon() {
    let mut node = Driver::new(Config::default());
    for number in 0..10 {
        node.join(peer(number), &BirthSet::new());
    }
    node.pass(Time::from_millis(100));
    let first = announced(&node.tell(Input::LocalHas { lineage: LINEAGE, births: births(0, 9) }));
    assert!((1..10).contains(&first.len()), "{first:?}");
    let later = announced(&node.pass(Time::from_millis(140)));
    let mut told: Vec<NodeId> = first.iter().chain(&later).map(|(to, _)| *to).collect();
    told.sort_unstable();
    assert_eq!(told, (0..10).map(peer).collect::<Vec<_>>(), "each once");
}

#[test]
fn who_holds_the_gained_chunks_too_is_told_late_and_together() {
    let mut node = Driver::new(Config::default());
    node.join(peer(1), &births(0, 99));
    for birth in 0..10 {
        let outputs = node.tell(Input::LocalHas { lineage: LINEAGE, births: births(birth, birth) });
        assert!(announced(&outputs).is_empty());
    }
    assert!(announced(&node.pass(Time::from_millis(400))).is_empty());
    assert_eq!(announced(&node.pass(Time::from_millis(600))), [(peer(1), births(0, 9))]);
}
