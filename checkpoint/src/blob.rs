//! Cutting blobs (byte streams that are not RAM) into chunks at content-defined places.

use std::io::{self, Read};

use crate::encoding::CHUNK_BYTES_MAX;

const CHUNK_BYTES_MIN: usize = 4 * 1024;
const CHUNK_BYTES_AVERAGE: usize = 16 * 1024;

/// The pieces of `blob` in order, each at most [`CHUNK_BYTES_MAX`] bytes.
///
/// FastCDC with 4 KiB, 16 KiB and 64 KiB as least, usual and most (Xia et al., "The Design of Fast
/// Content-Defined Chunking", 2020): an insertion changes the pieces around it only.
pub fn cut(blob: &[u8]) -> impl Iterator<Item = &[u8]> {
    fastcdc::v2020::FastCDC::new(blob, CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX)
        .map(move |chunk| &blob[chunk.offset..chunk.offset + chunk.length])
}

/// The same pieces of a blob that is read to its end: in memory is one at a time.
///
/// # Errors
///
/// Each item may be what the reader says; nothing follows it then.
pub fn cut_stream(blob: impl Read) -> impl Iterator<Item = io::Result<Vec<u8>>> {
    fastcdc::v2020::StreamCDC::new(blob, CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, CHUNK_BYTES_MAX)
        .map(|piece| Ok(piece.map_err(io::Error::from)?.data))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn pieces_put_together_are_the_blob() {
        for length in [0, 1, 4095, 70_000, 1_000_000] {
            let blob = noise(length);
            let pieces: Vec<&[u8]> = cut(&blob).collect();
            assert_eq!(pieces.concat(), blob);
            assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= CHUNK_BYTES_MAX));
            let streamed: Vec<Vec<u8>> = cut_stream(blob.as_slice()).map(Result::unwrap).collect();
            assert_eq!(streamed, pieces);
        }
    }

    #[test]
    fn an_insertion_changes_few_pieces() {
        let before = noise(1_000_000);
        let mut after = before.clone();
        after.splice(500_000..500_000, [1, 2, 3]);
        let known: BTreeSet<&[u8]> = cut(&before).collect();
        let new = cut(&after).filter(|piece| !known.contains(piece)).count();
        assert!(new <= 4, "{new} new pieces");
    }
}
