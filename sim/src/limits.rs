//! How large the interpreter's tables may grow.

/// Pages that the soft TLB remembers, for reads and for writes each; a power of two.
pub(crate) const TLB_ENTRIES: usize = 1024;
/// Places for the first blocks that a jump finds at once; a power of two.
pub(crate) const BLOCK_PLACES: usize = 1 << 14;
/// Decoded instructions kept; when there are more, all are forgotten.
pub(crate) const INSTRUCTIONS_KEPT: usize = 1 << 17;
/// Instructions of one block.
pub(crate) const BLOCK_INSTRUCTIONS: usize = 48;
/// Most bytes of one instruction.
pub(crate) const INSTRUCTION_BYTES: usize = 15;

const _: () = assert!(TLB_ENTRIES.is_power_of_two() && BLOCK_PLACES.is_power_of_two());
const _: () = assert!(INSTRUCTIONS_KEPT >= 2 * BLOCK_INSTRUCTIONS);
// A block's length and an instruction's place in it are bytes.
const _: () = assert!(BLOCK_INSTRUCTIONS < 256);
/// Iterations of a repeated instruction before the interpreter looks around.
pub(crate) const REPEATS_AT_ONCE: u32 = 4096;
/// Intervals whose own outcome a series of an analysis lists.
pub(crate) const INTERVALS_LISTED: usize = 4096;
/// Instructions that an analysis keeps figures for; those of others are summed.
pub(crate) const PLACES_KEPT: usize = 1 << 14;
/// Rows of places, pages or findings that an outcome shows.
pub(crate) const ROWS_SHOWN: usize = 24;
/// Groups of pages that a heat map tells apart.
pub(crate) const HEAT_GROUPS: usize = 4096;
/// Calls into a region that may be open at the same time; of more, the oldest is forgotten.
pub(crate) const CALLS_OPEN: usize = 64;
/// Bytes whose fetches are remembered in one call.
pub(crate) const FETCHED_BYTES: usize = 1 << 16;
/// Steps that are kept for a call that may be open at an interval's start.
pub(crate) const STEPS_UNDECIDED: usize = 1 << 20;
