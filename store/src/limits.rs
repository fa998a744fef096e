//! Every bound of the store, with the relations between them proven at compile time.

use pageswarm_checkpoint::CHUNK_BYTES_MAX;

/// A pack that has reached this many bytes is sealed, and the next record opens a new one.
pub const PACK_BYTES_SEALED: u64 = 256 * 1024 * 1024;

/// The longest metadata object: the keyframe of a guest with 32 GiB of RAM, all pages distinct, fits.
pub const OBJECT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The most patches between a stored chunk and one that is stored without a base.
pub const CHAIN_DEPTH_MAX: usize = 2;

/// How far a reader follows bases. Longer than [`CHAIN_DEPTH_MAX`], because a base that was lost may have come
/// back as a patch itself; whatever is longer still is a cycle.
pub const CHAIN_WALK_MAX: usize = 16;

/// The most objects that one checkpoint may rely on: its head, deltas back to a keyframe, interval records.
pub const COMMIT_OBJECTS_MAX: usize = 65_536;

/// The longest key of a note.
pub const NOTE_KEY_BYTES_MAX: usize = 256;

/// The longest value of a note.
pub const NOTE_VALUE_BYTES_MAX: usize = 64 * 1024;

/// Entries that may wait in memory for the sync that lets them into the index. Few, so that little is left to do when
/// an acknowledgement waits.
pub const PENDING_ENTRIES_MAX: usize = 16_384;

/// Locations of chunks kept in memory, in two generations: at most about 220 MB.
pub const RECENT_LOCATIONS_MAX: usize = 1_835_008;

/// Pack bytes that may be written before the next sync.
pub const UNSYNCED_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Bytes of packs that stay in the kernel's page cache because they were written: those written last. What is read later is
/// not counted.
pub const PACK_BYTES_CACHED: u64 = 512 * 1024 * 1024;

/// Bytes written to a pack before their way to the disk is begun, without waiting for it.
pub const WRITE_BEHIND_BYTES: u64 = 8 * 1024 * 1024;

/// Bytes collected before a write to the pack.
pub const WRITE_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Chunks decoded together: with their bases they fill at most 64 MiB a level of patches.
pub const READ_WINDOW_CHUNKS: usize = 1024;

/// The longest single read from a pack while chunks are read in batches.
pub const RUN_BYTES_MAX: usize = 1024 * 1024;

/// Records at most this far apart are read together: reading the gap costs less than another call.
pub const RUN_GAP_BYTES_MAX: u64 = 16 * 1024;

/// Pack files held open.
pub const OPEN_PACKS_MAX: usize = 256;

/// Bad chunks and damaged regions remembered one by one; more are only counted.
pub const FAULTS_KEPT_MAX: usize = 65_536;

/// Index entries a scan of packs collects before it writes them.
pub const SCAN_BATCH_ENTRIES: usize = 65_536;

/// The longest payload of any record; a scan takes a header that claims more for damage.
pub const RECORD_BYTES_MAX: usize = OBJECT_BYTES_MAX;

const _: () = {
    assert!(CHUNK_BYTES_MAX + 32 <= RUN_BYTES_MAX);
    assert!(COMMIT_OBJECTS_MAX * 32 + 128 <= RECORD_BYTES_MAX);
    assert!(CHAIN_DEPTH_MAX < CHAIN_WALK_MAX);
    // What is taken out of the cache was synced before, but for a batch longer than any; the kernel keeps what is not.
    assert!(UNSYNCED_BYTES_MAX + PACK_BYTES_SEALED <= PACK_BYTES_CACHED);
    // Offsets within a pack are 32 bits: the last record starts below the seal and is at most this long.
    assert!(PACK_BYTES_SEALED + RECORD_BYTES_MAX as u64 + 4096 < u32::MAX as u64);
};
