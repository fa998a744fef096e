//! Packs: append-only files of self-describing records. Owns their bytes and files; knows no index.

mod append;
mod cached_tail;
mod files;
mod header;
mod record;
mod scan;
mod write_behind;

use std::fmt;

pub(crate) use append::{ActivePack, Appender, PackTotals};
pub(crate) use files::{OpenPack, PackFiles, read_up_to, sync_dir};
pub(crate) use header::{PACK_HEADER_BYTES, Salt};
pub(crate) use record::{HEADER_BYTES, RecordHeader, RecordKind};
pub(crate) use scan::{ScanEvent, Scanner};

/// The number of a pack, from 1; its file is named after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackNumber(pub u32);

impl PackNumber {
    /// The file's name in the directory of packs.
    pub(crate) fn file_name(self) -> String {
        format!("{:010}.pack", self.0)
    }

    /// The number in a file's name; `None` for a file that is no pack.
    pub(crate) fn of_file_name(name: &str) -> Option<Self> {
        let number = Self(name.strip_suffix(".pack")?.parse().ok()?);
        (number.0 > 0 && number.file_name() == name).then_some(number)
    }
}

impl fmt::Display for PackNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
