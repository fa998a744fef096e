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
// Rights are given page by page.
const _: () = assert!(CODE_BYTES.is_multiple_of(1 << 12));
// A block's length and an instruction's place in it are bytes.
const _: () = assert!(BLOCK_INSTRUCTIONS < 256);
/// Bytes of translated code kept; when there are more, all decoded and translated code is forgotten.
pub(crate) const CODE_BYTES: usize = 4 << 20;
/// Runs of a block before it is translated: most code of a short interval is not worth it.
pub(crate) const RUNS_BEFORE_TRANSLATION: u16 = 64;
/// Fewer instructions in a row are interpreted.
pub(crate) const STRETCH_INSTRUCTIONS_MIN: usize = 3;
/// The same where accesses to memory are interpreted, and cut blocks into many.
pub(crate) const QUIET_STRETCH_INSTRUCTIONS_MIN: usize = 10;
/// Iterations of a repeated instruction before the interpreter looks around.
pub(crate) const REPEATS_AT_ONCE: u32 = 4096;

/// Accesses of one row group of a trace.
pub(crate) const TRACE_GROUP_ROWS: usize = 1 << 18;
/// Row groups of a trace: four billion accesses.
pub(crate) const TRACE_GROUPS_MAX: usize = 1 << 14;
/// Columns of a trace with values.
pub(crate) const TRACE_COLUMNS: usize = 7;
/// Bytes of a trace's footer.
pub(crate) const TRACE_FOOTER_BYTES_MAX: u32 = 32 << 20;
/// Entries of a trace's metadata, each a key and a text.
pub(crate) const TRACE_ENTRIES_MAX: usize = 64;
/// Bytes of the name of the simulator that wrote a trace.
pub(crate) const TRACE_SIMULATOR_BYTES_MAX: usize = 256;
/// Bytes of a column's page once it is decompressed: a value for each access, and the levels that say which are there.
pub(crate) const TRACE_PAGE_BYTES_MAX: usize = TRACE_GROUP_ROWS * 8 + TRACE_GROUP_ROWS / 2 + 64;
/// Bytes of a row group as it is in the file.
pub(crate) const TRACE_GROUP_BYTES_MAX: usize = TRACE_COLUMNS * (TRACE_PAGE_BYTES_MAX + (1 << 16));
/// Different addresses that one query about a trace counts.
pub(crate) const QUERY_KEYS_MAX: usize = 1 << 22;
/// Rows of an answer.
pub(crate) const QUERY_ROWS_MAX: usize = 1 << 20;

const _: () = assert!(TRACE_GROUP_BYTES_MAX < 32 << 20);
/// Places for instructions that were decoded for single steps; a power of two, as the places of blocks.
pub(crate) const STEP_PLACES: usize = 1 << 12;

const _: () = assert!(STEP_PLACES.is_power_of_two() && STEP_PLACES <= 1 << 16);

/// Snapshots of one interval that a debugged session keeps.
pub(crate) const SNAPSHOTS_MAX: usize = 64;
/// Bytes of pages that those snapshots keep, beyond which they are thinned out. The interval's start is always kept, so
/// one version of each page that the interval wrote may be beyond it.
pub(crate) const SNAPSHOT_BYTES_MAX: usize = 256 << 20;
/// Work between two snapshots: a hundredth of a second.
pub(crate) const SNAPSHOT_WORK: u64 = 1 << 20;
/// No snapshot comes closer than this to where a session goes back to.
pub(crate) const SNAPSHOT_WORK_MIN: u64 = 1 << 8;
/// Work between two looks at whether the debugger wants something.
pub(crate) const DEBUG_SLICE: u64 = 1 << 19;
/// How far [`crate::Simulator::run`] may go beyond what it was asked for: a block and the repetitions of its last
/// instruction, and as much again.
pub(crate) const RUN_MARGIN: u64 = 2 * (REPEATS_AT_ONCE as u64 + BLOCK_INSTRUCTIONS as u64);
/// Breakpoints of a session.
pub(crate) const BREAKPOINTS_MAX: usize = 1024;
/// Watchpoints of a session.
pub(crate) const WATCHPOINTS_MAX: usize = 64;
/// Bytes of one packet of the remote protocol, either way.
pub(crate) const PACKET_BYTES: usize = 1 << 14;

const _: () = assert!(SNAPSHOTS_MAX >= 16 && SNAPSHOT_WORK_MIN >= 8 && SNAPSHOT_WORK > SNAPSHOT_WORK_MIN);
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
