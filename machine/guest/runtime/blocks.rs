//! RAM in blocks of pages, on each of which a guest does one job at a time.
//!
//! The pages of a block are compared with their checksums before a job uses them and sealed after it, and the job
//! compares its results with what it knows of them. So whatever it depends on is noticed when it is wrong.

use crate::abi::{self, BLOCK_PAGES, Parameter, WORDS};
use crate::content::{Order, Random};
use crate::ram::{Ram, WrongPage, parameter};
use crate::serve::Guest;

/// A block's words.
pub type Block = [u64; BLOCK_PAGES as usize * WORDS];

/// The place in a block at which a job found out that something is wrong.
pub struct WrongWord(pub usize);

/// What a guest does to one block.
pub trait Job {
    /// Writes a block's first content over zeros.
    fn fill(&mut self, block: &mut Block, random: &mut Random);

    /// Works on a block, which has what a job before left there.
    ///
    /// # Errors
    /// When a result is not what it must be.
    fn run(&mut self, block: &mut Block, random: &mut Random) -> Result<(), WrongWord>;
}

/// A guest that does jobs on blocks, each block once before any twice. A unit of its work is a page.
pub struct Blocks<J> {
    job: J,
    order: Order,
    random: Random,
    blocks: u64,
    units_due: u32,
}

impl<J: Job> Blocks<J> {
    pub fn new(job: J) -> Self {
        let seed = parameter(Parameter::Seed);
        let blocks = parameter(Parameter::DataPages) / BLOCK_PAGES;
        Self { job, order: Order::new(seed, blocks), random: Random::new(seed, 8), blocks, units_due: 0 }
    }
}

impl<J: Job> Guest for Blocks<J> {
    fn fill(&mut self, ram: &mut Ram) {
        for number in 0..self.blocks {
            self.job.fill(block(ram, number), &mut self.random);
            seal(ram, number);
        }
    }

    fn work(&mut self, ram: &mut Ram, units: u32) -> Result<u32, WrongPage> {
        self.units_due += units;
        let mut done = 0;
        while self.units_due >= BLOCK_PAGES as u32 {
            let number = self.order.draw();
            for page in pages(number) {
                ram.verify(page)?;
            }
            self.job.run(block(ram, number), &mut self.random).map_err(|WrongWord(word)| {
                let page = number * BLOCK_PAGES + (word / WORDS) as u64;
                ram.wrong_data_page(page)
            })?;
            seal(ram, number);
            self.units_due -= BLOCK_PAGES as u32;
            done += BLOCK_PAGES as u32;
        }
        Ok(done)
    }
}

fn pages(number: u64) -> core::ops::Range<u64> {
    number * BLOCK_PAGES..(number + 1) * BLOCK_PAGES
}

fn seal(ram: &mut Ram, number: u64) {
    for page in pages(number) {
        ram.seal(page);
    }
}

fn block(ram: &mut Ram, number: u64) -> &mut Block {
    let first = ram.words(number * BLOCK_PAGES) as *mut [u64; WORDS];
    // The pages behind it are data pages, too, and borrowed with it.
    unsafe { &mut *first.cast() }
}

const _: () = assert!(size_of::<Block>() as u64 == BLOCK_PAGES * abi::PAGE);
