//! Diffs: what changed between two versions of a page, found by comparing words.
//!
//! Memory changes in place and a word at a time, so a diff compares 64-bit words and names, for each that changed, the
//! bytes in it that did. zstd with the old version as prefix finds more, and takes several times as long; where
//! the link is slow that pays, see [`crate::encoding`].
//!
//! A diff is a list of steps, in the order of words. A step is a byte, the number of equal words before it. 255 skips
//! 255 words and no more; any other number is followed by a mask of the bytes that differ in the next word, never
//! zero, and these bytes xor the old ones, lowest first. Words after the last step are equal.

/// Bytes of a word.
const WORD: usize = 8;
/// A step that only skips.
const SKIP: u8 = 255;

/// Why bytes are no diff of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiffError {
    /// The base has another length than the chunk, or no whole number of words.
    #[error("base has {base} bytes, the chunk {chunk}")]
    Lengths {
        /// Bytes of the base.
        base: usize,
        /// Bytes of the chunk.
        chunk: usize,
    },
    /// A step leads beyond the end of the chunk.
    #[error("step beyond the end of the chunk")]
    Beyond,
    /// The diff ends within a step, or a step changes nothing.
    #[error("malformed step")]
    Step,
}

/// Appends the diff that makes `base` into `chunk` to `out`, if it has at most `bytes_max` bytes. False, and `out` as
/// it was, if it has more or if the two are not of one length in whole words.
pub(crate) fn encode(base: &[u8], chunk: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let ((old, rest), (new, _)) = (base.as_chunks::<WORD>(), chunk.as_chunks::<WORD>());
    if base.len() != chunk.len() || !rest.is_empty() {
        return false;
    }
    // Blocks of eight words are compared as a whole first: most are equal.
    let mut next = 0;
    for (block, (old, new)) in old.chunks(WORD).zip(new.chunks(WORD)).enumerate() {
        if old == new {
            continue;
        }
        for (at, (old, new)) in old.iter().zip(new).enumerate() {
            let changed = u64::from_le_bytes(*old) ^ u64::from_le_bytes(*new);
            if changed != 0 {
                let word = block * WORD + at;
                push_step(word - next, changed, out);
                next = word + 1;
            }
        }
        if out.len() - start > bytes_max {
            out.truncate(start);
            return false;
        }
    }
    true
}

fn push_step(equal_words: usize, changed: u64, out: &mut Vec<u8>) {
    let mut equal_words = equal_words;
    while equal_words >= usize::from(SKIP) {
        out.push(SKIP);
        equal_words -= usize::from(SKIP);
    }
    let mut step = [0; 2 + WORD];
    step[0] = u8::try_from(equal_words).unwrap_or(SKIP);
    let mut length = 2;
    for (bit, byte) in changed.to_le_bytes().into_iter().enumerate() {
        step[length] = byte;
        let differs = byte != 0;
        step[1] |= u8::from(differs) << bit;
        length += usize::from(differs);
    }
    out.extend_from_slice(&step[..length]);
}

/// Appends the chunk of `chunk_len` bytes that `diff` makes of `base` to `out`.
///
/// # Errors
///
/// [`DiffError`]; `out` is then as it was.
pub(crate) fn apply(base: &[u8], diff: &[u8], chunk_len: usize, out: &mut Vec<u8>) -> Result<(), DiffError> {
    if base.len() != chunk_len || !chunk_len.is_multiple_of(WORD) {
        return Err(DiffError::Lengths { base: base.len(), chunk: chunk_len });
    }
    let start = out.len();
    out.extend_from_slice(base);
    let applied = apply_steps(diff, out[start..].as_chunks_mut().0);
    if applied.is_err() {
        out.truncate(start);
    }
    applied
}

fn apply_steps(mut diff: &[u8], words: &mut [[u8; WORD]]) -> Result<(), DiffError> {
    let mut next = 0;
    while let Some((&equal_words, rest)) = diff.split_first() {
        next += usize::from(equal_words);
        if equal_words == SKIP {
            diff = rest;
            continue;
        }
        let (&mask, rest) = rest.split_first().ok_or(DiffError::Step)?;
        let count = mask.count_ones() as usize;
        let (bytes, rest) = rest.split_at_checked(count).filter(|_| mask != 0).ok_or(DiffError::Step)?;
        let word = words.get_mut(next).ok_or(DiffError::Beyond)?;
        let mut bits = mask;
        for byte in bytes {
            word[bits.trailing_zeros() as usize] ^= byte;
            bits &= bits - 1;
        }
        next += 1;
        diff = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    //! Goal: what is encoded is applied back, for any change; any bytes applied neither panic nor grow.

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_diff_makes_the_base_into_the_chunk(
            base in proptest::collection::vec(any::<u8>(), 4096),
            changes in proptest::collection::vec((0_usize..4096, any::<u8>()), 0..600),
        ) {
            let mut chunk = base.clone();
            for (at, byte) in changes {
                chunk[at] = byte;
            }
            let mut diff = vec![7];
            prop_assert!(encode(&base, &chunk, usize::MAX, &mut diff));
            let mut applied = vec![9];
            prop_assert_eq!(apply(&base, &diff[1..], 4096, &mut applied), Ok(()));
            prop_assert_eq!(&applied[1..], chunk.as_slice());
            let length = diff.len() - 1;
            let mut again = vec![7];
            prop_assert!(encode(&base, &chunk, length, &mut again));
            if let Some(less) = length.checked_sub(1) {
                prop_assert!(!encode(&base, &chunk, less, &mut again) && again == diff);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_leave_nothing_behind(
            base in proptest::collection::vec(any::<u8>(), 0..200),
            diff in proptest::collection::vec(any::<u8>(), 0..400),
            chunk_len in 0_usize..200,
        ) {
            let mut out = vec![5; 3];
            match apply(&base, &diff, chunk_len, &mut out) {
                Ok(()) => prop_assert_eq!(out.len(), 3 + chunk_len),
                Err(_) => prop_assert_eq!(out, vec![5; 3]),
            }
        }
    }

    #[test]
    fn long_gaps_take_a_byte_for_255_words() {
        let (base, mut chunk) = (vec![0; 4096], vec![0; 4096]);
        chunk[8 * 511] = 1;
        let mut diff = vec![];
        assert!(encode(&base, &chunk, 64, &mut diff));
        assert_eq!(diff, [SKIP, SKIP, 1, 1, 1]);
        let mut applied = vec![];
        apply(&base, &diff, 4096, &mut applied).unwrap();
        assert_eq!(applied, chunk);
    }

    #[test]
    fn a_step_that_leads_out_of_the_page_is_refused() {
        let base = vec![0; 16];
        let mut out = vec![];
        assert_eq!(apply(&base, &[2, 1, 1], 16, &mut out), Err(DiffError::Beyond));
        assert_eq!(apply(&base, &[1, 0], 16, &mut out), Err(DiffError::Step));
        assert_eq!(apply(&base, &[1, 3, 1], 16, &mut out), Err(DiffError::Step));
        assert_eq!(apply(&base, &[], 24, &mut out), Err(DiffError::Lengths { base: 16, chunk: 24 }));
    }
}
