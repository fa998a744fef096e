//! What a trace says about itself, as texts beside its columns, and the seal that covers them.

use crate::limits::{TRACE_GROUP_BYTES_MAX, TRACE_GROUP_ROWS, TRACE_GROUPS_MAX, TRACE_SIMULATOR_BYTES_MAX};
use pageswarm_checkpoint::{CheckpointIndex, LineageId, StateRoot};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;

/// What this simulator calls itself in traces.
pub const SIMULATOR: &str = concat!("pageswarm-sim ", env!("CARGO_PKG_VERSION"));

const VERSION: &str = "1";
const SEAL: &str = "pageswarm.seal";
/// Keys in the order in which the seal covers them.
const KEYS: [&str; 9] = [
    "pageswarm.trace",
    "pageswarm.lineage",
    "pageswarm.interval",
    "pageswarm.input_root",
    "pageswarm.end_root",
    "pageswarm.simulator",
    "pageswarm.values",
    "pageswarm.accesses",
    "pageswarm.groups",
];

/// Whether a trace has the bytes that were read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// It has them.
    Kept,
    /// It does not: they read as zeros.
    Omitted,
}

/// What is traced, as far as it is known when the simulation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceSubject {
    /// The lineage.
    pub lineage: LineageId,
    /// The interval.
    pub interval: CheckpointIndex,
    /// State root of the checkpoint that the interval begins with.
    pub input_root: StateRoot,
}

/// What a whole trace says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceHeader {
    /// What is traced.
    pub subject: TraceSubject,
    /// State root of the checkpoint that the simulation arrived at.
    pub end_root: StateRoot,
    /// The simulator that wrote it, at most 256 bytes.
    pub simulator: String,
    /// Whether it has values.
    pub values: Values,
    /// Accesses.
    pub accesses: u64,
}

/// A row group as the trace's directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) rows: usize,
    /// Bytes in the file. Groups lie one after the other behind the first four bytes.
    pub(crate) bytes: u64,
    /// Least and greatest instruction number.
    pub(crate) instructions: (u64, u64),
    /// BLAKE3-256 of its bytes.
    pub(crate) digest: [u8; 32],
}

/// Why the texts of a file are not those of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// An entry is missing, so this is another kind of Parquet file.
    #[error("has no entry {key}: not a trace, or an exported one")]
    Missing {
        /// Its key.
        key: &'static str,
    },
    /// Made by a program that is newer.
    #[error("is of another version than {VERSION}")]
    Version,
    /// An entry does not say what it should.
    #[error("entry {key} is malformed")]
    Malformed {
        /// Its key.
        key: &'static str,
    },
    /// Entries and seal do not belong together.
    #[error("seal does not fit the other entries")]
    Seal,
}

impl Values {
    const fn text(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Omitted => "omitted",
        }
    }
}

impl Group {
    fn text(&self) -> String {
        let (least, greatest) = self.instructions;
        let digest = blake3::Hash::from_bytes(self.digest).to_hex();
        format!("{} {} {least} {greatest} {digest}", self.rows, self.bytes)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let rows = words.next()?.parse().ok()?;
        let bytes = words.next()?.parse().ok()?;
        let instructions = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let digest = *blake3::Hash::from_hex(words.next()?).ok()?.as_bytes();
        let group = Self { rows, bytes, instructions, digest };
        let is_possible = (1..=TRACE_GROUP_ROWS).contains(&rows)
            && (1..=TRACE_GROUP_BYTES_MAX as u64).contains(&bytes)
            && instructions.0 <= instructions.1;
        (is_possible && group.text() == text).then_some(group)
    }
}

fn seal(texts: &[&str; KEYS.len()]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("pageswarm 2026 trace seal");
    for text in texts {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// The entries of a trace, key and text.
pub(crate) fn entries(header: &TraceHeader, groups: &[Group]) -> Vec<(&'static str, String)> {
    let mut directory = String::new();
    for group in groups {
        let written = writeln!(directory, "{}", group.text());
        debug_assert!(written.is_ok(), "a text takes whatever is written to it");
    }
    let texts = [
        VERSION.to_owned(),
        header.subject.lineage.to_string(),
        header.subject.interval.to_string(),
        header.subject.input_root.to_string(),
        header.end_root.to_string(),
        header.simulator.clone(),
        header.values.text().to_owned(),
        header.accesses.to_string(),
        directory,
    ];
    let sealed = seal(&texts.each_ref().map(String::as_str));
    KEYS.into_iter().zip(texts).chain([(SEAL, sealed)]).collect()
}

/// Reads entries back.
pub(crate) fn parse(entries: &BTreeMap<&str, &str>) -> Result<(TraceHeader, Vec<Group>), HeaderError> {
    let text = |key: &'static str| entries.get(key).copied().ok_or(HeaderError::Missing { key });
    if text(KEYS[0])? != VERSION {
        return Err(HeaderError::Version);
    }
    let mut texts = [""; KEYS.len()];
    for (place, key) in texts.iter_mut().zip(KEYS) {
        *place = text(key)?;
    }
    if text(SEAL)? != seal(&texts) {
        return Err(HeaderError::Seal);
    }
    let [_, lineage, interval, input_root, end_root, simulator, values, accesses, directory] = texts;
    let subject = TraceSubject {
        lineage: named(KEYS[1], lineage)?,
        interval: CheckpointIndex(number(KEYS[2], interval)?),
        input_root: named(KEYS[3], input_root)?,
    };
    let malformed = |key| HeaderError::Malformed { key };
    // It is shown to people: nothing in it may speak to their terminal.
    if simulator.len() > TRACE_SIMULATOR_BYTES_MAX || simulator.chars().any(char::is_control) {
        return Err(malformed(KEYS[5]));
    }
    let values = [Values::Kept, Values::Omitted].into_iter().find(|kind| kind.text() == values);
    let groups: Option<Vec<Group>> = directory.lines().take(TRACE_GROUPS_MAX + 1).map(Group::parse).collect();
    let groups = groups.filter(|groups| groups.len() <= TRACE_GROUPS_MAX).ok_or(malformed(KEYS[8]))?;
    let header = TraceHeader {
        subject,
        end_root: named(KEYS[4], end_root)?,
        simulator: simulator.to_owned(),
        values: values.ok_or(malformed(KEYS[6]))?,
        accesses: number(KEYS[7], accesses)?,
    };
    let rows: u64 = groups.iter().map(|group| group.rows as u64).sum();
    if rows != header.accesses {
        return Err(malformed(KEYS[7]));
    }
    Ok((header, groups))
}

/// A hash, written as this program writes it.
fn named<T: FromStr + ToString>(key: &'static str, text: &str) -> Result<T, HeaderError> {
    let parsed = text.parse().ok().filter(|name: &T| name.to_string() == text);
    parsed.ok_or(HeaderError::Malformed { key })
}

fn number(key: &'static str, text: &str) -> Result<u64, HeaderError> {
    named(key, text)
}
