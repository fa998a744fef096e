//! The guest's view of its RAM: data pages, their checksum table, and the parts that never change.

use crate::abi::{self, PAGE, Parameter};
use crate::content::{self, Random, Words};

/// Most pages below and inside the program that never change.
const CONSTANT_PAGES: usize = 256;

unsafe extern "C" {
    static __constant_end: u8;
}

/// The number of a page with a wrong byte.
pub struct WrongPage(pub u32);

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
    /// RAM whose data pages are zero, as are their checksums.
    pub(crate) fn new() -> Self {
        let mut ram = Self {
            data_base: parameter(Parameter::DataBase),
            data_pages: parameter(Parameter::DataPages),
            global_sum: 0,
            cursor: 0,
            constant_sums: [0; CONSTANT_PAGES],
        };
        for (index, address) in constant_pages().enumerate() {
            ram.constant_sums[index] = content::checksum(page_at(address));
        }
        ram
    }

    pub fn data_pages(&self) -> u64 {
        self.data_pages
    }

    /// Changes one data page and keeps its checksum and the global sum true.
    pub fn change(&mut self, page: u64, random: &mut Random) {
        let grown = content::change(random, self.words(page));
        self.grow(page, grown);
    }

    /// Makes the checksum of a data page that of its content.
    pub fn seal(&mut self, page: u64) {
        let sum = content::checksum(self.words(page));
        let grown = sum.wrapping_sub(*self.entry(page));
        self.grow(page, grown);
    }

    fn grow(&mut self, page: u64, grown: u64) {
        let entry = self.entry(page);
        *entry = entry.wrapping_add(grown);
        self.global_sum = self.global_sum.wrapping_add(grown.wrapping_mul(content::page_factor(page)));
    }

    /// Compares a data page with its checksum.
    pub fn verify(&mut self, page: u64) -> Result<(), WrongPage> {
        if content::checksum(self.words(page)) == *self.entry(page) {
            Ok(())
        } else {
            Err(self.wrong_data_page(page))
        }
    }

    /// The page number of a data page.
    pub(crate) fn wrong_data_page(&self, page: u64) -> WrongPage {
        WrongPage((self.data_base / PAGE + page) as u32)
    }

    /// Checks the next `count` pages. True when that completed a pass.
    pub(crate) fn check(&mut self, count: u32) -> Result<bool, WrongPage> {
        let mut passed = false;
        for _ in 0..count {
            self.verify(self.cursor)?;
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
    fn check_rest(&mut self) -> Result<(), WrongPage> {
        let mut sum = 0_u64;
        for page in 0..self.data_pages {
            sum = sum.wrapping_add(self.entry(page).wrapping_mul(content::page_factor(page)));
        }
        if sum != self.global_sum {
            return Err(WrongPage((abi::TABLE_BASE / PAGE) as u32));
        }
        for (index, address) in constant_pages().enumerate() {
            if content::checksum(page_at(address)) != self.constant_sums[index] {
                return Err(WrongPage((address / PAGE) as u32));
            }
        }
        Ok(())
    }

    pub fn words(&mut self, page: u64) -> &mut Words {
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
