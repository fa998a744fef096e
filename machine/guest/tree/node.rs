//! A node of the tree: up to 15 keys with the places of their values, and one child more.

use crate::arena::{Arena, NOWHERE};

/// Least and most keys of a node; the root may have fewer.
pub const KEYS_MIN: usize = 7;
pub const KEYS_MAX: usize = 15;
/// Words of a node: its length, keys, values, children.
pub const NODE_WORDS: usize = 1 + 2 * KEYS_MAX + KEYS_MAX + 1;

const VALUES: usize = 1 + KEYS_MAX;
const CHILDREN: usize = 1 + 2 * KEYS_MAX;

/// A key and the place of its value.
pub type Entry = (u64, usize);

impl Arena<'_> {
    /// An empty leaf.
    pub fn new_node(&mut self) -> Option<usize> {
        let node = self.allocate(NODE_WORDS)?;
        self.words[node..node + NODE_WORDS].fill(0);
        Some(node)
    }

    pub fn length(&self, node: usize) -> usize {
        self.words[node] as usize
    }

    pub fn set_length(&mut self, node: usize, length: usize) {
        self.words[node] = length as u64;
    }

    pub fn is_leaf(&self, node: usize) -> bool {
        self.child(node, 0) == NOWHERE
    }

    pub fn keys(&self, node: usize) -> &[u64] {
        &self.words[node + 1..node + 1 + self.length(node).min(KEYS_MAX)]
    }

    pub fn entry(&self, node: usize, index: usize) -> Entry {
        (self.words[node + 1 + index], self.words[node + VALUES + index] as usize)
    }

    pub fn set_entry(&mut self, node: usize, index: usize, (key, value): Entry) {
        self.words[node + 1 + index] = key;
        self.words[node + VALUES + index] = value as u64;
    }

    pub fn child(&self, node: usize, index: usize) -> usize {
        self.words[node + CHILDREN + index] as usize
    }

    pub fn set_child(&mut self, node: usize, index: usize, child: usize) {
        self.words[node + CHILDREN + index] = child as u64;
    }

    /// Makes room for an entry at `index` and puts it there.
    pub fn put_entry(&mut self, node: usize, index: usize, entry: Entry) {
        let length = self.length(node);
        for part in [node + 1, node + VALUES] {
            self.words.copy_within(part + index..part + length, part + index + 1);
        }
        self.set_entry(node, index, entry);
        self.set_length(node, length + 1);
    }

    /// Makes room for a child at `index` and puts it there; the node's length says how many entries it has already.
    pub fn put_child(&mut self, node: usize, index: usize, child: usize) {
        let (part, length) = (node + CHILDREN, self.length(node));
        self.words.copy_within(part + index..part + length, part + index + 1);
        self.set_child(node, index, child);
    }

    /// Takes an entry out.
    pub fn take_entry(&mut self, node: usize, index: usize) -> Entry {
        let (length, entry) = (self.length(node), self.entry(node, index));
        for part in [node + 1, node + VALUES] {
            self.words.copy_within(part + index + 1..part + length, part + index);
        }
        self.set_length(node, length - 1);
        entry
    }

    /// Takes a child out; the node's length says how many entries are left.
    pub fn take_child(&mut self, node: usize, index: usize) -> usize {
        let (part, length, child) = (node + CHILDREN, self.length(node), self.child(node, index));
        self.words.copy_within(part + index + 1..part + length + 2, part + index);
        self.words[part + length + 1] = NOWHERE as u64;
        child
    }

    /// Copies entries and children from `index` on to the end of another node, and cuts them off.
    pub fn move_tail(&mut self, node: usize, index: usize, to: usize) {
        let (from_length, to_length) = (self.length(node), self.length(to));
        let moved = from_length - index;
        for part in [1, VALUES] {
            let start = node + part + index;
            self.words.copy_within(start..start + moved, to + part + to_length);
        }
        let start = node + CHILDREN + index;
        self.words.copy_within(start..start + moved + 1, to + CHILDREN + to_length);
        self.words[start..start + moved + 1].fill(NOWHERE as u64);
        self.set_length(node, index);
        self.set_length(to, to_length + moved);
    }
}
