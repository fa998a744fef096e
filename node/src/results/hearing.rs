//! Taking in results that others tell of: one task, so that nobody who reads messages waits for a signature, the disk or
//! a peer that does not answer.
//!
//! What is told is a log's latest result. If some before it are missing, they are fetched, one log by one request at a
//! time; a log that cannot be had is asked for less and less often.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pageswarm_checkpoint::codec::Take;
use pageswarm_checkpoint::wire::ObjectRequest;
use pageswarm_checkpoint::{AnnouncedResult, LineageId, NodeId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Measure as _, Offered, Opened, ResultError};
use crate::limits::{RESULT_LIST_BYTES_MAX, RESULT_LOGS_FETCHED, RESULT_LOGS_LACKING_MAX, RESULT_QUEUE};
use crate::node::Node;
use crate::objects;

/// Before a log that could not be had is asked for again, the first time; later ones double it.
const PAUSE: Duration = Duration::from_secs(1);
/// After so many times in vain it is asked for when its worker is heard of again.
const TRIES_MAX: u32 = 8;

/// One worker's log for one lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LogName {
    lineage: LineageId,
    worker: NodeId,
}

/// A log of which results are missing.
#[derive(Debug)]
struct Lacking {
    /// The latest one that was heard of.
    number: u64,
    tries: u32,
    due: Instant,
}

/// Passes results on to the task that takes them in; dropped if too many wait. Never waits.
pub fn hear(node: &Node, list: Vec<AnnouncedResult>) {
    if node.heard_results.try_send(list).is_err() {
        tracing::debug!("results dropped: too many wait");
    }
}

/// Takes in what [`hear`] passes on, for as long as the node runs.
pub async fn run(node: Arc<Node>, mut queue: mpsc::Receiver<Vec<AnnouncedResult>>) {
    let mut lacking = BTreeMap::new();
    let mut fetched = BTreeSet::new();
    let mut fetching = JoinSet::new();
    loop {
        for name in to_fetch(&lacking, &fetched, Instant::now()) {
            fetched.insert(name);
            let node = Arc::clone(&node);
            fetching.spawn(async move { (name, fetch(&node, name).await) });
        }
        let due = lacking.iter().filter(|(name, _)| !fetched.contains(*name)).map(|(_, log)| log.due).min();
        let due = due.filter(|_| fetched.len() < RESULT_LOGS_FETCHED);
        let waited = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            first = queue.recv() => {
                let Some(mut list) = first else { return };
                for _ in 0..RESULT_QUEUE {
                    let Ok(more) = queue.try_recv() else { break };
                    list.extend(more);
                }
                take_in_heard(&node, list, &mut lacking).await;
            }
            Some(ended) = fetching.join_next() => match ended {
                Ok((name, grew)) => {
                    fetched.remove(&name);
                    note_fetched(&node, name, grew, &mut lacking);
                }
                Err(error) => return tracing::error!(%error, "results are not taken in any more"),
            },
            () = waited => {}
        }
    }
}

fn to_fetch(lacking: &BTreeMap<LogName, Lacking>, fetched: &BTreeSet<LogName>, now: Instant) -> Vec<LogName> {
    let due = lacking.iter().filter(|(name, log)| log.due <= now && !fetched.contains(*name));
    let mut due: Vec<(Instant, LogName)> = due.map(|(name, log)| (log.due, *name)).collect();
    due.sort();
    due.truncate(RESULT_LOGS_FETCHED.saturating_sub(fetched.len()));
    due.into_iter().map(|(_, name)| name).collect()
}

async fn take_in_heard(
    node: &Arc<Node>,
    list: Vec<AnnouncedResult>,
    lacking: &mut BTreeMap<LogName, Lacking>,
) {
    let (opening, refusing) = (Arc::clone(node), Arc::clone(node));
    let opened = tokio::task::spawn_blocking(move || {
        let unknown = list.into_iter().filter(|announced| !opening.results.knows(announced));
        unknown.map(Opened::new).collect::<Vec<_>>()
    });
    let opened =
        opened.await.unwrap_or_default().into_iter().filter_map(|opened| {
            opened.inspect_err(|_| refusing.note_refused_record("malformed result")).ok()
        });
    for (name, number, offered) in take_in(node, opened.collect()).await {
        match offered {
            Offered::Missing(_) | Offered::Ahead => note_lacking(name, number, lacking),
            Offered::News | Offered::Known | Offered::Unfollowed => {}
        }
    }
}

fn note_lacking(name: LogName, number: u64, lacking: &mut BTreeMap<LogName, Lacking>) {
    if let Some(log) = lacking.get_mut(&name) {
        log.number = log.number.max(number);
    } else if lacking.len() < RESULT_LOGS_LACKING_MAX {
        lacking.insert(name, Lacking { number, tries: 0, due: Instant::now() });
    }
}

fn note_fetched(node: &Node, name: LogName, grew: bool, lacking: &mut BTreeMap<LogName, Lacking>) {
    let Some(log) = lacking.get_mut(&name) else {
        return;
    };
    if node.results.next_number(name.lineage, name.worker) > log.number {
        lacking.remove(&name);
    } else if grew {
        (log.tries, log.due) = (0, Instant::now());
    } else if log.tries < TRIES_MAX {
        log.due = Instant::now() + PAUSE * 2_u32.pow(log.tries);
        log.tries += 1;
    } else {
        lacking.remove(&name);
    }
}

/// What came of each that was not refused.
async fn take_in(node: &Arc<Node>, list: Vec<Opened>) -> Vec<(LogName, u64, Offered)> {
    if list.is_empty() {
        return Vec::new();
    }
    let names: Vec<(LogName, u64)> = list
        .iter()
        .map(|Opened { result, .. }| {
            (LogName { lineage: result.lineage, worker: result.worker }, result.number)
        })
        .collect();
    let offering = Arc::clone(node);
    let offered = tokio::task::spawn_blocking(move || offering.results.offer(list, &*offering)).await;
    let offered = match offered {
        Ok(Ok(offered)) => offered,
        Ok(Err(error)) => {
            node.note_store_trouble(&error);
            return Vec::new();
        }
        Err(_) => return Vec::new(),
    };
    let refused = |error: &ResultError| node.note_refused_record(&crate::report::chain(error));
    let taken = names.into_iter().zip(offered);
    let taken = taken
        .filter_map(|((name, number), offered)| Some((name, number, offered.inspect_err(refused).ok()?)));
    let taken: Vec<_> = taken.collect();
    if taken.iter().any(|(.., offered)| *offered == Offered::News) {
        node.leases.wake();
    }
    taken
}

/// Fetches results that are missing; true if some came that could be taken.
async fn fetch(node: &Arc<Node>, name: LogName) -> bool {
    let LogName { lineage, worker } = name;
    let from = node.results.next_number(lineage, worker);
    let request = ObjectRequest::Results { lineage, worker, from };
    let list = objects::ask_around(node, request, Some(worker), RESULT_LIST_BYTES_MAX, |bytes| {
        continuation(&bytes, name, from).filter(|list| {
            list.iter().all(|opened| node.admit(&worker, &opened.announced.certificate).is_ok())
        })
    });
    let taken = take_in(node, list.await.unwrap_or_default()).await;
    taken.iter().any(|(.., offered)| *offered == Offered::News)
}

/// The results in a peer's answer, if they are what was asked for: that worker's of that lineage, signed, one after the
/// other from number `from` on.
fn continuation(bytes: &[u8], name: LogName, from: u64) -> Option<Vec<Opened>> {
    let mut take = Take::new(bytes);
    let list = AnnouncedResult::take_list(&mut take).ok()?;
    take.finish().ok()?;
    let list: Vec<Opened> = list.into_iter().map(Opened::new).collect::<Result<_, _>>().ok()?;
    let fits = list.iter().zip(from..).all(|(Opened { result, .. }, number)| {
        (result.lineage, result.worker, result.number) == (name.lineage, name.worker, number)
    });
    (fits && !list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{log_of, worker};
    use super::*;

    fn answer(list: &[Opened]) -> Vec<u8> {
        let list: Vec<AnnouncedResult> = list.iter().map(|opened| opened.announced.clone()).collect();
        let mut bytes = Vec::new();
        AnnouncedResult::put_list(&list, &mut bytes);
        bytes
    }

    #[test]
    fn an_answer_is_taken_only_if_it_is_what_was_asked_for() {
        let (key, lineage) = (worker(1), LineageId([7; 32]));
        let log = log_of(&key, lineage, &[0, 1, 2, 3]);
        let name = LogName { lineage, worker: log[0].result.worker };
        let numbers = |bytes: &[u8], name, from| {
            let list = continuation(bytes, name, from)?;
            Some(list.iter().map(|opened| opened.result.number).collect::<Vec<_>>())
        };
        assert_eq!(numbers(&answer(&log[1..]), name, 1), Some(vec![1, 2, 3]));
        assert_eq!(numbers(&answer(&log[2..]), name, 1), None, "a gap before");
        assert_eq!(numbers(&answer(&[log[1].clone(), log[3].clone()]), name, 1), None, "a gap within");
        assert_eq!(numbers(&answer(&[]), name, 1), None, "nothing");
        let other = LogName { lineage: LineageId([8; 32]), ..name };
        assert_eq!(numbers(&answer(&log[1..]), other, 1), None, "another lineage");
        let other = LogName { worker: NodeId([9; 32]), ..name };
        assert_eq!(numbers(&answer(&log[1..]), other, 1), None, "another worker");
        let mut forged = log[1].clone();
        forged.announced.record[100] ^= 1;
        assert_eq!(numbers(&answer(&[forged]), name, 1), None, "no signature");
    }

    #[test]
    fn a_log_is_fetched_once_at_a_time_and_few_at_once() {
        let now = Instant::now();
        let mut lacking = BTreeMap::new();
        let name = |number: u8| LogName { lineage: LineageId([1; 32]), worker: NodeId([number; 32]) };
        for number in 0..20 {
            note_lacking(name(number), 5, &mut lacking);
            note_lacking(name(number), 3, &mut lacking);
        }
        assert!(lacking.values().all(|log| log.number == 5));
        let later = now + Duration::from_secs(60);
        let first = to_fetch(&lacking, &BTreeSet::new(), later);
        assert_eq!(first.len(), RESULT_LOGS_FETCHED);
        let fetched: BTreeSet<_> = first.iter().copied().take(1).collect();
        let next = to_fetch(&lacking, &fetched, later);
        assert_eq!(next.len(), RESULT_LOGS_FETCHED - 1);
        assert!(!next.contains(&first[0]));
        lacking.values_mut().for_each(|log| log.due = later + PAUSE);
        assert_eq!(to_fetch(&lacking, &BTreeSet::new(), later), vec![]);
    }
}
