//! Goal: a debugger is answered as the protocol has it, and whatever comes instead of a debugger is no harm. Method:
//! packets from memory, right ones and random ones; a panic or an overflow fails the test.

use super::*;
use crate::debug::session::recorded::{Held, record, record_long};
use pageswarm_machine::CheckpointIndex;
use pageswarm_machine::content::Random;
use std::io::{Read, Write};

/// The packets that the other end says, each when it is waited for, and what it was told.
struct Spoken<'a> {
    input: std::slice::Iter<'a, Vec<u8>>,
    /// What is left of the packet that is being read.
    packet: &'a [u8],
    output: &'a mut Vec<u8>,
    /// After so many looks at whether something came unasked, an interrupt did.
    quiet_looks: u32,
}

impl<'a> Spoken<'a> {
    fn new(input: &'a [Vec<u8>], output: &'a mut Vec<u8>) -> Self {
        Self { input: input.iter(), packet: &[], output, quiet_looks: u32::MAX }
    }
}

impl Read for Spoken<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.packet.is_empty() {
            self.packet = self.input.next().map_or(&[], Vec::as_slice);
        }
        self.packet.read(out)
    }
}

impl Write for Spoken<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Spoken<'_> {
    fn read_now(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.quiet_looks = self.quiet_looks.wrapping_sub(1);
        if self.quiet_looks > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        out[0] = 3;
        Ok(1)
    }
}

fn packet(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().copied().fold(0, u8::wrapping_add);
    [b"$", body, format!("#{sum:02x}").as_bytes()].concat()
}

/// The answers to packets that are sent one after the other, without acknowledgements.
fn answers(session: &mut Session<Held>, bodies: &[&str]) -> Vec<String> {
    let mut input = vec![packet(b"QStartNoAckMode")];
    input.extend(bodies.iter().map(|body| packet(body.as_bytes())));
    let mut output = Vec::new();
    let ended = serve(session, Spoken::new(&input, &mut output), Some(b"ELF"));
    assert!(ended.is_err(), "the other end hangs up");
    let text = String::from_utf8_lossy(&output);
    text.split('$').skip(2).map(|part| part.split('#').next().unwrap_or("").to_owned()).collect()
}

/// Undoes the run-length encoding: `*` and a character that says how often the one before comes once more.
fn expand(answer: &str) -> String {
    let mut expanded = String::new();
    let mut characters = answer.chars();
    while let Some(character) = characters.next() {
        if character != '*' {
            expanded.push(character);
            continue;
        }
        let more = characters.next().map_or(0, |count| u32::from(count).saturating_sub(29));
        let last = expanded.chars().next_back().unwrap_or(' ');
        expanded.extend((0..more).map(|_| last));
    }
    expanded
}

fn session() -> Session<Held> {
    Session::open(record(&[2000, 1500]), CheckpointIndex(3)).unwrap()
}

#[test]
fn packets_are_answered() {
    let mut session = session();
    let asked = [
        ("Z0,100022,1", "OK"),
        ("c", "T05thread:01;swbreak:;"),
        ("z0,100022,1", "OK"),
        ("s", "S05"),
        ("bs", "S05"),
        ("Z2,300000,4", "OK"),
        ("c", "T05thread:01;watch:300000;"),
        ("z2,300000,4", "OK"),
        ("bc", "T05replaylog:begin;"),
        ("c", "T05thread:01;"),
        ("c", "T05replaylog:end;"),
        ("m100000,4", "bf000030"),
        ("m7fffffff000,8", "E0e"),
        ("m4000000000,8", "E0e"),
        ("mfffffffffffffff0,20", "E0e"),
        ("mffffffffffffffff,ffff", "E0e"),
        ("M300000,1:00", "E.this is a recording: writing registers or memory would make its replay untrue"),
        ("Z2,300000,0", "E16"),
        ("vFile:open:2f6574632f706173737764,0,0", "F-1,02"),
        ("vFile:open:2f7265636f726465642d6775657374,0,0", "F03"),
        ("vFile:pread:3,100,1", "F02;LF"),
        ("vFile:pread:3,ffffffff,ffffffffffffffff", "F00;"),
        ("vFile:pread:4,1,0", "F-1,09"),
    ];
    let bodies: Vec<&str> = asked.iter().map(|(body, _)| *body).collect();
    let found = answers(&mut session, &bodies);
    for ((body, wanted), found) in asked.iter().zip(&found) {
        let found = expand(found);
        assert!(found == *wanted, "{body}: {found}, not {wanted}");
    }
    assert_eq!(found.len(), asked.len());
}

#[test]
fn an_interrupt_stops_what_runs() {
    let mut session = Session::open(record_long(&[3_000_000, 1000]), CheckpointIndex(3)).unwrap();
    for (body, least, most) in [("c", 1, 2_900_000), ("bs", 0, 0), ("c", 1, 2_900_000)] {
        if body == "bs" {
            // From the next interval's start, which takes a run through the interval before.
            while session.moment().work > 0 {
                session.travel(&crate::debug::Travel::Forward, &mut || false);
            }
        }
        let (input, mut output) = ([packet(body.as_bytes())], Vec::new());
        let mut spoken = Spoken::new(&input, &mut output);
        spoken.quiet_looks = 4;
        assert!(serve(&mut session, spoken, None).is_err());
        let said = String::from_utf8_lossy(&output);
        assert!(said.contains("$S02#"), "{body}: {said}");
        let work = session.moment().work;
        assert!((least..=most).contains(&work), "{body}: {work}");
        if body == "bs" {
            session.travel(&crate::debug::Travel::Backward, &mut || false);
        }
    }
}

#[test]
fn the_monitor_says_where_the_session_is() {
    let mut session = session();
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let unhex = |text: &str| {
        let digits = text.as_bytes().chunks(2).filter_map(|two| std::str::from_utf8(two).ok());
        let bytes: Vec<u8> = digits.filter_map(|two| u8::from_str_radix(two, 16).ok()).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mut monitor = |command: &str| {
        let mut out = String::new();
        crate::debug::monitor::answer(&mut session, command, &mut out).unwrap();
        out
    };
    assert!(monitor("where").starts_with("interval 3, 0 instructions after checkpoint 3 "));
    assert!(monitor("physical 0x300123").contains("is at 0x300123"));
    assert!(monitor("physical 7fff00000000").contains("not mapped"));
    assert!(monitor("checkpoints pass").contains("pass"));
    assert!(monitor("system").contains("cr3 0x5000"));
    for other in ["", "help", "checkpoints", "physical", "\u{fffd}"] {
        assert!(monitor(other).contains("monitor where"));
    }
    let body = format!("qRcmd,{}", hex("checkpoints stop"));
    let found = answers(&mut session, &[&body]);
    assert!(unhex(found[0].trim_start_matches('O')).contains("stop at checkpoints"), "{found:?}");
}

/// What packets are made of.
const PIECES: [&str; 46] = [
    "?",
    "g",
    "G",
    "p",
    "P",
    "m",
    "M",
    "c",
    "s",
    "bc",
    "bs",
    "Z0,",
    "Z1,",
    "Z2,",
    "Z3,",
    "Z4,",
    "z0,",
    "z2,",
    "vCont;",
    "vCont?",
    "qSupported:",
    "multiprocess+",
    "qXfer:features:read:target.xml:",
    "qXfer:exec-file:read:",
    "vFile:open:",
    "vFile:pread:",
    "vFile:fstat:",
    "qRcmd,",
    "H",
    "D",
    "k",
    "T",
    "X",
    "R",
    "vRun",
    "!",
    ":",
    ",",
    ";",
    "-1",
    "0",
    "100000",
    "300000",
    "ffffffffffffffff",
    "7fffffffffff",
    "1",
];

#[test]
fn whatever_comes_is_no_harm() {
    let mut session = session();
    let mut random = Random::new(11, 4);
    let mut answered = 0;
    for _ in 0..3000 {
        let mut input = Vec::new();
        for _ in 0..1 + random.draw() % 6 {
            let mut body = String::new();
            for _ in 0..1 + random.draw() % 5 {
                body += PIECES[usize::try_from(random.draw() % PIECES.len() as u64).unwrap()];
            }
            let mut bytes = packet(body.as_bytes());
            if random.draw().is_multiple_of(8) {
                let place = usize::try_from(random.draw() % bytes.len() as u64).unwrap();
                bytes[place] = random.draw().to_le_bytes()[0];
            }
            input.push(bytes);
        }
        let mut output = Vec::new();
        let _ended = serve(&mut session, Spoken::new(&input, &mut output), Some(b"ELF"));
        answered += output.len();
        assert!(output.len() < 1 << 20, "{input:?}");
    }
    assert!(answered > 10_000, "{answered}");
    // More than a packet may have.
    let endless = [[b"$".to_vec(), vec![b'm'; 1 << 20]].concat()];
    let ended = serve(&mut session, Spoken::new(&endless, &mut Vec::new()), None);
    assert!(ended.is_err());
}
