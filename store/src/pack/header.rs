//! A pack file's header: two equal copies of 32 bytes, because the salt in it opens every record.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | `PSpack` and the format's number, 1 (u16) |
//! | 8..12 | the pack's number |
//! | 12..20 | salt |
//! | 20..28 | 0 |
//! | 28..32 | CRC-32 of bytes 0..28 |

use std::hash::{BuildHasher, RandomState};
use std::time::SystemTime;

use super::PackNumber;

/// Bytes of a pack before its first record.
pub(crate) const PACK_HEADER_BYTES: u64 = 64;

const COPY: usize = 32;
const MAGIC: [u8; 8] = *b"PSpack\x01\x00";

/// A pack's secret ingredient of every header checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt(pub(crate) u64);

impl Salt {
    /// A number that a stranger cannot know: the standard library's hash keys come from the system's randomness.
    pub(crate) fn random() -> Self {
        Self(RandomState::new().hash_one(SystemTime::now()))
    }
}

/// The header of a pack.
pub(crate) fn encode(number: PackNumber, salt: Salt) -> Vec<u8> {
    let mut copy = Vec::with_capacity(COPY);
    copy.extend_from_slice(&MAGIC);
    copy.extend_from_slice(&number.0.to_le_bytes());
    copy.extend_from_slice(&salt.0.to_le_bytes());
    copy.extend_from_slice(&[0; 8]);
    copy.extend_from_slice(&crc32fast::hash(&copy).to_le_bytes());
    copy.repeat(2)
}

/// The salt of the first copy that is whole and of this pack.
pub(crate) fn decode(bytes: &[u8], number: PackNumber) -> Option<Salt> {
    bytes.chunks_exact(COPY).take(2).find_map(|copy| {
        let (fields, sum) = copy.split_last_chunk::<4>()?;
        let whole = u32::from_le_bytes(*sum) == crc32fast::hash(fields);
        let named = fields[..8] == MAGIC && fields[8..12] == number.0.to_le_bytes();
        let salt = fields.get(12..20)?.first_chunk::<8>()?;
        (whole && named).then(|| Salt(u64::from_le_bytes(*salt)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_copy_opens_the_pack_and_no_other_pack() {
        let (number, salt) = (PackNumber(3), Salt::random());
        let good = encode(number, salt);
        assert_eq!(u64::try_from(good.len()).unwrap(), PACK_HEADER_BYTES);
        assert_eq!(decode(&good, number), Some(salt));
        assert_eq!(decode(&good, PackNumber(4)), None);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad, number), Some(salt), "byte {at}");
        }
        let mut bad = good;
        bad[1] ^= 1;
        bad[COPY + 1] ^= 1;
        assert_eq!(decode(&bad, number), None);
    }
}
