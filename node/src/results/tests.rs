//! Goal: a node keeps results that it can judge, in bounds that no worker can use up for others. Method: a store in a
//! directory of its own and hand-made logs.

use std::sync::Arc;

use ed25519_dalek::SigningKey;
use pageswarm_checkpoint::membership::{Certificate, MembershipError, Role};
use pageswarm_checkpoint::{
    AnnouncedResult, CheckpointIndex, LineageId, NodeId, Outcome, SimulationFailure, SimulationResult,
    SimulatorBuild, StateRoot, node_id,
};
use pageswarm_store::{Store, StoreOptions};
use tempfile::TempDir;

use super::{Measure, Offered, Opened, ResultError, Results};
use crate::limits::RESULTS_BEYOND;

const LINEAGE: LineageId = LineageId([3; 32]);

/// Follows one lineage, of which so many intervals were recorded.
struct Follows(u64);

impl Measure for Follows {
    fn recorded(&self, lineage: &LineageId) -> Option<u64> {
        (*lineage == LINEAGE).then_some(self.0)
    }

    fn admit(&self, worker: &NodeId, _: &[u8]) -> Result<Certificate, MembershipError> {
        Ok(Certificate {
            swarm: NodeId([0; 32]),
            node: *worker,
            role: Role::Worker,
            not_before_unix_s: 0,
            not_after_unix_s: u64::MAX,
        })
    }
}

pub(super) fn worker(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

/// A log with results of these intervals.
pub(super) fn log_of(key: &SigningKey, lineage: LineageId, intervals: &[u64]) -> Vec<Opened> {
    let mut parent = SimulationResult::first_parent(lineage);
    let one = |(number, interval): (usize, &u64)| {
        let result = SimulationResult {
            worker: node_id(key),
            lineage,
            number: number as u64,
            parent,
            interval: CheckpointIndex(*interval),
            input_root: StateRoot([1; 32]),
            simulator: SimulatorBuild([2; 32]),
            options: Vec::new(),
            outcome: Outcome::Failed(SimulationFailure::NotRecorded),
            simulation_ms: 1,
            finished_unix_ms: 2,
            trace: None,
        };
        let announced = AnnouncedResult { certificate: vec![5], record: result.sign(key) };
        parent = announced.hash();
        Opened::new(announced).unwrap()
    };
    intervals.iter().enumerate().map(one).collect()
}

struct Kept {
    results: Results,
    store: Arc<Store>,
    _directory: TempDir,
}

fn empty() -> Kept {
    let directory = TempDir::new().unwrap();
    let store = Store::open(directory.path(), StoreOptions { quota_bytes: None }).unwrap();
    let store = Arc::new(store);
    let results = Results::load(Arc::clone(&store), |_| false).unwrap();
    Kept { results, store, _directory: directory }
}

fn offer(results: &Results, opened: &Opened, recorded: u64) -> Result<Offered, ResultError> {
    results.offer(vec![opened.clone()], &Follows(recorded)).unwrap().remove(0)
}

#[test]
fn a_log_is_kept_in_order_and_read_back_without_those_who_are_out() {
    let kept = empty();
    let (one, two) = (log_of(&worker(1), LINEAGE, &[4, 2, 3]), log_of(&worker(2), LINEAGE, &[4]));
    assert_eq!(offer(&kept.results, &one[1], 10).unwrap(), Offered::Missing(0));
    let offered = kept.results.offer(one.clone(), &Follows(10)).unwrap();
    assert!(offered.iter().all(|offered| matches!(offered, Ok(Offered::News))), "{offered:?}");
    assert_eq!(offer(&kept.results, &one[1], 10).unwrap(), Offered::Known);
    assert_eq!(offer(&kept.results, &two[0], 10).unwrap(), Offered::News);
    assert!(kept.results.knows(&one[2].announced));
    let again = Results::load(Arc::clone(&kept.store), |_| false).unwrap();
    assert_eq!(again.counts(&LINEAGE), kept.results.counts(&LINEAGE));
    assert_eq!(again.latest_of(&LINEAGE, &one[0].result.worker), Some(one[2].announced.clone()));
    let without = Results::load(Arc::clone(&kept.store), |id| *id == one[0].result.worker).unwrap();
    assert_eq!(without.counts(&LINEAGE), [(two[0].result.worker, 1)].into());
}

#[test]
fn a_second_result_of_an_interval_or_with_a_number_is_refused() {
    let kept = empty();
    let log = log_of(&worker(1), LINEAGE, &[4, 4]);
    assert_eq!(offer(&kept.results, &log[0], 10).unwrap(), Offered::News);
    assert!(matches!(offer(&kept.results, &log[1], 10), Err(ResultError::Repeated { interval: 4, .. })));
    let other = log_of(&worker(1), LINEAGE, &[5]);
    assert!(matches!(offer(&kept.results, &other[0], 10), Err(ResultError::Equivocation { number: 0, .. })));
}

#[test]
fn nothing_is_kept_of_lineages_that_are_not_followed_nor_far_beyond_what_was_recorded() {
    let kept = empty();
    let elsewhere = log_of(&worker(1), LineageId([4; 32]), &[0]);
    assert_eq!(offer(&kept.results, &elsewhere[0], 10).unwrap(), Offered::Unfollowed);
    let far = log_of(&worker(1), LINEAGE, &[10 + RESULTS_BEYOND]);
    assert_eq!(offer(&kept.results, &far[0], 10).unwrap(), Offered::Ahead);
    assert!(kept.store.notes(b"", 1).unwrap().is_empty());
    assert_eq!(offer(&kept.results, &far[0], 11).unwrap(), Offered::News, "it was recorded meanwhile");
}

#[test]
fn a_log_has_no_more_results_than_intervals_and_a_few() {
    let kept = empty();
    let intervals: Vec<u64> = (0..=RESULTS_BEYOND).collect();
    let log = log_of(&worker(1), LINEAGE, &intervals);
    let offered = kept.results.offer(log, &Follows(0)).unwrap();
    let news = offered.iter().filter(|offered| matches!(offered, Ok(Offered::News))).count();
    assert_eq!(news as u64, RESULTS_BEYOND);
    assert!(matches!(offered.last(), Some(Ok(Offered::Ahead))));
}
