//! Pages for tests that need incompressible ones, the same in every run.

use pageswarm_checkpoint::PAGE_BYTES;

/// A page that no codec shortens.
pub(crate) fn noise(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; PAGE_BYTES];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}
