//! The tree guest: B-trees whose nodes and values an allocator places in blocks.
//!
//! A job inserts, removes, looks up and scans. It compares each answer with a bitmap of the keys that are held, and at
//! its end walks the whole tree and all of its memory.

#![no_std]
#![no_main]

mod arena;
mod btree;
mod node;

use arena::{ARENA_START, Arena};
use btree::Tree;
use runtime::content::Random;
use runtime::{Block, Blocks, Job, WrongWord, serve};

/// Keys that can be held; a key's number is below it.
const NUMBERS: usize = 1024;
/// Operations of one job.
const OPERATIONS: u64 = 160;
/// Operations that fill a block at first.
const FIRST_OPERATIONS: u64 = 96;

/// Words of a block before its arena.
pub const ROOT: usize = 0;
pub const COUNT: usize = 1;
pub const FINGERPRINT: usize = 2;
pub const FREE: usize = 3;
pub const USED: usize = 4;
const VERSION: usize = 5;
const BITMAP: usize = 8;
const _: () = assert!(BITMAP + NUMBERS / 64 <= ARENA_START);

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.start")]
extern "C" fn _start() -> ! {
    serve(&mut Blocks::new(Trees))
}

struct Trees;

impl Job for Trees {
    fn fill(&mut self, block: &mut Block, random: &mut Random) {
        let mut tree = Tree::create(Arena::create(block));
        for _ in 0..FIRST_OPERATIONS {
            // Whether there was room does not matter: an empty block has it.
            let _ = insert(&mut tree, random.draw());
        }
    }

    fn run(&mut self, block: &mut Block, random: &mut Random) -> Result<(), WrongWord> {
        let mut tree = Tree::open(Arena::open(block));
        // Trees shrink for a while after they were full.
        let mut grows = random.draw() % 4 != 0;
        for _ in 0..OPERATIONS {
            let draw = random.draw();
            match (draw % 10, grows) {
                (0..=3, true) | (0..=1, false) => grows &= insert(&mut tree, draw)?,
                (4..=6, true) | (2..=6, false) => remove(&mut tree, draw)?,
                (0..=8, _) => look_up(&mut tree, draw)?,
                _ => scan(&mut tree, draw, random.draw())?,
            }
        }
        tree.check()
    }
}

/// The number of a key, and the key: another one for each number.
fn number_of(draw: u64) -> usize {
    (draw >> 32) as usize % NUMBERS
}

fn key_of(number: usize) -> u64 {
    (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn holds(tree: &Tree<'_>, number: usize) -> bool {
    tree.arena.words[BITMAP + number / 64] >> (number % 64) & 1 != 0
}

fn note(tree: &mut Tree<'_>, number: usize, held: bool) {
    let word = &mut tree.arena.words[BITMAP + number / 64];
    *word = *word & !(1 << (number % 64)) | u64::from(held) << (number % 64);
}

/// Inserts a key or gives it a new value. False when there is no room.
fn insert(tree: &mut Tree<'_>, draw: u64) -> Result<bool, WrongWord> {
    let number = number_of(draw);
    let version = tree.arena.words[VERSION];
    tree.arena.words[VERSION] = version.wrapping_add(1);
    match tree.insert(key_of(number), version)? {
        None => Ok(false),
        Some(was_held) => {
            expect(was_held == holds(tree, number))?;
            note(tree, number, true);
            Ok(true)
        }
    }
}

fn remove(tree: &mut Tree<'_>, draw: u64) -> Result<(), WrongWord> {
    let number = number_of(draw);
    let was_held = tree.remove(key_of(number))?;
    expect(was_held == holds(tree, number))?;
    note(tree, number, false);
    Ok(())
}

fn look_up(tree: &mut Tree<'_>, draw: u64) -> Result<(), WrongWord> {
    let number = number_of(draw);
    let found = tree.look_up(key_of(number))?;
    expect(found == holds(tree, number))
}

/// Scans from one key to another and counts what the bitmap has between them.
fn scan(tree: &mut Tree<'_>, draw: u64, other: u64) -> Result<(), WrongWord> {
    let (a, b) = (key_of(number_of(draw)), key_of(number_of(other)));
    let (low, high) = (a.min(b), a.max(b));
    let expected =
        (0..NUMBERS).filter(|number| (low..=high).contains(&key_of(*number)) && holds(tree, *number)).count();
    let (mut found, mut before) = (0, None);
    tree.scan(low, high, &mut |key| {
        found += 1;
        before.replace(key).is_none_or(|before| before < key) && (low..=high).contains(&key)
    })?;
    expect(found == expected)
}

fn expect(holds: bool) -> Result<(), WrongWord> {
    if holds { Ok(()) } else { Err(WrongWord(ROOT)) }
}
