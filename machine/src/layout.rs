//! Where everything is in guest-physical memory, and the tables that the processor reads there.

use crate::abi;
use crate::cpu::{Segment, Table};
use pageswarm_checkpoint::PageNumber;

/// RAM is a whole number of these: the guest maps it with pages of 2 MiB.
pub const RAM_STEP_BYTES: u64 = 2 << 20;
/// The least RAM that the guest runs in.
pub const RAM_BYTES_MIN: u64 = 64 << 20;
/// The most RAM that the fixed page-table area maps.
pub const RAM_BYTES_MAX: u64 = abi::RAM_GIB_MAX << 30;

const PRESENT_WRITE_USER_ACCESSED: u64 = 0x27;
const LARGE_DIRTY: u64 = 0xc0;

const CODE_SELECTOR: u16 = 0x33;
const STACK_SELECTOR: u16 = 0x2b;
const TASK_SELECTOR: u16 = 0x40;
const GDT_LIMIT: u16 = 0x4f;
/// 104 bytes of TSS, 8192 of bitmap, and the byte of ones that must end it.
const TSS_LIMIT: u32 = 104 + 8192;

/// The RAM size is one that the guest cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("guest RAM of {ram_bytes} bytes is not a multiple of 2 MiB between 64 MiB and 32 GiB")]
pub struct RamSizeError {
    /// The size asked for.
    pub ram_bytes: u64,
}

/// The layout for one RAM size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    ram_bytes: u64,
    data_base: u64,
}

impl Layout {
    /// The layout for RAM of `ram_bytes`.
    ///
    /// # Errors
    /// When the size is not a multiple of 2 MiB between 64 MiB and 32 GiB.
    pub fn new(ram_bytes: u64) -> Result<Self, RamSizeError> {
        let possible = (RAM_BYTES_MIN..=RAM_BYTES_MAX).contains(&ram_bytes);
        if !possible || !ram_bytes.is_multiple_of(RAM_STEP_BYTES) {
            return Err(RamSizeError { ram_bytes });
        }
        let table_bytes = (ram_bytes / abi::PAGE * 8).next_multiple_of(abi::PAGE);
        Ok(Self { ram_bytes, data_base: abi::TABLE_BASE + table_bytes })
    }

    /// Bytes of RAM.
    #[must_use]
    pub const fn ram_bytes(&self) -> u64 {
        self.ram_bytes
    }

    /// Pages of RAM.
    #[must_use]
    pub fn ram_pages(&self) -> u32 {
        u32::try_from(self.ram_bytes / abi::PAGE).expect("at most 32 GiB of RAM")
    }

    /// Address of the first data page.
    #[must_use]
    pub const fn data_base(&self) -> u64 {
        self.data_base
    }

    /// Number of data pages.
    #[must_use]
    pub const fn data_pages(&self) -> u64 {
        (self.ram_bytes - self.data_base) / abi::PAGE
    }

    /// The page number of data page 0.
    #[must_use]
    pub fn first_data_page(&self) -> PageNumber {
        PageNumber(u32::try_from(self.data_base / abi::PAGE).expect("at most 32 GiB of RAM"))
    }

    /// Writes descriptor tables, task state segment and page tables into `ram`, which must be this layout's size.
    pub(crate) fn write_tables(&self, ram: &mut [u8]) {
        put(ram, abi::GDT_BASE + u64::from(STACK_SELECTOR & !7), stack_segment().descriptor());
        put(ram, abi::GDT_BASE + u64::from(CODE_SELECTOR & !7), code_segment().descriptor());
        put(ram, abi::GDT_BASE + u64::from(TASK_SELECTOR), task_segment().descriptor());
        put(ram, abi::GDT_BASE + u64::from(TASK_SELECTOR) + 8, abi::TSS_BASE >> 32);
        // The I/O map base field at offset 102 of the TSS: the bitmap starts at offset 104, all ports allowed.
        put(ram, abi::TSS_BASE + 96, 104 << 48);
        put(ram, abi::TSS_BASE + u64::from(TSS_LIMIT) - 7, 0xff << 56);
        put(ram, abi::PML4_BASE, abi::PDPT_BASE | PRESENT_WRITE_USER_ACCESSED);
        for gib in 0..self.ram_bytes.div_ceil(1 << 30) {
            let directory = abi::PAGE_DIRECTORY_BASE + gib * abi::PAGE;
            put(ram, abi::PDPT_BASE + gib * 8, directory | PRESENT_WRITE_USER_ACCESSED);
        }
        for step in 0..self.ram_bytes / RAM_STEP_BYTES {
            let entry = (step * RAM_STEP_BYTES) | PRESENT_WRITE_USER_ACCESSED | LARGE_DIRTY;
            put(ram, abi::PAGE_DIRECTORY_BASE + step * 8, entry);
        }
    }
}

/// Stores one 64-bit word at a guest-physical address below the layout's end.
pub(crate) fn put(ram: &mut [u8], address: u64, value: u64) {
    let start = usize::try_from(address).expect("an address inside a slice");
    ram[start..start + 8].copy_from_slice(&value.to_le_bytes());
}

/// Ring 3 code, 64 bits.
pub(crate) const fn code_segment() -> Segment {
    Segment { selector: CODE_SELECTOR, base: 0, limit: u32::MAX, attributes: 0xa0fb }
}

/// Ring 3 data and stack.
pub(crate) const fn stack_segment() -> Segment {
    Segment { selector: STACK_SELECTOR, base: 0, limit: u32::MAX, attributes: 0xc0f3 }
}

/// The task state segment, marked busy.
pub(crate) const fn task_segment() -> Segment {
    Segment { selector: TASK_SELECTOR, base: abi::TSS_BASE, limit: TSS_LIMIT, attributes: 0x008b }
}

/// The descriptor table register for the GDT.
pub(crate) const fn gdt() -> Table {
    Table { base: abi::GDT_BASE, limit: GDT_LIMIT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_do_not_overlap_at_any_size() {
        const { assert!(abi::FIXED_END <= abi::IMAGE_BASE) };
        for mib in (64..8192).step_by(2).chain([8192, 32768]) {
            let layout = Layout::new(mib << 20).unwrap();
            assert!(layout.data_base() >= abi::TABLE_BASE + layout.data_pages() * 8);
            assert_eq!(layout.data_base() + layout.data_pages() * abi::PAGE, mib << 20);
            assert!(layout.data_pages() * abi::PAGE > (mib << 20) * 9 / 10);
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for ram_bytes in [0, 62 << 20, (64 << 20) + 4096, (32 << 30) + RAM_STEP_BYTES, u64::MAX] {
            assert_eq!(Layout::new(ram_bytes), Err(RamSizeError { ram_bytes }));
        }
    }
}
