//! Sets of births between the engine's form and the wire's.

use pageswarm_checkpoint::Birth;
use pageswarm_checkpoint::wire::{BirthRange, RANGES_MAX};
use pageswarm_swarm::BirthSet;

/// Shorter ranges are added birth by birth: a set of many short ranges is slow to subtract.
const RANGE_LENGTH_KEPT: u64 = 256;

/// But no more than this many births of one message.
const SINGLE_BIRTHS_MAX: u64 = 1 << 18;

/// Births taken from one message: as many as the engine allows a peer's set, and a few more, so that it notices.
const BIRTHS_MAX: u64 = 300 << 20;

/// The set in the ranges that a message carries.
#[must_use]
pub fn from_ranges(ranges: &[BirthRange]) -> BirthSet {
    let mut set = BirthSet::new();
    let (mut singly, mut room) = (SINGLE_BIRTHS_MAX, BIRTHS_MAX);
    for range in ranges.iter().filter(|range| range.length > 0) {
        let length = range.length.min(room);
        if length == 0 {
            break;
        }
        room -= length;
        let last = Birth(range.first.0.saturating_add(length - 1));
        if range.length < RANGE_LENGTH_KEPT && range.length <= singly {
            singly -= range.length;
            (range.first.0..=last.0).for_each(|birth| {
                set.insert(Birth(birth));
            });
        } else {
            set.insert_range(range.first, last);
        }
    }
    set
}

/// The set as ranges, in parts that each fit one message.
#[must_use]
pub fn to_messages(set: &BirthSet) -> Vec<Vec<BirthRange>> {
    let ranges: Vec<BirthRange> = set
        .ranges()
        .map(|range| BirthRange { first: Birth(*range.start()), length: range.end() - range.start() + 1 })
        .collect();
    ranges.chunks(RANGES_MAX).map(<[BirthRange]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_the_wire() {
        let mut set = BirthSet::range(Birth(3), Birth(9));
        set.insert(Birth(11));
        set.insert(Birth(1 << 40));
        let messages = to_messages(&set);
        assert_eq!(messages.len(), 1);
        assert_eq!(from_ranges(&messages[0]), set);
    }
}
