//! The thread that fills lazy memory: answers faults first, and fills the rest in between.

use crate::lazy::{Awaited, Background, FilledPages, LazyFailure, PageSource, SourceError, Watch, lock};
use crate::limits::{FAULT_PAGES, FILL_RETRIES, FIRST_FAULTS, PREFETCH_PAGES, PREFETCH_ROUND};
use pageswarm_machine::{PAGE_BYTES, PageNumber};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};
use userfaultfd::{Error as UffdError, Event, Uffd};

/// How long the handler sleeps at most before it looks whether it should end.
const POLL_MAX: Duration = Duration::from_millis(50);
/// Fault messages taken before the background gets its turn.
const FAULTS_IN_A_ROW: usize = 64;

/// The background's place in its order.
pub(crate) struct Prefetch {
    order: Vec<PageNumber>,
    next: usize,
    sweep: u32,
    background: Background,
    /// The background rests until then.
    resumes: Option<Instant>,
    began: Instant,
}

/// The handler thread's state.
pub(crate) struct Filler {
    uffd: Uffd,
    base: u64,
    pages: u32,
    resident: Vec<u64>,
    resident_pages: u32,
    source: Box<dyn PageSource>,
    buffer: Vec<u8>,
    watch: Arc<Watch>,
    started: Instant,
    reach: Reach,
}

/// How far a fault reaches: its neighbourhood, and further ahead for as long as faults follow each other.
#[derive(Clone, Copy, Debug)]
struct Reach {
    /// Where the next fault falls if the guest goes on in order.
    next: u32,
    pages: u32,
}

/// Why filling ended.
enum End {
    /// The VM or its owner has gone.
    Gone,
    Failed(LazyFailure),
}

impl Prefetch {
    /// Pages in `order` first, then the rest by number.
    pub(crate) fn new(order: Vec<PageNumber>, background: Background) -> Self {
        Self { order, next: 0, sweep: 0, background, resumes: None, began: Instant::now() }
    }

    /// How long to wait for a fault before the background's next read.
    fn pause(&self) -> Duration {
        match (self.background, self.resumes) {
            (Background::DemandOnly, _) => POLL_MAX,
            (Background::Fill, None) => Duration::ZERO,
            // A rounded-up millisecond, for less than one would be none.
            (Background::Fill, Some(at)) => {
                let left = at.saturating_duration_since(Instant::now());
                left.saturating_add(Duration::from_micros(999)).min(POLL_MAX)
            }
        }
    }

    fn is_due(&mut self) -> bool {
        let is_due = self.resumes.is_none_or(|at| at <= Instant::now());
        if is_due && self.resumes.take().is_some() {
            self.began = Instant::now();
        }
        is_due && self.background == Background::Fill
    }

    /// Begins again after a rest, which is longer than the round was: what was missing may have come to the source.
    fn end_round(&mut self) {
        (self.next, self.sweep) = (0, 0);
        let now = Instant::now();
        let round = now.saturating_duration_since(self.began);
        self.resumes = Some(now + PREFETCH_ROUND.max(round * 3));
    }
}

impl Reach {
    /// The pages to fill with `page`, from and to.
    fn around(&mut self, page: u32) -> (u32, u32) {
        if page == self.next {
            self.pages = (self.pages * 2).min(PREFETCH_PAGES);
            return (page, page.saturating_add(self.pages));
        }
        self.pages = FAULT_PAGES;
        let low = page / FAULT_PAGES * FAULT_PAGES;
        (low, low.saturating_add(FAULT_PAGES))
    }
}

impl Filler {
    /// Nothing is present yet.
    pub(crate) fn new(
        uffd: Uffd,
        base: u64,
        pages: u32,
        source: Box<dyn PageSource>,
        watch: Arc<Watch>,
    ) -> Self {
        Self {
            uffd,
            base,
            pages,
            resident: vec![0; (pages as usize).div_ceil(64)],
            resident_pages: 0,
            source,
            buffer: vec![0; PREFETCH_PAGES as usize * PAGE_BYTES],
            watch,
            started: Instant::now(),
            reach: Reach { next: u32::MAX, pages: FAULT_PAGES },
        }
    }

    /// Fills until everything is present, the VM has gone, or something fails.
    pub(crate) fn run(mut self, mut plan: Prefetch) {
        match self.fill_all(&mut plan) {
            Ok(()) | Err(End::Gone) => {}
            Err(End::Failed(failure)) => {
                if !self.watch.stop.swap(true, Ordering::SeqCst) {
                    (self.watch.fail)(failure);
                }
            }
        }
    }

    fn fill_all(&mut self, plan: &mut Prefetch) -> Result<(), End> {
        while self.resident_pages < self.pages {
            if self.watch.stop.load(Ordering::SeqCst) {
                return Err(End::Gone);
            }
            if self.wait(plan.pause())? {
                self.answer_faults()?;
            } else {
                self.prefetch(plan)?;
            }
        }
        lock(&self.watch.stats).complete_after = Some(self.started.elapsed());
        // Wakes whoever still waits; from here on the memory is ordinary.
        let length = self.pages as usize * PAGE_BYTES;
        match self.uffd.unregister(self.address(0) as *mut libc::c_void, length) {
            Ok(()) => Ok(()),
            Err(_) => Err(End::Gone),
        }
    }

    /// True when a fault waits.
    fn wait(&self, timeout: Duration) -> Result<bool, End> {
        let timeout_ms = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
        let mut poll = libc::pollfd { fd: self.uffd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid entry.
        match unsafe { libc::poll(&raw mut poll, 1, timeout_ms) } {
            0 => Ok(false),
            1 if poll.revents & libc::POLLIN != 0 => Ok(true),
            1 => Err(End::Gone),
            _ if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => Ok(false),
            _ => Err(End::Failed(LazyFailure::Handler)),
        }
    }

    fn answer_faults(&mut self) -> Result<(), End> {
        for _ in 0..FAULTS_IN_A_ROW {
            match self.uffd.read_event() {
                Ok(Some(Event::Pagefault { addr, .. })) => self.answer(addr as u64)?,
                Ok(Some(_)) => return Err(End::Failed(LazyFailure::Handler)),
                Ok(None) => break,
                Err(_) => return Err(End::Gone),
            }
        }
        Ok(())
    }

    fn answer(&mut self, address: u64) -> Result<(), End> {
        let read_at = Instant::now();
        let page = address.checked_sub(self.base).map(|offset| offset / PAGE_BYTES as u64);
        let page = page.and_then(|page| u32::try_from(page).ok()).filter(|&page| page < self.pages);
        let page = page.ok_or(End::Failed(LazyFailure::Handler))?;
        if self.is_resident(page) {
            self.wake(page)?;
        } else {
            self.fill_around(page, read_at + self.watch.timeout)?;
        }
        let mut stats = lock(&self.watch.stats);
        stats.faults += 1;
        stats.fault_times.record(read_at.elapsed());
        if stats.first_faults.len() < FIRST_FAULTS {
            stats.first_faults.push((read_at - self.started, PageNumber(page)));
        }
        Ok(())
    }

    /// Fills `page`, and with it what is there of the missing pages next to it in its aligned neighbourhood.
    fn fill_around(&mut self, page: u32, until: Instant) -> Result<(), End> {
        let (low, high) = self.reach.around(page);
        let high = high.min(self.pages);
        let first = (low..page).rev().take_while(|&page| !self.is_resident(page)).last().unwrap_or(page);
        let count = (first..high).take_while(|&page| !self.is_resident(page)).count();
        let count = u32::try_from(count).unwrap_or(FAULT_PAGES);
        self.reach.next = first + count;
        let awaited = Awaited { page: PageNumber(page), until };
        let refused = |error| End::Failed(LazyFailure::Source { page: awaited.page, error });
        let filled = self.ask(first, count, Some(awaited)).map_err(refused)?;
        if !filled.contains((page - first) as usize) {
            return Err(refused(SourceError::Unavailable));
        }
        self.install_filled(first, filled).map(drop)
    }

    /// One background read of missing pages that follow each other.
    fn prefetch(&mut self, plan: &mut Prefetch) -> Result<(), End> {
        if !plan.is_due() {
            return Ok(());
        }
        let Some((first, count)) = self.next_run(plan) else {
            plan.end_round();
            return Ok(());
        };
        // What the source cannot give now is tried again in the next round.
        let Ok(filled) = self.ask(first, count, None) else {
            plan.end_round();
            return Ok(());
        };
        let pages = self.install_filled(first, filled)?;
        let mut stats = lock(&self.watch.stats);
        stats.prefetched_pages += u64::from(pages);
        stats.prefetch_empty += u64::from(filled.is_empty());
        Ok(())
    }

    /// Maps what is there of the buffer, which was filled from `first` on; how many pages that are.
    fn install_filled(&mut self, first: u32, filled: FilledPages) -> Result<u32, End> {
        let mut pages = 0;
        for (place, count) in filled.runs() {
            self.install(first + place, place, count)?;
            pages += count;
        }
        Ok(pages)
    }

    fn next_run(&self, plan: &mut Prefetch) -> Option<(u32, u32)> {
        let missing = |page: u32| page < self.pages && !self.is_resident(page);
        while let Some(&PageNumber(first)) = plan.order.get(plan.next) {
            plan.next += 1;
            if !missing(first) {
                continue;
            }
            let mut count = 1;
            while count < PREFETCH_PAGES
                && first.checked_add(count).is_some_and(missing)
                && plan.order.get(plan.next) == Some(&PageNumber(first + count))
            {
                plan.next += 1;
                count += 1;
            }
            return Some((first, count));
        }
        while plan.sweep < self.pages {
            let first = plan.sweep;
            let count =
                (first..self.pages).take(PREFETCH_PAGES as usize).take_while(|&page| missing(page)).count();
            let count = u32::try_from(count).unwrap_or(PREFETCH_PAGES);
            plan.sweep += count.max(1);
            if count > 0 {
                return Some((first, count));
            }
        }
        None
    }

    /// Has the source put pages into the buffer, under the watchdog's eyes.
    fn ask(&mut self, first: u32, count: u32, awaited: Option<Awaited>) -> Result<FilledPages, SourceError> {
        let page = awaited.map_or(PageNumber(first), |awaited| awaited.page);
        *lock(&self.watch.asked) = Some((Instant::now(), page));
        let out = &mut self.buffer[..count as usize * PAGE_BYTES];
        let answer = self.source.read_pages(PageNumber(first), out, awaited);
        *lock(&self.watch.asked) = None;
        answer
    }

    /// Maps `count` pages of the buffer from `place` on at `first` and wakes who waits for them.
    fn install(&mut self, first: u32, place: u32, count: u32) -> Result<(), End> {
        // The watchdog may have stopped the VM while the source answered: then nothing is mapped any more.
        if self.watch.stop.load(Ordering::SeqCst) {
            return Err(End::Gone);
        }
        let (from, bytes) = (place as usize * PAGE_BYTES, count as usize * PAGE_BYTES);
        let zero = self.buffer[from..from + bytes].iter().all(|&byte| byte == 0);
        if !(zero && self.install_zero(first, bytes)) {
            self.install_copy(first, from, count)?;
        }
        for page in first..first + count {
            self.resident[page as usize / 64] |= 1 << (page % 64);
        }
        self.resident_pages += count;
        lock(&self.watch.stats).resident_pages = self.resident_pages;
        Ok(())
    }

    fn install_zero(&self, first: u32, bytes: usize) -> bool {
        let to = self.address(first) as *mut libc::c_void;
        // SAFETY: the range was registered, and only missing pages of it are filled.
        unsafe { self.uffd.zeropage(to, bytes, true) }.is_ok_and(|filled| filled == bytes)
    }

    fn install_copy(&self, first: u32, from: usize, count: u32) -> Result<(), End> {
        let (mut done, mut retries) = (0, 0);
        while done < count as usize {
            let page = first + u32::try_from(done).unwrap_or(0);
            let from = self.buffer[from + done * PAGE_BYTES..].as_ptr().cast();
            let to = self.address(page) as *mut libc::c_void;
            let left = (count as usize - done) * PAGE_BYTES;
            // SAFETY: the buffer holds that many bytes; the range was registered and only missing pages are filled.
            match unsafe { self.uffd.copy(from, to, left, true) } {
                Ok(copied) => done += copied / PAGE_BYTES,
                // A negative count is the kernel's "try again" before the first page.
                Err(UffdError::PartiallyCopied(copied)) if copied <= left => {
                    done += copied / PAGE_BYTES;
                }
                Err(UffdError::PartiallyCopied(_)) => thread::yield_now(),
                Err(UffdError::CopyFailed(errno)) => match errno as i32 {
                    libc::EEXIST => {
                        self.wake(page)?;
                        done += 1;
                    }
                    libc::ESRCH | libc::ENOENT => return Err(End::Gone),
                    errno => {
                        return Err(End::Failed(LazyFailure::Fill { page: PageNumber(page), errno }));
                    }
                },
                Err(_) => return Err(End::Failed(LazyFailure::Handler)),
            }
            retries += 1;
            if retries > FILL_RETRIES {
                return Err(End::Failed(LazyFailure::Fill { page: PageNumber(page), errno: libc::EAGAIN }));
            }
        }
        Ok(())
    }

    fn wake(&self, page: u32) -> Result<(), End> {
        self.uffd.wake(self.address(page) as *mut libc::c_void, PAGE_BYTES).map_err(|_| End::Gone)
    }

    fn address(&self, page: u32) -> u64 {
        self.base + u64::from(page) * PAGE_BYTES as u64
    }

    fn is_resident(&self, page: u32) -> bool {
        self.resident[page as usize / 64] >> (page % 64) & 1 != 0
    }
}
