//! Goal: each recorded interval gets the results that it takes, whoever dies, dawdles or lies, and a table that is made
//! again from results stands where the one before stood. Method: a swarm of workers in virtual time, drawn from a seed;
//! what must hold is checked after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::{CheckpointIndex, LineageId, NodeId, ObjectHash, SimulatorBuild};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::judgement::{Checked, Finding, Standing, Verdict};
use super::policy::{Policy, Share};
use super::table::{AskId, Input, LEASE_AGE_MAX, LEASES_PER_JOB, LeaseTable, Output};
use crate::limits::SIMULATION_TIMEOUT;

const TERM: Duration = Duration::from_secs(10);

fn policy(share: &str) -> Policy {
    let sample: Share = share.parse().unwrap();
    Policy { term: TERM, sample, seed: [9; 32], lineage: LineageId([1; 32]) }
}

fn node(number: usize) -> NodeId {
    NodeId([u8::try_from(number).unwrap() + 1; 32])
}

fn truth(interval: CheckpointIndex) -> Finding {
    let mut name = [0; 32];
    name[..8].copy_from_slice(&interval.0.to_le_bytes());
    let (verdict, simulator) = (Verdict::Exact, SimulatorBuild([1; 32]));
    Finding { name: ObjectHash(name), verdict, simulator, traced: None }
}

/// Says that the end is exact, and was not there: the counts of what it did are made up.
fn lie(interval: CheckpointIndex, worker: NodeId) -> Finding {
    let mut finding = truth(interval);
    finding.name.0[8..16].copy_from_slice(&worker.0[..8]);
    finding
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Character {
    Honest,
    /// Says that it was exact without looking.
    Liar,
    /// Holds its leases and never ends.
    Slow,
    /// Takes leases and dies.
    Mortal,
}

struct Hand {
    id: NodeId,
    character: Character,
    waits: bool,
    candidates: Vec<CheckpointIndex>,
    leases: Vec<(CheckpointIndex, Instant)>,
    is_out: bool,
}

struct World {
    table: LeaseTable,
    share: &'static str,
    now: Instant,
    random: StdRng,
    hands: Vec<Hand>,
    asks: BTreeMap<AskId, usize>,
    next_ask: u64,
    /// All results, in the order in which they were published.
    published: Vec<(CheckpointIndex, NodeId, Finding)>,
    named: BTreeSet<NodeId>,
}

impl World {
    fn new(seed: u64, share: &'static str, characters: &[Character]) -> Self {
        let hand = |(number, character): (usize, &Character)| Hand {
            id: node(number),
            character: *character,
            waits: false,
            candidates: Vec::new(),
            leases: Vec::new(),
            is_out: false,
        };
        Self {
            table: LeaseTable::new(policy(share)),
            share,
            now: Instant::now(),
            random: StdRng::seed_from_u64(seed),
            hands: characters.iter().enumerate().map(hand).collect(),
            asks: BTreeMap::new(),
            next_ask: 0,
            published: Vec::new(),
            named: BTreeSet::new(),
        }
    }

    fn tell(&mut self, input: Input) {
        self.table.handle(self.now, input);
        while let Some(output) = self.table.poll() {
            let (ask, then) = match output {
                Output::Granted(ask, interval) => (ask, Some(interval)),
                Output::Candidates(ask, candidates) => {
                    assert!(!candidates.is_empty());
                    let hand = self.asks[&ask];
                    self.hands[hand].candidates = candidates;
                    (ask, None)
                }
                Output::Idle(ask, _) => (ask, None),
                Output::Distrusted(ask) => {
                    let hand = self.asks[&ask];
                    self.hands[hand].is_out = true;
                    (ask, None)
                }
                Output::Busy(_) => panic!("too many requests"),
                Output::Liar(worker) => {
                    assert!(self.named.insert(worker), "named once");
                    continue;
                }
            };
            let hand = self.asks.remove(&ask).expect("answers belong to requests, one each");
            let hand = &mut self.hands[hand];
            hand.waits = false;
            if let Some(interval) = then {
                let id = hand.id;
                assert!(hand.leases.iter().all(|(other, _)| *other != interval));
                assert!(!self.published.iter().any(|(other, worker, _)| (*other, *worker) == (interval, id)));
                let takes = Duration::from_millis(self.random.random_range(500..1500));
                hand.leases.push((interval, self.now + takes));
                let leases = self.table.summary().leases;
                let held = leases.iter().filter(|(_, worker)| *worker == id).count();
                assert!(held as u64 <= LEASES_PER_JOB, "{held} leases of one worker");
                assert!(leases.iter().filter(|(other, _)| *other == interval).count() <= 3);
            }
        }
    }

    /// A tenth of a second of everyone's life.
    fn step(&mut self) {
        self.now += Duration::from_millis(100);
        self.tell(Input::Time);
        for place in 0..self.hands.len() {
            self.live(place);
        }
    }

    fn live(&mut self, place: usize) {
        let hand = &self.hands[place];
        let (id, character) = (hand.id, hand.character);
        if hand.is_out {
            return;
        }
        if character == Character::Mortal && hand.leases.len() == 2 {
            self.hands[place].is_out = true;
            return;
        }
        if !hand.leases.is_empty() {
            let intervals = hand.leases.iter().map(|(interval, _)| *interval).collect();
            self.tell(Input::Renew { worker: id, intervals });
        }
        let first = self.hands[place].leases.first().copied();
        if let Some((interval, ends)) = first
            && ends <= self.now
            && character != Character::Slow
        {
            self.hands[place].leases.remove(0);
            let is_lie = character == Character::Liar;
            let finding = if is_lie { lie(interval, id) } else { truth(interval) };
            self.published.push((interval, id, finding));
            let took = Duration::from_secs(1);
            self.tell(Input::Found { interval, worker: id, finding, took });
        }
        if !self.hands[place].waits && self.hands[place].leases.len() < 2 {
            self.next_ask += 1;
            let ask = AskId(self.next_ask);
            self.asks.insert(ask, place);
            self.hands[place].waits = true;
            let candidates = std::mem::take(&mut self.hands[place].candidates);
            let lacks = candidates.into_iter().map(|at| (at, self.random.random_range(0..1000))).collect();
            self.tell(Input::Ask { ask, worker: id, jobs: 1, lacks });
        }
    }

    /// Lives until every interval is settled; how many steps it took.
    fn run(&mut self, intervals: u64, steps_max: usize) -> usize {
        self.tell(Input::Recorded(intervals));
        for step in 0..steps_max {
            if (0..intervals).all(|interval| self.table.standing(CheckpointIndex(interval)).is_settled()) {
                return step;
            }
            self.step();
        }
        panic!("not settled after {steps_max} steps: {:?}", self.table.summary());
    }

    fn remade(&self, intervals: u64) -> LeaseTable {
        let mut table = LeaseTable::new(policy(self.share));
        table.handle(self.now, Input::Recorded(intervals));
        // As a host reads them: one worker's log after the other.
        let mut logs: Vec<_> = self.published.iter().collect();
        logs.sort_by_key(|(_, worker, _)| *worker);
        for (interval, worker, finding) in logs {
            let (interval, worker, finding) = (*interval, *worker, *finding);
            let took = Duration::from_secs(1);
            table.handle(self.now, Input::Found { interval, worker, finding, took });
        }
        let named: BTreeSet<Output> = std::iter::from_fn(|| table.poll()).collect();
        assert_eq!(named, self.named.iter().map(|worker| Output::Liar(*worker)).collect());
        table
    }

    /// The host dies, and with it all requests; another table takes over.
    fn replace(&mut self, table: LeaseTable) {
        self.table = table;
        self.asks.clear();
        self.hands.iter_mut().for_each(|hand| hand.waits = false);
    }
}

#[test]
fn all_intervals_are_settled_and_nothing_is_done_twice_without_need() {
    for seed in 0..20 {
        let mut world = World::new(seed, "10%", &[Character::Honest; 4]);
        world.run(100, 2000);
        let twice = (0..100).filter(|k| policy("10%").checked(CheckpointIndex(*k)) == Checked::Twice).count();
        let hedged = usize::try_from(world.table.summary().hedged).unwrap();
        assert!(twice > 0 && world.published.len() >= 100 + twice);
        assert!(world.published.len() <= 100 + twice + hedged, "seed {seed}");
        assert!(world.named.is_empty());
    }
}

#[test]
fn the_dead_and_the_slow_cost_only_what_they_held() {
    use Character::{Honest, Mortal, Slow};
    for seed in 0..20 {
        let mut world = World::new(seed, "0%", &[Honest, Honest, Slow, Mortal]);
        world.run(60, 3000);
        let summary = world.table.summary();
        assert_eq!(summary.expired, 2, "the two leases of the one that died");
        assert!(summary.hedged >= 2, "those of the slow one, who renews them");
        assert!(world.published.len() >= 60 && world.published.len() <= 60 + 4);
    }
}

#[test]
fn a_liar_is_named_at_the_stated_rate_and_nothing_it_said_counts() {
    use Character::{Honest, Liar};
    let (mut lies_before, mut swarms) = (0, 0);
    for seed in 0..40 {
        let mut world = World::new(seed, "20%", &[Honest, Honest, Honest, Liar]);
        world.run(200, 4000);
        if world.named.is_empty() {
            continue;
        }
        assert_eq!(world.named, BTreeSet::from([node(3)]), "seed {seed}");
        swarms += 1;
        lies_before += world.published.iter().filter(|(_, worker, _)| *worker == node(3)).count();
        for interval in (0..200).map(CheckpointIndex) {
            let honest = world.published.iter().any(|(at, worker, _)| *at == interval && *worker != node(3));
            assert!(honest, "{interval} rests on a liar's word");
        }
    }
    // Each lie is in the sample with one chance in five: five lies on average before the one that is, and the two
    // that are under way until a second and a third worker have looked.
    assert!(swarms >= 38, "only {swarms} of 40 liars were named");
    let mean = f64::from(u32::try_from(lies_before).unwrap()) / f64::from(swarms);
    assert!((3.0..15.0).contains(&mean), "{mean} lies on average");
}

#[test]
fn a_table_made_again_from_results_stands_where_it_stood() {
    use Character::{Honest, Liar};
    for seed in 0..10 {
        let mut world = World::new(seed, "30%", &[Honest, Honest, Honest, Liar]);
        world.tell(Input::Recorded(80));
        for _ in 0..60 + seed * 10 {
            world.step();
        }
        let remade = world.remade(80);
        for interval in (0..80).map(CheckpointIndex) {
            assert_eq!(remade.standing(interval), world.table.standing(interval), "seed {seed}, {interval}");
        }
        assert_eq!(remade.summary().liars, world.table.summary().liars);
        // Leases under way come back with their renewals, so that what is worked on is not given away again.
        let before: BTreeSet<_> = world.table.summary().leases.into_iter().collect();
        world.replace(remade);
        world.step();
        let after: BTreeSet<_> = world.table.summary().leases.into_iter().collect();
        assert!(before.intersection(&after).count() >= 2, "{before:?} {after:?}");
        world.run(80, 3000);
    }
}

#[test]
fn the_lease_goes_to_whoever_lacks_the_fewest_bytes() {
    let now = Instant::now();
    let mut table = LeaseTable::new(policy("0%"));
    let ask = |number: usize, lacks: [u64; 2]| Input::Ask {
        ask: AskId(number as u64),
        worker: node(number),
        jobs: 1,
        lacks: vec![(CheckpointIndex(0), lacks[0]), (CheckpointIndex(1), lacks[1])],
    };
    // Both wait when the intervals come.
    table.handle(now, ask(0, [50, 60]));
    table.handle(now, ask(1, [40, 70]));
    assert_eq!(table.poll(), None);
    table.handle(now, Input::Recorded(2));
    let granted = [table.poll(), table.poll()];
    assert_eq!(granted[0], Some(Output::Granted(AskId(1), CheckpointIndex(0))));
    assert_eq!(granted[1], Some(Output::Granted(AskId(0), CheckpointIndex(1))));
}

#[test]
fn results_count_once_and_stay_open_to_nobody_else() {
    let now = Instant::now();
    let mut table = LeaseTable::new(policy("0%"));
    table.handle(now, Input::Recorded(1));
    let found = |worker| Input::Found {
        interval: CheckpointIndex(0),
        worker,
        finding: truth(CheckpointIndex(0)),
        took: Duration::from_secs(1),
    };
    table.handle(now, found(node(0)));
    table.handle(now, found(node(0)));
    assert_eq!(table.standing(CheckpointIndex(0)), Standing::Exact);
    table.handle(now, found(node(1)));
    assert_eq!(table.standing(CheckpointIndex(0)), Standing::Confirmed);
    let ask = AskId(1);
    table.handle(now, Input::Ask { ask, worker: node(2), jobs: 1, lacks: Vec::new() });
    assert_eq!(table.poll(), None, "there is nothing to do, and patience left");
    table.handle(now + Duration::from_secs(2), Input::Time);
    assert_eq!(table.poll(), Some(Output::Idle(ask, true)));
}

/// Asks as a worker does: for candidates, then for the cheapest of them; all lack the same.
fn lease(table: &mut LeaseTable, now: Instant, worker: NodeId) -> Option<CheckpointIndex> {
    let mut lacks = Vec::new();
    loop {
        let lacked = std::mem::take(&mut lacks);
        table.handle(now, Input::Ask { ask: AskId(1), worker, jobs: 1, lacks: lacked });
        match table.poll()? {
            Output::Granted(_, interval) => return Some(interval),
            Output::Candidates(_, candidates) => lacks = candidates.into_iter().map(|at| (at, 5)).collect(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn whoever_has_nothing_to_do_goes_before_one_that_has() {
    let now = Instant::now();
    let mut table = LeaseTable::new(policy("0%"));
    table.handle(now, Input::Recorded(1));
    assert_eq!(lease(&mut table, now, node(0)), Some(CheckpointIndex(0)));
    // Both wait when the next interval comes; the busy one lacks less of it.
    for (number, bytes) in [(0, 10), (1, 90)] {
        let (ask, worker, lacks) = (AskId(number as u64), node(number), vec![(CheckpointIndex(1), bytes)]);
        table.handle(now, Input::Ask { ask, worker, jobs: 1, lacks });
    }
    assert_eq!(table.poll(), None);
    table.handle(now, Input::Recorded(2));
    assert_eq!(table.poll(), Some(Output::Granted(AskId(1), CheckpointIndex(1))));
    assert_eq!(table.poll(), None);
    table.handle(now, Input::Recorded(3));
    let candidates = vec![CheckpointIndex(2)];
    assert_eq!(table.poll(), Some(Output::Candidates(AskId(0), candidates)), "nobody else is there for it");
}

#[test]
fn intervals_that_nobody_can_do_keep_no_others_from_being_done() {
    let mut now = Instant::now();
    let mut table = LeaseTable::new(policy("0%"));
    table.handle(now, Input::Recorded(40));
    let mut done = BTreeSet::new();
    // The first twenty cannot be fetched: more than are named to a worker at once.
    for _ in 0..40 {
        let interval = lease(&mut table, now, node(0)).expect("something is left");
        if interval.0 < 20 {
            now += Duration::from_secs(60);
            table.handle(now, Input::GiveBack { worker: node(0), interval });
        } else {
            let (finding, took) = (truth(interval), Duration::from_secs(1));
            table.handle(now, Input::Found { interval, worker: node(0), finding, took });
            done.insert(interval.0);
        }
    }
    assert_eq!(done, (20..40).collect(), "each of the others came once the first were tried once");
}

#[test]
fn what_a_worker_gives_back_is_kept_from_it_for_twice_as_long_each_time() {
    let mut now = Instant::now();
    let mut table = LeaseTable::new(policy("0%"));
    table.handle(now, Input::Recorded(1));
    for times in 0..4 {
        let interval = lease(&mut table, now, node(0)).expect("its pause is over");
        table.handle(now, Input::GiveBack { worker: node(0), interval });
        let mut asking = table.clone();
        now += TERM * 2_u32.pow(times);
        assert_eq!(lease(&mut asking, now - Duration::from_millis(1), node(0)), None);
    }
    assert!(lease(&mut table, now, node(1)).is_some(), "another one may have it at once");
}

#[test]
fn a_lease_is_not_renewed_for_ever() {
    let mut now = Instant::now();
    let start = now;
    let mut table = LeaseTable::new(policy("0%"));
    table.handle(now, Input::Recorded(1));
    let interval = lease(&mut table, now, node(0)).unwrap();
    while !table.summary().leases.is_empty() {
        assert!(now < start + LEASE_AGE_MAX + TERM, "it is still held");
        now += TERM / 2;
        table.handle(now, Input::Renew { worker: node(0), intervals: vec![interval] });
    }
    assert!(now >= start + LEASE_AGE_MAX);
    assert_eq!(lease(&mut table, now, node(1)), Some(interval));
}

#[test]
fn a_third_worker_may_have_what_two_are_late_with_whatever_times_they_claim() {
    let mut now = Instant::now();
    let mut table = LeaseTable::new(policy("0%"));
    table.handle(now, Input::Recorded(2));
    let first = CheckpointIndex(0);
    let took = Duration::from_secs(u64::MAX);
    table.handle(now, Input::Found { interval: first, worker: node(9), finding: truth(first), took });
    let late = CheckpointIndex(1);
    for number in 0..4 {
        let leased = lease(&mut table, now, node(number));
        assert_eq!(leased, (number < 3).then_some(late), "worker {number}");
        // The claimed time is cut, so nobody waits longer than a simulation may take.
        let until = now + SIMULATION_TIMEOUT;
        while now < until {
            now += TERM / 2;
            for holder in 0..=number {
                table.handle(now, Input::Renew { worker: node(holder), intervals: vec![late] });
            }
            while table.poll().is_some() {}
        }
    }
}

#[test]
fn nothing_rests_on_the_word_of_one_who_was_outvoted_with_another_program() {
    let now = Instant::now();
    let mut table = LeaseTable::new(policy("0%"));
    table.handle(now, Input::Recorded(2));
    let took = Duration::from_secs(1);
    let intervals = [CheckpointIndex(0), CheckpointIndex(1)];
    for interval in intervals {
        let mut finding = lie(interval, node(0));
        finding.simulator = SimulatorBuild([2; 32]);
        table.handle(now, Input::Found { interval, worker: node(0), finding, took });
        assert_eq!(table.standing(interval), Standing::Exact);
    }
    for number in 1..3 {
        let (interval, finding) = (intervals[0], truth(intervals[0]));
        table.handle(now, Input::Found { interval, worker: node(number), finding, took });
    }
    assert_eq!(table.standing(intervals[0]), Standing::Confirmed);
    assert_eq!(table.standing(intervals[1]), Standing::Unconfirmed);
    assert_eq!(lease(&mut table, now, node(1)), Some(intervals[1]));
    assert!(table.summary().liars.is_empty());
}
