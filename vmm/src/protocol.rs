//! The control protocol between the node process and a VM's process: its messages and their byte form.

use crate::capture::{CaptureKind, Strategy};
use crate::captured::{Captured, PageBatch, SavedState, blob, put_blob};
use crate::failure::VmFailure;
use crate::limits::WITNESSES_MAX;
use crate::pace::PaceMode;
use crate::processor::ProcessorKind;
use crate::report::Report;
use pageswarm_machine::PageNumber;
use pageswarm_machine::bytes::{BytesError, Reader};
use pageswarm_machine::devices::Phase;
use std::collections::BTreeSet;

/// Whether the child's RAM is complete when it starts, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Residency {
    Complete,
    Lazy,
    /// An image, which is complete; what the guest writes stays in the child.
    Cloned,
}

/// The first message to a child; RAM and staging memfds travel with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) ram_pages: u32,
    pub(crate) staging_slots: u32,
    pub(crate) residency: Residency,
    pub(crate) processor: ProcessorKind,
    pub(crate) pace: PaceMode,
    pub(crate) strategy: Strategy,
    pub(crate) first_kind: CaptureKind,
    pub(crate) first_index: u64,
    pub(crate) interval_ns: u64,
    pub(crate) state: SavedState,
    pub(crate) witness_dir: Vec<u8>,
    pub(crate) witness: BTreeSet<u64>,
}

/// Messages to the child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToChild {
    Start(Box<Start>),
    Release { batch: u64 },
    SetInterval { interval_ns: u64 },
    Hold,
    Resume,
    Pause,
}

/// Messages to the parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToParent {
    /// The guest is about to run; its RAM is mapped at `base`. A userfaultfd travels with it if RAM is lazy.
    Ready {
        base: u64,
    },
    Console(Vec<u8>),
    Report(Report),
    Pages(PageBatch),
    Captured(Box<Captured>),
    Failed(VmFailure),
}

/// One of a few values, by number.
fn choice<T: Copy>(reader: &mut Reader<'_>, values: &[T]) -> Result<T, BytesError> {
    let number = usize::from(reader.u8()?);
    values.get(number).copied().ok_or(reader.impossible())
}

const STRATEGIES: [Strategy; 3] =
    [Strategy::StopAndCopy, Strategy::IncrementalStopAndCopy, Strategy::PreCopy];
const PROCESSORS: [ProcessorKind; 2] = [ProcessorKind::Kvm, ProcessorKind::Interpreter];
const RESIDENCIES: [Residency; 3] = [Residency::Complete, Residency::Lazy, Residency::Cloned];
const PHASES: [Phase; 4] = [Phase::Start, Phase::Filling, Phase::Running, Phase::Stopped];

fn put_pace(out: &mut Vec<u8>, pace: PaceMode) {
    let (number, first, second) = match pace {
        PaceMode::Rate { dirty_pages_per_second, check_pages_per_second } => {
            (0, dirty_pages_per_second, check_pages_per_second)
        }
        PaceMode::Verify { dirty_first } => (1, dirty_first, 0),
    };
    out.push(number);
    out.extend(first.to_le_bytes());
    out.extend(second.to_le_bytes());
}

fn pace(reader: &mut Reader<'_>) -> Result<PaceMode, BytesError> {
    let (number, first, second) = (reader.u8()?, reader.u32()?, reader.u32()?);
    match number {
        0 => Ok(PaceMode::Rate { dirty_pages_per_second: first, check_pages_per_second: second }),
        1 => Ok(PaceMode::Verify { dirty_first: first }),
        _ => Err(reader.impossible()),
    }
}

impl Start {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.ram_pages.to_le_bytes());
        out.extend(self.staging_slots.to_le_bytes());
        out.push(self.residency as u8);
        out.push(self.processor as u8);
        put_pace(out, self.pace);
        out.push(self.strategy as u8);
        out.push(self.first_kind as u8);
        out.extend(self.first_index.to_le_bytes());
        out.extend(self.interval_ns.to_le_bytes());
        self.state.encode(out);
        put_blob(out, &self.witness_dir);
        out.extend(u32::try_from(self.witness.len()).expect("bounded before").to_le_bytes());
        self.witness.iter().for_each(|index| out.extend(index.to_le_bytes()));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, BytesError> {
        let mut start = Self {
            ram_pages: reader.u32()?,
            staging_slots: reader.u32()?,
            residency: choice(reader, &RESIDENCIES)?,
            processor: choice(reader, &PROCESSORS)?,
            pace: pace(reader)?,
            strategy: choice(reader, &STRATEGIES)?,
            first_kind: CaptureKind::from_number(reader.u8()?).ok_or(reader.impossible())?,
            first_index: reader.u64()?,
            interval_ns: reader.u64()?,
            state: SavedState::decode(reader)?,
            witness_dir: blob(reader)?,
            witness: BTreeSet::new(),
        };
        let count = reader.u32()? as usize;
        if count > WITNESSES_MAX {
            return Err(reader.impossible());
        }
        for _ in 0..count {
            start.witness.insert(reader.u64()?);
        }
        Ok(start)
    }
}

impl ToChild {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Start(start) => {
                out.push(0);
                start.encode(&mut out);
            }
            Self::Release { batch } => {
                out.push(1);
                out.extend(batch.to_le_bytes());
            }
            Self::SetInterval { interval_ns } => {
                out.push(2);
                out.extend(interval_ns.to_le_bytes());
            }
            Self::Hold => out.push(3),
            Self::Resume => out.push(4),
            Self::Pause => out.push(5),
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BytesError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            0 => Self::Start(Box::new(Start::decode(&mut reader)?)),
            1 => Self::Release { batch: reader.u64()? },
            2 => Self::SetInterval { interval_ns: reader.u64()? },
            3 => Self::Hold,
            4 => Self::Resume,
            5 => Self::Pause,
            _ => return Err(reader.impossible()),
        };
        reader.finish()?;
        Ok(message)
    }
}

impl ToParent {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Ready { base } => {
                out.push(0);
                out.extend(base.to_le_bytes());
            }
            Self::Console(text) => {
                out.push(1);
                put_blob(&mut out, text);
            }
            Self::Report(report) => {
                out.push(2);
                out.push(
                    PHASES
                        .iter()
                        .position(|&phase| phase == report.phase)
                        .map_or(0, |at| at.to_le_bytes()[0]),
                );
                out.extend(report.operations.to_le_bytes());
                out.extend(report.passes.to_le_bytes());
                out.extend(report.wrong_page.map_or(u32::MAX, |page| page.0).to_le_bytes());
                out.push(u8::from(report.stands));
            }
            Self::Pages(batch) => {
                out.push(3);
                batch.encode(&mut out);
            }
            Self::Captured(captured) => {
                out.push(4);
                captured.encode(&mut out);
            }
            Self::Failed(failure) => {
                out.push(5);
                failure.encode(&mut out);
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BytesError> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            0 => Self::Ready { base: reader.u64()? },
            1 => Self::Console(blob(&mut reader)?),
            2 => Self::Report(Report {
                phase: choice(&mut reader, &PHASES)?,
                operations: reader.u64()?,
                passes: reader.u32()?,
                wrong_page: Some(reader.u32()?).filter(|&page| page != u32::MAX).map(PageNumber),
                stands: choice(&mut reader, &[false, true])?,
            }),
            3 => Self::Pages(PageBatch::decode(&mut reader)?),
            4 => Self::Captured(Box::new(Captured::decode(&mut reader)?)),
            5 => Self::Failed(VmFailure::decode(&mut reader)?),
            _ => return Err(reader.impossible()),
        };
        reader.finish()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::captured::CaptureFigures;
    use pageswarm_machine::CheckpointIndex;

    fn start() -> Start {
        Start {
            ram_pages: 65_536,
            staging_slots: 4096,
            residency: Residency::Lazy,
            processor: ProcessorKind::Interpreter,
            pace: PaceMode::Rate { dirty_pages_per_second: 53_000, check_pages_per_second: 7 },
            strategy: Strategy::IncrementalStopAndCopy,
            first_kind: CaptureKind::Incremental,
            first_index: 9,
            interval_ns: 500_000_000,
            state: SavedState { cpu: vec![1; 9], devices: vec![2], attachment: vec![] },
            witness_dir: b"/tmp".to_vec(),
            witness: BTreeSet::from([1, 5]),
        }
    }

    fn captured() -> ToParent {
        let last = PageBatch { batch: 3, index: CheckpointIndex(4), pages: vec![(PageNumber(1), 2); 5] };
        let mut figures = CaptureFigures { pause_ns: 1, ..CaptureFigures::default() };
        for (number, field) in (100_u64..).zip(figures.fields()) {
            *field = number;
        }
        let state = start().state;
        ToParent::Captured(Box::new(Captured {
            last,
            kind: CaptureKind::Full,
            state,
            events: vec![8; 77],
            figures,
        }))
    }

    #[test]
    fn messages_travel_and_cut_ones_are_refused() {
        for message in [
            ToChild::Start(Box::new(start())),
            ToChild::Start(Box::new(Start { pace: PaceMode::Verify { dirty_first: 3 }, ..start() })),
            ToChild::Release { batch: 7 },
            ToChild::SetInterval { interval_ns: 1 },
            ToChild::Hold,
            ToChild::Resume,
            ToChild::Pause,
        ] {
            let bytes = message.encode();
            assert_eq!(ToChild::decode(&bytes).as_ref(), Ok(&message));
            assert!((0..bytes.len()).all(|end| ToChild::decode(&bytes[..end]).is_err()));
        }
        let report = Report {
            phase: Phase::Stopped,
            operations: 5,
            passes: 6,
            wrong_page: Some(PageNumber(7)),
            stands: true,
        };
        for message in [
            ToParent::Ready { base: 4096 },
            ToParent::Console(b"text".to_vec()),
            ToParent::Report(report),
            ToParent::Failed(VmFailure::KvmMissing),
            captured(),
        ] {
            let bytes = message.encode();
            assert_eq!(ToParent::decode(&bytes).as_ref(), Ok(&message));
            assert!((0..bytes.len()).all(|end| ToParent::decode(&bytes[..end]).is_err()));
        }
    }

    /// Decodes `bytes` with each byte changed in several ways: nothing panics, and what is taken is written as long and read
    /// the same.
    fn change_every_byte<T: PartialEq + std::fmt::Debug>(
        bytes: &[u8],
        decode: impl Fn(&[u8]) -> Result<T, BytesError>,
        encode: impl Fn(&T) -> Vec<u8>,
    ) {
        let mut changed = bytes.to_vec();
        for at in 0..bytes.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(1)] {
                changed[at] = byte;
                let Ok(value) = decode(&changed) else { continue };
                let again = encode(&value);
                assert!(again.len() <= changed.len(), "byte {at} as {byte}: {value:?}");
                assert_eq!(decode(&again).as_ref(), Ok(&value), "byte {at} as {byte}");
            }
            changed[at] = bytes[at];
        }
    }

    #[test]
    fn no_changed_byte_makes_either_side_panic() {
        let witnesses = BTreeSet::from_iter(0..40);
        for message in
            [ToChild::Start(Box::new(Start { witness: witnesses, ..start() })), ToChild::Release { batch: 7 }]
        {
            change_every_byte(&message.encode(), ToChild::decode, ToChild::encode);
        }
        let report =
            Report { phase: Phase::Stopped, operations: 5, passes: 6, wrong_page: None, stands: false };
        let failed = VmFailure::MsrRefused { index: 0x1b };
        for message in [
            ToParent::Console(b"text".to_vec()),
            ToParent::Report(report),
            ToParent::Failed(failed),
            captured(),
        ] {
            change_every_byte(&message.encode(), ToParent::decode, ToParent::encode);
        }
    }

    #[test]
    fn a_claimed_number_of_pages_is_checked_before_memory_is_taken() {
        let mut bytes = vec![3];
        bytes.extend([0; 16]);
        bytes.extend(u32::MAX.to_le_bytes());
        assert!(ToParent::decode(&bytes).is_err());
    }
}
