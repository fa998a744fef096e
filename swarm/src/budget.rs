//! What may be outstanding: bytes asked for, all together, and chunks asked for twice.

use crate::config::Config;
use crate::limits::RUN_BYTES_MIN;

/// The node's one budget, over all lineages. Faults may exceed it: they are few, small and limited in number.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    outstanding: u64,
    near: u64,
    received: u64,
    doubled: u64,
}

impl Budget {
    /// Bytes were asked for.
    pub(crate) fn ask(&mut self, bytes: u64) {
        self.outstanding += bytes;
    }

    /// Bytes are no longer outstanding: they arrived or will not.
    pub(crate) fn settle(&mut self, bytes: u64) {
        assert!(bytes <= self.outstanding, "only what was asked for is settled");
        self.outstanding -= bytes;
    }

    /// Of what is outstanding at one peer, another part is expected soon.
    pub(crate) fn change_near(&mut self, from: u64, to: u64) {
        self.near = self.near.saturating_sub(from).saturating_add(to);
    }

    /// Of what is outstanding, encoded bytes that are expected soon.
    pub(crate) fn near(&self) -> u64 {
        self.near
    }

    /// Bytes arrived.
    pub(crate) fn receive(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
    }

    /// Bytes were asked for that are outstanding elsewhere.
    pub(crate) fn double(&mut self, bytes: u64) {
        self.doubled = self.doubled.saturating_add(bytes);
    }

    /// Encoded bytes asked for and not arrived.
    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Whether another run may be asked for.
    pub(crate) fn has_room(&self, config: &Config) -> bool {
        self.outstanding < config.outstanding_bytes_max
    }

    /// Encoded bytes that may be asked for twice now: a share of what was received, one run to begin with.
    pub(crate) fn duplicates_left(&self, config: &Config) -> u64 {
        let share = self.received / 1000 * config.duplicate_permille;
        share.saturating_add(RUN_BYTES_MIN).saturating_sub(self.doubled)
    }
}
