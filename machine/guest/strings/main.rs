//! The string guest: writes text, searches, copies, encodes, compresses and sums it, each in two ways that must agree.

#![no_std]
#![no_main]

mod codecs;
mod compress;
mod copies;
mod search;
mod sums;
mod text;

use runtime::content::Random;
use runtime::{Block, Blocks, Job, WrongWord, serve};

/// Bytes of a block for its text, for what is made of it, and for what is made of that.
const TEXT_BYTES: usize = 8 << 10;
const MADE_BYTES: usize = 28 << 10;
/// The least text of a job.
const TEXT_BYTES_MIN: usize = 3 << 10;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.start")]
extern "C" fn _start() -> ! {
    serve(&mut Blocks::new(Strings))
}

struct Strings;

/// The parts of a block.
struct Parts<'a> {
    text: &'a mut [u8],
    made: &'a mut [u8],
    back: &'a mut [u8],
}

impl Job for Strings {
    fn fill(&mut self, block: &mut Block, random: &mut Random) {
        let Parts { text, .. } = parts(block);
        let length = text::write(&mut text[..TEXT_BYTES_MIN], random);
        text[length..].fill(b' ');
    }

    fn run(&mut self, block: &mut Block, random: &mut Random) -> Result<(), WrongWord> {
        let Parts { text, made, back } = parts(block);
        let room = TEXT_BYTES_MIN + random.draw() as usize % (TEXT_BYTES - TEXT_BYTES_MIN);
        let length = text::write(&mut text[..room], random);
        // What a job before left behind it stays, and is text, too, or a part of a character.
        let text = &mut text[..length];
        let before = sums::fletcher(text);
        expect(text::is_valid(text), 0)?;
        expect(sums::agree(text), 0)?;
        search::compare(text, random).map_err(WrongWord)?;
        expect(codecs::base64_returns(text, made, back), TEXT_BYTES)?;
        expect(codecs::utf16_returns(text, made, back), TEXT_BYTES)?;
        expect(codecs::numbers_return(made, random), TEXT_BYTES)?;
        expect(compress::returns(text, made, back), TEXT_BYTES)?;
        expect(copies::agree(text, made, back, random), TEXT_BYTES + MADE_BYTES)?;
        expect(copies::shift_returns(text, random), 0)?;
        expect(sums::fletcher(text) == before, 0)
    }
}

fn parts(block: &mut Block) -> Parts<'_> {
    let bytes =
        unsafe { core::slice::from_raw_parts_mut(block.as_mut_ptr().cast::<u8>(), size_of::<Block>()) };
    let (text, rest) = bytes.split_at_mut(TEXT_BYTES);
    let (made, back) = rest.split_at_mut(MADE_BYTES);
    Parts { text, made, back }
}

/// An error at a byte of the block.
fn expect(holds: bool, byte: usize) -> Result<(), WrongWord> {
    if holds { Ok(()) } else { Err(WrongWord(byte / 8)) }
}
