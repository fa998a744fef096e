//! The sorting guest: sorts blocks of keys in several ways and counts the keys in hash tables.
//!
//! Each result is checked: the order, a fingerprint that no order changes, and the counts by two ways.

#![no_std]
#![no_main]

mod sorts;
mod table;

use runtime::content::Random;
use runtime::{Block, Blocks, Job, WrongWord, serve};
use table::Table;

/// Words of a block that hold keys; the rest is room for what a sort and a hash table need.
const KEYS: usize = 4096;
/// Keys that are counted in a hash table.
const COUNTED: usize = 1400;
/// Words that are sorted as twice as many halves.
const HALVED: usize = 512;

#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.start")]
extern "C" fn _start() -> ! {
    serve(&mut Blocks::new(Sorting))
}

struct Sorting;

impl Job for Sorting {
    fn fill(&mut self, block: &mut Block, random: &mut Random) {
        block[..KEYS].fill_with(|| random.draw());
    }

    fn run(&mut self, block: &mut Block, random: &mut Random) -> Result<(), WrongWord> {
        let (keys, room) = block.split_at_mut(KEYS);
        refresh(keys, random);
        let before = fingerprint(keys);
        match random.draw() % 6 {
            0 => sorts::quick(keys),
            1 => sorts::heap(keys),
            2 => sorts::merge(keys, room),
            3 => sorts::radix(keys, room),
            4 => sorts::shell(keys),
            _ => keys.sort_unstable(),
        }
        ascends(keys)?;
        same(fingerprint(keys), before)?;
        find(keys, random)?;
        count(&keys[random.draw() as usize % (KEYS - COUNTED)..][..COUNTED], room, random)?;
        sort_halves(&mut keys[..HALVED], random)
    }
}

/// Replaces some keys, by other numbers each time: all of them, many equal ones, small ones, or ones close by.
fn refresh(keys: &mut [u64], random: &mut Random) {
    let replaced = 512 + random.draw() as usize % (KEYS - 512);
    let start = random.draw() as usize % (KEYS - replaced + 1);
    let kind = random.draw() % 4;
    let mut close = random.draw();
    for key in &mut keys[start..start + replaced] {
        let draw = random.draw();
        close = close.wrapping_add(draw & 0xff);
        *key = match kind {
            0 => draw,
            1 => (draw % 97).wrapping_mul(0x0101_0101_0101_0101),
            2 => draw >> (draw & 63),
            _ => close,
        };
    }
}

/// A number that depends on all keys and not on their order.
fn fingerprint(keys: &[u64]) -> u64 {
    keys.iter().fold(0, |sum, key| {
        let mixed = (key ^ key >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        sum.wrapping_add(mixed ^ mixed.rotate_left(31))
    })
}

fn same(found: u64, expected: u64) -> Result<(), WrongWord> {
    if found == expected { Ok(()) } else { Err(WrongWord(0)) }
}

fn ascends<T: Ord>(keys: &[T]) -> Result<(), WrongWord> {
    match keys.windows(2).position(|pair| pair[0] > pair[1]) {
        None => Ok(()),
        Some(index) => Err(WrongWord(index)),
    }
}

/// Looks for keys that are there and for numbers next to them.
fn find(keys: &[u64], random: &mut Random) -> Result<(), WrongWord> {
    for _ in 0..64 {
        let place = random.draw() as usize % keys.len();
        let wanted = keys[place];
        if !keys.binary_search(&wanted).is_ok_and(|found| keys[found] == wanted) {
            return Err(WrongWord(place));
        }
        let behind = keys.partition_point(|key| *key <= wanted);
        if behind <= place || keys.get(behind).is_some_and(|key| *key <= wanted) {
            return Err(WrongWord(place));
        }
    }
    Ok(())
}

/// Counts sorted keys in a hash table and compares with the lengths of their runs, before and after some are removed.
fn count(keys: &[u64], room: &mut [u64], random: &mut Random) -> Result<(), WrongWord> {
    let mut table = Table::new(room, table::HASHES[random.draw() as usize % table::HASHES.len()]);
    for key in keys {
        table.add(*key);
    }
    let mut distinct = 0;
    for run in keys.chunk_by(|a, b| a == b) {
        distinct += 1;
        if table.count(run[0]) != run.len() as u64 {
            return Err(WrongWord(KEYS));
        }
    }
    if table.held() != distinct {
        return Err(WrongWord(KEYS));
    }
    for run in keys.chunk_by(|a, b| a == b).step_by(3) {
        table.remove(run[0]);
    }
    for (number, run) in keys.chunk_by(|a, b| a == b).enumerate() {
        let expected = if number % 3 == 0 { 0 } else { run.len() as u64 };
        if table.count(run[0]) != expected {
            return Err(WrongWord(KEYS));
        }
    }
    Ok(())
}

/// Sorts words as twice as many numbers of 32 bits, signed or not.
fn sort_halves(words: &mut [u64], random: &mut Random) -> Result<(), WrongWord> {
    let halves =
        unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<u32>(), 2 * words.len()) };
    let sum = |halves: &[u32]| halves.iter().fold(0_u64, |sum, half| sum + u64::from(*half));
    let before = sum(halves);
    let kind = random.draw() % 3;
    match kind {
        0 => sorts::by_bytes(halves),
        1 => halves.sort_unstable_by_key(|half| core::cmp::Reverse(*half)),
        _ => halves.sort_unstable_by_key(|half| half.cast_signed()),
    }
    let sorted = match kind {
        0 => halves.is_sorted(),
        1 => halves.is_sorted_by(|a, b| a >= b),
        _ => halves.is_sorted_by_key(|half| half.cast_signed()),
    };
    if sorted && sum(halves) == before { Ok(()) } else { Err(WrongWord(0)) }
}
