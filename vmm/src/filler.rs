//! The thread that fills lazy memory: answers faults first, and fills the rest in between.

use crate::lazy::{Background, LazyFailure, PageSource, SourceError, Watch, lock};
use crate::limits::{FAULT_PAGES, FILL_RETRIES, FIRST_FAULTS, PREFETCH_PAGES};
use pageswarm_machine::{PAGE_BYTES, PageNumber};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Instant;
use userfaultfd::{Error as UffdError, Event, Uffd};

/// How long the handler sleeps at most before it looks whether it should end.
const POLL_MS: libc::c_int = 50;
/// Fault messages taken before the background gets its turn.
const FAULTS_IN_A_ROW: usize = 64;

/// The background's place in its order.
pub(crate) struct Prefetch {
    order: Vec<PageNumber>,
    next: usize,
    sweep: u32,
    background: Background,
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
}

/// Why filling ended.
enum End {
    /// The VM or its owner has gone.
    Gone,
    Failed(LazyFailure),
}

impl Prefetch {
    /// Pages in `order` first, then the rest by number.
    pub(crate) const fn new(order: Vec<PageNumber>, background: Background) -> Self {
        Self { order, next: 0, sweep: 0, background }
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
        let mut behind = plan.background == Background::Fill;
        while self.resident_pages < self.pages {
            if self.watch.stop.load(Ordering::SeqCst) {
                return Err(End::Gone);
            }
            if self.wait(if behind { 0 } else { POLL_MS })? {
                self.answer_faults()?;
            } else if behind {
                behind = self.prefetch(plan)?;
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
    fn wait(&self, timeout_ms: libc::c_int) -> Result<bool, End> {
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
            self.fill_around(page)?;
        }
        let mut stats = lock(&self.watch.stats);
        stats.faults += 1;
        stats.fault_times.record(read_at.elapsed());
        if stats.first_faults.len() < FIRST_FAULTS {
            stats.first_faults.push((read_at - self.started, PageNumber(page)));
        }
        Ok(())
    }

    /// Fills `page` and the missing pages next to it in its aligned neighbourhood.
    fn fill_around(&mut self, page: u32) -> Result<(), End> {
        let low = page / FAULT_PAGES * FAULT_PAGES;
        let high = (low + FAULT_PAGES).min(self.pages);
        let first = (low..page).rev().take_while(|&page| !self.is_resident(page)).last().unwrap_or(page);
        let count = (first..high).take_while(|&page| !self.is_resident(page)).count();
        let count = u32::try_from(count).unwrap_or(FAULT_PAGES);
        if self.ask(first, count).is_ok() {
            return self.install(first, count);
        }
        self.ask(page, 1)
            .map_err(|error| End::Failed(LazyFailure::Source { page: PageNumber(page), error }))?;
        self.install(page, 1)
    }

    /// One background read of missing pages that follow each other. False when nothing is left to do.
    fn prefetch(&mut self, plan: &mut Prefetch) -> Result<bool, End> {
        let Some((first, count)) = self.next_run(plan) else {
            return Ok(false);
        };
        if self.ask(first, count).is_ok() {
            self.install(first, count)?;
            lock(&self.watch.stats).prefetched_pages += u64::from(count);
        } else {
            lock(&self.watch.stats).prefetch_refused += 1;
        }
        Ok(true)
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
    fn ask(&mut self, first: u32, count: u32) -> Result<(), SourceError> {
        *lock(&self.watch.asked) = Some((Instant::now(), PageNumber(first)));
        let out = &mut self.buffer[..count as usize * PAGE_BYTES];
        let answer = self.source.read_pages(PageNumber(first), out);
        *lock(&self.watch.asked) = None;
        answer
    }

    /// Maps the buffer's first `count` pages at `first` and wakes who waits for them.
    fn install(&mut self, first: u32, count: u32) -> Result<(), End> {
        // The watchdog may have stopped the VM while the source answered: then nothing is mapped any more.
        if self.watch.stop.load(Ordering::SeqCst) {
            return Err(End::Gone);
        }
        let bytes = count as usize * PAGE_BYTES;
        let zero = self.buffer[..bytes].iter().all(|&byte| byte == 0);
        if !(zero && self.install_zero(first, bytes)) {
            self.install_copy(first, count)?;
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

    fn install_copy(&self, first: u32, count: u32) -> Result<(), End> {
        let (mut done, mut retries) = (0, 0);
        while done < count as usize {
            let page = first + u32::try_from(done).unwrap_or(0);
            let from = self.buffer[done * PAGE_BYTES..].as_ptr().cast();
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
