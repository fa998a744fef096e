//! How RocksDB is opened: small values, point look-ups, bounded memory, few files, nothing compressed.

use std::path::Path;

use rocksdb::{BlockBasedOptions, Cache, DB, DBCompressionType, LogLevel, Options};

use crate::fault::IndexError;

const BLOCK_CACHE_BYTES: usize = 64 * 1024 * 1024;
/// The cache's table grows as it is filled: one for as many blocks as there is room for takes megabytes in an idle
/// node.
const BLOCK_BYTES_UNKNOWN: usize = 0;
const WRITE_BUFFER_BYTES: usize = 16 * 1024 * 1024;
const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
const TABLE_BYTES: u64 = 64 * 1024 * 1024;
const LOG_BYTES_MAX: usize = 1024 * 1024;
const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
const OPEN_TABLES_MAX: i32 = 128;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// The filter of a memory table, as a part of the table: 10 to 14 bits for each of the locations that fill one, which
/// are 150,000 with bases or 200,000 without.
const MEMORY_BLOOM_SHARE: f64 = 1.0 / 64.0;

/// Opens or creates the index in `dir`.
pub(super) fn open(dir: &Path) -> Result<DB, IndexError> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_paranoid_checks(true);
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_TABLES_MAX);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(LOG_BYTES_MAX);
    options.set_max_manifest_file_size(MANIFEST_BYTES_MAX);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    let family = family_options();
    // Hashes are as good as random: nothing to compress in keys, nothing in values.
    Ok(DB::open_cf_with_opts(&options, dir, [("default", family)])?)
}

fn family_options() -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    tables.set_block_cache(&Cache::new_hyper_clock_cache(BLOCK_CACHE_BYTES, BLOCK_BYTES_UNKNOWN));
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut family = Options::default();
    family.set_compression_type(DBCompressionType::None);
    family.set_write_buffer_size(WRITE_BUFFER_BYTES);
    family.set_max_write_buffer_number(3);
    // Most questions are about chunks that are not held: the memory table answers those as tables do.
    family.set_memtable_whole_key_filtering(true);
    family.set_memtable_prefix_bloom_ratio(MEMORY_BLOOM_SHARE);
    family.set_target_file_size_base(TABLE_BYTES);
    family.set_block_based_table_factory(&tables);
    family
}
