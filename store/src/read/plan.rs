//! What one window of a read needs: the chunks asked for, their bases, and the levels to decode them in.

use pageswarm_checkpoint::{ChunkHash, ChunkMap};

use crate::bad::BadCause;
use crate::chain::Chains;
use crate::fault::IndexError;
use crate::index::{Index, Location};

/// Chunks to read, each once.
#[derive(Debug)]
pub(super) struct Plan {
    nodes: Vec<Node>,
    /// Nodes by level, each level in stored order: level 0 has no bases, level n has its bases in level n - 1.
    levels: Vec<Vec<usize>>,
    unreadable: Vec<(usize, BadCause)>,
}

#[derive(Debug)]
struct Node {
    hash: ChunkHash,
    location: Location,
    /// Where in the request; empty for a chunk that is read as a base alone.
    positions: Vec<usize>,
    base: Option<usize>,
    is_base: bool,
}

impl Plan {
    /// Plans the window of a request: locations with positions in `hashes`, in stored order.
    pub(super) fn new(
        index: &Index,
        hashes: &[ChunkHash],
        window: &[(Location, usize)],
    ) -> Result<Self, IndexError> {
        let mut plan = Self { nodes: vec![], levels: vec![], unreadable: vec![] };
        for (location, position) in window {
            // The same chunk asked for twice has the same place, so its entries are neighbours.
            match plan.nodes.last_mut() {
                Some(node) if node.hash == hashes[*position] => node.positions.push(*position),
                _ => plan.nodes.push(Node::new(hashes[*position], *location, vec![*position])),
            }
        }
        if window.iter().all(|(location, _)| location.base.is_none()) {
            plan.levels.push((0..plan.nodes.len()).collect());
            return Ok(plan);
        }
        let mut chains = Chains::default();
        plan.nodes.iter().for_each(|node| chains.insert(node.hash, node.location));
        chains.resolve(index, plan.nodes.iter().filter_map(|node| node.location.base).collect())?;
        plan.follow(&chains);
        Ok(plan)
    }

    /// Adds bases until there are none to add, then sorts all nodes into levels.
    fn follow(&mut self, chains: &Chains) {
        let mut by_hash: ChunkMap<usize> =
            self.nodes.iter().enumerate().map(|(number, node)| (node.hash, number)).collect();
        let mut number = 0;
        while number < self.nodes.len() {
            let location = self.nodes[number].location;
            match chains.depth(&location) {
                Ok(depth) => {
                    self.levels.resize_with(self.levels.len().max(depth + 1), Vec::new);
                    self.levels[depth].push(number);
                    self.link_base(number, chains, &mut by_hash);
                }
                Err(cause) => self.unreadable.push((number, cause)),
            }
            number += 1;
        }
        for level in &mut self.levels {
            level.sort_unstable_by_key(|&number| self.nodes[number].location.place);
        }
    }

    fn link_base(&mut self, number: usize, chains: &Chains, by_hash: &mut ChunkMap<usize>) {
        let Some(base) = self.nodes[number].location.base else {
            return;
        };
        let Some(location) = chains.location(base) else {
            return;
        };
        let added = *by_hash.entry(base).or_insert(self.nodes.len());
        if added == self.nodes.len() {
            self.nodes.push(Node::new(base, *location, vec![]));
        }
        self.nodes[added].is_base = true;
        self.nodes[number].base = Some(added);
    }

    pub(super) fn levels(&self) -> impl Iterator<Item = &[usize]> {
        self.levels.iter().map(Vec::as_slice)
    }

    /// Nodes whose chain of bases is broken, and how.
    pub(super) fn unreadable(&self) -> &[(usize, BadCause)] {
        &self.unreadable
    }

    /// A place for the bytes of each node, all empty.
    pub(super) fn no_bytes(&self) -> Vec<Option<Vec<u8>>> {
        vec![None; self.nodes.len()]
    }

    pub(super) fn hash(&self, node: usize) -> ChunkHash {
        self.nodes[node].hash
    }

    pub(super) fn location(&self, node: usize) -> &Location {
        &self.nodes[node].location
    }

    pub(super) fn base(&self, node: usize) -> Option<usize> {
        self.nodes[node].base
    }

    pub(super) fn is_base(&self, node: usize) -> bool {
        self.nodes[node].is_base
    }

    pub(super) fn positions(&self, node: usize) -> impl Iterator<Item = usize> {
        self.nodes[node].positions.iter().copied()
    }
}

impl Node {
    fn new(hash: ChunkHash, location: Location, positions: Vec<usize>) -> Self {
        Self { hash, location, positions, base: None, is_base: false }
    }
}
