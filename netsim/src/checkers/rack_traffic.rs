//! Where racks are known and nothing fails, about one copy of what nodes want comes into each rack.

use super::Violation;
use crate::options::Options;

/// Copies in thousandths, where nothing fails.
const COPIES_PERMILLE_MAX: u64 = 1300;

pub(crate) fn check(
    options: &Options,
    content: u64,
    racks: impl Iterator<Item = u64>,
    found: &mut Vec<Violation>,
) {
    if !options.is_fault_free() || options.churn_permille > 0 || !options.racks_known {
        return;
    }
    for (rack, bytes) in racks.enumerate() {
        let allowed = content * COPIES_PERMILLE_MAX / 1000;
        if bytes > allowed {
            found.push(Violation::RackTraffic { rack, bytes, allowed });
        }
    }
}
