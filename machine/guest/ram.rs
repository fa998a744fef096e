//! The guest's view of its RAM: data pages, their checksum table, and the parts that never change.

use crate::abi::{self, PAGE, Parameter};
use crate::content::{self, Random, Words};

/// Most pages below and inside the program that never change.
const CONSTANT_PAGES: usize = 256;

unsafe extern "C" {
    static __constant_end: u8;
}

pub struct Ram {
    data_base: u64,
    data_pages: u64,
    global_sum: u64,
    cursor: u64,
    constant_sums: [u64; CONSTANT_PAGES],
}

/// A word of the parameter page.
pub fn parameter(which: Parameter) -> u64 {
    unsafe { ((abi::PARAMETER_BASE as *const u64).add(which as usize)).read_volatile() }
}

impl Ram {
    /// Writes the base image and builds the checksum table.
    pub fn fill() -> Self {
        let seed = parameter(Parameter::Seed);
        let mut ram = Self {
            data_base: parameter(Parameter::DataBase),
            data_pages: parameter(Parameter::DataPages),
            global_sum: 0,
            cursor: 0,
            constant_sums: [0; CONSTANT_PAGES],
        };
        for page in 0..ram.data_pages {
            if content::base_kind(seed, page) == content::BaseKind::Zero {
                continue; // RAM starts zero, and so does its table entry.
            }
            content::fill_base(seed, page, ram.words(page));
            let sum = content::checksum(ram.words(page));
            *ram.entry(page) = sum;
            ram.global_sum = ram.global_sum.wrapping_add(sum.wrapping_mul(content::page_factor(page)));
        }
        for (index, address) in constant_pages().enumerate() {
            ram.constant_sums[index] = content::checksum(page_at(address));
        }
        ram
    }

    /// Changes one data page and keeps its checksum and the global sum true.
    pub fn change(&mut self, page: u64, random: &mut Random) {
        let grown = content::change(random, self.words(page));
        let entry = self.entry(page);
        *entry = entry.wrapping_add(grown);
        self.global_sum = self.global_sum.wrapping_add(grown.wrapping_mul(content::page_factor(page)));
    }

    /// Checks the next `count` pages. True when that completed a pass; an error is a wrong page's number.
    pub fn check(&mut self, count: u32) -> Result<bool, u32> {
        let mut passed = false;
        for _ in 0..count {
            let page = self.cursor;
            if content::checksum(self.words(page)) != *self.entry(page) {
                return Err(((self.data_base / PAGE) + page) as u32);
            }
            self.cursor += 1;
            if self.cursor == self.data_pages {
                self.cursor = 0;
                self.check_rest()?;
                passed = true;
            }
        }
        Ok(passed)
    }

    /// The table as a whole against the global sum, then everything that must never change.
    fn check_rest(&mut self) -> Result<(), u32> {
        let mut sum = 0_u64;
        for page in 0..self.data_pages {
            sum = sum.wrapping_add(self.entry(page).wrapping_mul(content::page_factor(page)));
        }
        if sum != self.global_sum {
            return Err((abi::TABLE_BASE / PAGE) as u32);
        }
        for (index, address) in constant_pages().enumerate() {
            if content::checksum(page_at(address)) != self.constant_sums[index] {
                return Err((address / PAGE) as u32);
            }
        }
        Ok(())
    }

    fn words(&mut self, page: u64) -> &mut Words {
        unsafe { &mut *((self.data_base + page * PAGE) as *mut Words) }
    }

    fn entry(&mut self, page: u64) -> &mut u64 {
        unsafe { &mut *((abi::TABLE_BASE + page * 8) as *mut u64) }
    }
}

/// Addresses of descriptor tables, page tables, parameters, code and constants.
fn constant_pages() -> impl Iterator<Item = u64> {
    let code_end = &raw const __constant_end as u64;
    (abi::GDT_BASE..abi::FIXED_END)
        .step_by(PAGE as usize)
        .chain((abi::IMAGE_BASE..code_end).step_by(PAGE as usize))
        .take(CONSTANT_PAGES)
}

fn page_at(address: u64) -> &'static Words {
    unsafe { &*(address as *const Words) }
}
