//! The situations that are measured, each with its numbers, and the bound that nothing can beat.

use std::time::Duration;

use super::distance::Distance;

/// Bytes of a page of guest RAM.
pub(super) const PAGE_BYTES: u32 = 4096;

/// One burst of segments as a stack hands it to a link: a queue that cannot take it would drop part of every one.
const BURST_BYTES: u64 = 64 << 10;

/// What a host is connected with, in each direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) mbit_per_s: u64,
}

/// What the product promises in a profile, each a ratio.
#[derive(Clone, Copy, Debug)]
pub(super) struct Targets {
    /// Time over the bound; none where only other tools are to be beaten.
    pub(super) time_max: Option<f64>,
    /// Bytes that leave the publisher over those that all receivers together lack.
    pub(super) egress_max: f64,
}

/// One content to many receivers at once.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) name: &'static str,
    pub(super) content_bytes: u64,
    pub(super) receivers: u32,
    pub(super) link: Link,
    /// None where all hosts are in one place.
    pub(super) distance: Option<Distance>,
    /// Base-2 logarithm of a piece's bytes, where a system has pieces of a size that one chooses.
    pub(super) piece_log2: u32,
    pub(super) targets: Targets,
}

/// A stream of checkpoints, each wanted by one of several receivers.
#[derive(Clone, Debug)]
pub(super) struct StreamProfile {
    pub(super) pages: u32,
    /// Checkpoints after the first.
    pub(super) deltas: usize,
    pub(super) pages_per_delta: u32,
    pub(super) interval: Duration,
    pub(super) receivers: u32,
    pub(super) link: Link,
    pub(super) targets: Targets,
}

/// A large image: the whole RAM of a guest.
pub(super) const BIG: Profile = Profile {
    name: "big",
    content_bytes: 256 << 20,
    receivers: 8,
    link: Link { mbit_per_s: 100 },
    distance: None,
    piece_log2: 20,
    targets: Targets { time_max: Some(1.10), egress_max: 1.10 },
};

/// Half of [`BIG`] at half its rate: the same time, for half the work of the machine.
pub(super) const HALF: Profile =
    Profile { name: "half", content_bytes: BIG.content_bytes / 2, link: Link { mbit_per_s: 50 }, ..BIG };

/// What changed in an interval, to many.
pub(super) const DELTA: Profile = Profile {
    name: "delta",
    content_bytes: 20 << 20,
    receivers: 16,
    link: Link { mbit_per_s: 50 },
    distance: None,
    piece_log2: 18,
    targets: Targets { time_max: Some(1.20), egress_max: 1.10 },
};

/// As far apart as in another city, with a little loss.
pub(super) const DISTANCE: Distance = Distance { delay: Duration::from_millis(10), lost_per_million: 1000 };

/// What changed in an interval, to some that are far away. Links are slow enough that both processors of a small machine
/// keep time for the relay.
pub(super) const WAN: Profile = Profile {
    name: "wan",
    content_bytes: 20 << 20,
    receivers: 8,
    link: Link { mbit_per_s: 25 },
    distance: Some(DISTANCE),
    piece_log2: 18,
    targets: Targets { time_max: None, egress_max: 1.10 },
};

/// Small, for its function only.
pub(super) const QUICK: Profile = Profile {
    name: "quick",
    content_bytes: 8 << 20,
    receivers: 3,
    link: Link { mbit_per_s: 50 },
    distance: None,
    piece_log2: 18,
    targets: Targets { time_max: Some(1.20), egress_max: 1.10 },
};

/// 16 MiB of RAM of which 1 MiB changes every 250 ms: two thirds of the publisher's link.
pub(super) const STREAM: StreamProfile = StreamProfile {
    pages: 4096,
    deltas: 40,
    pages_per_delta: 256,
    interval: Duration::from_millis(250),
    receivers: 8,
    link: Link { mbit_per_s: 50 },
    targets: Targets { time_max: Some(1.15), egress_max: 1.10 },
};

/// What receivers lack, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// Of all together, each byte once.
    pub(super) union_bytes: u64,
    /// Of the one that lacks most.
    pub(super) most_bytes: u64,
    /// Of each, added up.
    pub(super) sum_bytes: u64,
}

impl Link {
    pub(super) const fn bytes_per_s(self) -> u64 {
        self.mbit_per_s * 125_000
    }

    /// What waits for the link at most: 10 ms of it, and one burst.
    pub(super) const fn queue_bytes(self) -> u64 {
        self.bytes_per_s() / 100 + BURST_BYTES
    }
}

impl Demand {
    /// Seconds that no system can beat: every byte leaves the publisher once, every receiver takes in what it lacks,
    /// and all of it leaves someone.
    pub(super) fn bound_s(&self, link: Link, receivers: u32) -> f64 {
        let rate = link.bytes_per_s() as f64;
        let senders = f64::from(receivers) + 1.0;
        let by_publisher = self.union_bytes as f64 / rate;
        let by_receiver = self.most_bytes as f64 / rate;
        let by_everyone = self.sum_bytes as f64 / (rate * senders);
        by_publisher.max(by_receiver).max(by_everyone)
    }
}

impl Profile {
    pub(super) fn demand(&self) -> Demand {
        Demand {
            union_bytes: self.content_bytes,
            most_bytes: self.content_bytes,
            sum_bytes: self.content_bytes * u64::from(self.receivers),
        }
    }

    pub(super) fn bound_s(&self) -> f64 {
        self.demand().bound_s(self.link, self.receivers)
    }

    /// Options with which `pageswarm-netsim` simulates it; none where it has no such links.
    pub(super) fn simulation(&self) -> Option<Vec<String>> {
        let (mib, rate, nodes) = (self.content_bytes >> 20, self.link.mbit_per_s, self.receivers + 1);
        let options = format!("--equal {mib} {rate} --nodes {nodes}");
        self.distance.is_none().then(|| options.split(' ').map(str::to_owned).collect())
    }

    /// After which a system is given up.
    pub(super) fn limit(&self) -> Duration {
        limit(self.bound_s())
    }
}

/// After which a system is given up that could have been done in `bound_s` seconds.
pub(super) fn limit(bound_s: f64) -> Duration {
    Duration::from_secs(60) + Duration::from_secs_f64(10.0 * bound_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_has_the_same_content_links_and_nodes() {
        assert_eq!(BIG.simulation().unwrap().join(" "), "--equal 256 100 --nodes 9");
        assert_eq!(WAN.simulation(), None);
    }

    #[test]
    fn the_bound_is_the_longest_of_three() {
        let link = Link { mbit_per_s: 8 };
        let demand = |union_bytes, most_bytes, sum_bytes| Demand { union_bytes, most_bytes, sum_bytes };
        let near = |demand: Demand, seconds: f64| (demand.bound_s(link, 4) - seconds).abs() < 1e-9;
        assert!(near(demand(3_000_000, 1_000_000, 4_000_000), 3.0));
        assert!(near(demand(3_000_000, 4_000_000, 5_000_000), 4.0));
        assert!(near(demand(1_000_000, 1_000_000, 30_000_000), 6.0));
    }

    #[test]
    fn bounds_of_the_profiles() {
        assert!((BIG.bound_s() - 21.475).abs() < 0.001);
        assert!((DELTA.bound_s() - 3.355).abs() < 0.001);
        assert!((WAN.bound_s() - 6.711).abs() < 0.001);
        assert_eq!(BIG.link.queue_bytes(), 125_000 + 65_536);
        assert_eq!(limit(1.0), Duration::from_secs(70));
    }
}
