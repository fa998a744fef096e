//! Every bound of this crate, with its unit and its reason.

use std::time::Duration;

/// Bytes of one control frame. A captured page takes 8 bytes in it, so this is room for 32 GiB of RAM.
pub(crate) const FRAME_BYTES_MAX: usize = 96 << 20;
/// File descriptors that travel with one frame.
pub(crate) const FRAME_FDS_MAX: u32 = 2;
/// Bytes of one blob inside a frame: the event log is the largest.
pub(crate) const BLOB_BYTES_MAX: usize = 16 << 20;
/// Console bytes kept until the parent takes them; more are dropped.
pub(crate) const CONSOLE_BYTES_MAX: usize = 64 << 10;
/// Events that the parent has not taken yet; then the child's frames wait in the socket.
pub(crate) const EVENTS_WAITING_MAX: usize = 64;
/// Witness indices in one start message.
pub(crate) const WITNESSES_MAX: usize = 1 << 16;

/// Rounds of {fetch the dirty log, copy} while the guest runs.
pub(crate) const PRECOPY_ROUNDS_MAX: u32 = 4;
/// Pages whose copying takes so short (about 0.3 ms) that the guest can be stopped for it.
pub(crate) const RESIDUAL_PAGES_GOAL: usize = 600;
/// Free staging slots wanted before the guest is stopped for a residual.
pub(crate) const RESIDUAL_SLOTS: usize = 4096;
/// Free staging slots worth waking up for when all were taken.
pub(crate) const SLOTS_WORTH_WAITING_FOR: usize = 1024;
/// Staging slots without which no checkpoint can be taken.
pub(crate) const STAGING_SLOTS_MIN: usize = 2048;

/// Between two pace batches.
pub(crate) const PACE_BATCH: Duration = Duration::from_millis(1);
/// Between two pace batches of a guest that has stopped working.
pub(crate) const PACE_IDLE: Duration = Duration::from_millis(10);
/// Work that a guest may catch up on after it was held back; older work is forgotten.
pub(crate) const PACE_BACKLOG: Duration = Duration::from_millis(50);
/// Pages that one batch checks when the guest verifies as fast as it can.
pub(crate) const VERIFY_CHECK_PAGES: u32 = 2048;
/// Port reads left in the event log when the interval must end.
pub(crate) const EVENT_MARGIN: usize = 64;

/// Until a child process says that it is ready.
pub(crate) const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Until a child whose control socket closed has ended by itself.
pub(crate) const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two reports of console text and counters.
pub(crate) const REPORT_PERIOD: Duration = Duration::from_millis(20);

/// Pages around a fault that are filled with it.
pub(crate) const FAULT_PAGES: u32 = 16;
/// Pages of one background fill.
pub(crate) const PREFETCH_PAGES: u32 = 64;
/// Between two rounds of the background over pages that the source did not have.
pub(crate) const PREFETCH_ROUND: Duration = Duration::from_millis(20);
/// Faults whose time and page are kept.
pub(crate) const FIRST_FAULTS: usize = 4096;
/// Retries of a fill that the kernel says to try again.
pub(crate) const FILL_RETRIES: u32 = 100_000;

const _: () = assert!(RESIDUAL_PAGES_GOAL < RESIDUAL_SLOTS);
const _: () = assert!(FAULT_PAGES <= PREFETCH_PAGES);
const _: () = assert!(PREFETCH_PAGES as usize <= 64, "one bit a page says what is there");
const _: () = assert!(pageswarm_machine::event::EVENTS_MAX * 8 + 16 <= BLOB_BYTES_MAX);
const _: () = assert!(EVENT_MARGIN * 2 < pageswarm_machine::event::EVENTS_MAX);
