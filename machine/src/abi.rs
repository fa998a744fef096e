//! The guest ABI's constants: addresses, ports and the parameter page; compiled into host and guests alike.

/// Bytes of one page.
pub const PAGE: u64 = 4096;
/// 64-bit words of one page.
pub const WORDS: usize = 512;

/// Global descriptor table, one page.
pub const GDT_BASE: u64 = 0x1000;
/// Task state segment with a zeroed I/O permission bitmap for all 65,536 ports, three pages.
pub const TSS_BASE: u64 = 0x2000;
/// Top-level page table.
pub const PML4_BASE: u64 = 0x5000;
/// Second-level page table.
pub const PDPT_BASE: u64 = 0x6000;
/// Page directories, one page for each GiB of RAM.
pub const PAGE_DIRECTORY_BASE: u64 = 0x7000;
/// Largest RAM the fixed page-table area can map.
pub const RAM_GIB_MAX: u64 = 32;
/// The parameter page: see [`Parameter`].
pub const PARAMETER_BASE: u64 = PAGE_DIRECTORY_BASE + RAM_GIB_MAX * PAGE;
/// First byte after the area below the program that never changes once the guest runs.
pub const FIXED_END: u64 = PARAMETER_BASE + PAGE;
/// Where the guest program is linked.
pub const IMAGE_BASE: u64 = 0x10_0000;
/// Pages of a block: what one job of a guest works on.
pub const BLOCK_PAGES: u64 = 16;

/// First byte that the guest program may not use.
pub const IMAGE_END: u64 = 0x1e_0000;
/// The stack grows down from here.
pub const STACK_TOP: u64 = 0x20_0000;
/// The checksum table: one 64-bit sum for each data page; the data pages follow it.
pub const TABLE_BASE: u64 = 0x20_0000;

/// The first parameter word of every valid parameter page.
pub const PARAMETER_MAGIC: u64 = 0x5741_5753_4547_4150;

/// Index of each 64-bit word in the parameter page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Parameter {
    /// [`PARAMETER_MAGIC`].
    Magic = 0,
    /// Seed of contents and of the order of writes.
    Seed = 1,
    /// Pages dirtied as one consecutive run.
    RunPages = 2,
    /// Guest-physical address of the first data page.
    DataBase = 3,
    /// Number of data pages.
    DataPages = 4,
}

/// Out, 8 bits: one byte of console text.
pub const PORT_CONSOLE: u16 = 0x3f8;
/// In, 32 bits: low 16 bits pages to dirty now, high 16 bits pages to self-check now. A guest that works on blocks does a
/// job when it has been told as many pages as a block has.
pub const PORT_PACE: u16 = 0x510;
/// In, 32 bits: low half of the clock, in nanoseconds.
pub const PORT_CLOCK_LOW: u16 = 0x514;
/// In, 32 bits: high half of the clock.
pub const PORT_CLOCK_HIGH: u16 = 0x518;
/// Out, 32 bits: self-check passes completed.
pub const PORT_PASSES: u16 = 0x520;
/// Out, 32 bits: low half of the operation counter; takes effect with the high half.
pub const PORT_OPERATIONS_LOW: u16 = 0x524;
/// Out, 32 bits: high half of the operation counter.
pub const PORT_OPERATIONS_HIGH: u16 = 0x528;
/// Out, 32 bits: number of a page with a wrong byte.
pub const PORT_WRONG_PAGE: u16 = 0x52c;
/// Out, 32 bits: what the guest is doing, one of the `PHASE_*` values.
pub const PORT_PHASE: u16 = 0x530;

/// The base image is being written.
pub const PHASE_FILLING: u32 = 1;
/// The workload runs.
pub const PHASE_RUNNING: u32 = 2;
/// A wrong byte was found; the guest does no more work.
pub const PHASE_STOPPED: u32 = 3;
