//! Encodings from which the text must come back: base64, UTF-16, and numbers in digits.

use crate::text::Buffer;
use core::fmt::Write;
use runtime::content::Random;

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 as in RFC 4648, section 4.
pub fn base64_returns(text: &[u8], made: &mut [u8], back: &mut [u8]) -> bool {
    let mut length = 0;
    for part in text.chunks(3) {
        let mut bytes = [0; 4];
        bytes[1..1 + part.len()].copy_from_slice(part);
        let bits = u32::from_be_bytes(bytes);
        for index in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * index) & 63) as usize];
            made[length + index] = if index <= part.len() { digit } else { b'=' };
        }
        length += 4;
    }
    let mut restored = 0;
    for digits in made[..length].chunks(4) {
        let bits = digits.iter().fold(0, |bits, digit| bits << 6 | value(*digit));
        let bytes = bits.to_be_bytes();
        back[restored..restored + 3].copy_from_slice(&bytes[1..]);
        restored += 3 - digits.iter().filter(|digit| **digit == b'=').count();
    }
    back[..restored] == *text
}

fn value(digit: u8) -> u32 {
    u32::from(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => 0,
    })
}

/// UTF-16, and characters one by one back to UTF-8.
pub fn utf16_returns(text: &[u8], made: &mut [u8], back: &mut [u8]) -> bool {
    let Ok(text) = core::str::from_utf8(text) else {
        return false;
    };
    let units = made.as_chunks_mut::<2>().0;
    let mut count = 0;
    for (unit, place) in text.encode_utf16().zip(units.iter_mut()) {
        *place = unit.to_be_bytes();
        count += 1;
    }
    let units = units[..count].iter().map(|unit| u16::from_be_bytes(*unit));
    let mut length = 0;
    for decoded in char::decode_utf16(units) {
        let Ok(decoded) = decoded else {
            return false;
        };
        length += decoded.encode_utf8(&mut back[length..]).len();
    }
    back[..length] == *text.as_bytes()
}

/// Writes numbers in several bases and reads them again.
pub fn numbers_return(made: &mut [u8], random: &mut Random) -> bool {
    (0..24).all(|_| {
        let number = random.draw() >> (random.draw() & 63);
        let signed = number.cast_signed().wrapping_neg();
        let mut buffer = Buffer::new(&mut made[..200]);
        if write!(buffer, "{number} {number:x} {number:b} {signed}").is_err() {
            return false;
        }
        let Ok(text) = core::str::from_utf8(buffer.text()) else {
            return false;
        };
        let mut parts = text.split(' ');
        let mut next = || parts.next().unwrap_or_default();
        next().parse() == Ok(number)
            && u64::from_str_radix(next(), 16) == Ok(number)
            && u64::from_str_radix(next(), 2) == Ok(number)
            && next().parse() == Ok(signed)
    })
}
