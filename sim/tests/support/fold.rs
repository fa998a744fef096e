//! An observer for measurements: it looks at everything and keeps almost nothing.

#![allow(unreachable_pub, reason = "the module is part of several programs")]

use pageswarm_sim::{Access, Observer};

/// Folds everything about every access into one number, so that none of it can be left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fold(pub u64);

impl Observer for Fold {
    #[inline(always)]
    fn access(&mut self, access: Access) {
        let Access { instruction, rip, virtual_address, physical_address, size, kind, value } = access;
        let value = u64::try_from(value & u128::from(u64::MAX)).unwrap_or(0);
        let mixed = instruction ^ rip ^ virtual_address ^ physical_address ^ value ^ u64::from(size);
        self.0 = (self.0 ^ mixed ^ kind as u64).rotate_left(7);
    }
}
