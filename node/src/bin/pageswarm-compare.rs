//! Compares two files byte for byte, and shares no code with what wrote them.
//!
//! It reads past the page cache where it can: images of RAM are read once, and what they would push out is of more use.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: pageswarm-compare FILE FILE
Exit codes: 0 both hold the same bytes, 1 they differ, 2 they could not be compared.";

/// Bytes of each file compared at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// What a read past the page cache wants of memory and offsets, on every disk there is.
const ALIGNMENT: usize = 4096;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [one, other] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let (one, other) = (Path::new(one), Path::new(other));
    match first_difference(one, other) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(at)) => {
            println!("{} and {} differ from byte {at} on", one.display(), other.display());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("pageswarm-compare: {error}");
            ExitCode::from(2)
        }
    }
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
    memory: Vec<u8>,
}

impl<'path> Blocks<'path> {
    fn open(path: &'path Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true);
        let file = match options.clone().custom_flags(libc::O_DIRECT).open(path) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => options.open(path),
            opened => opened,
        };
        let file = file.map_err(|error| named(path, error))?;
        Ok(Self { path, file, memory: vec![0; BLOCK_BYTES + ALIGNMENT] })
    }

    /// The next block; an empty one at the end.
    fn next(&mut self) -> io::Result<&[u8]> {
        let start = self.memory.as_ptr().align_offset(ALIGNMENT);
        let block = &mut self.memory[start..][..BLOCK_BYTES];
        let mut length = 0;
        while length < BLOCK_BYTES {
            match self.file.read(&mut block[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What ends inside of a sector leaves no aligned place to go on at, and there is nothing left to read.
                Err(error)
                    if error.raw_os_error() == Some(libc::EINVAL) && !length.is_multiple_of(ALIGNMENT) =>
                {
                    break;
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
