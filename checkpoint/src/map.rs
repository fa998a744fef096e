//! Page maps: which chunk each page of a checkpoint is, as a persistent radix tree with a Merkle root.
//!
//! Maps of neighbouring checkpoints share the nodes that did not change, so a map is opened by cloning one
//! pointer. A node has 16 children. Its hash is the root of a binary Merkle tree over their hashes, so a proof
//! takes one 32-byte sibling per binary level, and the hash does not depend on how the map came about.

use std::sync::{Arc, OnceLock};

use crate::ids::{ChunkHash, ChunkRef, PAGE_BYTES, PageNumber};

const FANOUT: usize = 16;
const FANOUT_BITS: u32 = 4;
/// Levels that cover every 32-bit page number.
const LEVELS_MAX: usize = 8;

/// What one page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// 4096 zero bytes; never stored, never sent.
    Zero,
    /// A chunk.
    Chunk {
        /// Where it was born.
        source: ChunkRef,
        /// Its hash.
        hash: ChunkHash,
    },
}

/// The pages of one checkpoint. Cloning is cheap; a map never changes.
#[derive(Clone, Debug)]
pub struct PageMap {
    pages: u32,
    levels: u32,
    root: Option<Arc<Node>>,
}

/// The siblings on the way from a page to the root: page level first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageProof {
    siblings: Vec<[u8; 32]>,
}

#[derive(Debug)]
struct Node {
    hash: [u8; 32],
    children: Children,
}

#[derive(Debug, Clone)]
enum Children {
    Pages(Box<[Slot; FANOUT]>),
    Nodes(Box<[Option<Arc<Node>>; FANOUT]>),
}

impl Slot {
    /// The hash of the page's bytes.
    #[must_use]
    pub fn hash(&self) -> ChunkHash {
        match self {
            Self::Zero => zero_page_hash(),
            Self::Chunk { hash, .. } => *hash,
        }
    }
}

/// The hash of a page of zeros.
#[must_use]
pub fn zero_page_hash() -> ChunkHash {
    ChunkHash(*empty_hash(0))
}

impl PageMap {
    /// All pages zero.
    #[must_use]
    pub fn zero(pages: u32) -> Self {
        let levels = (1..)
            .find(|levels| u64::from(pages) <= 1 << (FANOUT_BITS * levels))
            .expect("eight levels cover every page number");
        Self { pages, levels, root: None }
    }

    /// How many pages the RAM has.
    #[must_use]
    pub const fn pages(&self) -> u32 {
        self.pages
    }

    /// The page's slot; `None` beyond the RAM.
    #[must_use]
    pub fn get(&self, page: PageNumber) -> Option<Slot> {
        if page.0 >= self.pages {
            return None;
        }
        let mut node = self.root.as_ref();
        for level in (0..self.levels).rev() {
            let Some(here) = node else {
                return Some(Slot::Zero);
            };
            match &here.children {
                Children::Pages(slots) => return Some(slots[digit(page, level)]),
                Children::Nodes(nodes) => node = nodes[digit(page, level)].as_ref(),
            }
        }
        Some(Slot::Zero)
    }

    /// The map with `changes` applied.
    ///
    /// # Panics
    ///
    /// If the page numbers do not ascend strictly or lie beyond the RAM: decoders check both.
    #[must_use]
    pub fn with(&self, changes: &[(PageNumber, Slot)]) -> Self {
        assert!(changes.windows(2).all(|pair| pair[0].0 < pair[1].0), "page numbers ascend");
        assert!(changes.last().is_none_or(|last| last.0.0 < self.pages), "page numbers lie within the RAM");
        if changes.is_empty() {
            return self.clone();
        }
        let root = rebuild(self.root.as_ref(), self.levels - 1, changes);
        Self { root: Some(root), ..*self }
    }

    /// The Merkle root over the hashes of all pages.
    #[must_use]
    pub fn root(&self) -> [u8; 32] {
        self.root.as_ref().map_or_else(|| *empty_hash(self.levels), |node| node.hash)
    }

    /// All pages that are not zero, ascending.
    pub fn chunks(&self) -> impl Iterator<Item = (PageNumber, ChunkRef, ChunkHash)> + '_ {
        let mut found = Vec::new();
        if let Some(root) = &self.root {
            collect_chunks(root, 0, self.levels - 1, &mut found);
        }
        found.into_iter()
    }

    /// Pages whose content differs from `other`'s, with this map's slot, ascending. Shared nodes are skipped.
    ///
    /// # Panics
    ///
    /// If the maps describe RAM of different sizes.
    #[must_use]
    pub fn changes_from(&self, other: &Self) -> Vec<(PageNumber, Slot)> {
        assert_eq!(self.pages, other.pages, "maps of one VM have one size");
        let mut found = Vec::new();
        collect_changes(self.root.as_ref(), other.root.as_ref(), (0, self.levels - 1), &mut found);
        found
    }

    /// The proof that `page` holds what it holds; `None` beyond the RAM.
    #[must_use]
    pub fn proof(&self, page: PageNumber) -> Option<PageProof> {
        if page.0 >= self.pages {
            return None;
        }
        let mut reversed = Vec::new();
        let mut node = self.root.as_ref();
        for level in (0..self.levels).rev() {
            let hashes = child_hashes(node.map(|node| &node.children), level);
            let mut siblings = sibling_path(&hashes, digit(page, level));
            siblings.reverse();
            reversed.extend(siblings);
            node = match node.map(|node| &node.children) {
                Some(Children::Nodes(nodes)) => nodes[digit(page, level)].as_ref(),
                _ => None,
            };
        }
        reversed.reverse();
        Some(PageProof { siblings: reversed })
    }
}

impl PageProof {
    /// The root that follows if `page` of a RAM of `pages` pages has this hash; compare it with the map's root.
    /// `None` if the proof has the wrong length for such a RAM, or the page lies beyond it.
    #[must_use]
    pub fn root(&self, pages: u32, page: PageNumber, page_hash: &ChunkHash) -> Option<[u8; 32]> {
        let bits = usize::try_from(PageMap::zero(pages).levels * FANOUT_BITS).ok()?;
        if page.0 >= pages || self.siblings.len() != bits {
            return None;
        }
        let mut hash = page_hash.0;
        for (bit, sibling) in self.siblings.iter().enumerate() {
            let right = (page.0 >> bit) & 1 == 1;
            hash = if right { hash_pair(sibling, &hash) } else { hash_pair(&hash, sibling) };
        }
        Some(hash)
    }

    /// The sibling hashes, page level first.
    #[must_use]
    pub fn siblings(&self) -> &[[u8; 32]] {
        &self.siblings
    }

    /// A proof as received; [`PageProof::root`] judges it.
    #[must_use]
    pub const fn from_siblings(siblings: Vec<[u8; 32]>) -> Self {
        Self { siblings }
    }
}

fn digit(page: PageNumber, level: u32) -> usize {
    usize::try_from((page.0 >> (FANOUT_BITS * level)) & 0xf).expect("four bits")
}

fn rebuild(old: Option<&Arc<Node>>, level: u32, changes: &[(PageNumber, Slot)]) -> Arc<Node> {
    let children = if level == 0 {
        let mut slots = match old.map(|node| &node.children) {
            Some(Children::Pages(slots)) => slots.clone(),
            _ => Box::new([Slot::Zero; FANOUT]),
        };
        for (page, slot) in changes {
            slots[digit(*page, 0)] = *slot;
        }
        Children::Pages(slots)
    } else {
        let mut nodes = match old.map(|node| &node.children) {
            Some(Children::Nodes(nodes)) => nodes.clone(),
            _ => Box::default(),
        };
        for group in changes.chunk_by(|a, b| digit(a.0, level) == digit(b.0, level)) {
            let child = &mut nodes[digit(group[0].0, level)];
            *child = Some(rebuild(child.as_ref(), level - 1, group));
        }
        Children::Nodes(nodes)
    };
    let hash = merkle_root(child_hashes(Some(&children), level));
    Arc::new(Node { hash, children })
}

fn child_hashes(children: Option<&Children>, level: u32) -> [[u8; 32]; FANOUT] {
    match children {
        None => [*empty_hash(level); FANOUT],
        Some(Children::Pages(slots)) => std::array::from_fn(|i| slots[i].hash().0),
        Some(Children::Nodes(nodes)) => {
            std::array::from_fn(|i| nodes[i].as_ref().map_or_else(|| *empty_hash(level), |node| node.hash))
        }
    }
}

fn merkle_root(mut hashes: [[u8; 32]; FANOUT]) -> [u8; 32] {
    let mut width = FANOUT;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            hashes[i] = hash_pair(&hashes[2 * i], &hashes[2 * i + 1]);
        }
    }
    hashes[0]
}

/// Siblings of child `index` within its node's binary tree, lowest first.
fn sibling_path(hashes: &[[u8; 32]; FANOUT], mut index: usize) -> Vec<[u8; 32]> {
    let mut row = hashes.to_vec();
    let mut path = Vec::new();
    while row.len() > 1 {
        path.push(row[index ^ 1]);
        row = row.chunks_exact(2).map(|pair| hash_pair(&pair[0], &pair[1])).collect();
        index /= 2;
    }
    path
}

fn hash_pair(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    static KEY: OnceLock<[u8; 32]> = OnceLock::new();
    let key = KEY.get_or_init(|| blake3::derive_key("pageswarm 2026 page map node", &[]));
    let mut pair = [0; 64];
    pair[..32].copy_from_slice(left);
    pair[32..].copy_from_slice(right);
    *blake3::keyed_hash(key, &pair).as_bytes()
}

/// The hash of a subtree of `levels` levels (0: one page) in which every page is zero.
fn empty_hash(levels: u32) -> &'static [u8; 32] {
    static TABLE: OnceLock<[[u8; 32]; LEVELS_MAX + 1]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = [*blake3::hash(&[0; PAGE_BYTES]).as_bytes(); LEVELS_MAX + 1];
        for level in 1..=LEVELS_MAX {
            table[level] = merkle_root([table[level - 1]; FANOUT]);
        }
        table
    });
    &table[usize::try_from(levels).expect("at most eight levels")]
}

fn collect_chunks(node: &Node, first: u32, level: u32, found: &mut Vec<(PageNumber, ChunkRef, ChunkHash)>) {
    for (i, first) in (0..FANOUT).zip(child_firsts(first, level)) {
        match &node.children {
            Children::Pages(slots) => {
                if let Slot::Chunk { source, hash } = slots[i] {
                    found.push((PageNumber(first), source, hash));
                }
            }
            Children::Nodes(nodes) => {
                if let Some(child) = &nodes[i] {
                    collect_chunks(child, first, level - 1, found);
                }
            }
        }
    }
}

type Place = (u32, u32);

fn collect_changes(
    new: Option<&Arc<Node>>,
    old: Option<&Arc<Node>>,
    (first, level): Place,
    found: &mut Vec<(PageNumber, Slot)>,
) {
    let hash = |node: Option<&Arc<Node>>| node.map_or(*empty_hash(level + 1), |node| node.hash);
    if hash(new) == hash(old) {
        return;
    }
    for (i, first) in (0..FANOUT).zip(child_firsts(first, level)) {
        if level == 0 {
            let (slot, before) = (slot_of(new, i), slot_of(old, i));
            if slot.hash() != before.hash() {
                found.push((PageNumber(first), slot));
            }
        } else {
            collect_changes(node_of(new, i), node_of(old, i), (first, level - 1), found);
        }
    }
}

fn slot_of(node: Option<&Arc<Node>>, i: usize) -> Slot {
    match node.map(|node| &node.children) {
        Some(Children::Pages(slots)) => slots[i],
        _ => Slot::Zero,
    }
}

fn node_of(node: Option<&Arc<Node>>, i: usize) -> Option<&Arc<Node>> {
    match node.map(|node| &node.children) {
        Some(Children::Nodes(nodes)) => nodes[i].as_ref(),
        _ => None,
    }
}

fn child_firsts(first: u32, level: u32) -> impl Iterator<Item = u32> {
    (0..16_u32).map(move |i| first | (i << (FANOUT_BITS * level)))
}

#[cfg(test)]
mod tests {
    //! Goal: the tree equals a flat array of slots with a Merkle root computed the slow, obvious way.

    use proptest::prelude::*;

    use super::*;
    use crate::ids::Birth;

    fn chunk(n: u64) -> Slot {
        Slot::Chunk { source: ChunkRef::own(Birth(n)), hash: crate::chunk_hash(&n.to_le_bytes()) }
    }

    /// The root over a flat list padded with zero pages to a power of 16.
    fn slow_root(slots: &[Slot]) -> [u8; 32] {
        let mut row: Vec<[u8; 32]> = slots.iter().map(|slot| slot.hash().0).collect();
        let mut width = 16;
        while width < row.len() {
            width *= 16;
        }
        row.resize(width, zero_page_hash().0);
        while row.len() > 1 {
            row = row.chunks(2).map(|pair| hash_pair(&pair[0], &pair[1])).collect();
        }
        row[0]
    }

    fn steps(pages: u32) -> impl Strategy<Value = Vec<Vec<(u32, Option<u64>)>>> {
        let change = (0..pages, proptest::option::of(0_u64..50));
        proptest::collection::vec(proptest::collection::vec(change, 0..40), 1..6)
    }

    proptest! {
        #[test]
        fn a_map_equals_a_flat_array(pages in 1_u32..600, steps in steps(600)) {
            let mut flat = vec![Slot::Zero; usize::try_from(pages).unwrap()];
            let mut map = PageMap::zero(pages);
            for step in steps {
                let (before, flat_before) = (map.clone(), flat.clone());
                let mut changes = std::collections::BTreeMap::new();
                for (page, value) in step {
                    changes.insert(PageNumber(page % pages), value.map_or(Slot::Zero, chunk));
                }
                for (page, slot) in &changes {
                    flat[usize::try_from(page.0).unwrap()] = *slot;
                }
                map = map.with(&changes.into_iter().collect::<Vec<_>>());
                prop_assert_eq!(map.root(), slow_root(&flat));
                let all: Vec<Slot> = (0..pages).map(|page| map.get(PageNumber(page)).unwrap()).collect();
                prop_assert_eq!(&all, &flat);
                let live: Vec<u32> = map.chunks().map(|(page, ..)| page.0).collect();
                let expected: Vec<u32> = (0..pages)
                    .filter(|page| flat[usize::try_from(*page).unwrap()] != Slot::Zero)
                    .collect();
                prop_assert_eq!(live, expected);
                let changed: Vec<(PageNumber, Slot)> = (0..pages)
                    .map(|page| (PageNumber(page), flat[usize::try_from(page).unwrap()]))
                    .filter(|(page, slot): &(PageNumber, Slot)| slot.hash() != flat_before[usize::try_from(page.0).unwrap()].hash())
                    .collect();
                prop_assert_eq!(map.changes_from(&before), changed);
            }
            prop_assert_eq!(map.get(PageNumber(pages)), None);
        }

        #[test]
        fn a_proof_holds_for_its_page_and_no_other_content(
            pages in 1_u32..5000, at in any::<u32>(), others in proptest::collection::btree_set(0_u32..5000, 0..50),
        ) {
            let page = PageNumber(at % pages);
            let changes: Vec<_> = others
                .into_iter()
                .filter(|other| *other < pages)
                .map(|other| (PageNumber(other), chunk(u64::from(other))))
                .collect();
            let map = PageMap::zero(pages).with(&changes);
            let proof = map.proof(page).unwrap();
            let hash = map.get(page).unwrap().hash();
            prop_assert_eq!(proof.root(pages, page, &hash), Some(map.root()));
            prop_assert_ne!(proof.root(pages, page, &crate::chunk_hash(b"other")), Some(map.root()));
        }
    }

    #[test]
    fn unchanged_subtrees_are_shared() {
        let full: Vec<_> = (0..4096).map(|page| (PageNumber(page), chunk(u64::from(page)))).collect();
        let map = PageMap::zero(4096).with(&full);
        let next = map.with(&[(PageNumber(7), Slot::Zero)]);
        let shared =
            |i: usize| match (&map.root.as_ref().unwrap().children, &next.root.as_ref().unwrap().children) {
                (Children::Nodes(a), Children::Nodes(b)) => {
                    Arc::ptr_eq(a[i].as_ref().unwrap(), b[i].as_ref().unwrap())
                }
                _ => false,
            };
        assert!(!shared(0) && (1..16).all(shared));
    }
}
