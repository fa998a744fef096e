//! Which run to ask of one peer: nearest deadline, then rarest, then a random place.

use std::time::Duration;

use pageswarm_checkpoint::{Birth, LineageId, NodeId};

use crate::births::BirthSet;
use crate::config::Config;
use crate::input::{Patience, Urgency};
use crate::lengths::Lengths;
use crate::limits::{
    QUEUE_SOURCES, REQUESTS_PER_PEER_MAX, RUN_BIRTHS_MAX, RUN_BYTES_MAX, RUN_BYTES_MIN, RUN_BYTES_SPLIT,
};
use crate::lineages::Lineage;
use crate::peers::{Peer, PeerLineage};
use crate::rng::Rng;

/// Births in a run below which little-left splitting stops.
const SPLIT_BIRTHS_MIN: u64 = 8;
/// The same towards the end, when no more births are left than the square of the number of peers: the last answers
/// wait behind those to as many others. Few peers get few more requests because of it: each costs its nodes about a
/// third of a millisecond of processor time.
const SPLIT_BIRTHS_LAST: u64 = 4;

/// What to ask.
#[derive(Debug)]
pub(crate) struct Pick {
    pub(crate) lineage: LineageId,
    pub(crate) births: BirthSet,
    pub(crate) bytes: u64,
    pub(crate) urgency: Urgency,
    pub(crate) patience: Patience,
}

/// How much to ask for in one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunSize {
    pub(crate) bytes: u64,
    pub(crate) births: u64,
}

/// Whether the peer is the lineage's writer, which is asked only for what nobody else offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Writer,
    Holder,
}

impl Source {
    pub(crate) fn of(lineage: &Lineage, peer: NodeId) -> Self {
        if lineage.writer == Some(peer) { Self::Writer } else { Self::Holder }
    }
}

/// How much of the rate of one peer among so many with chunks is kept asked for, as time. It is bound to that peer until it
/// comes: where many have chunks, one that is slow or gone should hold up little.
fn queue_time(config: &Config, sources: usize) -> Duration {
    let sources = u32::try_from(sources).unwrap_or(u32::MAX).max(QUEUE_SOURCES);
    config.queue_time.saturating_mul(QUEUE_SOURCES) / sources
}

/// The size of the next run to ask of a peer, one of so many with chunks, by its queue time, or `None` if enough is
/// outstanding there.
pub(crate) fn run_size(peer: &Peer, sources: usize, source: Source, config: &Config) -> Option<RunSize> {
    let (shallow, depth_wanted) = match source {
        Source::Writer => (1, config.writer_depth),
        Source::Holder => (2, config.peer_depth),
    };
    let wanted = |bytes: u64| RunSize { bytes, births: RUN_BIRTHS_MAX };
    if peer.is_on_probation() {
        return (peer.requests == 0).then(|| wanted(RUN_BYTES_SPLIT));
    }
    if !peer.pace.is_measured() {
        return (peer.requests < 2).then(|| wanted(RUN_BYTES_MIN));
    }
    let latency = peer.pace.latency_floor();
    let bytes_in = |span| peer.pace.bytes_in(span);
    let limit = bytes_in(queue_time(config, sources).saturating_add(latency))
        .clamp(2 * RUN_BYTES_SPLIT, config.peer_outstanding_bytes_max);
    let in_transit = usize::try_from(2 * bytes_in(latency) / RUN_BYTES_MAX).unwrap_or(usize::MAX);
    let deepest = depth_wanted.max(in_transit.saturating_add(1)).min(REQUESTS_PER_PEER_MAX);
    let by_bytes = usize::try_from(limit / RUN_BYTES_MIN).unwrap_or(usize::MAX);
    let depth = by_bytes.clamp(shallow, deepest.max(shallow));
    let share = limit / u64::try_from(depth).unwrap_or(u64::MAX);
    let bytes = share.clamp(RUN_BYTES_SPLIT, RUN_BYTES_MAX);
    let fits = peer.requests < depth && (peer.requests == 0 || peer.outstanding + bytes / 2 <= limit);
    fits.then(|| wanted(bytes))
}

/// What may be asked of a peer in a lineage: offered, wanted, not asked for, and for the writer held by no one else.
pub(crate) fn candidates(lineage: &Lineage, part: &PeerLineage, source: Source) -> BirthSet {
    if lineage.unasked().is_empty() {
        return BirthSet::new();
    }
    let mut open = part.askable(lineage.unasked());
    if source == Source::Writer {
        open.subtract(lineage.copies.any());
    }
    open
}

/// Cuts one run out of `candidates`, which are not empty.
pub(crate) fn cut_run(
    lineage: &mut Lineage,
    part: &PeerLineage,
    source: Source,
    (mut candidates, size): (BirthSet, RunSize),
    rng: &mut Rng,
) -> (BirthSet, u64, Patience) {
    let insisted = candidates.and(&part.insist);
    let patience = if insisted.is_empty() { Patience::MayDefer } else { Patience::Insist };
    if patience == Patience::Insist {
        candidates = insisted;
    }
    let start = match (source, lineage.cursor) {
        (Source::Writer, Some(cursor)) => cursor,
        (Source::Writer, None) => random_birth(&candidates, rng),
        (Source::Holder, _) => {
            candidates = lineage.copies.rarest(candidates);
            random_birth(&candidates, rng)
        }
    };
    let (births, bytes) = take(&candidates, start, size, &lineage.lengths);
    if source == Source::Writer {
        lineage.cursor = births_end(&births, start);
    }
    (births, bytes, patience)
}

fn random_birth(births: &BirthSet, rng: &mut Rng) -> Birth {
    births.nth(rng.below(births.len())).unwrap_or(Birth(0))
}

/// The birth after the last one of a run that began at `start` and may have wrapped around.
fn births_end(births: &BirthSet, start: Birth) -> Option<Birth> {
    let wrapped = births.iter().take_while(|birth| *birth < start).last();
    let last = wrapped.or_else(|| births.last())?;
    last.0.checked_add(1).map(Birth)
}

/// Births from `start` on, wrapping around, up to the size; at least one.
pub(crate) fn take(births: &BirthSet, start: Birth, size: RunSize, lengths: &Lengths) -> (BirthSet, u64) {
    let mut run = BirthSet::new();
    let mut bytes = 0_u64;
    for (birth, count) in births.iter_from(start).zip(0..) {
        let length = lengths.of(birth);
        if count > 0 && (count >= size.births || bytes + length > size.bytes) {
            break;
        }
        run.insert(birth);
        bytes += length;
    }
    (run, bytes)
}

/// Smaller runs when little is left, so that all peers help with the rest, sixteen times each.
pub(crate) fn split_for(size: RunSize, unasked: u64, peers: usize) -> RunSize {
    let peers = u64::try_from(peers).unwrap_or(u64::MAX).max(1);
    let least = if unasked <= peers.saturating_mul(peers) { SPLIT_BIRTHS_LAST } else { SPLIT_BIRTHS_MIN };
    RunSize { births: size.births.min((unasked / (16 * peers)).max(least)), ..size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sources_share_the_queue_of_few() {
        let config = Config { queue_time: Duration::from_millis(160), ..Config::default() };
        let time = |sources| queue_time(&config, sources).as_millis();
        assert_eq!([0, 1, 16, 17, 32, 64].map(time), [160, 160, 160, 150, 80, 40]);
        assert!(queue_time(&config, usize::MAX) < Duration::from_millis(1));
    }

    #[test]
    fn runs_become_small_when_little_is_left() {
        let births =
            |unasked, peers| split_for(RunSize { bytes: RUN_BYTES_MAX, births: 64 }, unasked, peers).births;
        assert_eq!(births(16 * 8 * 64, 8), 64, "each of eight has sixteen whole runs to give");
        assert_eq!(births(16 * 8 * 20, 8), 20);
        assert_eq!(births(65, 8), SPLIT_BIRTHS_MIN);
        assert_eq!(births(64, 8), SPLIT_BIRTHS_LAST);
        assert_eq!(births(0, 0), SPLIT_BIRTHS_LAST);
    }
}
