//! Where a debugged guest stops: breakpoints, and watchpoints on virtual addresses.

use crate::limits::{BREAKPOINTS_MAX, WATCHPOINTS_MAX};
use crate::observe::{Access, AccessKind, Observer};
use std::collections::BTreeSet;

/// Which accesses a watchpoint is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Reads.
    Reads,
    /// Writes, of other or of the same content.
    Writes,
    /// Both.
    Accesses,
}

/// A watchpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchpoint {
    /// The first virtual address.
    pub address: u64,
    /// Bytes from there, at least one; no wrapping around.
    pub bytes: u64,
    /// Which accesses.
    pub watched: Watched,
}

/// There is no room for another breakpoint or watchpoint, or it makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// As many as a session may have.
    #[error("a session has at most {BREAKPOINTS_MAX} breakpoints and {WATCHPOINTS_MAX} watchpoints")]
    Full,
    /// Nothing is watched, or it wraps around.
    #[error("watchpoint of {bytes} bytes at {address:#x} covers no range of addresses")]
    Range {
        /// Its address.
        address: u64,
        /// Its length.
        bytes: u64,
    },
}

/// An access that a watchpoint was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The first watched address that was accessed.
    pub address: u64,
    /// What the watchpoint is for.
    pub watched: Watched,
}

impl Watchpoint {
    fn sees(&self, access: &Access) -> Option<Hit> {
        let kind = match self.watched {
            Watched::Accesses => true,
            Watched::Reads => access.kind == AccessKind::Read,
            Watched::Writes => access.kind == AccessKind::Write,
        };
        // Offsets, because the last address of all has none behind it.
        let begins_before = access.virtual_address.wrapping_sub(self.address);
        let begins_behind = self.address.wrapping_sub(access.virtual_address);
        let meets = begins_before < self.bytes || begins_behind < u64::from(access.size);
        let address = self.address.max(access.virtual_address);
        (kind && meets).then_some(Hit { address, watched: self.watched })
    }
}

/// An observer that looks for watched accesses.
#[derive(Debug, Default)]
pub(super) struct Watcher {
    armed: Vec<Watchpoint>,
    /// The first one since it was last taken.
    pub(super) hit: Option<Hit>,
}

impl Watcher {
    pub(super) fn arm(&mut self, watchpoints: &[Watchpoint]) {
        self.armed.clear();
        self.armed.extend_from_slice(watchpoints);
        self.hit = None;
    }
}

impl Observer for Watcher {
    #[inline(always)]
    fn access(&mut self, access: Access) {
        if !self.armed.is_empty() && self.hit.is_none() {
            self.hit = self.armed.iter().find_map(|watchpoint| watchpoint.sees(&access));
        }
    }
}

/// All breakpoints and watchpoints.
#[derive(Debug, Default)]
pub(super) struct Stops {
    breakpoints: BTreeSet<u64>,
    /// A bit for each breakpoint, at a place that its address says, so that most others are told apart at once.
    mask: u64,
    watchpoints: Vec<Watchpoint>,
}

const fn bit(address: u64) -> u64 {
    1 << ((address ^ address >> 6) & 63)
}

impl Stops {
    pub(super) fn is_empty(&self) -> bool {
        self.breakpoints.is_empty() && self.watchpoints.is_empty()
    }

    #[inline(always)]
    pub(super) fn has_breakpoint(&self, rip: u64) -> bool {
        self.mask & bit(rip) != 0 && self.breakpoints.contains(&rip)
    }

    pub(super) fn watchpoints(&self) -> &[Watchpoint] {
        &self.watchpoints
    }

    pub(super) fn add_breakpoint(&mut self, address: u64) -> Result<(), StopError> {
        if self.breakpoints.len() >= BREAKPOINTS_MAX && !self.breakpoints.contains(&address) {
            return Err(StopError::Full);
        }
        self.breakpoints.insert(address);
        self.mask |= bit(address);
        Ok(())
    }

    /// False when there was none.
    pub(super) fn remove_breakpoint(&mut self, address: u64) -> bool {
        let removed = self.breakpoints.remove(&address);
        self.mask = self.breakpoints.iter().fold(0, |mask, &address| mask | bit(address));
        removed
    }

    pub(super) fn add_watchpoint(&mut self, watchpoint: Watchpoint) -> Result<(), StopError> {
        let Watchpoint { address, bytes, .. } = watchpoint;
        if bytes == 0 || address.checked_add(bytes - 1).is_none() {
            return Err(StopError::Range { address, bytes });
        }
        if self.watchpoints.len() >= WATCHPOINTS_MAX {
            return Err(StopError::Full);
        }
        self.watchpoints.push(watchpoint);
        Ok(())
    }

    /// False when there was none.
    pub(super) fn remove_watchpoint(&mut self, watchpoint: Watchpoint) -> bool {
        let place = self.watchpoints.iter().position(|other| *other == watchpoint);
        place.map(|place| self.watchpoints.remove(place)).is_some()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(address: u64, size: u8, kind: AccessKind) -> Access {
        let (instruction, rip, physical_address, value) = (0, 0, 0, 0);
        Access { instruction, rip, virtual_address: address, physical_address, size, kind, value }
    }

    #[test]
    fn a_watchpoint_sees_what_overlaps_it_and_only_its_kind() {
        let (read, write) = (AccessKind::Read, AccessKind::Write);
        let watchpoint = Watchpoint { address: 0x1000, bytes: 4, watched: Watched::Writes };
        let seen = |address, size, kind| watchpoint.sees(&access(address, size, kind)).map(|hit| hit.address);
        assert_eq!(seen(0xffc, 4, write), None);
        assert_eq!(seen(0xffc, 5, write), Some(0x1000));
        assert_eq!(seen(0x1003, 16, write), Some(0x1003));
        assert_eq!(seen(0x1004, 1, write), None);
        assert_eq!(seen(0x1000, 4, read), None);
        let last = Watchpoint { address: u64::MAX, bytes: 1, watched: Watched::Accesses };
        assert_eq!(last.sees(&access(u64::MAX - 7, 8, read)).map(|hit| hit.address), Some(u64::MAX));
        assert_eq!(last.sees(&access(0, 8, read)), None);
    }

    #[test]
    fn stops_have_limits() {
        let mut stops = Stops::default();
        (0..BREAKPOINTS_MAX as u64).for_each(|address| stops.add_breakpoint(address * 3).unwrap());
        assert_eq!(stops.add_breakpoint(1), Err(StopError::Full));
        assert_eq!(stops.add_breakpoint(3), Ok(()));
        assert!(stops.remove_breakpoint(3) && !stops.remove_breakpoint(3));
        assert!(stops.has_breakpoint(6) && !stops.has_breakpoint(3));
        let at = |address, bytes| Watchpoint { address, bytes, watched: Watched::Reads };
        assert!(matches!(stops.add_watchpoint(at(5, 0)), Err(StopError::Range { .. })));
        assert!(matches!(stops.add_watchpoint(at(5, u64::MAX)), Err(StopError::Range { .. })));
        (0..WATCHPOINTS_MAX).for_each(|_| stops.add_watchpoint(at(u64::MAX, 1)).unwrap());
        assert_eq!(stops.add_watchpoint(at(5, 1)), Err(StopError::Full));
    }
}
