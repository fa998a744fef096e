//! A B-tree (Bayer and McCreight 1972; splitting and joining on the way down as in Cormen et al., chapter 18).

use crate::arena::{Arena, NOWHERE};
use crate::node::{Entry, KEYS_MAX, KEYS_MIN};
use crate::{COUNT, FINGERPRINT, ROOT};
use runtime::WrongWord;

/// Words that a value has at most besides its version.
const VALUE_WORDS: u64 = 6;

/// A tree in an arena. Each value can be told from its key and its version, which is the value's first word.
pub struct Tree<'a> {
    pub arena: Arena<'a>,
}

/// What a walk over a subtree found: keys, their fingerprint, levels.
type Walked = (u64, u64, u32);

impl<'a> Tree<'a> {
    /// An empty tree in an empty arena.
    pub fn create(mut arena: Arena<'a>) -> Self {
        // An empty arena has room for a node.
        let root = arena.new_node().unwrap_or(NOWHERE);
        arena.words[ROOT] = root as u64;
        Self { arena }
    }

    /// What a job before left.
    pub fn open(arena: Arena<'a>) -> Self {
        Self { arena }
    }

    fn root(&self) -> usize {
        self.arena.words[ROOT] as usize
    }

    /// Sets a key's value. `None` when there is no room for that, else whether the key was held before.
    pub fn insert(&mut self, key: u64, version: u64) -> Result<Option<bool>, WrongWord> {
        let Some(value) = self.new_value(key, version) else {
            return Ok(None);
        };
        let was_held = match self.find(key) {
            Some((node, index)) => {
                let (_, before) = self.arena.entry(node, index);
                self.drop_value(key, before)?;
                self.arena.set_entry(node, index, (key, value));
                true
            }
            None => {
                if self.insert_entry((key, value)).is_none() {
                    self.arena.free(value);
                    return Ok(None);
                }
                false
            }
        };
        self.arena.words[COUNT] += 1;
        let print = &mut self.arena.words[FINGERPRINT];
        *print = print.wrapping_add(fingerprint(key, version));
        Ok(Some(was_held))
    }

    /// Takes a key out; whether it was held.
    pub fn remove(&mut self, key: u64) -> Result<bool, WrongWord> {
        let entry = self.remove_entry(key);
        let root = self.root();
        if self.arena.length(root) == 0 && !self.arena.is_leaf(root) {
            self.arena.words[ROOT] = self.arena.child(root, 0) as u64;
            self.arena.free(root);
        }
        match entry {
            None => Ok(false),
            Some((key, value)) => self.drop_value(key, value).map(|()| true),
        }
    }

    /// Whether a key is held, and has the value that it must have.
    pub fn look_up(&self, key: u64) -> Result<bool, WrongWord> {
        match self.find(key) {
            None => Ok(false),
            Some((node, index)) => self.check_value(self.arena.entry(node, index)).map(|_| true),
        }
    }

    /// Visits all keys from `low` to `high` in order, until one is not what `visit` wants.
    pub fn scan(&self, low: u64, high: u64, visit: &mut dyn FnMut(u64) -> bool) -> Result<(), WrongWord> {
        self.scan_node(self.root(), low, high, visit)
    }

    fn scan_node(
        &self,
        node: usize,
        low: u64,
        high: u64,
        visit: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), WrongWord> {
        let length = self.arena.length(node);
        for index in self.arena.keys(node).partition_point(|key| *key < low)..=length {
            if !self.arena.is_leaf(node) {
                self.scan_node(self.arena.child(node, index), low, high, visit)?;
            }
            if index == length {
                break;
            }
            let entry = self.arena.entry(node, index);
            if entry.0 > high {
                break;
            }
            self.check_value(entry)?;
            if !visit(entry.0) {
                return Err(WrongWord(node));
            }
        }
        Ok(())
    }

    /// Goes through the whole tree and its memory.
    pub fn check(&self) -> Result<(), WrongWord> {
        let (count, print, _) = self.check_node(self.root(), 0, u64::MAX)?;
        if (count, print) != (self.arena.words[COUNT], self.arena.words[FINGERPRINT]) {
            return Err(WrongWord(COUNT));
        }
        self.arena.check()
    }

    /// Checks a subtree whose keys are all above `low` and below `high`.
    fn check_node(&self, node: usize, low: u64, high: u64) -> Result<Walked, WrongWord> {
        let length = self.arena.length(node);
        if length > KEYS_MAX || length < KEYS_MIN && node != self.root() {
            return Err(WrongWord(node));
        }
        let (mut count, mut print, mut levels, mut below) = (0, 0_u64, None, low);
        for index in 0..=length {
            let bound = if index < length { self.arena.entry(node, index).0 } else { high };
            if bound <= below {
                return Err(WrongWord(node));
            }
            if !self.arena.is_leaf(node) {
                let (more, prints, deep) = self.check_node(self.arena.child(node, index), below, bound)?;
                count += more;
                print = print.wrapping_add(prints);
                if levels.replace(deep).is_some_and(|levels| levels != deep) {
                    return Err(WrongWord(node));
                }
            }
            if index < length {
                count += 1;
                let entry = self.arena.entry(node, index);
                print = print.wrapping_add(fingerprint(entry.0, self.check_value(entry)?));
            }
            below = bound;
        }
        Ok((count, print, levels.unwrap_or(0) + 1))
    }

    /// The node that has a key, and where.
    fn find(&self, key: u64) -> Option<(usize, usize)> {
        let mut node = self.root();
        loop {
            match self.arena.keys(node).binary_search(&key) {
                Ok(index) => return Some((node, index)),
                Err(_) if self.arena.is_leaf(node) => return None,
                Err(index) => node = self.arena.child(node, index),
            }
        }
    }

    /// Inserts a key that is not held; nothing when a node must be split and there is no room for another.
    fn insert_entry(&mut self, entry: Entry) -> Option<()> {
        if self.arena.length(self.root()) == KEYS_MAX {
            let above = self.arena.new_node()?;
            let root = self.root();
            self.arena.set_child(above, 0, root);
            if self.split(above, 0).is_none() {
                self.arena.free(above);
                return None;
            }
            self.arena.words[ROOT] = above as u64;
        }
        let mut node = self.root();
        loop {
            let mut index = self.arena.keys(node).partition_point(|key| *key < entry.0);
            if self.arena.is_leaf(node) {
                self.arena.put_entry(node, index, entry);
                return Some(());
            }
            if self.arena.length(self.arena.child(node, index)) == KEYS_MAX {
                self.split(node, index)?;
                index += usize::from(self.arena.entry(node, index).0 < entry.0);
            }
            node = self.arena.child(node, index);
        }
    }

    /// Splits a full child in two halves with an entry between them, which moves up.
    fn split(&mut self, node: usize, index: usize) -> Option<()> {
        let right = self.arena.new_node()?;
        let left = self.arena.child(node, index);
        self.arena.move_tail(left, KEYS_MIN + 1, right);
        let between = self.arena.take_entry(left, KEYS_MIN);
        self.arena.put_entry(node, index, between);
        self.arena.put_child(node, index + 1, right);
        Some(())
    }

    fn remove_entry(&mut self, key: u64) -> Option<Entry> {
        let mut node = self.root();
        loop {
            let found = self.arena.keys(node).binary_search(&key);
            let (Ok(index) | Err(index)) = found;
            if self.arena.is_leaf(node) {
                return found.is_ok().then(|| self.arena.take_entry(node, index));
            }
            if found.is_err() {
                node = self.descend(node, index);
                continue;
            }
            let (left, right) = (self.arena.child(node, index), self.arena.child(node, index + 1));
            let taken = self.arena.entry(node, index);
            if self.arena.length(left) > KEYS_MIN {
                let before = self.remove_end(left, true);
                self.arena.set_entry(node, index, before);
                return Some(taken);
            }
            if self.arena.length(right) > KEYS_MIN {
                let after = self.remove_end(right, false);
                self.arena.set_entry(node, index, after);
                return Some(taken);
            }
            node = self.join(node, index);
        }
    }

    /// Takes the last entry of a subtree, or the first.
    fn remove_end(&mut self, mut node: usize, last: bool) -> Entry {
        while !self.arena.is_leaf(node) {
            let index = if last { self.arena.length(node) } else { 0 };
            node = self.descend(node, index);
        }
        let index = if last { self.arena.length(node) - 1 } else { 0 };
        self.arena.take_entry(node, index)
    }

    /// A child, or what it was joined with, that has an entry more than the least.
    fn descend(&mut self, node: usize, index: usize) -> usize {
        let arena = &mut self.arena;
        let child = arena.child(node, index);
        if arena.length(child) > KEYS_MIN {
            return child;
        }
        if index > 0 {
            let left = arena.child(node, index - 1);
            let length = arena.length(left);
            if length > KEYS_MIN {
                let between = arena.entry(node, index - 1);
                let moved_child = arena.child(left, length);
                arena.set_child(left, length, NOWHERE);
                let moved = arena.take_entry(left, length - 1);
                arena.set_entry(node, index - 1, moved);
                arena.put_entry(child, 0, between);
                arena.put_child(child, 0, moved_child);
                return child;
            }
        }
        if index < arena.length(node) {
            let right = arena.child(node, index + 1);
            if arena.length(right) > KEYS_MIN {
                let between = arena.entry(node, index);
                let moved = arena.take_entry(right, 0);
                let moved_child = arena.take_child(right, 0);
                arena.set_entry(node, index, moved);
                let length = arena.length(child);
                arena.put_entry(child, length, between);
                arena.set_child(child, length + 1, moved_child);
                return child;
            }
            return self.join(node, index);
        }
        self.join(node, index - 1)
    }

    /// Makes one of two neighbours and the entry between them; both have the least number of entries.
    fn join(&mut self, node: usize, index: usize) -> usize {
        let arena = &mut self.arena;
        let (left, right) = (arena.child(node, index), arena.child(node, index + 1));
        let between = arena.take_entry(node, index);
        arena.take_child(node, index + 1);
        let length = arena.length(left);
        arena.put_entry(left, length, between);
        arena.move_tail(right, 0, left);
        arena.free(right);
        left
    }

    fn new_value(&mut self, key: u64, version: u64) -> Option<usize> {
        let words = version % VALUE_WORDS;
        let value = self.arena.allocate(1 + words as usize)?;
        self.arena.words[value] = version;
        for (number, word) in (0..words).zip(&mut self.arena.words[value + 1..]) {
            *word = value_word(key, version, number);
        }
        Some(value)
    }

    /// The version of an entry's value, if all of it is right.
    fn check_value(&self, (key, value): Entry) -> Result<u64, WrongWord> {
        let version = self.arena.words[value];
        let words = version % VALUE_WORDS;
        let held = &self.arena.words[value + 1..][..words as usize];
        let is_right = (0..words).zip(held).all(|(number, word)| *word == value_word(key, version, number));
        if is_right { Ok(version) } else { Err(WrongWord(value)) }
    }

    /// Frees a value and takes it off the counts.
    fn drop_value(&mut self, key: u64, value: usize) -> Result<(), WrongWord> {
        let version = self.check_value((key, value))?;
        self.arena.words[COUNT] -= 1;
        let print = &mut self.arena.words[FINGERPRINT];
        *print = print.wrapping_sub(fingerprint(key, version));
        self.arena.free(value);
        Ok(())
    }
}

fn value_word(key: u64, version: u64, number: u64) -> u64 {
    key ^ version.wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(number as u32 * 11)
}

fn fingerprint(key: u64, version: u64) -> u64 {
    let mixed = (key ^ version.rotate_left(32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ mixed >> 31
}
