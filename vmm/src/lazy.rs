//! Lazy memory: fills a VM's RAM page by page as it is touched, and in the background, or stops the VM with a reason.
//!
//! One dedicated thread owns the userfaultfd, the residency bitmap and the [`PageSource`]. It shares no lock with
//! anything that reads guest memory. A second thread only watches the clock: a source that keeps a page waiting for
//! longer than the timeout stops the VM, whether or not the source ever answers.

use crate::filler::{Filler, Prefetch};
use crate::histogram::Histogram;
use pageswarm_machine::PageNumber;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use userfaultfd::Uffd;

/// Where missing pages come from.
pub trait PageSource: Send {
    /// Fills `out`, at most 64 whole pages, with those of the pages from `first` on that can be had without waiting,
    /// and says which. If the guest waits for one of them, that one must be among them. Every page named must have
    /// been verified against its hash before this returns: what is returned is mapped into the guest at once.
    ///
    /// # Errors
    /// When the page that the guest waits for cannot be had in time, or is not what its hash says.
    fn read_pages(
        &mut self,
        first: PageNumber,
        out: &mut [u8],
        awaited: Option<Awaited>,
    ) -> Result<FilledPages, SourceError>;
}

/// A page that the guest waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// Which.
    pub page: PageNumber,
    /// When the VM is stopped if the page has not come.
    pub until: Instant,
}

/// Which of at most 64 pages asked for together are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilledPages(u64);

impl FilledPages {
    /// The first `count` pages.
    #[must_use]
    pub const fn first(count: usize) -> Self {
        Self(if count >= 64 { u64::MAX } else { (1 << count) - 1 })
    }

    /// Adds the page that is `place` after the first one asked for.
    pub const fn insert(&mut self, place: usize) {
        self.0 |= 1 << place;
    }

    /// Whether the page that is `place` after the first one asked for is there.
    #[must_use]
    pub const fn contains(self, place: usize) -> bool {
        place < 64 && self.0 >> place & 1 == 1
    }

    /// Whether none is there.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The runs of pages that are there: place of the first and number.
    pub(crate) fn runs(self) -> impl Iterator<Item = (u32, u32)> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let first = left.trailing_zeros();
            let count = left.checked_shr(first)?.trailing_ones();
            let run = u64::MAX.checked_shr(64 - count).unwrap_or(0);
            left &= !(run << first);
            Some((first, count))
        })
    }
}

/// Why a source does not give a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Nobody has it now.
    #[error("page cannot be had")]
    Unavailable,
    /// Its bytes are not what its hash says.
    #[error("page does not match its hash")]
    Unverified,
    /// The store failed.
    #[error("store failed")]
    Store,
    /// It came, and the store is full.
    #[error("page came and the store is full: give it room, then restore again")]
    NotStored,
}

/// Why lazy memory stopped the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LazyFailure {
    /// The source refused a page that the guest waits for.
    #[error("page {page} that the guest needs was refused")]
    Source {
        /// The page.
        page: PageNumber,
        /// Why.
        #[source]
        error: SourceError,
    },
    /// The source took too long.
    #[error("page {page} did not come within {timeout:?}")]
    Timeout {
        /// The first page asked for.
        page: PageNumber,
        /// The limit that was set.
        timeout: Duration,
    },
    /// The kernel refused to fill a page.
    #[error("page {page} cannot be filled, errno {errno}")]
    Fill {
        /// The page.
        page: PageNumber,
        /// The system's error number.
        errno: i32,
    },
    /// The handler's thread could not be started, or the userfaultfd said something that it cannot say.
    #[error("userfaultfd handler failed")]
    Handler,
}

/// How a VM's memory is filled.
pub struct LazyMemory {
    /// Where pages come from.
    pub source: Box<dyn PageSource>,
    /// Pages in the order in which the background fills them; the rest follow by number.
    pub prefetch: Vec<PageNumber>,
    /// Whether the background fills pages that nobody waits for.
    pub background: Background,
    /// How long the guest may wait for one page.
    pub timeout: Duration,
}

/// Whether pages are filled before they are touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Everything, in time.
    Fill,
    /// Only what is touched, and its close neighbours.
    DemandOnly,
}

impl std::fmt::Debug for LazyMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LazyMemory").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// What lazy memory did so far.
#[derive(Clone, Debug, Default)]
pub struct LazyStats {
    /// Faults answered.
    pub faults: u64,
    /// From reading a fault to the guest's page being there.
    pub fault_times: Histogram,
    /// Pages now present.
    pub resident_pages: u32,
    /// Pages filled by the background.
    pub prefetched_pages: u64,
    /// Background reads of which the source had nothing yet; they are tried again.
    pub prefetch_empty: u64,
    /// The first faults: when, counted from the start, and where.
    pub first_faults: Vec<(Duration, PageNumber)>,
    /// When everything was present, counted from the start.
    pub complete_after: Option<Duration>,
}

/// What the handler's threads and its owner share.
pub(crate) struct Watch {
    pub(crate) stats: Mutex<LazyStats>,
    /// Since when the guest waits for a page or the source owes an answer, and for which page.
    pub(crate) asked: Mutex<Option<(Instant, PageNumber)>>,
    pub(crate) stop: AtomicBool,
    pub(crate) timeout: Duration,
    pub(crate) fail: Box<dyn Fn(LazyFailure) + Send + Sync>,
}

/// The owner's end: dropping it ends the handler.
pub struct FaultHandler {
    watch: Arc<Watch>,
    _ends_watchdog: Sender<()>,
}

impl std::fmt::Debug for FaultHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultHandler").finish_non_exhaustive()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FaultHandler {
    /// Starts filling `pages` pages that the userfaultfd's process has at `base`. `fail` is called at most once from
    /// each of the two threads, and must stop the VM.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(
        uffd: OwnedFd,
        base: u64,
        pages: u32,
        memory: LazyMemory,
        fail: Box<dyn Fn(LazyFailure) + Send + Sync>,
    ) -> Result<Self, LazyFailure> {
        // SAFETY: the descriptor is a userfaultfd that the child opened and sent; nobody else here has it.
        let uffd = unsafe { Uffd::from_raw_fd(uffd.into_raw_fd()) };
        let watch = Arc::new(Watch {
            stats: Mutex::new(LazyStats::default()),
            asked: Mutex::new(None),
            stop: AtomicBool::new(false),
            timeout: memory.timeout,
            fail,
        });
        let plan = Prefetch::new(memory.prefetch, memory.background);
        let filler = Filler::new(uffd, base, pages, memory.source, Arc::clone(&watch));
        let (ends_watchdog, ended) = mpsc::channel();
        let clock = Arc::clone(&watch);
        let named = |name: &str| thread::Builder::new().name(name.into());
        named("lazy-watch").spawn(move || watchdog(&clock, &ended)).map_err(|_| LazyFailure::Handler)?;
        named("lazy-fill").spawn(move || filler.run(plan)).map_err(|_| LazyFailure::Handler)?;
        Ok(Self { watch, _ends_watchdog: ends_watchdog })
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> LazyStats {
        lock(&self.watch.stats).clone()
    }
}

impl Drop for FaultHandler {
    fn drop(&mut self) {
        self.watch.stop.store(true, Ordering::SeqCst);
    }
}

/// Stops the VM when a page or an answer is owed for too long.
fn watchdog(watch: &Watch, ended: &Receiver<()>) {
    let timeout = watch.timeout;
    let period = (timeout / 8).clamp(Duration::from_millis(1), Duration::from_millis(50));
    while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
        let asked = *lock(&watch.asked);
        if let Some((since, page)) = asked
            && since.elapsed() > timeout
        {
            watch.stop.store(true, Ordering::SeqCst);
            (watch.fail)(LazyFailure::Timeout { page, timeout });
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_pages_that_are_there() {
        let mut filled = FilledPages::default();
        assert!(filled.is_empty() && filled.runs().next().is_none());
        for place in [0, 1, 5, 62, 63] {
            filled.insert(place);
        }
        assert_eq!(filled.runs().collect::<Vec<_>>(), [(0, 2), (5, 1), (62, 2)]);
        assert!(filled.contains(5) && !filled.contains(4) && !filled.contains(64));
        assert_eq!(FilledPages::first(64).runs().collect::<Vec<_>>(), [(0, 64)]);
        assert_eq!(FilledPages::first(3).runs().collect::<Vec<_>>(), [(0, 3)]);
    }
}
