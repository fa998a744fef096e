//! Goal: wherever a session goes, forward, backward and over checkpoints, it is where the recording was then, and it
//! stops where it should. Method: all moments of a recording are listed by stepping through it once from its start,
//! and random walks are compared with what a search through that list says; the list itself is compared with an
//! ordinary run, block by block.

use super::recorded::{CODE, DATA, FIRST, Held, INSTRUCTIONS, PAGES, STACK_TOP, map_of, record, record_long};
use super::*;
use crate::debug::stops::Watched;
use crate::memory::{CompleteRam, Memory};
use crate::observe::{Access, AccessKind, Observer};
use crate::simulator::steps::Steps;
use crate::{Exit, Simulator, Unobserved};
use pageswarm_checkpoint::{ChunkHash, chunk_hash};
use pageswarm_machine::content::Random;
use pageswarm_machine::{Devices, EventLog, PageNumber};

#[derive(Debug, Default)]
struct Seen(Vec<Access>);

impl Observer for Seen {
    fn access(&mut self, access: Access) {
        self.0.push(access);
    }
}

/// One moment, and the accesses that the step from it makes.
struct Listed {
    moment: Moment,
    cpu: CpuState,
    devices: Devices,
    digest: ChunkHash,
    accesses: Vec<Access>,
}

fn digest<M: Memory>(memory: &M) -> ChunkHash {
    let pages: Vec<&[u8]> = PAGES.iter().map(|&page| memory.page(PageNumber(page)).as_slice()).collect();
    chunk_hash(&pages.concat())
}

/// All moments, one step after the other.
fn list(held: &Held) -> Vec<Listed> {
    let (first, ram) = &held.0[0];
    let mut simulator =
        Simulator::new(&first.start.cpu, CompleteRam::new(ram.clone()), Seen::default()).unwrap();
    let (mut steps, mut devices) = (Steps::new(), Devices::default());
    let (mut listed, mut before) = (Vec::new(), (0, 0));
    for (index, (interval, _)) in (FIRST..).zip(&held.0) {
        let mut events = interval.events.events().iter();
        let mut is_last = false;
        while !is_last {
            let (work, instructions) = (simulator.work() - before.0, simulator.instructions() - before.1);
            let (cpu, digest) = (simulator.state(), digest(simulator.memory()));
            let at_end = cpu == interval.end.cpu && devices == interval.end.devices && events.len() == 0;
            if at_end {
                before = (simulator.work(), simulator.instructions());
            }
            is_last = at_end;
            if at_end && index + 1 < FIRST + held.0.len() as u64 {
                continue;
            }
            let moment = Moment { interval: CheckpointIndex(index), work, instructions };
            let at = devices.clone();
            if !at_end {
                match simulator.step(&mut steps).unwrap() {
                    Some(Exit::Input { port, size }) => {
                        let value = events.next().unwrap().value;
                        let input = devices.input(port, size).unwrap();
                        devices.answered(input, value);
                        simulator.answer(value);
                    }
                    Some(Exit::Output { port, size, value }) => {
                        devices.output(port, &value.to_le_bytes()[..size]).unwrap();
                    }
                    _ => {}
                }
            }
            let accesses = std::mem::take(&mut simulator.observer_mut().0);
            listed.push(Listed { moment, cpu, devices: at, digest, accesses });
        }
        assert_eq!(map_of(simulator.memory().bytes()).root(), interval.end.map.root());
    }
    listed
}

/// What a walk sets to stop at.
#[derive(Default)]
struct Wanted {
    breakpoint: Option<u64>,
    watchpoint: Option<Watchpoint>,
}

impl Wanted {
    fn random(random: &mut Random) -> Self {
        let pick = |random: &mut Random, most: usize| usize::try_from(random.draw() % most as u64).unwrap();
        let watched = [Watched::Reads, Watched::Writes, Watched::Accesses][pick(random, 3)];
        let address = match random.draw() % 4 {
            0 => DATA + random.draw() % 40,
            1 => DATA + 0x1000 + random.draw() % 0x1000,
            2 => STACK_TOP - 1 - random.draw() % 48,
            _ => CODE + 44 + random.draw() % 8,
        };
        let watchpoint = Watchpoint { address, bytes: 1 + random.draw() % 9, watched };
        Self {
            breakpoint: random
                .draw()
                .is_multiple_of(3)
                .then(|| INSTRUCTIONS[pick(random, INSTRUCTIONS.len())]),
            watchpoint: random.draw().is_multiple_of(3).then_some(watchpoint),
        }
    }

    fn set<S: Source>(&self, session: &mut Session<S>) {
        session.clear_stops();
        self.breakpoint.iter().for_each(|&address| session.add_breakpoint(address).unwrap());
        self.watchpoint.iter().for_each(|&watchpoint| session.add_watchpoint(watchpoint).unwrap());
    }

    /// Byte by byte.
    fn hit(&self, listed: &Listed) -> Option<Hit> {
        let watchpoint = self.watchpoint?;
        let is_meant = |access: &&Access| match watchpoint.watched {
            Watched::Reads => access.kind == AccessKind::Read,
            Watched::Writes => access.kind == AccessKind::Write,
            Watched::Accesses => true,
        };
        listed.accesses.iter().filter(is_meant).find_map(|access| {
            let mut bytes = (0..u64::from(access.size)).map(|byte| access.virtual_address + byte);
            let address =
                bytes.find(|byte| (0..watchpoint.bytes).any(|n| watchpoint.address + n == *byte))?;
            Some(Hit { address, watched: watchpoint.watched })
        })
    }

    fn breaks(&self, listed: &Listed) -> bool {
        self.breakpoint == Some(listed.cpu.rip)
    }
}

/// Where a way from `place` leads, and why it stops there.
fn expected(list: &[Listed], place: usize, travel: &Travel, wanted: &Wanted) -> (usize, Stop) {
    let last = list.len() - 1;
    let index = |place: usize| list[place].moment.interval;
    let hit = |place: usize| wanted.hit(&list[place]).map(Stop::Watchpoint);
    match travel {
        Travel::Step | Travel::Forward if place == last => (last, Stop::End),
        Travel::Step => (place + 1, hit(place).unwrap_or(Stop::Stepped)),
        Travel::Forward => (place + 1..=last)
            .find_map(|next| {
                let stop = hit(next - 1)
                    .or_else(|| (next == last).then_some(Stop::End))
                    .or_else(|| wanted.breaks(&list[next]).then_some(Stop::Breakpoint))
                    .or_else(|| (index(next) != index(next - 1)).then_some(Stop::Checkpoint(index(next))));
                stop.map(|stop| (next, stop))
            })
            .unwrap(),
        Travel::StepBack if place == 0 => (0, Stop::Begin),
        Travel::StepBack => (place - 1, Stop::Stepped),
        Travel::Backward => (0..place)
            .rev()
            .find_map(|next| {
                let is_start = list[next].moment.work == 0;
                let stop = hit(next)
                    .or_else(|| wanted.breaks(&list[next]).then_some(Stop::Breakpoint))
                    .or_else(|| (next == 0).then_some(Stop::Begin))
                    .or_else(|| is_start.then_some(Stop::Checkpoint(index(next))));
                stop.map(|stop| (next, stop))
            })
            .unwrap_or((0, Stop::Begin)),
        Travel::StepWithin(_) => unreachable!("walks do not have it"),
    }
}

fn assert_there(session: &Session<Held>, listed: &Listed) {
    assert_eq!(session.moment(), listed.moment);
    assert_eq!(session.cpu(), listed.cpu, "{:?}", listed.moment);
    assert_eq!(*session.track.machine.devices(), listed.devices, "{:?}", listed.moment);
    assert!(digest(session.track.ram()) == listed.digest, "RAM at {:?}", listed.moment);
}

#[test]
fn the_list_is_what_an_ordinary_run_does() {
    let held = record(&[3000]);
    let list = list(&held);
    let (interval, ram) = &held.0[0];
    let (cpu, memory) = (&interval.start.cpu, CompleteRam::new(ram.clone()));
    let mut simulator = Simulator::new(cpu, memory, Unobserved).unwrap();
    let mut events = interval.events.events().iter();
    let (mut compared, mut goal) = (0, 0);
    while simulator.work() < list[list.len() - 1].moment.work {
        goal += 1;
        match simulator.run(goal).unwrap() {
            Exit::Input { .. } => {
                simulator.answer(events.next().unwrap().value);
                continue;
            }
            Exit::Output { .. } => continue,
            _ => {}
        }
        let work = simulator.work();
        let listed = list.iter().find(|listed| listed.moment.work == work).expect("a moment of the list");
        assert_eq!(simulator.state(), listed.cpu);
        assert!(digest(simulator.memory()) == listed.digest);
        compared += 1;
        goal = work;
    }
    assert!(compared > 300, "{compared}");
}

#[test]
fn random_walks_are_where_the_recording_was() {
    // The third ends within a block of the second's end, so it is short, or has no instruction at all.
    let held = record(&[2500, 1700, 1, 0, 900, 2100]);
    let list = list(&held);
    let mut session = Session::open(held, CheckpointIndex(FIRST)).unwrap();
    let (mut random, mut place) = (Random::new(7, 3), 0);
    let mut stops = std::collections::BTreeMap::new();
    for _ in 0..1500 {
        let travel = match random.draw() % 8 {
            0 | 1 => Travel::Step,
            2 | 3 => Travel::StepBack,
            4 | 5 => Travel::Forward,
            _ => Travel::Backward,
        };
        let wanted = Wanted::random(&mut random);
        wanted.set(&mut session);
        let (next, stop) = expected(&list, place, &travel, &wanted);
        let from = list[place].moment;
        assert_eq!(session.travel(&travel, &mut || false), stop, "{travel:?} from {from:?}");
        assert_there(&session, &list[next]);
        *stops.entry(format!("{stop:?}").split(['(', ' ']).next().unwrap().to_owned()).or_insert(0) += 1;
        place = next;
    }
    assert_eq!(stops.len(), 6, "every kind of stop comes: {stops:?}");
}

#[test]
fn long_ways_are_exact_and_can_be_interrupted() {
    let held = record_long(&[6_000_000, 3000]);
    let works: Vec<u64> = {
        // Moments of the first interval as an ordinary run comes to them.
        let (interval, ram) = &held.0[0];
        let (cpu, memory) = (&interval.start.cpu, CompleteRam::new(ram.clone()));
        let mut simulator = Simulator::new(cpu, memory, Unobserved).unwrap();
        let (mut events, mut works) = (interval.events.events().iter(), Vec::new());
        while works.len() < 40 {
            match simulator.run((works.len() as u64 + 1) * 140_001).unwrap() {
                Exit::Input { .. } => simulator.answer(events.next().unwrap().value),
                Exit::Done => works.push((simulator.work(), simulator.state(), digest(simulator.memory()))),
                _ => {}
            }
        }
        works.into_iter().map(|(work, ..)| work).collect()
    };
    let mut session = Session::open(held, CheckpointIndex(FIRST)).unwrap();
    let mut asked = 0;
    let mut third = || {
        asked += 1;
        asked == 3
    };
    assert_eq!(session.travel(&Travel::Forward, &mut third), Stop::Interrupted);
    assert!(session.moment().work > 0);
    assert_eq!(session.travel(&Travel::Forward, &mut || false), Stop::Checkpoint(CheckpointIndex(FIRST + 1)));
    assert_eq!(session.travel(&Travel::StepBack, &mut || true), Stop::Interrupted);
    assert_eq!(session.moment().work, 0);
    assert_eq!(session.travel(&Travel::StepBack, &mut || false), Stop::Stepped);
    assert_eq!(session.moment().interval, CheckpointIndex(FIRST));
    let (snapshots, _) = session.snapshots();
    assert!((5..=64).contains(&snapshots), "{snapshots}");
    let mut random = Random::new(2, 2);
    for _ in 0..12 {
        let work = works[usize::try_from(random.draw() % 40).unwrap()];
        session.track.seek(work).unwrap();
        assert_eq!(session.moment().work, work);
        let (cpu, there) = (session.cpu(), digest(session.track.ram()));
        for _ in 0..20 {
            assert_eq!(session.travel(&Travel::StepBack, &mut || false), Stop::Stepped);
        }
        for _ in 0..20 {
            assert_eq!(session.travel(&Travel::Step, &mut || false), Stop::Stepped);
        }
        assert!(session.cpu() == cpu && digest(session.track.ram()) == there);
    }
}

#[test]
fn a_recording_that_is_wrong_can_be_gone_back_from() {
    let mut held = record(&[2500, 900]);
    let list = list(&held);
    let mut events = held.0[0].0.events.events().to_vec();
    events[10].port += 4;
    held.0[0].0.events = EventLog::default();
    events.into_iter().for_each(|event| held.0[0].0.events.push(event).unwrap());
    let mut session = Session::open(held, CheckpointIndex(FIRST)).unwrap();
    let reads: Vec<usize> = (0..list.len()).filter(|&place| list[place].cpu.rip == CODE + 34).collect();
    let wrong = reads[10];
    for travel in [Travel::Forward, Travel::Step] {
        assert_eq!(session.travel(&travel, &mut || false), Stop::Failed);
        let failure = session.failure();
        let is_meant = matches!(
            failure,
            Some(DebugFailure::Replay { cause: ReplayFailure::OtherInput { number: 10, .. }, .. })
        );
        assert!(is_meant, "{failure:?}");
        assert_there(&session, &list[wrong]);
    }
    assert_eq!(session.travel(&Travel::StepBack, &mut || false), Stop::Stepped);
    assert_there(&session, &list[wrong - 1]);
}

#[test]
fn an_interval_that_starts_elsewhere_is_not_entered() {
    let mut held = record(&[2500, 900]);
    let list = list(&held);
    held.0[1].0.start.cpu.general[3] ^= 1;
    let mut session = Session::open(held, CheckpointIndex(FIRST)).unwrap();
    for _ in 0..2 {
        assert_eq!(session.travel(&Travel::Forward, &mut || false), Stop::Failed);
        let interval = CheckpointIndex(FIRST + 1);
        assert!(
            matches!(session.failure(), Some(DebugFailure::OtherStart { interval: found }) if *found == interval)
        );
    }
    let end = list.iter().position(|listed| listed.moment.interval.0 > FIRST).unwrap();
    assert_eq!(session.cpu(), list[end].cpu);
    assert_eq!(session.travel(&Travel::StepBack, &mut || false), Stop::Stepped);
    assert_there(&session, &list[end - 1]);
}
