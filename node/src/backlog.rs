//! What a VM's checkpoints have produced and nobody has taken yet: captured pages that wait to be stored here, and stored
//! chunks that followers lack and only this node holds.
//!
//! A **follower** of a lineage is a node that asked for newer and newer checkpoints of it, twice at least, and asked for or
//! got something of it within [`FOLLOWS_FOR`]. Who fetched one checkpoint, only listens, or waits in vain for what nobody
//! offers, holds nobody up.

use std::time::{Duration, Instant};

use pageswarm_checkpoint::Birth;
use pageswarm_swarm::BirthSet;

use crate::lineages::Lineage;
use crate::node::Node;
use crate::spread;

/// How long after it last asked for or got something a node counts as a follower: longer than an answer takes at the
/// least upload limit.
pub const FOLLOWS_FOR: Duration = Duration::from_secs(5);
/// How many times a node must have asked for something newer to be a follower.
const ADVANCES_MIN: u32 = 2;

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes of captured pages that were not stored yet.
    pub to_store_bytes: u64,
    /// Since the oldest of them was captured.
    pub to_store: Duration,
    /// Encoded bytes that followers lack, or will once they ask for the latest checkpoint, and only this node holds.
    pub to_send_bytes: u64,
    /// How long this node's uplink needs for that; zero while its rate is not known.
    pub to_send: Duration,
}

/// What one node wants of a lineage, as a follower does.
#[derive(Clone, Debug)]
pub struct Following {
    /// What it lacked lately.
    pub births: BirthSet,
    /// How many times it asked for something newer.
    pub advances: u32,
    /// Since it told last that it lacks more, or less.
    pub idle: Duration,
}

impl Backlog {
    /// The longer of the two waits.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.to_store.max(self.to_send)
    }

    /// All that waits.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.to_store_bytes.saturating_add(self.to_send_bytes)
    }
}

/// The backlog of a lineage that this node writes; of what waits to be stored the caller knows bytes and age. From a
/// thread that may block.
#[must_use]
pub fn look(node: &Node, lineage: &Lineage, (to_store_bytes, to_store): (u64, Duration)) -> Backlog {
    let awaited = awaited(&node.spreads.following(lineage, Instant::now()), lineage.births);
    let weight = (!awaited.is_empty()).then(|| node.hub.weigh_blocking(lineage.id, awaited)).flatten();
    let to_send_bytes = weight.map_or(0, |weight| weight.only_at_writer_bytes);
    let (up, _) = spread::own_rates(node);
    let micros =
        up.bytes_per_s().map_or(0, |rate| u128::from(to_send_bytes) * 1_000_000 / u128::from(rate.get()));
    let to_send = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
    Backlog { to_store_bytes, to_store, to_send_bytes, to_send }
}

/// What followers lacked lately, and everything born after the newest chunk that any of them asked for.
fn awaited(following: &[Following], births: u64) -> BirthSet {
    let is_follower = |one: &&Following| one.advances >= ADVANCES_MIN && one.idle <= FOLLOWS_FOR;
    let mut awaited = BirthSet::new();
    following.iter().filter(is_follower).for_each(|one| awaited.add(&one.births));
    if let (Some(newest), Some(last)) = (awaited.last(), births.checked_sub(1))
        && newest.0 < last
    {
        awaited.insert_range(Birth(newest.0 + 1), Birth(last));
    }
    awaited
}

#[cfg(test)]
mod tests {
    use super::*;

    fn following(first: u64, last: u64, advances: u32, idle_ms: u64) -> Following {
        let births = BirthSet::range(Birth(first), Birth(last));
        Following { births, advances, idle: Duration::from_millis(idle_ms) }
    }

    #[test]
    fn followers_await_what_they_lack_and_all_that_is_newer() {
        let two = [following(0, 9, 2, 0), following(5, 19, 7, 4999)];
        assert_eq!(awaited(&two, 100), BirthSet::range(Birth(0), Birth(99)));
        let late = [following(10, 19, 2, 0)];
        assert_eq!(awaited(&late, 20), BirthSet::range(Birth(10), Birth(19)));
    }

    #[test]
    fn who_fetched_once_or_long_ago_awaits_nothing() {
        assert!(awaited(&[following(0, 9, 1, 0)], 100).is_empty());
        assert!(awaited(&[following(0, 9, 5, 5001)], 100).is_empty());
        assert!(awaited(&[], 100).is_empty());
        assert!(awaited(&[following(0, 9, 5, 5001)], 0).is_empty());
    }

    #[test]
    fn the_longer_wait_counts() {
        let (to_store, to_send) = (Duration::from_secs(2), Duration::from_secs(3));
        let backlog = Backlog { to_store_bytes: 5, to_store, to_send_bytes: 7, to_send };
        assert_eq!((backlog.bytes(), backlog.wait()), (12, to_send));
    }
}
