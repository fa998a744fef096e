//! The names of chunks: BLAKE3-256, one at a time or sixteen pages at once.
//!
//! A page is four BLAKE3 chunks, too few to fill the lanes of a vector unit. Sixteen pages side by side do: each step
//! of the tree is taken for all of them together, which is about three times as fast and gives the same hashes.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use blake3::IncrementCounter;
use blake3::platform::Platform;

use crate::ids::{ChunkHash, PAGE_BYTES};

/// Pages hashed side by side: the lanes of AVX-512.
const LANES: usize = 16;
/// Lanes are filled up to a multiple of this. With 2 to 7 of them the AVX2 kernel of blake3 1.8.7 reads 16 bytes past the
/// end of some inputs, which kills the process where no memory follows; whole groups of 8 it reads exactly.
const LANE_GROUP: usize = 8;
/// A leaf of BLAKE3's tree.
const LEAF_BYTES: usize = 1024;
const LEAVES: usize = PAGE_BYTES / LEAF_BYTES;
const HASH_BYTES: usize = 32;
const PAIR_BYTES: usize = 2 * HASH_BYTES;

/// Flags and initial value of the BLAKE3 specification, sections 2.1 and 2.2.
const CHUNK_START: u8 = 1 << 0;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;
const IV: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

const _: () = assert!(LEAVES == 4, "the tree below has two levels above the leaves");
const _: () = assert!(LANES.is_multiple_of(LANE_GROUP), "a group of lanes is full or absent");

/// The name of a chunk: BLAKE3-256 of its decoded bytes.
#[must_use]
pub fn chunk_hash(decoded: &[u8]) -> ChunkHash {
    ChunkHash(*blake3::hash(decoded).as_bytes())
}

/// The names of many chunks, in order. Pages among them are hashed side by side.
#[must_use]
pub fn chunk_hashes(chunks: &[&[u8]]) -> Vec<ChunkHash> {
    let mut hashes = vec![ChunkHash([0; HASH_BYTES]); chunks.len()];
    let platform = Platform::detect();
    let mut lanes: Vec<(usize, &[u8; PAGE_BYTES])> = Vec::with_capacity(LANES);
    for (position, chunk) in chunks.iter().enumerate() {
        match <&[u8; PAGE_BYTES]>::try_from(*chunk) {
            Ok(page) => lanes.push((position, page)),
            Err(_) => hashes[position] = chunk_hash(chunk),
        }
        if lanes.len() == LANES {
            hash_lanes(platform, &lanes, &mut hashes);
            lanes.clear();
        }
    }
    match lanes.as_slice() {
        // One page alone is cheaper in the usual way.
        [(position, page)] => hashes[*position] = chunk_hash(*page),
        _ => hash_lanes(platform, &lanes, &mut hashes),
    }
    hashes
}

/// Hashes at most [`LANES`] pages, each to its place in `hashes`. Lanes without a page hash the first one again.
fn hash_lanes(platform: Platform, pages: &[(usize, &[u8; PAGE_BYTES])], hashes: &mut [ChunkHash]) {
    let count = pages.len().next_multiple_of(LANE_GROUP);
    let Some((_, first)) = pages.first() else {
        return;
    };
    let mut leaves = [[0; HASH_BYTES * LANES]; LEAVES];
    for (number, out) in leaves.iter_mut().enumerate() {
        let mut inputs = [leaf(first, number); LANES];
        for (input, (_, page)) in inputs.iter_mut().zip(pages) {
            *input = leaf(page, number);
        }
        platform.hash_many(
            &inputs[..count],
            &IV,
            number as u64,
            IncrementCounter::No,
            0,
            CHUNK_START,
            CHUNK_END,
            out,
        );
    }
    let [left, right] = [0, 2].map(|leaf| join(platform, &leaves[leaf], &leaves[leaf + 1], count, PARENT));
    let roots = join(platform, &left, &right, count, PARENT | ROOT);
    for ((position, _), root) in pages.iter().zip(roots.as_chunks().0) {
        hashes[*position] = ChunkHash(*root);
    }
}

fn leaf(page: &[u8; PAGE_BYTES], number: usize) -> &[u8; LEAF_BYTES] {
    &page.as_chunks().0[number]
}

/// One level of the tree for `count` pages: each one's two hashes joined.
fn join(
    platform: Platform,
    left: &[u8; HASH_BYTES * LANES],
    right: &[u8; HASH_BYTES * LANES],
    count: usize,
    flags: u8,
) -> [u8; HASH_BYTES * LANES] {
    let mut pairs = [[0; PAIR_BYTES]; LANES];
    let halves = left.as_chunks::<HASH_BYTES>().0.iter().zip(right.as_chunks::<HASH_BYTES>().0);
    for (pair, (left, right)) in pairs.iter_mut().zip(halves) {
        pair[..HASH_BYTES].copy_from_slice(left);
        pair[HASH_BYTES..].copy_from_slice(right);
    }
    let inputs: [&[u8; PAIR_BYTES]; LANES] = std::array::from_fn(|lane| &pairs[lane]);
    let mut joined = [0; HASH_BYTES * LANES];
    platform.hash_many(&inputs[..count], &IV, 0, IncrementCounter::No, flags, 0, 0, &mut joined);
    joined
}

/// A map whose keys are names of chunks. They are hashes already: eight bytes of one place it in the table.
///
/// Who wants to crowd a place needs chunks whose BLAKE3 agrees in as many bits as the table has, which costs as many
/// hashes as an honest peer can serve in hours, and gains a slow look-up.
pub type ChunkMap<Value> = HashMap<ChunkHash, Value, BuildHasherDefault<NameHasher>>;

/// Takes the last eight bytes of what is hashed as its hash. Only for names that are hashes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(tail) = bytes.last_chunk() {
            self.0 ^= u64::from_le_bytes(*tail);
        }
    }

    // The length of a key is the same for all.
    fn write_usize(&mut self, _: usize) {}
}

#[cfg(test)]
mod tests {
    //! Goal: hashing side by side gives what hashing one by one gives, for every number of lanes in use.

    use super::*;
    use crate::noise::noise;

    #[test]
    fn any_number_of_pages_hashes_as_each_page_alone() {
        for count in 0..=3 * LANES + 1 {
            let pages: Vec<Vec<u8>> = (0..count).map(|seed| noise(PAGE_BYTES, seed as u64)).collect();
            let pages: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
            let expected: Vec<ChunkHash> = pages.iter().map(|page| chunk_hash(page)).collect();
            assert_eq!(chunk_hashes(&pages), expected, "{count} pages");
        }
    }

    #[test]
    fn a_map_by_name_finds_what_was_put_there() {
        let names: Vec<ChunkHash> = (0..10_000_u32).map(|n| chunk_hash(&n.to_le_bytes())).collect();
        let map: ChunkMap<usize> = names.iter().copied().zip(0..).collect();
        assert!(names.iter().zip(0..).all(|(name, at)| map.get(name) == Some(&at)));
        assert_eq!(map.get(&chunk_hash(b"none")), None);
    }

    #[test]
    fn chunks_of_other_lengths_may_stand_between_pages() {
        let lengths = [0, 1, PAGE_BYTES, 1023, PAGE_BYTES, 1025, 4095, PAGE_BYTES, 4097, 65_536, PAGE_BYTES];
        let chunks: Vec<Vec<u8>> =
            lengths.iter().zip(0..).map(|(length, seed)| noise(*length, seed)).collect();
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let expected: Vec<ChunkHash> = chunks.iter().map(|chunk| chunk_hash(chunk)).collect();
        assert_eq!(chunk_hashes(&chunks), expected);
    }
}
