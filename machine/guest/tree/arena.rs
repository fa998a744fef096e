//! The allocator of one block: cells of whole words, first fit, freed ones joined with their neighbours (Knuth 2.5).
//!
//! A cell begins with a word that has its size in words twice, plus one when it is used. A free cell's second word is
//! the place of the next free one; the list of free cells goes up in place.

use crate::{FREE, USED};
use runtime::{Block, WrongWord};

/// The first word of a block that cells can be in.
pub const ARENA_START: usize = 64;
/// No place.
pub const NOWHERE: usize = 0;
const CELL_WORDS_MIN: usize = 2;

pub struct Arena<'a> {
    pub words: &'a mut Block,
}

impl<'a> Arena<'a> {
    /// One free cell.
    pub fn create(words: &'a mut Block) -> Self {
        words[FREE] = ARENA_START as u64;
        words[USED] = 0;
        words[ARENA_START] = 2 * (words.len() - ARENA_START) as u64;
        words[ARENA_START + 1] = NOWHERE as u64;
        Self { words }
    }

    /// What a job before left.
    pub fn open(words: &'a mut Block) -> Self {
        Self { words }
    }

    fn size(&self, cell: usize) -> usize {
        (self.words[cell] / 2) as usize
    }

    fn next_free(&self, cell: usize) -> usize {
        self.words[cell + 1] as usize
    }

    /// Makes `next` follow `before` in the list of free cells; before the first is nowhere.
    fn link(&mut self, before: usize, next: usize) {
        let place = if before == NOWHERE { FREE } else { before + 1 };
        self.words[place] = next as u64;
    }

    /// The place of a cell with room for so many words, or nothing when no free cell is large enough.
    pub fn allocate(&mut self, words: usize) -> Option<usize> {
        let wanted = (words + 1).max(CELL_WORDS_MIN);
        let (mut before, mut cell) = (NOWHERE, self.words[FREE] as usize);
        while cell != NOWHERE && self.size(cell) < wanted {
            (before, cell) = (cell, self.next_free(cell));
        }
        if cell == NOWHERE {
            return None;
        }
        let (size, next) = (self.size(cell), self.next_free(cell));
        let taken = if size - wanted >= CELL_WORDS_MIN {
            let rest = cell + wanted;
            self.words[rest] = 2 * (size - wanted) as u64;
            self.link(rest, next);
            self.link(before, rest);
            wanted
        } else {
            self.link(before, next);
            size
        };
        self.words[cell] = 2 * taken as u64 + 1;
        self.words[USED] += taken as u64;
        Some(cell + 1)
    }

    /// Gives back what [`Self::allocate`] gave.
    pub fn free(&mut self, place: usize) {
        let cell = place - 1;
        let size = self.size(cell);
        self.words[USED] -= size as u64;
        self.words[cell] = 2 * size as u64;
        let (mut before, mut next) = (NOWHERE, self.words[FREE] as usize);
        while next != NOWHERE && next < cell {
            (before, next) = (next, self.next_free(next));
        }
        self.link(cell, next);
        self.link(before, cell);
        self.join(cell);
        if before != NOWHERE {
            self.join(before);
        }
    }

    /// Makes one of a free cell and the next, if that one is free, too.
    fn join(&mut self, cell: usize) {
        let (size, next) = (self.size(cell), self.next_free(cell));
        if next == cell + size {
            self.words[cell] += 2 * self.size(next) as u64;
            let behind = self.next_free(next);
            self.link(cell, behind);
        }
    }

    /// Goes through all cells: they fill the arena, the free ones are those of the list, and no two of them touch.
    pub fn check(&self) -> Result<(), WrongWord> {
        let (mut cell, mut free, mut used, mut was_free) = (ARENA_START, self.words[FREE] as usize, 0, false);
        while cell < self.words.len() {
            let (size, is_free) = (self.size(cell), self.words[cell] & 1 == 0);
            if size < CELL_WORDS_MIN
                || size > self.words.len() - cell
                || is_free && (was_free || free != cell)
            {
                return Err(WrongWord(cell));
            }
            if is_free {
                free = self.next_free(cell);
            } else {
                used += size as u64;
            }
            was_free = is_free;
            cell += size;
        }
        if free == NOWHERE && used == self.words[USED] { Ok(()) } else { Err(WrongWord(USED)) }
    }
}
