//! The arrangement of a trace: what each column says about an access, given the accesses before it in the same row
//! group. A column is silent where the access is as predicted, so that what comes again and again costs almost nothing.
//!
//! One pass over the columns serves both ways: the writer's side compares each prediction with what is true and notes
//! what differs, the reader's side takes the note or else the prediction. Tables are indexed by a hash without looking
//! for collisions, because a wrong prediction costs a few bytes and nothing else.

use crate::observe::{Access, AccessKind};
use crate::trace::Values;

/// Instructions told apart; a power of two.
const CODE_PLACES: usize = 1 << 12;
/// Virtual pages told apart; a power of two.
const PAGE_PLACES: usize = 1 << 10;
/// Words of eight bytes whose content is remembered; a power of two.
const WORD_PLACES: usize = 1 << 14;

/// The columns in their order in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// The instruction's address. Predicted: what followed the last two instructions when they came last.
    Rip,
    /// Instructions since the access before, in the group's first row since the interval's start. Predicted: as many as
    /// when these two instructions followed each other last.
    Instructions,
    /// Twice the size in bytes, plus one for a write. Predicted: as in the instruction's last access.
    Shape,
    /// Virtual address minus that of the instruction's last access of this kind, folded. Predicted: as the last time.
    Virtual,
    /// Physical minus virtual address. Predicted: as in the last access to the virtual page.
    Physical,
    /// The first eight bytes. Predicted: what the last access to this place read or wrote, if it is remembered.
    Value,
    /// The other eight bytes. Predicted: zeros.
    ValueHigh,
}

impl Column {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Rip,
        Self::Instructions,
        Self::Shape,
        Self::Virtual,
        Self::Physical,
        Self::Value,
        Self::ValueHigh,
    ];

    /// Those of a trace with values or without.
    pub(crate) const fn of(values: Values) -> &'static [Self] {
        match values {
            Values::Kept => &Self::ALL,
            Values::Omitted => Self::ALL.split_at(5).0,
        }
    }

    /// Its name in the file.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Rip => "rip",
            Self::Instructions => "instructions_since",
            Self::Shape => "size_and_kind",
            Self::Virtual => "virtual_address_delta",
            Self::Physical => "physical_minus_virtual",
            Self::Value => "value",
            Self::ValueHigh => "value_high",
        }
    }

    /// Whether its numbers lie byte by byte in the file, which is better for all but the contents of memory.
    pub(crate) const fn is_split(self) -> bool {
        !matches!(self, Self::Value | Self::ValueHigh)
    }
}

/// One side of a pass.
pub(crate) trait Side {
    /// Why a pass may end early.
    type Error;

    /// What `column` says: `given` on the writer's side, whatever was noted on the reader's.
    fn settle(&mut self, column: Column, predicted: Option<u64>, given: u64) -> Result<u64, Self::Error>;

    /// What to do about a size and kind that no writer notes.
    fn impossible_shape(&mut self) -> Self::Error;
}

#[derive(Clone, Copy, Debug)]
struct Word {
    /// Its number in memory, plus one; 0 for none.
    tag: u64,
    bytes: u64,
}

/// What was learned in a row group so far.
#[derive(Debug)]
pub(crate) struct Arrangement {
    values: Values,
    instruction: u64,
    rip: u64,
    /// The last address before `rip` that is not equal to it.
    earlier_rip: u64,
    /// Whether the access before was the first of a pair by the same instruction.
    is_second: bool,
    next: Box<[u64]>,
    gaps: Box<[u64]>,
    shapes: Box<[u64]>,
    /// Last address and last step.
    places: Box<[(u64, u64)]>,
    offsets: Box<[u64]>,
    words: Box<[Word]>,
}

#[inline(always)]
fn hashed(number: u64, places: usize) -> usize {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    usize::from(u16::from_be_bytes([mixed[0], mixed[1]])) % places
}

impl Arrangement {
    pub(crate) fn new(values: Values) -> Self {
        let words = if values == Values::Kept { WORD_PLACES } else { 0 };
        Self {
            values,
            instruction: 0,
            rip: 0,
            earlier_rip: 0,
            is_second: false,
            next: vec![0; CODE_PLACES].into_boxed_slice(),
            gaps: vec![0; CODE_PLACES].into_boxed_slice(),
            shapes: vec![0; CODE_PLACES].into_boxed_slice(),
            places: vec![(0, 0); CODE_PLACES].into_boxed_slice(),
            offsets: vec![0; PAGE_PLACES].into_boxed_slice(),
            words: vec![Word { tag: 0, bytes: 0 }; words].into_boxed_slice(),
        }
    }

    /// Forgets everything, for the next row group.
    pub(crate) fn restart(&mut self) {
        (self.instruction, self.rip, self.earlier_rip, self.is_second) = (0, 0, 0, false);
        for table in [&mut self.next, &mut self.gaps, &mut self.shapes, &mut self.offsets] {
            table.fill(0);
        }
        self.places.fill((0, 0));
        self.words.fill(Word { tag: 0, bytes: 0 });
    }

    /// One access through all columns. A reader gives any access and gets the one that was written.
    #[inline(always)]
    pub(crate) fn pass<S: Side>(&mut self, side: &mut S, given: &Access) -> Result<Access, S::Error> {
        let followed =
            &mut self.next[hashed(self.rip.wrapping_add(self.earlier_rip.rotate_left(17)), CODE_PLACES)];
        let rip = side.settle(Column::Rip, Some(*followed), given.rip)?;
        *followed = rip;

        let gap = &mut self.gaps[hashed(self.rip ^ rip.rotate_left(20), CODE_PLACES)];
        let since = given.instruction.wrapping_sub(self.instruction);
        let since = side.settle(Column::Instructions, Some(*gap), since)?;
        *gap = since;
        let instruction = self.instruction.wrapping_add(since);

        let is_same = rip == self.rip;
        self.is_second = is_same && since == 0 && !self.is_second;
        let (size, kind) = self.shape(side, rip, given)?;

        let site =
            hashed(rip.wrapping_mul(2).wrapping_add(u64::from(kind == AccessKind::Write)), CODE_PLACES);
        let (place, step) = &mut self.places[site];
        let new_step = folded(given.virtual_address.wrapping_sub(*place));
        let new_step = side.settle(Column::Virtual, Some(*step), new_step)?;
        let virtual_address = place.wrapping_add(unfolded(new_step));
        (*place, *step) = (virtual_address, new_step);

        let offset = &mut self.offsets[hashed(virtual_address >> 12, PAGE_PLACES)];
        let distance = given.physical_address.wrapping_sub(given.virtual_address);
        *offset = side.settle(Column::Physical, Some(*offset), distance)?;
        let physical_address = virtual_address.wrapping_add(*offset);

        if !is_same {
            self.earlier_rip = self.rip;
        }
        (self.rip, self.instruction) = (rip, instruction);
        let value = match self.values {
            Values::Kept => self.value(side, physical_address, size, given.value)?,
            Values::Omitted => 0,
        };
        Ok(Access { instruction, rip, virtual_address, physical_address, size, kind, value })
    }

    #[inline(always)]
    fn shape<S: Side>(
        &mut self,
        side: &mut S,
        rip: u64,
        given: &Access,
    ) -> Result<(u8, AccessKind), S::Error> {
        let place = rip.wrapping_mul(2).wrapping_add(u64::from(self.is_second));
        let shape = &mut self.shapes[hashed(place, CODE_PLACES)];
        let shown = u64::from(given.size) << 1 | u64::from(given.kind == AccessKind::Write);
        *shape = side.settle(Column::Shape, Some(*shape), shown)?;
        let Ok(size) = u8::try_from(*shape >> 1) else {
            return Err(side.impossible_shape());
        };
        Ok((size, if *shape & 1 == 1 { AccessKind::Write } else { AccessKind::Read }))
    }

    #[inline(always)]
    fn value<S: Side>(
        &mut self,
        side: &mut S,
        physical: u64,
        size: u8,
        given: u128,
    ) -> Result<u128, S::Error> {
        let number = physical >> 3;
        let word = &mut self.words[usize::from((number & 0x3fff).to_le_bytes()[0])
            | usize::from((number & 0x3fff).to_le_bytes()[1]) << 8];
        let tag = number + 1;
        let shift = (physical & 7) * 8;
        let mask = if size >= 8 { u64::MAX } else { (1 << (size * 8)) - 1 };
        let known = if word.tag == tag { word.bytes } else { 0 };
        let predicted = (word.tag == tag).then_some(known >> shift & mask);
        let [low, high] = halves(given);
        let low = side.settle(Column::Value, predicted, low)?;
        *word = Word { tag, bytes: known & !(mask << shift) | (low & mask) << shift };
        let high = side.settle(Column::ValueHigh, Some(0), high)?;
        Ok(u128::from(low) | u128::from(high) << 64)
    }
}

const _: () = assert!(WORD_PLACES == 0x3fff + 1);

/// A signed number as one without sign whose high bytes are zeros if it is small: 0, -1, 1, -2 as 0, 1, 2, 3. Signs in
/// all high bytes would double the size of the column.
#[inline(always)]
const fn folded(number: u64) -> u64 {
    (number << 1) ^ (number.cast_signed() >> 63).cast_unsigned()
}

#[inline(always)]
const fn unfolded(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// The low and the high eight bytes.
#[inline(always)]
pub(crate) fn halves(value: u128) -> [u64; 2] {
    let bytes = value.to_le_bytes();
    let half = |start: usize| bytes[start..].first_chunk().map_or(0, |half| u64::from_le_bytes(*half));
    [half(0), half(8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_numbers_are_small_and_unfold() {
        let numbers = [0, u64::MAX, 1, u64::MAX - 1, 1 << 63, (1 << 63) - 1];
        assert_eq!(numbers.map(folded), [0, 1, 2, 3, u64::MAX, u64::MAX - 1]);
        assert_eq!(numbers.map(folded).map(unfolded), numbers);
    }
}
