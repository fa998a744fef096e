//! Goal: the right chunks are asked of the right peers, urgent ones first, within the budget.
//! Method: one engine, driven by hand, its books checked after every input.

mod driver;

use driver::{Driver, LINEAGE, ME, WRITER, births, completes, peer};
use pageswarm_checkpoint::{Birth, LineageId};
use pageswarm_swarm::{BirthSet, Config, Ended, Input, Output, Patience, Time, Urgency, WantId, limits};

#[test]
fn the_writer_is_asked_only_for_what_no_other_peer_offers() {
    let mut node = Driver::new(Config::default());
    node.join(WRITER, &births(0, 9));
    node.join(peer(1), &births(0, 4));
    node.want(1, &births(0, 9));
    assert_eq!(node.asked_of(peer(1)), births(0, 4));
    assert_eq!(node.asked_of(WRITER), births(5, 9));
    let outputs = node.answer(|_| true);
    assert!(completes(&outputs, 1));
}

#[test]
fn chunks_of_a_gone_peer_are_asked_of_the_writer_at_once() {
    let mut node = Driver::new(Config::default());
    node.join(WRITER, &births(0, 3));
    node.join(peer(1), &births(0, 3));
    node.want(1, &births(0, 3));
    assert!(node.asked_of(WRITER).is_empty());
    node.open.clear();
    node.tell(Input::PeerDown { peer: peer(1) });
    assert_eq!(node.asked_of(WRITER), births(0, 3));
}

#[test]
fn a_chunk_that_a_peer_announces_as_gone_is_asked_elsewhere() {
    let mut node = Driver::new(Config::default());
    node.join(WRITER, &births(0, 9));
    node.join(peer(1), &births(0, 9));
    node.tell(Input::PeerLacks { peer: peer(1), lineage: LINEAGE, births: births(3, 3) });
    node.want(1, &births(0, 9));
    assert_eq!(node.asked_of(WRITER), births(3, 3));
    let request = node.request_for(5);
    let lineage = LINEAGE;
    node.tell(Input::ChunksNotHeld {
        peer: peer(1),
        request: request.request,
        lineage,
        births: births(5, 5),
    });
    assert!(node.asked_of(WRITER).contains(Birth(5)), "the peer did not hold it after all");
}

#[test]
fn a_fault_overtakes_a_full_budget_and_asks_a_second_peer_when_the_first_is_slow() {
    let mut node = Driver::new(Config { outstanding_bytes_max: 1, ..Config::default() });
    node.join(WRITER, &births(0, 999));
    node.join(peer(1), &births(0, 999));
    node.want(1, &births(0, 500));
    let bulk = node.open.len();
    assert_eq!(bulk, 1, "one run fills this budget");
    let outputs = node.tell(Input::Fault { lineage: LINEAGE, birth: Birth(900) });
    let first = node.request_for(900);
    assert_eq!((first.urgency, first.patience), (Urgency::Fault, Patience::Insist));
    assert_eq!(outputs.len(), 1);
    node.pass(Time::from_millis(300));
    let both: Vec<_> = node.open.iter().filter(|sent| sent.births == births(900, 900)).collect();
    assert_eq!(both.len(), 2, "hedged");
    assert_ne!(both[0].peer, both[1].peer);
    let late = both[1].clone();
    let outputs = node.arrive(&first, &births(900, 900));
    assert!(outputs.contains(&Output::FaultDone { lineage: LINEAGE, birth: Birth(900) }));
    let cancel = Output::CancelRequest { peer: late.peer, request: late.request };
    assert!(outputs.contains(&cancel), "the other request is not needed any more");
    assert_eq!(node.engine.stats().faults_hedged, 1);
}

#[test]
fn a_fault_without_a_holder_is_asked_for_as_soon_as_there_is_one() {
    let mut node = Driver::new(Config::default());
    node.tell(Input::Fault { lineage: LINEAGE, birth: Birth(7) });
    assert!(node.open.is_empty());
    node.join(peer(1), &births(0, 9));
    assert_eq!(node.asked_of(peer(1)), births(7, 7));
    node.tell(Input::Unfault { lineage: LINEAGE, birth: Birth(7) });
    assert!(node.open.is_empty(), "nobody waits for it: cancelled");
}

/// Goal: whoever carries requests out knows what to say of a peer that is gone. Method: the only holder of a faulted chunk fails
/// a request, then is gone. Result: after a failure it is asked again at once, there being nobody else; once it is gone nobody
/// is asked, until somebody has the chunk.
#[test]
fn the_only_holder_of_a_faulted_chunk_is_asked_again_until_it_is_gone() {
    let mut node = Driver::new(Config::default());
    node.join(peer(1), &births(0, 9));
    node.tell(Input::Fault { lineage: LINEAGE, birth: Birth(7) });
    for _ in 0..3 {
        let failed = node.request_for(7);
        let outputs = node.ended(&failed, Ended::Failed);
        assert!(outputs.iter().any(|output| matches!(output, Output::Request { .. })), "{outputs:?}");
    }
    node.open.clear();
    let outputs = node.tell(Input::PeerDown { peer: peer(1) });
    assert!(!outputs.iter().any(|output| matches!(output, Output::Request { .. })), "{outputs:?}");
    node.join(peer(2), &births(7, 7));
    assert_eq!(node.asked_of(peer(2)), births(7, 7));
}

#[test]
fn many_faults_are_all_asked_for_within_the_limits() {
    let mut node = Driver::new(Config::default());
    node.join(peer(1), &births(0, 9999));
    for birth in 0..2000 {
        node.tell(Input::Fault { lineage: LINEAGE, birth: Birth(birth) });
    }
    assert!(node.open.len() <= limits::FAULT_REQUESTS_PER_PEER_MAX + 2, "{}", node.open.len());
    let mut rounds = 0;
    while !node.open.is_empty() {
        node.answer(|_| true);
        rounds += 1;
        assert!(rounds < 100);
    }
    assert_eq!(node.engine.stats().faults_done, 2000);
}

#[test]
fn a_deferred_chunk_waits_for_its_holder_and_is_then_asked_of_it() {
    let mut node = Driver::new(Config::default());
    node.join(WRITER, &births(0, 3));
    node.join(peer(1), &BirthSet::new());
    node.want(1, &births(0, 3));
    let sent = node.request_for(0);
    assert_eq!((sent.peer, sent.patience), (WRITER, Patience::MayDefer));
    let (request, holder) = (sent.request, peer(1));
    let deferral =
        Input::ChunksDeferred { peer: WRITER, request, lineage: LINEAGE, births: births(0, 3), holder };
    node.tell(deferral.clone());
    node.open.clear();
    node.pass(Time::from_millis(500));
    assert!(node.open.is_empty(), "it waits for the holder");
    node.has(peer(1), &births(0, 3));
    assert_eq!(node.asked_of(peer(1)), births(0, 3));
}

#[test]
fn a_deferral_is_waited_out_and_insisted_on() {
    let mut node = Driver::new(Config::default());
    node.join(WRITER, &births(0, 3));
    node.join(peer(1), &BirthSet::new());
    node.want(1, &births(0, 3));
    let request = node.request_for(0).request;
    let (lineage, holder) = (LINEAGE, peer(1));
    node.tell(Input::ChunksDeferred { peer: WRITER, request, lineage, births: births(0, 3), holder });
    node.open.clear();
    node.pass(Time::from_millis(1500));
    let again = node.request_for(3);
    assert_eq!((again.peer, again.patience), (WRITER, Patience::Insist));
    assert!(completes(&node.answer(|_| true), 1));
}

#[test]
fn a_deferral_to_a_holder_that_goes_or_to_ourselves_is_insisted_on_at_once() {
    for holder in [peer(1), ME] {
        let mut node = Driver::new(Config::default());
        node.join(WRITER, &births(0, 3));
        node.join(peer(1), &BirthSet::new());
        node.want(1, &births(0, 3));
        let request = node.request_for(0).request;
        let lineage = LINEAGE;
        node.tell(Input::ChunksDeferred { peer: WRITER, request, lineage, births: births(0, 3), holder });
        node.open.clear();
        node.tell(Input::PeerDown { peer: peer(1) });
        node.pass(Time::from_millis(2));
        assert_eq!(node.request_for(0).patience, Patience::Insist);
    }
}

#[test]
fn a_deferral_ends_when_the_writer_offers_the_chunks_again() {
    let mut node = Driver::new(Config::default());
    node.join(WRITER, &births(0, 3));
    node.want(1, &births(0, 3));
    let request = node.request_for(0).request;
    let (lineage, holder) = (LINEAGE, peer(1));
    node.tell(Input::ChunksDeferred { peer: WRITER, request, lineage, births: births(0, 3), holder });
    node.open.clear();
    node.pass(Time::from_millis(100));
    assert!(node.open.is_empty(), "it waits for whoever was sent them");
    node.has(WRITER, &births(0, 3));
    assert_eq!(node.asked_of(WRITER), births(0, 3));
}

#[test]
fn everyone_who_offers_something_is_asked_for_one_run_before_anyone_for_two() {
    let mut node = Driver::new(Config::default());
    // More than are asked for one run by rights: nobody is asked twice for want of others.
    let peers = u8::try_from(limits::REQUESTS_PLENTY + 4).expect("few");
    for number in 0..peers {
        node.join(peer(number), &births(0, 9999));
    }
    node.want(1, &births(0, 9999));
    for number in 0..peers {
        let requests = node.open.iter().filter(|sent| sent.peer == peer(number)).count();
        assert_eq!(requests, 1, "peer {number}");
    }
}

#[test]
fn more_is_asked_for_at_a_time_only_while_much_is_missing() {
    // Twelve peers may each owe two runs while they are not measured; one from each is enough at the end.
    for (missing, requests) in [(9999, limits::REQUESTS_PLENTY), (999, 12)] {
        let mut node = Driver::new(Config::default());
        for number in 0..12 {
            node.join(peer(number), &births(0, missing));
        }
        node.want(1, &births(0, missing));
        assert_eq!(node.open.len(), requests, "{missing} missing");
    }
}

#[test]
fn a_lost_chunk_of_an_open_want_is_fetched_again_and_said_to_be_gone() {
    let mut node = Driver::new(Config::default());
    node.join(peer(1), &births(0, 4));
    node.want(1, &births(0, 9));
    node.answer(|_| true);
    let outputs = node.tell(Input::LocalLost { lineage: LINEAGE, births: births(2, 2) });
    assert_eq!(node.asked_of(peer(1)), births(2, 2));
    let lack = Output::AnnounceLack { to: peer(1), lineage: LINEAGE, births: births(2, 2) };
    assert!(outputs.contains(&lack));
}

#[test]
fn a_near_deadline_goes_first_and_a_far_one_does_not() {
    let mut node = Driver::new(Config { outstanding_bytes_max: 1, ..Config::default() });
    node.want(1, &births(0, 999));
    let want = |want, births, seconds: u64| Input::Want {
        want: WantId(want),
        lineage: LINEAGE,
        births,
        deadline: Some(Time::from_millis(seconds * 1000)),
    };
    node.tell(want(2, births(2000, 2000), 5));
    node.tell(want(3, births(3000, 3000), 2));
    node.tell(want(4, births(4000, 4000), 500));
    node.join(peer(1), &births(0, 9999));
    let mut order = Vec::new();
    for _ in 0..3 {
        let sent = node.open[0].clone();
        order.push((sent.births.first().unwrap().0, sent.urgency));
        node.answer(|_| true);
    }
    assert_eq!(order[..2], [(3000, Urgency::Deadline), (2000, Urgency::Deadline)]);
    assert_eq!(order[2].1, Urgency::Normal);
}

#[test]
fn a_fault_in_one_lineage_overtakes_bulk_in_another_and_a_closed_lineage_is_forgotten() {
    let other = LineageId([4; 32]);
    let mut node = Driver::new(Config::default());
    node.tell(Input::Open { lineage: other, writer: Some(peer(1)) });
    node.join(peer(1), &births(0, 9999));
    node.tell(Input::PeerHas { peer: peer(1), lineage: other, births: births(0, 9) });
    node.want(1, &births(0, 9999));
    node.tell(Input::Fault { lineage: other, birth: Birth(3) });
    let fault = node.open.iter().find(|sent| sent.lineage == other).expect("asked at once");
    assert_eq!(fault.urgency, Urgency::Fault);
    node.tell(Input::Close { lineage: LINEAGE });
    assert!(node.open.iter().all(|sent| sent.lineage == other));
    assert!(node.engine.held(LINEAGE).is_none());
}

#[test]
fn what_is_outstanding_stays_within_the_budget() {
    let config = Config { outstanding_bytes_max: 1 << 20, ..Config::default() };
    let mut node = Driver::new(config);
    for number in 0..8 {
        node.join(peer(number), &births(0, 99_999));
    }
    node.want(1, &births(0, 99_999));
    for _ in 0..50 {
        let outstanding = node.engine.stats().outstanding_bytes;
        assert!(outstanding <= (1 << 20) + limits::RUN_BYTES_MAX, "{outstanding}");
        node.answer(|_| true);
    }
    assert!(node.engine.stats().chunks_arrived > 10_000);
}

#[test]
fn the_last_chunks_are_spread_over_all_holders() {
    let mut node = Driver::new(Config::default());
    for number in 0..8 {
        node.join(peer(number), &births(0, 63));
    }
    node.want(1, &births(0, 63));
    for number in 0..8 {
        let share = node.asked_of(peer(number)).len();
        assert!((1..=16).contains(&share), "peer {number} was asked for {share} of 64");
    }
}

#[test]
fn what_is_unwanted_is_cancelled_and_not_asked_again() {
    let mut node = Driver::new(Config::default());
    node.join(peer(1), &births(0, 999));
    node.want(1, &births(0, 999));
    node.tell(Input::Unwant { want: WantId(1) });
    assert!(node.open.is_empty());
    assert_eq!(node.engine.stats().outstanding_bytes, 0);
    assert!(node.engine.missing(LINEAGE).is_some_and(BirthSet::is_empty));
}
