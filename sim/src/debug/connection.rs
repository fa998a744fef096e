//! The debugger's connection: a byte stream, read and written in pieces, that can be asked whether something came.

use gdbstub::conn::{Connection, ConnectionExt};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

const INPUT_BYTES: usize = 1 << 12;
/// What is collected before it is sent without the packet being complete.
const OUTPUT_BYTES: usize = 1 << 14;
/// The error number with which writes are refused.
pub(super) const READ_ONLY: u8 = 30;
/// A packet that says no more than that number, and the one that gdb shows to its user instead.
const REFUSED: &[u8] = b"$E1e#db";
const REFUSED_TEXT: &str = "E.this is a recording: writing registers or memory would make its replay untrue";

/// A byte stream to a debugger.
pub trait Stream: Read + Write {
    /// Reads what is there without waiting; [`io::ErrorKind::WouldBlock`] when nothing is.
    ///
    /// # Errors
    /// As [`Read::read`].
    fn read_now(&mut self, bytes: &mut [u8]) -> io::Result<usize>;
}

macro_rules! stream {
    ($stream:ty) => {
        impl Stream for $stream {
            fn read_now(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
                self.set_nonblocking(true)?;
                let read = Read::read(self, bytes);
                self.set_nonblocking(false)?;
                read
            }
        }
    };
}

stream!(TcpStream);
stream!(UnixStream);

/// The connection as the protocol's library wants it.
pub(super) struct Buffered<S> {
    stream: S,
    input: Box<[u8; INPUT_BYTES]>,
    /// Bytes of `input` that were read from the stream and not yet taken.
    ready: std::ops::Range<usize>,
    output: Vec<u8>,
}

impl<S: Stream> Buffered<S> {
    pub(super) fn new(stream: S) -> Self {
        let input = Box::new([0; INPUT_BYTES]);
        Self { stream, input, ready: 0..0, output: Vec::with_capacity(OUTPUT_BYTES) }
    }

    fn took_in(&mut self, bytes: usize) -> io::Result<()> {
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.ready = 0..bytes;
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }
}

fn packet(text: &str) -> Vec<u8> {
    let sum = text.bytes().fold(0, u8::wrapping_add);
    format!("${text}#{sum:02x}").into_bytes()
}

impl<S: Stream> Connection for Buffered<S> {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        if self.output.len() >= OUTPUT_BYTES {
            self.send()?;
        }
        self.output.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(before) = self.output.strip_suffix(REFUSED).map(<[u8]>::len) {
            self.output.truncate(before);
            self.output.extend(packet(REFUSED_TEXT));
        }
        self.send()?;
        self.stream.flush()
    }
}

impl<S: Stream> ConnectionExt for Buffered<S> {
    fn read(&mut self) -> io::Result<u8> {
        if self.ready.is_empty() {
            let bytes = loop {
                match self.stream.read(&mut self.input[..]) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read?,
                }
            };
            self.took_in(bytes)?;
        }
        let place = self.ready.next().unwrap_or(0);
        Ok(self.input[place])
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        if self.ready.is_empty() {
            match self.stream.read_now(&mut self.input[..]) {
                Ok(bytes) => self.took_in(bytes)?,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(self.input[self.ready.start]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_write_says_why() {
        assert_eq!(REFUSED, packet(&format!("E{READ_ONLY:02x}")));
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut connection = Buffered::new(near);
        connection.write_all(b"+$E1e#db").unwrap();
        connection.flush().unwrap();
        drop(connection);
        let mut sent = String::new();
        far.read_to_string(&mut sent).unwrap();
        assert!(sent.starts_with("+$E.this is a recording"), "{sent}");
    }

    #[test]
    fn peeking_does_not_wait_and_an_end_is_an_error() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut connection = Buffered::new(near);
        assert_eq!(connection.peek().unwrap(), None);
        Write::write_all(&mut far, &[3, 4]).unwrap();
        assert_eq!(connection.peek().unwrap(), Some(3));
        assert_eq!((connection.read().unwrap(), connection.read().unwrap()), (3, 4));
        drop(far);
        assert!(connection.peek().is_err() && connection.read().is_err());
    }
}
