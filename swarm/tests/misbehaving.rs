//! Goal: silent, slow, corrupt, lying and hostile peers cost a bounded time and bounded memory, and keep no chunk from
//! us. Method: one engine, driven by hand, its books checked after every input.

mod driver;

use driver::{Driver, LINEAGE, WRITER, births, completes, peer};
use pageswarm_checkpoint::Birth;
use pageswarm_swarm::{BanReason, BirthSet, Config, Ended, Input, Output, Time, limits};

#[test]
fn a_silent_peer_loses_its_requests_to_others_and_is_banned_if_it_stays_silent() {
    let mut node = Driver::new(Config::default());
    node.join(peer(1), &births(0, 3));
    node.want(1, &births(0, 3));
    node.join(peer(2), &births(0, 3));
    assert_eq!(node.asked_of(peer(1)), births(0, 3));
    node.pass(Time::from_millis(1500));
    assert_eq!(node.asked_of(peer(2)), births(0, 3), "taken over");
    assert!(completes(&node.answer(|sent| sent.peer == peer(2)), 1));
    node.want(2, &births(10, 11));
    node.has(peer(1), &births(10, 11));
    let outputs = node.pass(Time::from_millis(300_000));
    let bans = |output: &Output| matches!(output, Output::Ban { peer: of, why: BanReason::Silent, .. } if *of == peer(1));
    assert!(outputs.iter().any(bans));
}

#[test]
fn the_writer_is_never_banned_for_silence_and_is_tried_again() {
    let mut node = Driver::new(Config::default());
    node.join(WRITER, &births(0, 3));
    node.want(1, &births(0, 3));
    let outputs = node.pass(Time::from_millis(600_000));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Ban { .. })));
    while node.open.is_empty() {
        let until = node.until.expect("it will be asked again");
        node.pass(until);
    }
    assert!(completes(&node.answer(|_| true), 1));
}

#[test]
fn a_corrupt_chunk_is_fetched_elsewhere_and_three_end_the_acquaintance() {
    let mut node = Driver::new(Config::default());
    node.join(peer(1), &births(0, 99));
    node.want(1, &births(0, 99));
    node.join(WRITER, &births(0, 99));
    let mut outputs = Vec::new();
    for strike in 0..3 {
        let sent = node.open.iter().find(|sent| sent.peer == peer(1)).expect("asked").clone();
        let birth = sent.births.first().unwrap();
        let (from, request) = (sent.peer, sent.request);
        outputs = node.tell(Input::ChunkCorrupt { peer: from, request, lineage: LINEAGE, birth });
        assert!(!node.asked_of(peer(1)).contains(birth), "strike {strike}");
        let elsewhere = node.asked_of(WRITER).contains(birth);
        assert!(elsewhere || strike == 2, "the ban moves too much at once for two runs");
        node.has(peer(1), &BirthSet::range(birth, birth));
        assert!(!node.asked_of(peer(1)).contains(birth), "announcing it again does not help");
    }
    let why = BanReason::CorruptChunks;
    let ban = |output: &Output| matches!(output, Output::Ban { why: reason, .. } if *reason == why);
    assert!(outputs.iter().any(ban));
    let back = node.tell(Input::PeerUp { peer: peer(1) });
    assert!(back.iter().any(ban), "it stays banned");
}

#[test]
fn a_peer_that_answers_all_but_one_chunk_cannot_keep_it_from_us() {
    for how in [Ended::Served, Ended::Busy, Ended::Failed] {
        let mut node = Driver::new(Config::default());
        node.join(WRITER, &births(0, 99));
        node.join(peer(1), &births(0, 99));
        node.want(1, &births(0, 99));
        let mut rounds = 0;
        while !node.asked_of(WRITER).contains(Birth(50)) {
            rounds += 1;
            assert!(rounds < 200, "the writer is never asked for the withheld chunk");
            for sent in node.open.clone() {
                let mut sends = sent.births.clone();
                sends.remove(Birth(50));
                if sent.peer == peer(1) {
                    node.now = Time(node.now.0 + 1_000_000);
                    node.arrive(&sent, &sends);
                    if sends != sent.births {
                        node.ended(&sent, how);
                    }
                }
            }
            node.has(peer(1), &births(0, 99 + rounds));
            let next = Time(node.now.0 + 50_000_000);
            node.pass(next);
        }
    }
}

#[test]
fn a_request_that_is_never_answered_is_given_up_though_its_peer_answers_others() {
    let config = Config { duplicate_permille: 0, ..Config::default() };
    let mut node = Driver::new(config);
    node.join(peer(1), &births(0, 1 << 20));
    node.want(1, &births(0, 0));
    let withheld = node.request_for(0).request;
    node.join(WRITER, &births(0, 0));
    let mut at = 0;
    while !node.asked_of(WRITER).contains(Birth(0)) {
        at += 1;
        assert!(at < 2000, "the withheld chunk is never asked of the writer");
        node.want(2, &births(at, at));
        node.answer(|sent| sent.peer == peer(1) && sent.request != withheld);
        let next = Time(node.now.0 + 20_000_000);
        node.pass(next);
    }
}

#[test]
fn late_and_repeated_answers_are_accepted() {
    let mut node = Driver::new(Config::default());
    node.join(peer(1), &births(0, 3));
    node.want(1, &births(0, 3));
    let sent = node.request_for(0);
    node.pass(Time::from_millis(3000));
    assert!(node.open.iter().all(|open| open.request != sent.request), "it timed out");
    assert!(completes(&node.arrive(&sent, &births(0, 3)), 1));
    assert!(node.open.is_empty(), "whatever was asked again is cancelled");
    node.arrive(&sent, &births(0, 3));
    let stats = node.engine.stats();
    assert_eq!((stats.chunks_arrived, stats.chunks_duplicate), (4, 4));
    assert_eq!(stats.bytes_duplicate, 4 * 4096);
    assert_eq!(stats.outstanding_bytes, 0);
}

#[test]
fn sets_that_do_not_fit_a_peers_memory_are_ignored_and_then_banned() {
    let mut node = Driver::new(Config::default());
    node.join(peer(1), &births(0, 9));
    let hostile: BirthSet = (0..100_000).map(|i| Birth(i << 32)).collect();
    let mut outputs = Vec::new();
    for _ in 0..3 {
        outputs = node.has(peer(1), &hostile);
    }
    let memory = |node: &Driver| node.engine.peer_stats().map(|(_, peer)| peer.has_memory_bytes).sum();
    let bytes: u64 = memory(&node);
    assert!(bytes <= limits::PEER_HAS_BYTES_MAX as u64, "{bytes}");
    let ban = |output: &Output| matches!(output, Output::Ban { why: BanReason::HostileSets, .. });
    assert!(outputs.iter().any(ban));
}
