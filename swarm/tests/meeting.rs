//! Goal: a node of a large swarm comes to be connected with whoever has what it wants, and parts with nobody who is needed.
//! Method: one engine, driven by hand, its books checked after every input.

mod driver;

use std::time::Duration;

use driver::{Driver, LINEAGE, WRITER, births, peer};
use pageswarm_checkpoint::{Birth, NodeId};
use pageswarm_swarm::{Config, Input, Output, Patience, RequestId, Time};

/// The first peer that can be parted with.
fn spare(node: &Driver) -> Option<NodeId> {
    node.engine.spare_peers(node.now).first().copied()
}

/// With whom a connection is asked for in these effects.
fn met(outputs: &[Output]) -> Vec<NodeId> {
    let met = outputs.iter().filter_map(|output| match output {
        Output::Meet { peer } => Some(*peer),
        _ => None,
    });
    met.collect()
}

#[test]
fn the_writer_of_what_nobody_offers_is_met_and_asked_for_again_more_and_more_seldom() {
    let mut node = Driver::new(Config::default());
    node.join(peer(1), &births(0, 4));
    assert_eq!(met(&node.want(1, &births(0, 4))), [], "a peer has all of it");
    assert_eq!(met(&node.want(2, &births(0, 9))), [], "peers may come to offer it");
    let mut outputs = node.pass(Time::from_millis(400));
    // They do: there is less and less that nobody offers.
    for step in 0..4 {
        node.has(peer(1), &births(5, 5 + step));
        node.answer(|_| true);
        outputs.extend(node.pass(Time::from_millis(650 + 250 * step)));
    }
    assert_eq!(met(&outputs), []);
    assert_eq!(met(&node.pass(Time::from_millis(1700))), [WRITER]);
    node.now = Time::from_millis(3200);
    let fault = Input::Fault { lineage: LINEAGE, birth: Birth(50) };
    assert_eq!(met(&node.tell(fault)), [WRITER], "a guest waits");
    let again = met(&node.pass(Time::from_millis(12_000)));
    assert!((3..8).contains(&again.len()) && again.iter().all(|met| *met == WRITER), "{again:?}");
    node.join(WRITER, &births(0, 9));
    let later = node.pass(Time::from_millis(60_000));
    assert_eq!(met(&later), [], "it is here");
}

#[test]
fn whoever_was_sent_a_deferred_chunk_is_met() {
    let mut node = Driver::new(Config::default());
    node.join(WRITER, &births(0, 9));
    node.join(peer(2), &births(20, 20));
    node.want(1, &births(0, 9));
    let sent = node.request_for(0);
    let mut defer = |holder| {
        let (peer, request, births) = (WRITER, sent.request, births(0, 0));
        node.tell(Input::ChunksDeferred { peer, request, lineage: LINEAGE, births, holder })
    };
    assert_eq!(met(&defer(peer(1))), [peer(1)]);
    assert_eq!(met(&defer(peer(1))), [], "it was asked for just now");
    assert_eq!(met(&defer(peer(2))), [], "it is connected");
}

#[test]
fn the_peer_of_least_use_is_spared_and_none_that_is_needed() {
    let mut node = Driver::new(Config::default());
    for id in [WRITER, peer(1), peer(2), peer(3)] {
        node.join(id, &births(0, 9));
    }
    assert_eq!(spare(&node), None, "all of them have just come");
    node.tell(Input::LocalHas { lineage: LINEAGE, births: births(0, 9) });
    node.now = Time::from_millis(2000);
    node.asked(peer(1), 7, &births(0, 3), Patience::Insist);
    node.want(1, &births(10, 19));
    node.has(peer(2), &births(10, 19));
    assert!(!node.asked_of(peer(2)).is_empty());
    // The writer is needed, peer 1 is being served, peer 2 was asked.
    assert_eq!(spare(&node), Some(peer(3)));
    node.tell(Input::PeerDown { peer: peer(3) });
    assert_eq!(spare(&node), None);
    node.tell(Input::Served { peer: peer(1), request: RequestId(7), bytes: 4096 });
    assert_eq!(spare(&node), None, "it was of use just now");
    node.now = Time::ZERO.after(Duration::from_secs(4));
    node.tell(Input::Tick);
    assert_eq!(spare(&node), Some(peer(1)), "peer 2 has what is wanted");
}
