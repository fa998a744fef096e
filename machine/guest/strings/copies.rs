//! Copies: by string instructions of each width, upwards and downwards, by vectors, and past the caches.

use core::arch::asm;
use core::arch::x86_64::{_mm_loadu_si128, _mm_sfence, _mm_storeu_si128, _mm_stream_si128};
use runtime::content::Random;

/// How bytes are copied.
type Copy = unsafe fn(*mut u8, *const u8, usize);

const COPIES: [Copy; 6] = [by_bytes, by_words, downwards, by_vectors, past_caches, by_long_steps];

/// Copies a part of the text by two of the ways, to places that are aligned in any way, and compares.
pub fn agree(text: &[u8], made: &mut [u8], back: &mut [u8], random: &mut Random) -> bool {
    (0..4).all(|_| {
        let draw = random.draw();
        let start = draw as usize & 0xff;
        let length = text.len() - start - ((draw >> 8) as usize & 0xff);
        let to = (draw >> 16) as usize % (made.len() - length);
        let then_to = (draw >> 32) as usize % (back.len() - length);
        let [first, second] = [48, 56].map(|shift| COPIES[(draw >> shift) as usize % COPIES.len()]);
        let part = &text[start..start + length];
        unsafe { first(made[to..][..length].as_mut_ptr(), part.as_ptr(), length) };
        unsafe { second(back[then_to..][..length].as_mut_ptr(), made[to..].as_ptr(), length) };
        back[then_to..][..length] == *part
    })
}

/// Moves the text up and down within itself, where source and target overlap.
pub fn shift_returns(text: &mut [u8], random: &mut Random) -> bool {
    let distance = 1 + random.draw() as usize % 40;
    let mut kept = [0; 40];
    let tail = text.len() - distance;
    kept[..distance].copy_from_slice(&text[tail..]);
    let (first, last) = (text[0], text[tail - 1]);
    text.copy_within(..tail, distance);
    let moved = text[distance] == first && text[text.len() - 1] == last;
    text.copy_within(distance.., 0);
    text[tail..].copy_from_slice(&kept[..distance]);
    moved
}

unsafe fn by_bytes(to: *mut u8, from: *const u8, count: usize) {
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack));
    }
}

unsafe fn by_words(to: *mut u8, from: *const u8, count: usize) {
    unsafe {
        asm!(
            "rep movsq",
            "mov ecx, {rest:e}",
            "rep movsb",
            rest = in(reg) count % 8,
            inout("rcx") count / 8 => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack),
        );
    }
}

unsafe fn downwards(to: *mut u8, from: *const u8, count: usize) {
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rcx") count => _,
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
            options(nostack),
        );
    }
}

/// LODS and STOS of 4 bytes.
unsafe fn by_long_steps(to: *mut u8, from: *const u8, count: usize) {
    unsafe {
        asm!(
            "jrcxz 3f",
            "2:",
            "lodsd",
            "stosd",
            "loop 2b",
            "3:",
            "mov ecx, {rest:e}",
            "rep movsb",
            rest = in(reg) count % 4,
            inout("rcx") count / 4 => _, inout("rdi") to => _, inout("rsi") from => _, out("eax") _,
            options(nostack),
        );
    }
}

unsafe fn by_vectors(to: *mut u8, from: *const u8, count: usize) {
    let mut done = 0;
    while done + 16 <= count {
        unsafe { _mm_storeu_si128(to.add(done).cast(), _mm_loadu_si128(from.add(done).cast())) };
        done += 16;
    }
    unsafe { by_bytes(to.add(done), from.add(done), count - done) };
}

unsafe fn past_caches(to: *mut u8, from: *const u8, count: usize) {
    let mut done = to.align_offset(16).min(count);
    unsafe { by_bytes(to, from, done) };
    while done + 16 <= count {
        unsafe { _mm_stream_si128(to.add(done).cast(), _mm_loadu_si128(from.add(done).cast())) };
        done += 16;
    }
    unsafe { _mm_sfence() };
    unsafe { by_bytes(to.add(done), from.add(done), count - done) };
}
