//! Accesses for tests of traces, and what writes and reads them.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use pageswarm_checkpoint::{CheckpointIndex, LineageId, StateRoot};
use pageswarm_machine::content::Random;
use pageswarm_sim::trace::{Finished, ReadError, Trace, TraceOptions, TraceSubject, TraceWriter, Values};
use pageswarm_sim::{Access, AccessKind, Observer};
use std::io::Cursor;
use std::ops::RangeInclusive;

pub(crate) const HEADER_SUBJECT: TraceSubject = TraceSubject {
    lineage: LineageId([0x1a; 32]),
    interval: CheckpointIndex(12),
    input_root: StateRoot([0x2b; 32]),
};
pub(crate) const END: StateRoot = StateRoot([0x3c; 32]);

pub(crate) fn subject() -> TraceSubject {
    HEADER_SUBJECT
}

/// Traces and collects.
#[derive(Debug)]
pub(crate) struct Both {
    pub(crate) collected: Vec<Access>,
    pub(crate) writer: TraceWriter<Vec<u8>>,
}

impl Observer for Both {
    fn access(&mut self, access: Access) {
        self.collected.push(access);
        self.writer.access(access);
    }
}

/// A trace of `accesses` in memory.
pub(crate) fn write(accesses: &[Access], values: Values) -> Finished<Vec<u8>> {
    let options = TraceOptions { values, bytes_max: u64::MAX };
    let mut writer = TraceWriter::new(Vec::new(), subject(), options).unwrap();
    accesses.iter().for_each(|access| writer.access(*access));
    writer.finish(END).unwrap()
}

/// What a trace in memory says.
pub(crate) fn read(file: &[u8], instructions: &RangeInclusive<u64>) -> Result<Vec<Access>, ReadError> {
    let (mut trace, mut found) = (Trace::open(Cursor::new(file))?, Vec::new());
    trace.visit(instructions, |access| {
        found.push(*access);
        Ok::<_, ReadError>(())
    })?;
    Ok(found)
}

/// What is left of `accesses` in a trace with or without values.
pub(crate) fn without(accesses: &[Access], values: Values) -> Vec<Access> {
    let of = |access: &Access| match values {
        Values::Kept => *access,
        Values::Omitted => Access { value: 0, ..*access },
    };
    accesses.iter().map(of).collect()
}

/// A few accesses in a loop.
pub(crate) fn some(count: u64) -> Vec<Access> {
    scattered(count).collect()
}

/// Accesses of 50 instructions to 64 KiB at 0x20000, of every size, virtual 16 MiB above physical.
pub(crate) fn scattered(count: u64) -> impl Iterator<Item = Access> {
    let mut random = Random::new(3, 4);
    (0..count).map(move |instruction| {
        let drawn = random.draw();
        let size = [1, 2, 4, 8, 16][usize::try_from(drawn % 5).unwrap()];
        let physical_address = 0x2_0000 + (drawn >> 8) % 4096 * 16;
        let kind = if drawn >> 40 & 3 == 0 { AccessKind::Write } else { AccessKind::Read };
        let bits = 8 * u32::from(size);
        let value = (u128::from(random.draw()) << 64 | u128::from(random.draw())) >> (128 - bits);
        Access {
            instruction,
            rip: 0x1000 + (drawn >> 50) % 50,
            virtual_address: physical_address + 0x100_0000,
            physical_address,
            size,
            kind,
            value,
        }
    })
}
