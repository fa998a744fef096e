//! The stated workloads: what guests do, how fast, and in what runs of pages. The contents that the paced ones write are
//! in [`crate::content`].

use crate::abi;
use std::fmt;
use std::str::FromStr;

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// The dirty rate published for SimuBoost of a Linux kernel build: 22,000 pages/s in runs of 8 consecutive pages.
    KernelBuild,
    /// That of SPECjbb: 53,000 pages/s, scattered single pages.
    SpecJbb,
    /// Sorts blocks of keys in six ways and counts them in hash tables.
    Sorting,
    /// Inserts into, removes from, looks up in and scans B-trees whose nodes and values an allocator places.
    BTree,
    /// Writes, searches, copies, encodes, compresses and sums text.
    Strings,
}

/// No workload has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("workload is none of kernel-build, specjbb, sorting, b-tree and strings")]
pub struct UnknownWorkload;

impl Workload {
    /// All workloads.
    pub const ALL: [Self; 5] = [Self::KernelBuild, Self::SpecJbb, Self::Sorting, Self::BTree, Self::Strings];
    /// Those of the paced guest, whose contents the content model states.
    pub const PACED: [Self; 2] = [Self::KernelBuild, Self::SpecJbb];
    /// Those that work on blocks of pages, one job after the other.
    pub const JOBS: [Self; 3] = [Self::Sorting, Self::BTree, Self::Strings];

    /// Pages dirtied per second when nothing holds the guest back; of the guests that do jobs, at most.
    ///
    /// A job counts for all pages of its block, and may write fewer. Their rate is no published one: it is a thousand
    /// jobs a second, which leaves a processor time for more than one guest.
    #[must_use]
    pub const fn dirty_pages_per_second(self) -> u32 {
        match self {
            Self::KernelBuild => 22_000,
            Self::SpecJbb => 53_000,
            Self::Sorting | Self::BTree | Self::Strings => 16_000,
        }
    }

    /// Consecutive pages dirtied in one run.
    #[must_use]
    pub const fn run_pages(self) -> u64 {
        match self {
            Self::KernelBuild => 8,
            Self::SpecJbb => 1,
            Self::Sorting | Self::BTree | Self::Strings => abi::BLOCK_PAGES,
        }
    }

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KernelBuild => "kernel-build",
            Self::SpecJbb => "specjbb",
            Self::Sorting => "sorting",
            Self::BTree => "b-tree",
            Self::Strings => "strings",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = UnknownWorkload;

    fn from_str(name: &str) -> Result<Self, UnknownWorkload> {
        Self::ALL.into_iter().find(|workload| workload.name() == name).ok_or(UnknownWorkload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for workload in Workload::ALL {
            assert_eq!(workload.to_string().parse(), Ok(workload));
            assert!(UnknownWorkload.to_string().contains(workload.name()));
        }
        assert_eq!("linux".parse::<Workload>(), Err(UnknownWorkload));
    }
}
