//! Goal: a trace is read back exactly as it was observed, whatever was observed; what is no whole trace is refused;
//! questions are answered as by looking at every access. Method: random accesses and a guest's, a vector beside each
//! trace, every damaged byte of a file, and a slow obvious answer to each question.

#![expect(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use crate::accesses::{self, Both, END, HEADER_SUBJECT, read, subject, write};
use pageswarm_machine::Workload;
use pageswarm_machine::guest::{self, BootParameters};
use pageswarm_sim::trace::query::{self, ALL_INSTRUCTIONS, PageOrder, Row, Space, Writers};
use pageswarm_sim::trace::{ReadError, Trace, TraceOptions, TraceWriter, Values, WriteError};
use pageswarm_sim::{Access, AccessKind, CompleteRam, Exit, Observer, Simulator};
use proptest::prelude::*;
use std::io::{self, Cursor, Write};
use std::sync::atomic::Ordering;

/// Accesses with something of programs in them: few instructions, near addresses, and now and then anything.
fn accesses() -> impl Strategy<Value = Vec<Access>> {
    let rip = prop_oneof![4 => 0x1000..0x1010_u64, 1 => any::<u64>()];
    let address = prop_oneof![4 => 0x10_0000..0x10_0100_u64, 1 => any::<u64>()];
    let offset = prop_oneof![4 => Just(0x4000_u64), 1 => any::<u64>()];
    let value = prop_oneof![3 => 0..3_u128, 1 => any::<u128>()];
    let step = prop_oneof![6 => 0..3_u64, 1 => any::<u64>()];
    let one = (step, rip, address, offset, prop_oneof![Just(8_u8), any::<u8>()], any::<bool>(), value);
    prop::collection::vec(one, 0..400).prop_map(|rows| {
        let mut instruction = 0_u64;
        let access = |(step, rip, virtual_address, offset, size, is_write, value)| {
            instruction = instruction.wrapping_add(step);
            let physical_address = u64::wrapping_add(virtual_address, offset);
            let kind = if is_write { AccessKind::Write } else { AccessKind::Read };
            Access { instruction, rip, virtual_address, physical_address, size, kind, value }
        };
        rows.into_iter().map(access).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_accesses_are_read_back(accesses in accesses()) {
        for values in [Values::Kept, Values::Omitted] {
            let expected: Vec<Access> = accesses::without(&accesses, values);
            prop_assert_eq!(read(&write(&accesses, values).output, &ALL_INSTRUCTIONS).unwrap(), expected);
        }
    }

    #[test]
    fn parts_are_those_accesses_whose_instructions_were_asked_for(
        accesses in accesses(),
        (start, end) in (0..600_u64, 0..600_u64),
    ) {
        let expected: Vec<Access> =
            accesses.iter().copied().filter(|access| (start..=end).contains(&access.instruction)).collect();
        prop_assert_eq!(read(&write(&accesses, Values::Kept).output, &(start..=end)).unwrap(), expected);
    }
}

/// The guest's first accesses, traced and collected.
fn guest_accesses(values: Values, work: u64) -> (Vec<Access>, Vec<u8>) {
    let mut ram = vec![0; 64 << 20];
    let parameters = BootParameters { seed: 5, workload: Workload::KernelBuild };
    let state = guest::load(&mut ram, parameters).unwrap();
    let options = TraceOptions { values, bytes_max: u64::MAX };
    let writer = TraceWriter::new(Vec::new(), subject(), options).unwrap();
    let both = Both { collected: Vec::new(), writer };
    let mut simulator = Simulator::new(&state, CompleteRam::new(ram), both).unwrap();
    loop {
        match simulator.run(work).unwrap() {
            Exit::Done => break,
            Exit::Input { .. } => simulator.answer(40),
            Exit::Output { .. } | Exit::Breakpoint => {}
        }
    }
    let (_, both) = simulator.into_parts();
    (both.collected, both.writer.finish(END).unwrap().output)
}

#[test]
fn a_guests_accesses_are_read_back_and_take_few_bytes() {
    for (values, bytes_max) in [(Values::Kept, 3.0), (Values::Omitted, 1.0)] {
        let (collected, file) = guest_accesses(values, 4_000_000);
        assert!(collected.len() > 1 << 18, "more than a row group, not {} accesses", collected.len());
        assert!(read(&file, &ALL_INSTRUCTIONS).unwrap() == accesses::without(&collected, values));
        let bytes = file.len() as f64 / collected.len() as f64;
        println!("{values:?}: {} accesses, {bytes:.3} bytes each", collected.len());
        assert!(bytes <= bytes_max, "{bytes} bytes an access");
    }
}

#[test]
fn a_trace_says_what_it_is_of() {
    let file = write(&[], Values::Kept);
    let trace = Trace::open(Cursor::new(&file.output)).unwrap();
    assert_eq!(trace.header().subject, HEADER_SUBJECT);
    assert_eq!((trace.header().end_root, trace.header().values), (END, Values::Kept));
    assert_eq!(trace.header().simulator, pageswarm_sim::trace::SIMULATOR);
    assert_eq!((trace.header().accesses, trace.groups()), (0, 0));
    assert_eq!(file.digest.0, *blake3::hash(&file.output).as_bytes());
    assert_eq!(file.bytes, file.output.len() as u64);
}

#[test]
fn what_is_cut_short_or_changed_is_refused() {
    let accesses = accesses::some(300);
    let file = write(&accesses, Values::Kept).output;
    for length in 0..file.len() {
        assert!(read(&file[..length], &ALL_INSTRUCTIONS).is_err(), "{length} of {} bytes", file.len());
    }
    let (mut refused, mut changed) = (0, file.clone());
    for place in 0..file.len() {
        for flip in [1, 0x80] {
            changed[place] ^= flip;
            // Where nothing that is read was changed, everything is as it was.
            match read(&changed, &ALL_INSTRUCTIONS) {
                Ok(found) => assert_eq!(found, accesses, "byte {place}"),
                Err(_) => refused += 1,
            }
            changed[place] ^= flip;
        }
    }
    assert!(refused > file.len(), "{refused} of {} changes", 2 * file.len());
}

#[test]
fn other_files_are_refused() {
    let open = |bytes: &[u8]| Trace::open(Cursor::new(bytes.to_vec())).map(|_| ());
    assert!(matches!(open(b""), Err(ReadError::NotParquet)));
    assert!(matches!(open(&[0; 100]), Err(ReadError::NotParquet)));
    let lying = [b"PAR1".as_slice(), &[0; 20], &0xffff_fff0_u32.to_le_bytes(), b"PAR1"].concat();
    assert!(matches!(open(&lying), Err(ReadError::FooterSize { bytes: 0xffff_fff0 })));
    // An exported file is a Parquet file, and no trace.
    let trace = write(&accesses::some(10), Values::Kept).output;
    let mut trace = Trace::open(Cursor::new(trace)).unwrap();
    let plain = pageswarm_sim::trace::export(&mut trace, &ALL_INSTRUCTIONS, Vec::new()).unwrap();
    assert!(matches!(open(&plain.output), Err(ReadError::Header(_))));
    // The next version's number, as its footer would have it.
    let mut newer = write(&[], Values::Kept).output;
    let key = newer.windows(15).position(|bytes| bytes == b"pageswarm.trace").unwrap();
    let version = key + 15 + newer[key + 15..].iter().position(|byte| *byte == b'1').unwrap();
    newer[version] = b'2';
    let error = open(&newer).unwrap_err();
    assert!(matches!(error, ReadError::Header(pageswarm_sim::trace::HeaderError::Version)), "{error:?}");
}

/// Takes so many bytes and no more.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_and_a_limit_end_the_trace_with_a_reason() {
    let whole = TraceOptions { values: Values::Kept, bytes_max: u64::MAX };
    let mut writer = TraceWriter::new(Full(50_000), subject(), whole).unwrap();
    let flag = writer.failure_flag();
    accesses::scattered(600_000).for_each(|access| writer.access(access));
    assert!(flag.load(Ordering::Relaxed));
    assert!(matches!(writer.finish(END), Err(WriteError::Parquet(_) | WriteError::Output(_))));

    let limited = TraceOptions { bytes_max: 10_000, ..whole };
    let mut writer = TraceWriter::new(Vec::new(), subject(), limited).unwrap();
    accesses::scattered(600_000).for_each(|access| writer.access(access));
    let error = writer.finish(END).unwrap_err();
    assert!(matches!(error, WriteError::TooLarge { bytes_max: 10_000, accesses: 262_144 }), "{error:?}");
}

#[test]
fn questions_are_answered_as_by_looking_at_every_access() {
    let accesses: Vec<Access> = accesses::scattered(300_000).collect();
    let mut trace = Trace::open(Cursor::new(write(&accesses, Values::Kept).output)).unwrap();
    let range = 1000..=280_000;
    let seen: Vec<&Access> = accesses.iter().filter(|access| range.contains(&access.instruction)).collect();

    let rips = query::accesses_per_rip(&mut trace, &range, 3).unwrap();
    assert_eq!(rips.len(), 3);
    assert!(rips.windows(2).all(|pair| pair[0].reads + pair[0].writes >= pair[1].reads + pair[1].writes));
    for row in &rips {
        let of = |kind| seen.iter().filter(|access| access.rip == row.rip && access.kind == kind).count();
        assert_eq!((row.reads, row.writes), (of(AccessKind::Read) as u64, of(AccessKind::Write) as u64));
    }

    let pages = query::pages(&mut trace, &range, PageOrder::Writes, usize::MAX).unwrap();
    let page_of = |access: &Access| access.physical_address >> 12;
    for row in &pages {
        let writes =
            seen.iter().filter(|access| page_of(access) == row.page && access.kind == AccessKind::Write);
        assert_eq!(row.writes, writes.count() as u64);
    }
    let written: u64 = seen.iter().filter(|access| access.kind == AccessKind::Write).count() as u64;
    assert_eq!(pages.iter().map(|row| row.writes).sum::<u64>(), written);
    assert!(pages.windows(2).all(|pair| pair[0].writes >= pair[1].writes));

    let touches = query::first_touches(&mut trace, &range).unwrap();
    for row in &touches {
        assert_eq!(Some(&&row.access), seen.iter().find(|access| page_of(access) == row.page));
    }
    let all = query::pages(&mut trace, &range, PageOrder::Accesses, usize::MAX).unwrap();
    assert_eq!(touches.len(), all.len());

    let place = 0x2_0004..0x2_0010_u64;
    let touched = |access: &&&Access| {
        let end = access.physical_address + u64::from(access.size);
        access.kind == AccessKind::Write && access.physical_address < place.end && end > place.start
    };
    let expected: Vec<Access> = seen.iter().filter(touched).map(|access| **access).collect();
    assert!(expected.len() > 3);
    let ask = |trace: &mut _, wanted| {
        let rows = query::writers(trace, &range, (Space::Physical, &place), wanted).unwrap();
        rows.iter().map(|row| row.access).collect::<Vec<_>>()
    };
    assert_eq!(ask(&mut trace, Writers::All), expected);
    assert_eq!(ask(&mut trace, Writers::Last(2)), expected[expected.len() - 2..]);
    assert_eq!(query::RipCount::COLUMNS.len(), rips[0].cells().len());
    assert_eq!(query::FirstTouch::COLUMNS.len(), touches[0].cells().len());
    assert_eq!(query::PageCount::COLUMNS.len(), pages[0].cells().len());
}
