//! Gap coding of birth sets: the bytes of a run in a request and of a set in an announcement.
//!
//! A set is its number of ranges, then for each range the gap from the end of the one before (from 0
//! for the first) and its length minus one, all LEB128. Decoding bounds ranges and births before it stores any.

use pageswarm_checkpoint::Birth;

use crate::births::BirthSet;

/// Bytes that are not a gap-coded set within the stated limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeSetError {
    /// The bytes end inside the set.
    #[error("the set ends early")]
    EndsEarly,
    /// A birth beyond 2^64 - 1, or a number longer than ten bytes.
    #[error("a number in the set is out of range")]
    OutOfRange,
    /// More births than the caller allows.
    #[error("the set has more than {limit} births")]
    TooManyBirths {
        /// The caller's limit.
        limit: u64,
    },
    /// More ranges than the caller allows.
    #[error("the set has {ranges} ranges, more than {limit}")]
    TooManyRanges {
        /// As announced by the set.
        ranges: u64,
        /// The caller's limit.
        limit: u64,
    },
}

/// Most that a decoder accepts.
#[derive(Clone, Copy, Debug)]
pub struct SetLimits {
    /// Births in the set.
    pub births: u64,
    /// Ranges in the set: bounds the work and the memory of a fragmented set.
    pub ranges: u64,
}

/// Appends the gap-coded set.
pub fn encode_set(set: &BirthSet, out: &mut Vec<u8>) {
    put_number(u64::try_from(set.ranges().count()).unwrap_or(u64::MAX), out);
    let mut end = 0;
    for range in set.ranges() {
        put_number(range.start() - end, out);
        put_number(range.end() - range.start(), out);
        end = range.end().saturating_add(1);
    }
}

/// The bytes that [`encode_set`] would append.
#[must_use]
pub fn encoded_set_bytes(set: &BirthSet) -> usize {
    let mut end = 0;
    let mut ranges = 0;
    let mut bytes = 0;
    for range in set.ranges() {
        ranges += 1;
        bytes += number_bytes(range.start() - end) + number_bytes(range.end() - range.start());
        end = range.end().saturating_add(1);
    }
    bytes + number_bytes(ranges)
}

/// Takes a gap-coded set off the front of `bytes`.
///
/// # Errors
/// Truncated, out of range or beyond `limits`; nothing larger than `limits` is allocated.
pub fn decode_set(bytes: &mut &[u8], limits: SetLimits) -> Result<BirthSet, DecodeSetError> {
    let ranges = take_number(bytes)?;
    if ranges > limits.ranges {
        return Err(DecodeSetError::TooManyRanges { ranges, limit: limits.ranges });
    }
    let mut set = BirthSet::new();
    let mut end = Some(0_u64);
    let mut births = 0_u64;
    for _ in 0..ranges {
        let gap = take_number(bytes)?;
        let more = take_number(bytes)?;
        births = births.saturating_add(more).saturating_add(1);
        if births > limits.births {
            return Err(DecodeSetError::TooManyBirths { limit: limits.births });
        }
        let first = end.and_then(|end| end.checked_add(gap)).ok_or(DecodeSetError::OutOfRange)?;
        let last = first.checked_add(more).ok_or(DecodeSetError::OutOfRange)?;
        set.insert_range(Birth(first), Birth(last));
        end = last.checked_add(1);
    }
    Ok(set)
}

fn put_number(mut number: u64, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits fit a byte");
        number >>= 7;
        if number == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn number_bytes(number: u64) -> usize {
    let bits = usize::try_from(64 - (number | 1).leading_zeros()).expect("at most 64");
    bits.div_ceil(7)
}

fn take_number(bytes: &mut &[u8]) -> Result<u64, DecodeSetError> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or(DecodeSetError::EndsEarly)?;
        *bytes = rest;
        let low = u64::from(byte & 0x7f);
        if shift == 63 && low > 1 {
            return Err(DecodeSetError::OutOfRange);
        }
        number |= low << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(DecodeSetError::OutOfRange)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const WIDE: SetLimits = SetLimits { births: u64::MAX, ranges: 1 << 20 };

    #[test]
    fn sets_come_back_and_the_stated_size_is_the_real_one() {
        let mut rng = Rng::new(1);
        for _ in 0..300 {
            let bits = rng.below(40) + 1;
            let mut set: BirthSet = (0..rng.below(50)).map(|_| Birth(rng.below(1 << bits))).collect();
            set.insert_range(Birth(1 << bits), Birth((1 << bits) + rng.below(1000)));
            let mut bytes = Vec::new();
            encode_set(&set, &mut bytes);
            assert_eq!(bytes.len(), encoded_set_bytes(&set));
            assert_eq!(decode_set(&mut bytes.as_slice(), WIDE), Ok(set));
            bytes.pop();
            assert_eq!(decode_set(&mut bytes.as_slice(), WIDE), Err(DecodeSetError::EndsEarly));
        }
    }

    #[test]
    fn hostile_sets_are_refused_before_they_take_memory() {
        let narrow = SetLimits { births: 100, ranges: 10 };
        let mut many = vec![1, 0];
        put_number(1 << 40, &mut many);
        assert!(matches!(
            decode_set(&mut many.as_slice(), narrow),
            Err(DecodeSetError::TooManyBirths { limit: 100 })
        ));
        assert!(matches!(
            decode_set(&mut [0xff, 0x7f].as_slice(), narrow),
            Err(DecodeSetError::TooManyRanges { .. })
        ));
        let mut past_the_end = vec![2];
        put_number(u64::MAX, &mut past_the_end);
        past_the_end.extend([0, 0, 0]);
        assert_eq!(decode_set(&mut past_the_end.as_slice(), narrow), Err(DecodeSetError::OutOfRange));
        let eleven = [0xff; 11];
        assert_eq!(decode_set(&mut eleven.as_slice(), narrow), Err(DecodeSetError::OutOfRange));
    }
}
