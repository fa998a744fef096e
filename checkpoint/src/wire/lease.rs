//! Asking the host of a lineage's lease table for intervals to simulate, and its answers.

use crate::codec::{FormatError, Put, Take, length_u64};
use crate::ids::{CheckpointIndex, LineageId};

/// The most simulations one worker may run at a time.
pub const JOBS_MAX: u64 = 64;
/// The most intervals that one message names.
pub const LEASE_LIST_MAX: usize = 128;

/// What a worker says to the host of a lineage's lease table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Whose intervals.
    pub lineage: LineageId,
    /// What it wants.
    pub wish: LeaseWish,
}

/// What a worker wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseWish {
    /// One more interval.
    Ask {
        /// Simulations that it runs at a time, from 1 to [`JOBS_MAX`]; for each it may hold two leases.
        jobs: u64,
        /// Intervals that it would take, ascending, with the encoded bytes that it lacks of each. None
        /// at first: the host then names candidates.
        lacks: Vec<(CheckpointIndex, u64)>,
    },
    /// It still works on these, ascending.
    Renew(Vec<CheckpointIndex>),
    /// It cannot do this one now.
    GiveBack(CheckpointIndex),
}

/// What the host answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// The interval is the worker's until it is not renewed for so long.
    Granted {
        /// Which.
        interval: CheckpointIndex,
        /// For how many milliseconds after each renewal.
        term_ms: u64,
    },
    /// These can be had: how much is lacked of each? Ascending.
    Candidates(Vec<CheckpointIndex>),
    /// Nothing can be had now.
    Idle {
        /// Whether every interval that was recorded so far has a result.
        finished: bool,
    },
    /// Renewed, or taken back.
    Noted,
    /// No lease.
    Refused(LeaseRefusal),
}

/// Why there is no lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseRefusal {
    /// The node that was asked keeps no lease tables.
    NoHost,
    /// The asker's role does not allow it to simulate for others.
    NoWorker,
    /// The lineage is not known there.
    UnknownLineage,
    /// Others found that the asker signed false results.
    Distrusted,
    /// Too many requests wait there.
    Busy,
}

impl LeaseRefusal {
    const ALL: [Self; 5] = [Self::NoHost, Self::NoWorker, Self::UnknownLineage, Self::Distrusted, Self::Busy];

    const fn tag(self) -> u8 {
        match self {
            Self::NoHost => 1,
            Self::NoWorker => 2,
            Self::UnknownLineage => 3,
            Self::Distrusted => 4,
            Self::Busy => 5,
        }
    }
}

impl std::fmt::Display for LeaseRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoHost => "the node keeps no lease tables: it is neither publisher nor admin",
            Self::NoWorker => {
                "the role of this node does not allow it to simulate for others: it takes worker"
            }
            Self::UnknownLineage => "the lineage is not known there",
            Self::Distrusted => "other workers found that this node signed false results",
            Self::Busy => "too many requests wait there",
        })
    }
}

impl LeaseRequest {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.lineage.as_bytes());
        match &self.wish {
            LeaseWish::Ask { jobs, lacks } => {
                out.push(1);
                out.put_varint(*jobs);
                out.put_varint(length_u64(lacks.len()));
                let mut next = 0;
                for (interval, bytes) in lacks {
                    put_gap(out, &mut next, *interval);
                    out.put_varint(*bytes);
                }
            }
            LeaseWish::Renew(intervals) => {
                out.push(2);
                put_intervals(out, intervals);
            }
            LeaseWish::GiveBack(interval) => {
                out.push(3);
                out.put_varint(interval.0);
            }
        }
    }

    pub(super) fn take(take: &mut Take<'_>) -> Result<Self, FormatError> {
        let lineage = LineageId(take.array()?);
        let wish = match take.byte()? {
            1 => {
                let jobs = take.varint()?;
                take.require((1..=JOBS_MAX).contains(&jobs), "number of jobs")?;
                let mut lacks = Vec::new();
                let mut next = 0;
                for _ in 0..take.count(LEASE_LIST_MAX)? {
                    let interval = take_gap(take, &mut next)?;
                    lacks.push((interval, take.varint()?));
                }
                LeaseWish::Ask { jobs, lacks }
            }
            2 => LeaseWish::Renew(take_intervals(take)?),
            3 => {
                let mut first = 0;
                LeaseWish::GiveBack(take_gap(take, &mut first)?)
            }
            _ => return Err(FormatError::Unexpected { at: take.position(), what: "kind of wish" }),
        };
        Ok(Self { lineage, wish })
    }
}

impl LeaseAnswer {
    /// The bytes of the frame, its length excluded.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Granted { interval, term_ms } => {
                out.push(1);
                out.put_varint(interval.0);
                out.put_varint(*term_ms);
            }
            Self::Candidates(intervals) => {
                out.push(2);
                put_intervals(&mut out, intervals);
            }
            Self::Idle { finished } => out.extend_from_slice(&[3, u8::from(*finished)]),
            Self::Noted => out.push(4),
            Self::Refused(why) => out.extend_from_slice(&[5, why.tag()]),
        }
        out
    }

    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// [`FormatError`] for anything that [`LeaseAnswer::encode`] does not write.
    pub fn decode(frame: &[u8]) -> Result<Self, FormatError> {
        let mut take = Take::new(frame);
        let answer = match take.byte()? {
            1 => {
                let mut first = 0;
                Self::Granted { interval: take_gap(&mut take, &mut first)?, term_ms: take.varint()? }
            }
            2 => Self::Candidates(take_intervals(&mut take)?),
            3 => {
                let finished = take.byte()?;
                take.require(finished <= 1, "flag")?;
                Self::Idle { finished: finished == 1 }
            }
            4 => Self::Noted,
            5 => {
                let tag = take.byte()?;
                let why = LeaseRefusal::ALL.into_iter().find(|why| why.tag() == tag);
                Self::Refused(why.ok_or(FormatError::Unexpected { at: take.position(), what: "reason" })?)
            }
            _ => return Err(FormatError::Unexpected { at: 0, what: "kind of answer" }),
        };
        take.finish()?;
        Ok(answer)
    }
}

fn put_intervals(out: &mut Vec<u8>, intervals: &[CheckpointIndex]) {
    out.put_varint(length_u64(intervals.len()));
    let mut next = 0;
    intervals.iter().for_each(|interval| put_gap(out, &mut next, *interval));
}

fn take_intervals(take: &mut Take<'_>) -> Result<Vec<CheckpointIndex>, FormatError> {
    let mut next = 0;
    let count = take.count(LEASE_LIST_MAX)?;
    (0..count).map(|_| take_gap(take, &mut next)).collect()
}

fn put_gap(out: &mut Vec<u8>, next: &mut u64, interval: CheckpointIndex) {
    out.put_varint(interval.0 - *next);
    *next = interval.0 + 1;
}

/// An interval below the largest number, so that a checkpoint can follow it.
fn take_gap(take: &mut Take<'_>, next: &mut u64) -> Result<CheckpointIndex, FormatError> {
    let at = take.position();
    let interval = next.checked_add(take.varint()?).filter(|interval| *interval < u64::MAX);
    let interval = interval.ok_or(FormatError::Number { at })?;
    *next = interval + 1;
    Ok(CheckpointIndex(interval))
}
