//! What a simulation lets others see while it runs: every access to memory.

/// One access to guest memory.
///
/// Reported are the accesses that instructions and deliveries of exceptions make, in order; not those that fetch
/// instructions or walk page tables. An access that crosses a page's end is reported as one for each page. An
/// instruction with a REP prefix makes its accesses under one instruction number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Instructions completed before the one that makes the access.
    pub instruction: u64,
    /// The instruction's address.
    pub rip: u64,
    /// Where, virtual.
    pub virtual_address: u64,
    /// Where, guest-physical.
    pub physical_address: u64,
    /// Bytes, 1 to 16.
    pub size: u8,
    /// Which way.
    pub kind: AccessKind,
    /// The bytes read or written, little-endian.
    pub value: u128,
}

/// Which way an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// From memory.
    Read,
    /// To memory.
    Write,
}

/// Sees what a simulation does. The default sees nothing and costs nothing.
pub trait Observer {
    /// Called for every access, after it.
    #[inline(always)]
    fn access(&mut self, access: Access) {
        let _unseen = access;
    }

    /// Whether it wants to see each access; always the same answer. If not, [`Observer::access`] may be left out
    /// for some, and [`Observer::unseen`] says how many they were.
    #[inline(always)]
    fn wants_each(&self) -> bool {
        true
    }

    /// Called, where not each access is wanted, for accesses that were made and not told: so many reads and writes.
    #[inline(always)]
    fn unseen(&mut self, reads: u64, writes: u64) {
        let _unseen = (reads, writes);
    }
}

/// Two that see the same; each may be two.
impl<A: Observer, B: Observer> Observer for (A, B) {
    #[inline(always)]
    fn access(&mut self, access: Access) {
        self.0.access(access);
        self.1.access(access);
    }
}

/// Nobody looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    #[inline(always)]
    fn wants_each(&self) -> bool {
        false
    }
}
