//! Calls into the reader that are open, and what they have fetched.

use crate::analysis::kept::{Figures, Kept, Key};
use crate::limits::{CALLS_OPEN, FETCHED_BYTES};
use std::collections::HashMap;
use std::ops::Range;

/// A return address and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Frame {
    pub(super) slot: u64,
    pub(super) back: u64,
}

/// A read of shared bytes by the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) instruction: u64,
    pub(super) rip: u64,
    pub(super) address: u64,
    pub(super) size: u8,
    pub(super) value: u128,
}

/// Who wrote shared bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    Reader,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fetched {
    instruction: u64,
    rip: u64,
    value: u8,
    is_written: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    frame: Frame,
    bytes: HashMap<u64, Fetched>,
}

/// First and second instruction of a pair.
pub(super) type Pair = (u64, u64);

impl Key for Pair {
    fn bits(&self) -> u64 {
        self.0 ^ self.1.rotate_left(32)
    }
}

/// What is known of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) times: u64,
    pub(super) written_between: u64,
    pub(super) changed: u64,
    pub(super) lowest: u64,
    pub(super) highest: u64,
    pub(super) first_seen: u64,
}

impl Default for Times {
    fn default() -> Self {
        Self { times: 0, written_between: 0, changed: 0, lowest: u64::MAX, highest: 0, first_seen: u64::MAX }
    }
}

impl Figures for Times {
    fn add(&mut self, later: Self) {
        self.times += later.times;
        self.written_between += later.written_between;
        self.changed += later.changed;
        self.lowest = self.lowest.min(later.lowest);
        self.highest = self.highest.max(later.highest);
        self.first_seen = self.first_seen.min(later.first_seen);
    }
}

/// The calls, outermost first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    open: Vec<Call>,
    pub(super) forgotten_calls: u64,
    pub(super) forgotten_bytes: u64,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// A return address was pushed in this place: a call that had its own there is over.
    pub(super) fn reuse(&mut self, slot: u64) {
        self.open.retain(|call| call.frame.slot != slot);
    }

    pub(super) fn enter(&mut self, frame: Frame) {
        self.open.push(Call { frame, bytes: HashMap::new() });
        self.forget_outermost();
    }

    /// Whether a call ended.
    pub(super) fn return_by(&mut self, frame: Frame) -> bool {
        let found = self.open.iter().rposition(|call| call.frame == frame);
        found.map(|place| self.open.remove(place)).is_some()
    }

    pub(super) fn written(&mut self, writer: Writer, bytes: Range<u64>) {
        for call in &mut self.open {
            for byte in bytes.clone() {
                match writer {
                    Writer::Reader => {
                        call.bytes.remove(&byte);
                    }
                    Writer::Other => {
                        if let Some(fetched) = call.bytes.get_mut(&byte) {
                            fetched.is_written = true;
                        }
                    }
                }
            }
        }
    }

    /// A fetch by the innermost call.
    pub(super) fn fetch(&mut self, fetch: Fetch, pairs: &mut Kept<Pair, Times>) {
        let Some(call) = self.open.last_mut() else {
            return;
        };
        let Fetch { instruction, rip, address, .. } = fetch;
        let mut found: Vec<(Pair, Times)> = Vec::new();
        let values = fetch.value.to_le_bytes();
        for (byte, value) in (address..address + u64::from(fetch.size)).zip(values) {
            let now = Fetched { instruction, rip, value, is_written: false };
            let has_room = call.bytes.len() < FETCHED_BYTES;
            match call.bytes.get_mut(&byte) {
                Some(before) if before.instruction == instruction && before.rip == rip => {}
                Some(before) => {
                    note(&mut found, before, &now, byte);
                    *before = now;
                }
                None if has_room => {
                    call.bytes.insert(byte, now);
                }
                None => self.forgotten_bytes += 1,
            }
        }
        for (pair, times) in found {
            pairs.add(pair, times);
        }
    }

    /// Opens the calls of a later part, whose times begin at `border`, within these.
    #[expect(clippy::iter_over_hash_type, reason = "all are moved alike")]
    pub(super) fn append(&mut self, later: Self, border: u64) {
        for mut call in later.open {
            for fetched in call.bytes.values_mut() {
                fetched.instruction = fetched.instruction.saturating_add(border);
            }
            self.open.push(call);
            self.forget_outermost();
        }
        self.forgotten_calls += later.forgotten_calls;
        self.forgotten_bytes += later.forgotten_bytes;
    }

    fn forget_outermost(&mut self) {
        if self.open.len() > CALLS_OPEN {
            self.open.remove(0);
            self.forgotten_calls += 1;
        }
    }
}

/// One access is one second fetch of each instruction that fetched some of its bytes before.
fn note(found: &mut Vec<(Pair, Times)>, before: &Fetched, now: &Fetched, byte: u64) {
    let pair = (before.rip, now.rip);
    let place = found.iter().position(|(known, _)| *known == pair).unwrap_or_else(|| {
        let times = Times { times: 1, first_seen: now.instruction, ..Times::default() };
        found.push((pair, times));
        found.len() - 1
    });
    let times = &mut found[place].1;
    times.written_between |= u64::from(before.is_written);
    times.changed |= u64::from(before.value != now.value);
    times.lowest = times.lowest.min(byte);
    times.highest = times.highest.max(byte);
}
