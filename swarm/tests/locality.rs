//! Goal: the nodes of a rack fetch each chunk from outside once between them, and none waits for ever for another.
//! Method: one engine, driven by hand, its books checked after every input.

mod driver;

use driver::{Driver, LINEAGE, WRITER, births, completes, peer};
use pageswarm_checkpoint::NodeId;
use pageswarm_swarm::{Config, Input, Label, Labels, Time};

const CHUNKS: u64 = 320;

fn rack(number: u64) -> Labels {
    Labels { rack: Some(Label(number)), ..Labels::default() }
}

/// In rack 1, with two others there and a holder of everything in rack 2.
fn in_a_rack() -> Driver {
    let mut node = Driver::new(Config { labels: rack(1), ..Config::default() });
    let all = births(0, CHUNKS - 1);
    for (who, where_, has) in
        [(peer(1), 1, births(1, 0)), (peer(2), 1, births(1, 0)), (peer(3), 2, all.clone())]
    {
        node.tell(Input::PeerUp { peer: who });
        node.tell(Input::PeerLabels { peer: who, labels: rack(where_) });
        node.tell(Input::PeerFollows { peer: who, lineage: LINEAGE });
        node.has(who, &has);
    }
    node.join(WRITER, &all);
    node.want(1, &all);
    node
}

/// Answers everything until nothing more is asked.
fn answer_all(node: &mut Driver) -> Vec<pageswarm_swarm::Output> {
    let mut outputs = Vec::new();
    while !node.open.is_empty() {
        outputs.extend(node.answer(|_| true));
    }
    outputs
}

fn held(node: &Driver) -> u64 {
    node.engine.held(LINEAGE).map_or(0, pageswarm_swarm::BirthSet::len)
}

#[test]
fn only_its_share_is_fetched_from_outside_and_the_rest_from_those_around() {
    let mut node = in_a_rack();
    answer_all(&mut node);
    let share = held(&node);
    assert!((CHUNKS / 8..CHUNKS * 2 / 3).contains(&share), "about a third: {share}");
    let rest = node.engine.missing(LINEAGE).unwrap().clone();
    node.has(peer(1), &rest);
    assert!(!node.open.is_empty(), "what someone around has is asked for");
    assert!(node.open.iter().all(|sent| sent.peer == peer(1)), "and of nobody else");
    assert!(completes(&answer_all(&mut node), 1));
}

#[test]
fn others_who_do_not_do_their_part_are_waited_for_once() {
    let mut node = in_a_rack();
    answer_all(&mut node);
    let share = held(&node);
    node.pass(Time(node.now.0 + 900_000_000));
    answer_all(&mut node);
    assert_eq!(held(&node), share, "they are trusted for a second");
    node.pass(Time(node.now.0 + 200_000_000));
    assert!(completes(&answer_all(&mut node), 1), "then not");
}

#[test]
fn a_node_that_is_alone_in_its_rack_fetches_everything() {
    let mut node = in_a_rack();
    let gone: [NodeId; 2] = [peer(1), peer(2)];
    for who in gone {
        node.tell(Input::PeerDown { peer: who });
    }
    assert!(completes(&answer_all(&mut node), 1));
}

#[test]
fn of_peers_that_are_equally_good_the_nearer_is_asked() {
    let mut node = Driver::new(Config { labels: rack(1), ..Config::default() });
    for (who, where_) in [(peer(1), 2), (peer(2), 1)] {
        node.tell(Input::PeerUp { peer: who });
        node.tell(Input::PeerLabels { peer: who, labels: rack(where_) });
        node.tell(Input::PeerFollows { peer: who, lineage: LINEAGE });
        node.has(who, &births(0, 3));
    }
    node.want(1, &births(0, 3));
    assert_eq!(node.asked_of(peer(2)), births(0, 3));
    assert!(node.asked_of(peer(1)).is_empty());
}
