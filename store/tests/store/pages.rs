//! Pages to store: families of near-equal incompressible pages, all made from numbers.

use pageswarm_checkpoint::{Effort, Encoder, LineageId, PAGE_BYTES};
use pageswarm_store::{SharedBytes, VerifiedBytes, VerifiedChunk};

/// Bytes that no codec shortens.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A page that no codec shortens.
pub(crate) fn page(seed: u64) -> Vec<u8> {
    noise(seed, PAGE_BYTES)
}

/// The page of a family after some steps, each a change of eight bytes.
pub(crate) fn stepped_page(family: u64, steps: usize) -> Vec<u8> {
    let mut bytes = page(family);
    for step in 0..steps {
        bytes[step * 64..step * 64 + 8].copy_from_slice(&noise(step as u64, 8));
    }
    bytes
}

/// A chunk without a base.
pub(crate) fn plain(bytes: &[u8]) -> VerifiedChunk {
    VerifiedChunk::encode(&mut Encoder::new(Effort::Fast), SharedBytes::hashed(bytes.to_vec().into()), None)
}

/// A chunk as a patch on `base`.
pub(crate) fn patch(bytes: &[u8], base: &[u8]) -> VerifiedChunk {
    VerifiedChunk::encode(
        &mut Encoder::new(Effort::Fast),
        SharedBytes::hashed(bytes.to_vec().into()),
        Some(VerifiedBytes::hashed(base)),
    )
}

/// A chunk in each encoding: raw, diff, zstd, zstd patch.
pub(crate) fn in_each_encoding() -> [VerifiedChunk; 4] {
    let (first, changed) = (stepped_page(1, 0), stepped_page(1, 1));
    // All words are others, all bytes are there: what a diff cannot say and a patch can.
    let mut moved = first.clone();
    moved.rotate_left(3);
    let small = |bytes: &[u8], base| {
        let bytes = SharedBytes::hashed(bytes.to_vec().into());
        VerifiedChunk::encode(&mut Encoder::new(Effort::Small), bytes, base)
    };
    let base = Some(VerifiedBytes::hashed(&first));
    [plain(&first), patch(&changed, &first), small(&[5; PAGE_BYTES], None), small(&moved, base)]
}

pub(crate) fn plain_pages(seeds: std::ops::Range<u64>) -> Vec<VerifiedChunk> {
    seeds.map(|seed| plain(&page(seed))).collect()
}

/// The lineage of most tests.
pub(crate) const LINEAGE: LineageId = LineageId([7; 32]);
