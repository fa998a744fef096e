//! What this node itself needs of each lineage: noted as the engine is told, so that nothing short is missed.

use std::collections::BTreeMap;

use pageswarm_checkpoint::LineageId;
use pageswarm_checkpoint::wire::{NEED_TIMES_MAX, NeedTime};
use pageswarm_swarm::{BirthSet, Engine, Input, Time};

use super::QUIET;

/// This node's need of one lineage, with times as seen now.
#[derive(Clone, Debug)]
pub struct OwnNeed {
    /// Of which lineage.
    pub lineage: LineageId,
    /// All that was lacked in it.
    pub lacked: BirthSet,
    /// Encoded bytes of that: as they came, or as they were born if they have not come.
    pub lacked_bytes: u64,
    /// The same as they were born.
    pub born_bytes: u64,
    /// Of the first, bytes still missing.
    pub missing_bytes: u64,
    /// When something was lacked.
    pub times: Vec<NeedTime>,
    /// Another one if `lacked` is.
    pub version: (Time, u64),
}

/// The latest need of each lineage.
#[derive(Debug, Default)]
pub struct OwnNeeds {
    needs: BTreeMap<LineageId, Noted>,
    /// How many of them go on.
    open: usize,
}

#[derive(Debug)]
struct Noted {
    lacked: BirthSet,
    came_bytes: u64,
    first: Time,
    /// Earliest first; the end of the last is open while something is missing.
    times: Vec<(Time, Option<Time>)>,
}

impl OwnNeeds {
    /// Looks at what the engine is about to be told.
    pub fn before(&mut self, engine: &Engine, now: Time, input: &Input) {
        match input {
            Input::Want { lineage, births, .. } => self.want(engine, now, *lineage, births),
            Input::Fault { lineage, birth } => {
                self.want(engine, now, *lineage, &BirthSet::range(*birth, *birth));
            }
            Input::ChunksArrived { lineage, births, bytes, .. } => {
                if let (Some(need), Some(held)) = (self.needs.get_mut(lineage), engine.held(*lineage)) {
                    need.came(&births.minus(held), births.len(), *bytes);
                }
            }
            _ => {}
        }
    }

    /// Ends needs of which nothing is missing any more.
    pub fn after(&mut self, engine: &Engine, now: Time) {
        if self.open == 0 {
            return;
        }
        for (lineage, need) in &mut self.needs {
            let misses = engine.missing(*lineage).is_some_and(|missing| !missing.is_empty());
            if let Some((_, end @ None)) = need.times.last_mut()
                && !misses
            {
                *end = Some(now);
                self.open -= 1;
            }
        }
    }

    /// All of them.
    #[must_use]
    pub fn seen(&self, engine: &Engine, now: Time) -> Vec<OwnNeed> {
        self.needs.iter().map(|(lineage, need)| need.seen(*lineage, engine, now)).collect()
    }

    fn want(&mut self, engine: &Engine, now: Time, lineage: LineageId, births: &BirthSet) {
        let Some(held) = engine.held(lineage) else {
            return;
        };
        let lacked = births.minus(held);
        if lacked.is_empty() {
            return;
        }
        let need = self.needs.entry(lineage).or_insert_with(|| Noted::new(now));
        let last = need.times.last().copied();
        match last {
            Some((_, None)) => {}
            Some((_, Some(end))) if now.since(end) > QUIET => {
                *need = Noted::new(now);
                need.start(now);
                self.open += 1;
            }
            _ => {
                need.start(now);
                self.open += 1;
            }
        }
        need.lacked.add(&lacked);
    }
}

impl Noted {
    fn new(now: Time) -> Self {
        Self { lacked: BirthSet::new(), came_bytes: 0, first: now, times: Vec::new() }
    }

    fn start(&mut self, now: Time) {
        self.times.push((now, None));
        if self.times.len() > NEED_TIMES_MAX {
            self.join_nearest();
        }
    }

    /// Two neighbours become one span, as if something had been lacked in between.
    fn join_nearest(&mut self) {
        let gap = |at: usize| {
            let end = self.times[at].1.unwrap_or(self.times[at + 1].0);
            self.times[at + 1].0.since(end)
        };
        if let Some(at) = (0..self.times.len() - 1).min_by_key(|at| gap(*at)) {
            self.times[at].1 = self.times[at + 1].1;
            self.times.remove(at + 1);
        }
    }

    /// Chunks arrived, some of them anew.
    fn came(&mut self, new: &BirthSet, of: u64, bytes: u64) {
        let wanted = new.and(&self.lacked).len();
        let share = u128::from(bytes) * u128::from(wanted) / u128::from(of.max(1));
        self.came_bytes = self.came_bytes.saturating_add(u64::try_from(share).unwrap_or(u64::MAX));
    }

    fn seen(&self, lineage: LineageId, engine: &Engine, now: Time) -> OwnNeed {
        let missing = engine.missing(lineage).map_or_else(BirthSet::new, |all| all.and(&self.lacked));
        let missing_bytes = engine.born_bytes(lineage, &missing);
        let ms_ago = |time: Time| u64::try_from(now.since(time).as_millis()).unwrap_or(u64::MAX);
        let times = self.times.iter().map(|(start, end)| {
            // What has ended did so at least a millisecond ago: 0 stands for what goes on.
            let ended_ms_ago = end.map_or(0, |end| ms_ago(end).max(1));
            NeedTime { started_ms_ago: ms_ago(*start).max(ended_ms_ago), ended_ms_ago }
        });
        OwnNeed {
            lineage,
            lacked_bytes: self.came_bytes.saturating_add(missing_bytes),
            born_bytes: engine.born_bytes(lineage, &self.lacked),
            missing_bytes,
            times: times.collect(),
            version: (self.first, self.lacked.len()),
            lacked: self.lacked.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pageswarm_checkpoint::{Birth, NodeId};
    use pageswarm_swarm::{Config, Output, RequestId, WantId};

    use super::*;

    const LINEAGE: LineageId = LineageId([7; 32]);
    const WRITER: NodeId = NodeId([1; 32]);

    /// An engine with its needs, told everything through the same door.
    struct Scene {
        engine: Engine,
        needs: OwnNeeds,
    }

    impl Scene {
        fn new() -> Self {
            let engine = Engine::new(Config::default(), NodeId([2; 32]), 1);
            let mut scene = Self { engine, needs: OwnNeeds::default() };
            scene.tell(0, Input::Open { lineage: LINEAGE, writer: Some(WRITER) });
            scene.tell(0, Input::Lengths { lineage: LINEAGE, first: Birth(0), lengths: vec![1000; 100] });
            scene
        }

        fn tell(&mut self, ms: u64, input: Input) {
            let now = Time::from_millis(ms);
            self.needs.before(&self.engine, now, &input);
            self.engine.handle(now, input);
            while !matches!(self.engine.poll(), Output::Wait { .. }) {}
            self.needs.after(&self.engine, now);
        }

        fn want(&mut self, ms: u64, number: u64, first: u64, last: u64) {
            let births = BirthSet::range(Birth(first), Birth(last));
            self.tell(ms, Input::Want { want: WantId(number), lineage: LINEAGE, births, deadline: None });
        }

        fn have(&mut self, ms: u64, first: u64, last: u64) {
            let births = BirthSet::range(Birth(first), Birth(last));
            self.tell(ms, Input::LocalHas { lineage: LINEAGE, births });
        }

        fn seen(&self, ms: u64) -> OwnNeed {
            self.needs.seen(&self.engine, Time::from_millis(ms)).remove(0)
        }
    }

    fn span(started_ms_ago: u64, ended_ms_ago: u64) -> NeedTime {
        NeedTime { started_ms_ago, ended_ms_ago }
    }

    #[test]
    fn a_need_lasts_while_something_is_missing_and_counts_what_was_lacked() {
        let mut scene = Scene::new();
        scene.have(0, 0, 9);
        scene.want(100, 1, 0, 29);
        let need = scene.seen(150);
        assert_eq!((need.lacked.len(), need.lacked_bytes, need.missing_bytes), (20, 20_000, 20_000));
        assert_eq!(need.times, [span(50, 0)]);
        scene.have(300, 10, 29);
        let need = scene.seen(400);
        assert_eq!((need.born_bytes, need.missing_bytes), (20_000, 0));
        assert_eq!(need.times, [span(300, 100)]);
        // Soon after, it goes on; later, another one begins.
        scene.want(1300, 2, 20, 39);
        assert_eq!(scene.seen(1300).times, [span(1200, 1000), span(0, 0)]);
        assert_eq!(scene.seen(1300).lacked, BirthSet::range(Birth(10), Birth(39)));
        scene.have(1400, 30, 39);
        scene.want(2401, 3, 40, 49);
        assert_eq!(scene.seen(2401).lacked, BirthSet::range(Birth(40), Birth(49)));
        assert_eq!(scene.seen(2401).times, [span(0, 0)]);
    }

    #[test]
    fn chunks_count_in_the_form_in_which_they_came_and_once() {
        let mut scene = Scene::new();
        scene.want(0, 1, 0, 9);
        for ms in [10, 20] {
            let births = BirthSet::range(Birth(0), Birth(3));
            let input = Input::ChunksArrived {
                peer: WRITER,
                request: RequestId(9),
                lineage: LINEAGE,
                births,
                bytes: 400,
            };
            scene.tell(ms, input);
            scene.have(ms, 0, 3);
        }
        let need = scene.seen(30);
        assert_eq!((need.lacked_bytes, need.missing_bytes, need.born_bytes), (6400, 6000, 10_000));
    }

    #[test]
    fn many_short_spans_become_fewer_and_no_moment_of_lack_is_lost() {
        let mut scene = Scene::new();
        for turn in 0..40 {
            scene.want(turn * 100, turn, turn, turn);
            scene.have(turn * 100 + 10, turn, turn);
        }
        let times = scene.seen(4000).times;
        assert_eq!(times.len(), NEED_TIMES_MAX);
        assert_eq!((times[0].started_ms_ago, times[NEED_TIMES_MAX - 1].ended_ms_ago), (4000, 90));
        let lacked: u64 = times.iter().map(|time| time.started_ms_ago - time.ended_ms_ago).sum();
        assert!(lacked >= 400, "{lacked} ms");
        assert!(QUIET > Duration::from_millis(90), "the spans are of one need");
    }
}
