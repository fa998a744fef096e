//! Searches for a part of the text, in ways that must find it as often.

use core::arch::asm;
use core::arch::x86_64::{_mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8};
use runtime::content::Random;

/// Counts a part of the text drawn at random by four searches; the error is the word where it was drawn.
pub fn compare(text: &[u8], random: &mut Random) -> Result<(), usize> {
    for _ in 0..2 {
        let length = 2 + random.draw() as usize % 11;
        let start = random.draw() as usize % (text.len() - length);
        let part = &text[start..start + length];
        let naive = text.windows(length).filter(|window| *window == part).count();
        if horspool(text, part) != naive || by_vectors(text, part) != naive || by_strings(text, part) != naive
        {
            return Err(start / 8);
        }
        // The core's search takes whole characters only, and what it finds does not overlap.
        if let (Ok(text), Ok(part)) = (core::str::from_utf8(text), core::str::from_utf8(part)) {
            let found = text.match_indices(part).count();
            let first = text.find(part);
            if found == 0 || found > naive || first.is_none_or(|first| first > start) {
                return Err(start / 8);
            }
        }
    }
    Ok(())
}

/// Horspool's search (1980).
fn horspool(text: &[u8], part: &[u8]) -> usize {
    let last = part.len() - 1;
    let mut shifts = [part.len() as u8; 256];
    for (index, byte) in part[..last].iter().enumerate() {
        shifts[*byte as usize] = (last - index) as u8;
    }
    let (mut place, mut count) = (0, 0);
    while place + part.len() <= text.len() {
        count += usize::from(text[place..place + part.len()] == *part);
        place += usize::from(shifts[text[place + last] as usize]);
    }
    count
}

/// Compares 16 places at a time with the first and the last byte of the part.
fn by_vectors(text: &[u8], part: &[u8]) -> usize {
    let last = part.len() - 1;
    let places = text.len() - last;
    let (mut place, mut count) = (0, 0);
    while place + 16 <= places {
        let mut matches = unsafe {
            let firsts = _mm_loadu_si128(text.as_ptr().add(place).cast());
            let lasts = _mm_loadu_si128(text.as_ptr().add(place + last).cast());
            let first = _mm_cmpeq_epi8(firsts, _mm_set1_epi8(part[0].cast_signed()));
            let last = _mm_cmpeq_epi8(lasts, _mm_set1_epi8(part[last].cast_signed()));
            _mm_movemask_epi8(first) & _mm_movemask_epi8(last)
        };
        while matches != 0 {
            let at = place + matches.trailing_zeros() as usize;
            count += usize::from(text[at..at + part.len()] == *part);
            matches &= matches - 1;
        }
        place += 16;
    }
    (place..places).fold(count, |count, at| count + usize::from(text[at..at + part.len()] == *part))
}

/// Goes from one first byte to the next by SCAS, and compares by CMPS.
fn by_strings(text: &[u8], part: &[u8]) -> usize {
    let places = text.len() - part.len() + 1;
    let (mut place, mut count) = (0, 0);
    while place < places {
        let left: usize;
        let found: u8;
        unsafe {
            asm!(
                "repne scasb",
                "sete {found}",
                found = out(reg_byte) found,
                inout("rcx") places - place => left,
                inout("rdi") text.as_ptr().add(place) => _,
                in("al") part[0],
                options(nostack, readonly),
            );
        }
        if found == 0 {
            break;
        }
        let at = places - left - 1;
        count += usize::from(equal(&text[at..at + part.len()], part));
        place = at + 1;
    }
    count
}

fn equal(left: &[u8], right: &[u8]) -> bool {
    let equal: u8;
    unsafe {
        asm!(
            "cmp rcx, rcx",
            "repe cmpsb",
            "sete {equal}",
            equal = out(reg_byte) equal,
            inout("rcx") left.len() => _,
            inout("rsi") left.as_ptr() => _,
            inout("rdi") right.as_ptr() => _,
            options(nostack, readonly),
        );
    }
    equal != 0
}
