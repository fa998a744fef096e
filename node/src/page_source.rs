//! Where a lazily restored guest's pages come from: the store, else the swarm at fault priority.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use pageswarm_checkpoint::{CheckpointMap, ChunkHash, ChunkRef, PAGE_BYTES, PageNumber, Slot};
use pageswarm_store::ChunkRead;
use pageswarm_swarm::{BirthSet, Input};
use pageswarm_vmm::{Awaited, FilledPages, ImageMemory, PageSource, SourceError};

use crate::hub::{FaultOutcome, Faulted};
use crate::lineages::{Lineage, lineage_of};
use crate::node::Node;

/// Pages read together when the guest's memory is filled in order: the store reads many at once far faster.
const AHEAD_PAGES: u32 = 512;
/// Between two looks at whether anybody still waits.
const STOP_LOOKED_AT: Duration = Duration::from_millis(200);
/// So many pages are asked for together only where memory is filled in order.
const IN_ORDER_PAGES: usize = 32;

/// Gives out pages of one checkpoint, each verified against its hash on every read from store or swarm, or
/// all of them when their image was proven.
#[derive(Debug)]
pub struct CheckpointPages {
    node: Arc<Node>,
    lineage: Lineage,
    map: CheckpointMap,
    /// All of it, if it was proven lately.
    image: Option<Arc<ImageMemory>>,
    ahead: Ahead,
    /// Set when nobody waits for pages any more.
    stop: Option<Arc<AtomicBool>>,
}

/// Pages that were read and verified ahead of their turn, in this thread's own memory.
#[derive(Debug, Default)]
struct Ahead {
    first: u32,
    bytes: Vec<u8>,
    /// These were looked at last, and not all of them are in the store.
    incomplete: Range<u32>,
}

/// A page that is not zero.
#[derive(Clone, Copy)]
struct Wanted {
    /// Where it goes, in pages.
    place: usize,
    source: ChunkRef,
    hash: ChunkHash,
}

impl CheckpointPages {
    /// Pages of the checkpoint that `map` describes, from `image` if there is one of it.
    #[must_use]
    pub fn new(
        node: Arc<Node>,
        lineage: Lineage,
        map: CheckpointMap,
        image: Option<Arc<ImageMemory>>,
    ) -> Self {
        Self { node, lineage, map, image, ahead: Ahead::default(), stop: None }
    }

    /// The same, which waits for nothing any more once `stop` is set.
    #[must_use]
    pub fn until(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// Reads ahead from `first`, if all of that is in the store.
    fn read_ahead(&mut self, first: PageNumber) -> Result<(), SourceError> {
        if self.ahead.incomplete.contains(&first.0) {
            return Ok(());
        }
        let pages = AHEAD_PAGES.min(self.map.ram.pages().saturating_sub(first.0));
        let mut bytes = std::mem::take(&mut self.ahead.bytes);
        bytes.resize(usize::try_from(pages).unwrap_or(0) * PAGE_BYTES, 0);
        let wanted = self.split(first, &mut bytes, |_| {})?;
        let names: Vec<ChunkHash> = wanted.iter().map(|page| page.hash).collect();
        let held = self.node.store.contains_many(&names).map_err(|_| SourceError::Store)?;
        if held.contains(&false) {
            self.ahead = Ahead { first: 0, bytes: vec![], incomplete: first.0..first.0 + pages };
            return Ok(());
        }
        let missing = self.read_held(wanted, &mut bytes, |_| {})?;
        self.ahead = if missing.is_empty() {
            Ahead { first: first.0, bytes, incomplete: 0..0 }
        } else {
            Ahead { first: 0, bytes: vec![], incomplete: first.0..first.0 + pages }
        };
        Ok(())
    }

    /// Reads those of `pages` that are here and not zero to their places in `ram`, which is all of RAM, and names each to `filled`.
    ///
    /// # Errors
    ///
    /// [`SourceError`] if the store cannot be read, or there is no such page.
    pub(crate) fn read_scattered(
        &self,
        pages: &[PageNumber],
        ram: &mut [u8],
        mut filled: impl FnMut(PageNumber),
    ) -> Result<(), SourceError> {
        let mut wanted = Vec::with_capacity(pages.len());
        for page in pages {
            let place = page.0 as usize;
            let image = self.image.as_ref().and_then(|image| image.pages_from(*page, PAGE_BYTES));
            match (image, self.map.ram.get(*page).ok_or(SourceError::Unavailable)?) {
                (Some(bytes), _) => {
                    ram[place * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(bytes);
                    filled(*page);
                }
                (None, Slot::Chunk { source, hash }) => wanted.push(Wanted { place, source, hash }),
                (None, Slot::Zero) => {}
            }
        }
        self.read_held(wanted, ram, |place| filled(PageNumber(u32::try_from(place).unwrap_or(u32::MAX))))?;
        Ok(())
    }

    /// Writes the zero pages from `first` on into `out`; returns the others.
    fn split(
        &self,
        first: PageNumber,
        out: &mut [u8],
        mut filled: impl FnMut(usize),
    ) -> Result<Vec<Wanted>, SourceError> {
        let mut wanted = Vec::new();
        for (place, page) in out.chunks_exact_mut(PAGE_BYTES).enumerate() {
            let number = u32::try_from(place).ok().and_then(|place| first.0.checked_add(place));
            let slot = number.and_then(|number| self.map.ram.get(PageNumber(number)));
            match slot.ok_or(SourceError::Unavailable)? {
                Slot::Zero => {
                    page.fill(0);
                    filled(place);
                }
                Slot::Chunk { source, hash } => wanted.push(Wanted { place, source, hash }),
            }
        }
        Ok(wanted)
    }

    /// Reads what the store holds into `out`; what it does not is returned. A page that is bad there is lost: the
    /// engine hears of it before anything else is asked of it.
    fn read_held(
        &self,
        wanted: Vec<Wanted>,
        out: &mut [u8],
        mut filled: impl FnMut(usize),
    ) -> Result<Vec<Wanted>, SourceError> {
        let names: Vec<ChunkHash> = wanted.iter().map(|page| page.hash).collect();
        let mut held = vec![false; wanted.len()];
        let mut lost = Vec::new();
        let read = self.node.store.read_chunks(&names, |position, read| match read {
            ChunkRead::Held(bytes) if bytes.bytes().len() == PAGE_BYTES => {
                let place = wanted[position].place;
                out[place * PAGE_BYTES..][..PAGE_BYTES].copy_from_slice(bytes.bytes());
                held[position] = true;
                filled(place);
            }
            ChunkRead::Held(_) | ChunkRead::NotHeld => {}
            ChunkRead::Bad(_) => lost.push(wanted[position].source),
        });
        read.map_err(|error| {
            self.node.note_store_trouble(&error);
            SourceError::Store
        })?;
        lost.into_iter().for_each(|chunk| self.tell_lost(chunk));
        Ok(wanted.into_iter().zip(held).filter(|(_, held)| !held).map(|(page, _)| page).collect())
    }

    /// Tells the engine that a chunk is not here, whatever it believes.
    fn tell_lost(&self, chunk: ChunkRef) {
        if let Some(lineage) = lineage_of(&self.lineage, chunk) {
            let births = BirthSet::range(chunk.birth, chunk.birth);
            self.node.hub.input_blocking(Input::LocalLost { lineage, births });
        }
    }

    /// Waits until a chunk is here, for as long as its guest can wait.
    fn wait(&self, awaited: &Faulted, until: Instant) -> Result<(), SourceError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match awaited.answer.recv_timeout(left.min(STOP_LOOKED_AT)) {
                Ok(FaultOutcome::Held) => return Ok(()),
                Ok(FaultOutcome::NotStored) => return Err(SourceError::NotStored),
                Ok(FaultOutcome::StoreFailed) => return Err(SourceError::Store),
                Ok(FaultOutcome::Refused) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(SourceError::Unavailable);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let is_stopped = self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed));
                    if left.is_zero() || is_stopped {
                        return Err(SourceError::Unavailable);
                    }
                }
            }
        }
    }

    /// Has missing pages fetched before anything else, and waits for the one at `place`.
    fn fetch(
        &self,
        mut missing: Vec<Wanted>,
        (place, until): (usize, Instant),
        out: &mut [u8],
        filled: &mut FilledPages,
    ) -> Result<(), SourceError> {
        loop {
            let mut answers = Vec::with_capacity(missing.len());
            for page in &missing {
                let lineage = lineage_of(&self.lineage, page.source).ok_or(SourceError::Unavailable)?;
                answers.push((*page, self.node.hub.fault(lineage, page.source.birth)));
            }
            let (_, awaited) =
                answers.iter().find(|(page, _)| page.place == place).ok_or(SourceError::Unavailable)?;
            if let Err(error) = self.wait(awaited, until) {
                for (page, faulted) in &answers {
                    let lineage = lineage_of(&self.lineage, page.source).ok_or(SourceError::Unavailable)?;
                    self.node.hub.unfault(lineage, page.source.birth, faulted);
                }
                return Err(error);
            }
            // The neighbours that came with it are filled too, the others when they are touched.
            let came = answers.into_iter().filter(|(page, answer)| {
                page.place == place || answer.answer.try_recv() == Ok(FaultOutcome::Held)
            });
            let came = came.map(|(page, _)| page).collect();
            missing = self.read_held(came, out, |place| filled.insert(place))?;
            if filled.contains(place) {
                return Ok(());
            }
            // It was said to be here and is not, or is bad: it is fetched again for as long as the guest can wait.
            missing.retain(|page| page.place == place);
            missing.iter().for_each(|page| self.tell_lost(page.source));
        }
    }
}

impl Ahead {
    fn get(&self, first: PageNumber, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(first.0.checked_sub(self.first)?).ok()?.checked_mul(PAGE_BYTES)?;
        self.bytes.get(start..start.checked_add(length)?)
    }
}

impl PageSource for CheckpointPages {
    fn read_pages(
        &mut self,
        first: PageNumber,
        out: &mut [u8],
        awaited: Option<Awaited>,
    ) -> Result<FilledPages, SourceError> {
        let (filled, waited) = self.read_or_fetch(first, out, awaited)?;
        if let Some(waited) = waited {
            let times = &self.node.counters.faults_fetched;
            times.lock().unwrap_or_else(PoisonError::into_inner).record(waited);
        }
        Ok(filled)
    }
}

impl CheckpointPages {
    /// As [`PageSource::read_pages`]; also says how long it took to fetch what was awaited, if it was not here.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub(crate) fn read_or_fetch(
        &mut self,
        first: PageNumber,
        out: &mut [u8],
        awaited: Option<Awaited>,
    ) -> Result<(FilledPages, Option<Duration>), SourceError> {
        let all = FilledPages::first(out.len() / PAGE_BYTES);
        if let Some(pages) = self.image.as_ref().and_then(|image| image.pages_from(first, out.len())) {
            out.copy_from_slice(pages);
            return Ok((all, None));
        }
        let in_order = awaited.is_none() || out.len() >= IN_ORDER_PAGES * PAGE_BYTES;
        if in_order && self.ahead.get(first, out.len()).is_none() {
            self.read_ahead(first)?;
        }
        if let Some(bytes) = self.ahead.get(first, out.len()) {
            out.copy_from_slice(bytes);
            return Ok((all, None));
        }
        let mut filled = FilledPages::default();
        let wanted = self.split(first, out, |place| filled.insert(place))?;
        let missing = self.read_held(wanted, out, |place| filled.insert(place))?;
        if let Some(Awaited { page, until }) = awaited {
            let place = page.0.checked_sub(first.0).and_then(|place| usize::try_from(place).ok());
            let place =
                place.filter(|place| *place < out.len() / PAGE_BYTES).ok_or(SourceError::Unavailable)?;
            if !filled.contains(place) {
                let asked = Instant::now();
                self.fetch(missing, (place, until), out, &mut filled)?;
                return Ok((filled, Some(asked.elapsed())));
            }
        }
        Ok((filled, None))
    }
}
