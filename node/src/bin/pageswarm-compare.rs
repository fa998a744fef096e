//! Compares two files byte for byte, with no code of what wrote them.
//!
//! It reads past the page cache where it can: images of RAM are read once, and what they would push out is of more
//! use.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: pageswarm-compare FILE FILE
Exit codes: 0 both hold the same bytes, 1 they differ, 2 they could not be compared.";

/// Bytes of each file compared at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// What reads past the page cache want of memory and offsets, on most disks.
const ALIGNMENT: usize = 4096;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (one, other) = match arguments.as_slice() {
        [one, other] => (one, other),
        [asked] if asked == "--help" || asked == "-h" => {
            say(io::stdout(), USAGE);
            return ExitCode::SUCCESS;
        }
        _ => {
            say(io::stderr(), USAGE);
            return ExitCode::from(2);
        }
    };
    let (one, other) = (Path::new(one), Path::new(other));
    match first_difference(one, other) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(at)) => {
            let difference = format!("{} and {} differ from byte {at} on", one.display(), other.display());
            say(io::stdout(), &difference);
            ExitCode::FAILURE
        }
        Err(error) => {
            say(io::stderr(), &error.to_string());
            ExitCode::from(2)
        }
    }
}

/// Says it, if anybody listens; the exit code says it too.
fn say(mut to: impl io::Write, text: &str) {
    let _unheard = writeln!(to, "{text}");
}

/// The offset of the first byte that only one file has, or that is another one in the other.
fn first_difference(one: &Path, other: &Path) -> io::Result<Option<u64>> {
    let (mut one, mut other) = (Blocks::open(one)?, Blocks::open(other)?);
    let mut offset = 0;
    loop {
        let (left, right) = (one.next()?, other.next()?);
        if left != right {
            let equal = left.iter().zip(right).take_while(|(left, right)| left == right).count();
            return Ok(Some(offset + equal as u64));
        }
        if left.is_empty() {
            return Ok(None);
        }
        offset += left.len() as u64;
    }
}

/// A file in blocks, all of them whole but the last.
struct Blocks<'path> {
    path: &'path Path,
    file: File,
    is_direct: bool,
    offset: u64,
    memory: Vec<u8>,
}

impl<'path> Blocks<'path> {
    fn open(path: &'path Path) -> io::Result<Self> {
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path);
        let (file, is_direct) = match direct {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (File::open(path), false),
            opened => (opened, true),
        };
        let file = file.map_err(|error| named(path, error))?;
        Ok(Self { path, file, is_direct, offset: 0, memory: vec![0; BLOCK_BYTES + ALIGNMENT] })
    }

    /// The next block; an empty one at the end.
    fn next(&mut self) -> io::Result<&[u8]> {
        let start = self.memory.as_ptr().align_offset(ALIGNMENT);
        let block = &mut self.memory[start..][..BLOCK_BYTES];
        let mut length = 0;
        while length < BLOCK_BYTES {
            match self.file.read_at(&mut block[length..], self.offset) {
                Ok(0) => break,
                Ok(read) => {
                    length += read;
                    self.offset += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It wants another alignment, or the file ends inside of a sector and this is behind it.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && self.is_direct => {
                    self.file = File::open(self.path).map_err(|error| named(self.path, error))?;
                    self.is_direct = false;
                }
                Err(error) => return Err(named(self.path, error)),
            }
        }
        Ok(&block[..length])
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
