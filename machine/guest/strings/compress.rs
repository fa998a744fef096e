//! Compression by earlier occurrences (Lempel and Ziv 1977), in the form of an LZ4 block.

const LENGTH_MIN: usize = 4;
const HASH_BITS: u32 = 11;

/// Whether the text comes back from its compressed form, and that is shorter.
pub fn returns(text: &[u8], made: &mut [u8], back: &mut [u8]) -> bool {
    let length = compress(text, made);
    let restored = restore(&made[..length], back);
    length < text.len() && restored == Some(text.len()) && back[..text.len()] == *text
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn compress(text: &[u8], out: &mut [u8]) -> usize {
    let mut heads = [0_u16; 1 << HASH_BITS];
    let (mut place, mut literals, mut length) = (0, 0, 0);
    while place + LENGTH_MIN <= text.len() {
        let here = word(text, place);
        let head = &mut heads[(here.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize];
        // Places are kept one higher: zero is none.
        let candidate = *head as usize;
        *head = place as u16 + 1;
        if candidate == 0 || word(text, candidate - 1) != here {
            place += 1;
            continue;
        }
        let from = candidate - 1;
        let same = text[place..].iter().zip(&text[from..]).take_while(|(a, b)| a == b).count();
        length += put_sequence(&text[literals..place], Some((place - from, same)), &mut out[length..]);
        place += same;
        literals = place;
    }
    length + put_sequence(&text[literals..], None, &mut out[length..])
}

/// A sequence: how many literals and how long a match, the literals, and how far back the match is.
fn put_sequence(literals: &[u8], found: Option<(usize, usize)>, out: &mut [u8]) -> usize {
    let more = found.map_or(0, |(_, same)| same - LENGTH_MIN);
    out[0] = (literals.len().min(15) << 4 | more.min(15)) as u8;
    let mut at = 1 + put_length(literals.len(), &mut out[1..]);
    out[at..at + literals.len()].copy_from_slice(literals);
    at += literals.len();
    if let Some((distance, _)) = found {
        out[at..at + 2].copy_from_slice(&(distance as u16).to_le_bytes());
        at += 2 + put_length(more, &mut out[at + 2..]);
    }
    at
}

/// What a length is more than 15, in bytes of up to 255.
fn put_length(length: usize, out: &mut [u8]) -> usize {
    let Some(mut left) = length.checked_sub(15) else {
        return 0;
    };
    let mut count = 0;
    while left >= 255 {
        out[count] = 255;
        left -= 255;
        count += 1;
    }
    out[count] = left as u8;
    count + 1
}

fn restore(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    let (mut at, mut length) = (0, 0);
    loop {
        let token = *bytes.get(at)?;
        at += 1;
        let literals = take_length(bytes, &mut at, usize::from(token >> 4))?;
        out.get_mut(length..length + literals)?.copy_from_slice(bytes.get(at..at + literals)?);
        at += literals;
        length += literals;
        if at == bytes.len() {
            return Some(length);
        }
        let distance = usize::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        at += 2;
        let same = take_length(bytes, &mut at, usize::from(token & 15))? + LENGTH_MIN;
        let from = length.checked_sub(distance)?;
        // Source and target may overlap, and then the bytes repeat.
        for index in 0..same {
            *out.get_mut(length + index)? = out[from + index];
        }
        length += same;
    }
}

fn take_length(bytes: &[u8], at: &mut usize, start: usize) -> Option<usize> {
    let mut length = start;
    if start == 15 {
        loop {
            let more = *bytes.get(*at)?;
            *at += 1;
            length += usize::from(more);
            if more < 255 {
                break;
            }
        }
    }
    Some(length)
}
