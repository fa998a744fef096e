//! Moments of one interval that a session can go back to at once: the interval's start, and more of them the nearer
//! they are to the present.

use super::machine::Stand;
use super::undo::{Pages, UndoRam};
use crate::limits::{SNAPSHOT_BYTES_MAX, SNAPSHOTS_MAX};
use pageswarm_machine::{PAGE_BYTES, PageNumber};

#[derive(Debug)]
struct Snapshot {
    stand: Stand,
    /// Pages written before the next snapshot, as they are at this one. Those of the last snapshot are with the RAM.
    undo: Pages,
}

/// Snapshots in the order of time; the first is the interval's start.
#[derive(Debug)]
pub(super) struct Snapshots {
    list: Vec<Snapshot>,
    bytes: usize,
    most: Most,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
struct Most {
    snapshots: usize,
    bytes: usize,
}

impl Snapshots {
    pub(super) fn new(start: Stand) -> Self {
        Self::keeping(start, Most { snapshots: SNAPSHOTS_MAX, bytes: SNAPSHOT_BYTES_MAX })
    }

    fn keeping(start: Stand, most: Most) -> Self {
        Self { list: vec![Snapshot { stand: start, undo: Pages::new() }], bytes: 0, most }
    }

    /// The last snapshot's work.
    pub(super) fn last_work(&self) -> u64 {
        self.list.last().map_or(0, |snapshot| snapshot.stand.work())
    }

    /// Takes a snapshot of the present, and drops others for it if there are too many.
    pub(super) fn take(&mut self, stand: Stand, ram: &mut UndoRam) {
        let undo = ram.mark();
        self.bytes += bytes_of(&undo);
        if let Some(last) = self.list.last_mut() {
            last.undo = undo;
        }
        self.list.push(Snapshot { stand, undo: Pages::new() });
        while self.list.len() > self.most.snapshots || self.bytes > self.most.bytes {
            let Some(place) = self.least_missed() else {
                return;
            };
            self.drop_one(place);
        }
    }

    /// Makes RAM what it was at the last snapshot whose work is less than `work`, drops all later ones, and says where
    /// that is. The start serves when there is none.
    pub(super) fn go_before(&mut self, work: u64, ram: &mut UndoRam) -> Stand {
        ram.go_back();
        while self.list.len() > 1 && self.last_work() >= work {
            self.list.pop();
            if let Some(last) = self.list.last_mut() {
                let undo = std::mem::take(&mut last.undo);
                self.bytes -= bytes_of(&undo);
                ram.apply(&undo);
            }
        }
        self.list.last().expect("the start is always kept").stand.clone()
    }

    /// Pages written since the interval's start up to the last snapshot, some of them more than once.
    pub(super) fn written(&self) -> impl Iterator<Item = PageNumber> {
        self.list.iter().flat_map(|snapshot| snapshot.undo.keys().copied())
    }

    /// Bytes of pages kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// The snapshot without which the way back grows least, as a part of the way that it has been.
    fn least_missed(&self) -> Option<usize> {
        let now = self.last_work();
        let work = |place: usize| self.list[place].stand.work();
        let loss = |place: usize| {
            let (gap, distance) = (work(place + 1) - work(place - 1), now - work(place) + 1);
            (u128::from(gap) << 64) / u128::from(distance)
        };
        (1..self.list.len() - 1).min_by_key(|&place| loss(place))
    }

    /// Drops a snapshot that is neither the first nor the last: what it kept, the one before keeps.
    fn drop_one(&mut self, place: usize) {
        let dropped = self.list.remove(place);
        let before = &mut self.list[place - 1].undo;
        for (page, bytes) in dropped.undo {
            match before.entry(page) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(bytes);
                }
                std::collections::btree_map::Entry::Occupied(_) => self.bytes -= PAGE_BYTES,
            }
        }
    }
}

fn bytes_of(pages: &Pages) -> usize {
    pages.len() * PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use pageswarm_machine::content::Random;
    use pageswarm_machine::{CpuState, Devices};

    const RAM_PAGES: usize = 8;

    fn stand(work: u64) -> Stand {
        let mut stand = Stand::start(CpuState::start(0), Devices::default());
        stand.done.work = work;
        stand
    }

    /// Goal: RAM is what it was, whatever was dropped and wherever one goes. Method: copies of all of RAM beside it.
    #[test]
    fn every_way_back_leads_to_what_was_there() {
        let mut random = Random::new(5, 1);
        for most in [Most { snapshots: 6, bytes: 1 << 20 }, Most { snapshots: 99, bytes: 10 * PAGE_BYTES }] {
            let mut ram = UndoRam::new(vec![0; RAM_PAGES * PAGE_BYTES]);
            let mut snapshots = Snapshots::keeping(stand(0), most);
            let mut copies = vec![(0, ram.page_bytes())];
            let mut work = 0;
            for _ in 0..3000 {
                if !random.draw().is_multiple_of(8) {
                    for _ in 0..random.draw() % 4 {
                        let place = random.draw() % (RAM_PAGES * PAGE_BYTES) as u64;
                        ram.write(place, [random.draw().to_le_bytes()[0]]);
                    }
                    work += 1 + random.draw() % 100;
                    snapshots.take(stand(work), &mut ram);
                    copies.push((work, ram.page_bytes()));
                    assert!(snapshots.count() <= most.snapshots);
                    let bytes: usize = snapshots.list.iter().map(|snapshot| bytes_of(&snapshot.undo)).sum();
                    assert_eq!(bytes, snapshots.bytes());
                    assert!(bytes <= most.bytes.max(RAM_PAGES * PAGE_BYTES));
                } else {
                    let back = snapshots.go_before(random.draw() % (work + 1), &mut ram).work();
                    work = back;
                    copies.retain(|(work, _)| *work <= back);
                    let (_, copy) =
                        copies.iter().find(|(work, _)| *work == back).expect("a snapshot's moment");
                    assert!(*copy == ram.page_bytes(), "{back}");
                }
            }
            let start = snapshots.go_before(0, &mut ram);
            assert_eq!((start.work(), ram.page_bytes()), (0, vec![0; RAM_PAGES * PAGE_BYTES]));
        }
    }
}
