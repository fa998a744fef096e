//! Capture strategies: which pages are copied while the guest runs and which while it stands still.

use crate::kvm::DirtyLog;
use crate::limits::{PRECOPY_ROUNDS_MAX, RESIDUAL_PAGES_GOAL, RESIDUAL_SLOTS, SLOTS_WORTH_WAITING_FOR};
use crate::memory::SharedMemory;
use crate::staging::Staging;
use pageswarm_machine::PageNumber;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NO_SLOT: u32 = u32::MAX;

/// How checkpoints are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Stop the guest and copy all of its RAM. Needs a staging area as large as RAM.
    StopAndCopy,
    /// Stop the guest and copy what the dirty log names.
    IncrementalStopAndCopy,
    /// Copy in rounds while the guest runs; stop it only for what is left.
    PreCopy,
}

/// No strategy has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected pre-copy, incremental-stop-and-copy or stop-and-copy")]
pub struct UnknownStrategy;

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::StopAndCopy, Self::IncrementalStopAndCopy, Self::PreCopy];

    /// The name by which people choose it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StopAndCopy => "stop-and-copy",
            Self::IncrementalStopAndCopy => "incremental-stop-and-copy",
            Self::PreCopy => "pre-copy",
        }
    }
}

impl std::fmt::Display for Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        Self::ALL.into_iter().find(|strategy| strategy.name() == name).ok_or(UnknownStrategy)
    }
}

/// What a checkpoint's pages are measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaptureKind {
    /// Against nothing: every page that is not named is zero.
    Full,
    /// Against the checkpoint before.
    Incremental,
}

impl CaptureKind {
    pub(crate) const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Full),
            1 => Some(Self::Incremental),
            _ => None,
        }
    }
}

/// Why collecting pages stopped.
#[derive(Debug)]
pub(crate) enum CollectError {
    /// All staging slots are in use; the pages not copied stay pending.
    OutOfSlots,
    /// The dirty log or the memfd failed.
    System(io::Error),
}

impl From<io::Error> for CollectError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

/// The two halves of taking a checkpoint.
pub(crate) trait Capture {
    /// Copies what can be copied while the guest runs. May wait for staging slots; `outlet` then gives the parent what
    /// is there so far. Returns the rounds made.
    fn while_running(self, collector: &mut Collector, outlet: &mut dyn Outlet) -> Result<u32, CollectError>;

    /// Copies the rest while the guest stands still, without waiting for anything. Returns the pages copied.
    fn while_stopped(self, collector: &mut Collector) -> Result<u64, CollectError>;
}

/// Where collected pages go when the staging area is full before the checkpoint is complete.
pub(crate) trait Outlet {
    fn flush(&mut self, pages: Vec<(PageNumber, u32)>) -> io::Result<()>;
}

/// Copies pages into staging slots and knows which are still to be copied.
#[derive(Debug)]
pub(crate) struct Collector {
    log: DirtyLog,
    ram: Arc<SharedMemory>,
    staging: Arc<Staging>,
    /// Pages named by a dirty log and not copied since.
    pending: Vec<u64>,
    fetched: Vec<u64>,
    /// The slot of each page copied for this checkpoint.
    slot_of: Vec<u32>,
    reserve: Vec<u32>,
    pages: Vec<(PageNumber, u32)>,
    /// Time spent waiting for slots.
    pub(crate) waited: Duration,
}

impl Collector {
    pub(crate) fn new(log: DirtyLog, ram: Arc<SharedMemory>, staging: Arc<Staging>) -> Self {
        let words = log.words();
        let (pages, slots) = (ram.pages(), staging.memory.pages());
        Self {
            log,
            ram,
            staging,
            pending: vec![0; words],
            fetched: vec![0; words],
            slot_of: vec![NO_SLOT; pages],
            reserve: Vec::with_capacity(slots),
            pages: Vec::with_capacity(slots.min(pages)),
            waited: Duration::ZERO,
        }
    }

    /// Adds what the guest wrote since the last fetch to the pending pages and returns how many are pending.
    fn fetch(&mut self) -> io::Result<usize> {
        self.log.fetch(&mut self.fetched)?;
        let mut count = 0;
        for (pending, fetched) in self.pending.iter_mut().zip(&self.fetched) {
            *pending |= fetched;
            count += pending.count_ones() as usize;
        }
        Ok(count)
    }

    /// Makes everything pending that may hold other than zeros.
    pub(crate) fn want_all(&mut self) -> Result<(), CollectError> {
        self.log.fetch(&mut self.fetched)?;
        let pending = &mut self.pending;
        self.ram.for_each_extent(|start, end| {
            for page in start..end {
                pending[page / 64] |= 1 << (page % 64);
            }
        })?;
        Ok(())
    }

    /// Copies pending pages until none is left.
    fn copy(&mut self) -> Result<u64, CollectError> {
        let mut copied = 0;
        for word in 0..self.pending.len() {
            while self.pending[word] != 0 {
                let bit = self.pending[word].trailing_zeros();
                let page = word * 64 + bit as usize;
                // Cleared before the copy: what is written during it is in the next fetch.
                self.pending[word] &= self.pending[word] - 1;
                if let Err(error) = self.copy_page(page) {
                    self.pending[word] |= 1 << bit;
                    return Err(error);
                }
                copied += 1;
            }
        }
        Ok(copied)
    }

    fn copy_page(&mut self, page: usize) -> Result<(), CollectError> {
        if self.slot_of[page] == NO_SLOT {
            let slot = self.reserve.pop().ok_or(CollectError::OutOfSlots)?;
            self.slot_of[page] = slot;
            let number = u32::try_from(page).expect("page numbers have 32 bits");
            self.pages.push((PageNumber(number), slot));
        }
        self.ram.copy_page(page, &self.staging.memory, self.slot_of[page] as usize);
        Ok(())
    }

    /// Copies everything that a guest that stands still has written, handing over and waiting for slots as often as needed.
    /// Returns the pages copied.
    pub(crate) fn copy_standing(&mut self, outlet: &mut dyn Outlet) -> Result<u64, CollectError> {
        let pending = self.fetch()?;
        self.copy_waiting(outlet)?;
        Ok(pending as u64)
    }

    /// Copies pending pages, handing over and waiting for slots as often as needed.
    fn copy_waiting(&mut self, outlet: &mut dyn Outlet) -> Result<(), CollectError> {
        while let Err(error) = self.copy() {
            match error {
                CollectError::OutOfSlots => self.refill(SLOTS_WORTH_WAITING_FOR, outlet)?,
                error @ CollectError::System(_) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gets at least `wanted` slots (or half of all, if fewer), handing over what is collected if need be.
    fn refill(&mut self, wanted: usize, outlet: &mut dyn Outlet) -> Result<(), CollectError> {
        let wanted = wanted.min(self.staging.memory.pages() / 2);
        self.staging.take(&mut self.reserve, 0);
        if self.reserve.len() >= wanted {
            return Ok(());
        }
        let started = Instant::now();
        outlet.flush(self.take_pages())?;
        self.staging.take(&mut self.reserve, wanted);
        self.waited += started.elapsed();
        Ok(())
    }

    /// The pages collected since the last call. Pages collected again later get other slots.
    pub(crate) fn take_pages(&mut self) -> Vec<(PageNumber, u32)> {
        for (page, _) in &self.pages {
            self.slot_of[page.0 as usize] = NO_SLOT;
        }
        let room = self.pages.capacity();
        std::mem::replace(&mut self.pages, Vec::with_capacity(room))
    }

    /// Removes the pages that are zero: in a full checkpoint they need no naming. Their slots are free at once.
    pub(crate) fn drop_zero_pages(&mut self, pages: &mut Vec<(PageNumber, u32)>) {
        pages.retain(|&(_, slot)| {
            let keep = self.staging.memory.page(slot as usize).iter().any(|&byte| byte != 0);
            if !keep {
                self.reserve.push(slot);
            }
            keep
        });
    }
}

impl Capture for Strategy {
    fn while_running(self, collector: &mut Collector, outlet: &mut dyn Outlet) -> Result<u32, CollectError> {
        match self {
            Self::StopAndCopy => {
                let all = collector.ram.pages();
                let started = Instant::now();
                collector.staging.take(&mut collector.reserve, all);
                collector.waited += started.elapsed();
                Ok(0)
            }
            Self::IncrementalStopAndCopy => {
                // Only the base of a full checkpoint, or what an earlier attempt fetched and had no room for.
                collector.copy_waiting(outlet)?;
                collector.refill(RESIDUAL_SLOTS, outlet)?;
                Ok(0)
            }
            Self::PreCopy => {
                let mut rounds = 0;
                loop {
                    let pending = collector.fetch()?;
                    if pending < RESIDUAL_PAGES_GOAL || rounds == PRECOPY_ROUNDS_MAX {
                        break;
                    }
                    collector.copy_waiting(outlet)?;
                    rounds += 1;
                }
                collector.copy_waiting(outlet)?;
                collector.refill(RESIDUAL_SLOTS, outlet)?;
                Ok(rounds)
            }
        }
    }

    fn while_stopped(self, collector: &mut Collector) -> Result<u64, CollectError> {
        match self {
            Self::StopAndCopy => collector.want_all()?,
            Self::IncrementalStopAndCopy | Self::PreCopy => {
                collector.fetch()?;
            }
        }
        collector.copy()
    }
}
