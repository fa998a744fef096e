//! The two stated workloads: how fast they dirty pages and in what runs. Contents are in [`crate::content`].

use std::fmt;
use std::str::FromStr;

/// A workload of the guest, after the two dirty rates published for SimuBoost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// A Linux kernel build: 22,000 pages/s in runs of 8 consecutive pages.
    KernelBuild,
    /// SPECjbb: 53,000 pages/s, scattered single pages.
    SpecJbb,
}

/// No workload has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("workload is neither kernel-build nor specjbb")]
pub struct UnknownWorkload;

impl Workload {
    /// All workloads.
    pub const ALL: [Self; 2] = [Self::KernelBuild, Self::SpecJbb];

    /// Pages dirtied per second when nothing holds the guest back.
    #[must_use]
    pub const fn dirty_pages_per_second(self) -> u32 {
        match self {
            Self::KernelBuild => 22_000,
            Self::SpecJbb => 53_000,
        }
    }

    /// Consecutive pages dirtied in one run.
    #[must_use]
    pub const fn run_pages(self) -> u64 {
        match self {
            Self::KernelBuild => 8,
            Self::SpecJbb => 1,
        }
    }

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::KernelBuild => "kernel-build",
            Self::SpecJbb => "specjbb",
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
        }
        assert_eq!("linux".parse::<Workload>(), Err(UnknownWorkload));
    }
}
