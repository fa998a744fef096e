//! Text in several scripts, with numbers, written through the formatting of the language's core.

use core::fmt::{self, Write};
use runtime::content::Random;

const WORDS: [&str; 40] = [
    "page",
    "checkpoint",
    "interval",
    "lineage",
    "swarm",
    "node",
    "peer",
    "link",
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "is",
    "Seite",
    "größer",
    "Straße",
    "über",
    "naïve",
    "façade",
    "señal",
    "Ωμέγα",
    "καί",
    "слово",
    "страница",
    "数据",
    "页面",
    "ページ",
    "記憶",
    "데이터",
    "🧵",
    "🗺️",
    "x86-64",
    "hash",
    "tree",
    "KEY",
    "Value",
    "bytes",
    "zero",
];

/// A buffer that text is written to; what does not fit as a whole is refused.
pub struct Buffer<'a> {
    bytes: &'a mut [u8],
    length: usize,
}

impl<'a> Buffer<'a> {
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, length: 0 }
    }

    pub fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Write for Buffer<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let end = self.length + part.len();
        let place = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        place.copy_from_slice(part.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Fills `bytes` with lines of words; how many bytes were written. The rest is less than a word.
pub fn write(bytes: &mut [u8], random: &mut Random) -> usize {
    let mut buffer = Buffer::new(bytes);
    while write_word(&mut buffer, random.draw()).is_ok() {}
    buffer.length
}

fn write_word(buffer: &mut Buffer<'_>, draw: u64) -> fmt::Result {
    // The smaller of two draws: some words are frequent.
    let (a, b) = (draw % 40, (draw >> 8) % 40);
    let word = WORDS[a.min(b) as usize];
    match (draw >> 16) % 16 {
        0 => write!(buffer, "{} ", draw >> 40),
        1 => write!(buffer, "{:#x} ", draw >> 32),
        2 => write!(buffer, "{word:>10}, "),
        3 => write!(buffer, "-{:05}. ", draw >> 50),
        4 => buffer.write_str("\n"),
        5 => word.chars().rev().try_for_each(|c| buffer.write_char(c)),
        _ => {
            buffer.write_str(word)?;
            buffer.write_str(" ")
        }
    }
}

/// Whether the bytes are UTF-8, and their characters are as many by two counts.
pub fn is_valid(bytes: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(bytes) else {
        return false;
    };
    let starts = bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
    let upper = bytes.iter().filter(|byte| byte.is_ascii_uppercase()).count();
    text.chars().count() == starts
        && text.chars().filter(|c| c.is_ascii() && c.is_uppercase()).count() == upper
        && text.split(' ').map(|word| word.len() + 1).sum::<usize>() == bytes.len() + 1
        && text.lines().map(str::len).sum::<usize>() + bytes.iter().filter(|byte| **byte == b'\n').count()
            == bytes.len()
}
