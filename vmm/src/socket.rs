//! Length-prefixed frames, with file descriptors, over one Unix stream socket.

use crate::limits::{FRAME_BYTES_MAX, FRAME_FDS_MAX};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// What one frame carries.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

const FD_BYTES: u32 = 4 * FRAME_FDS_MAX;

/// Room for one control message with [`FRAME_FDS_MAX`] descriptors, aligned as the system wants it.
#[repr(C, align(8))]
struct ControlSpace([u8; 64]);

// SAFETY: the macro only computes a length.
const _: () = assert!(unsafe { libc::CMSG_SPACE(FD_BYTES) } <= 64);

/// Sends one frame. Blocks until the other end has room.
///
/// # Errors
/// What the system says; the frame must be within the limits.
pub(crate) fn send(mut stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= FRAME_BYTES_MAX);
    let header = length.ok_or(io::ErrorKind::InvalidInput)?.to_le_bytes();
    if fds.is_empty() {
        stream.write_all(&header)?;
    } else {
        send_with_fds(stream, &header, fds)?;
    }
    stream.write_all(bytes)
}

/// Receives one frame; `None` when the other end has closed.
///
/// # Errors
/// What the system says, or a frame beyond the limits or cut short.
pub(crate) fn receive(stream: &UnixStream) -> io::Result<Option<Frame>> {
    let mut header = [0; 4];
    let Some(fds) = receive_with_fds(stream, &mut header)? else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    let read = stream.take(length as u64).read_to_end(&mut bytes)?;
    if read != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(Frame { bytes, fds }))
}

/// A message header over one buffer and one control area.
fn message(part: &mut libc::iovec, control: &mut ControlSpace, control_bytes: usize) -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid header: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control_bytes;
    message
}

fn send_with_fds(stream: &UnixStream, header: &[u8; 4], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > FRAME_FDS_MAX as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<u8> = fds.iter().flat_map(|fd| fd.as_raw_fd().to_le_bytes()).collect();
    let raw_bytes = u32::try_from(raw.len()).map_err(io::Error::other)?;
    let mut control = ControlSpace([0; 64]);
    let mut part = libc::iovec { iov_base: header.as_ptr().cast_mut().cast(), iov_len: header.len() };
    // SAFETY: the macro only computes a length.
    let space = unsafe { libc::CMSG_SPACE(raw_bytes) } as usize;
    let message = message(&mut part, &mut control, space);
    // SAFETY: the header names a control area with room for one message.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: the macro only computes a length.
    let length = unsafe { libc::CMSG_LEN(raw_bytes) } as usize;
    let head = libc::cmsghdr { cmsg_len: length, cmsg_level: libc::SOL_SOCKET, cmsg_type: libc::SCM_RIGHTS };
    // SAFETY: the pointer is to the start of the control area, which is aligned and large enough.
    unsafe { first.write(head) };
    // SAFETY: the pointer is to a header inside the control area.
    let payload = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: the control area has room for the descriptors after the header.
    unsafe { payload.copy_from_nonoverlapping(raw.as_ptr(), raw.len()) };
    // SAFETY: the message names live buffers of the stated lengths.
    let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    match usize::try_from(sent) {
        Err(_) => Err(io::Error::last_os_error()),
        // Four bytes fit in any socket buffer or block; the system does not split them.
        Ok(sent) if sent != header.len() => Err(io::ErrorKind::WriteZero.into()),
        Ok(_) => Ok(()),
    }
}

fn receive_with_fds(stream: &UnixStream, header: &mut [u8; 4]) -> io::Result<Option<Vec<OwnedFd>>> {
    let mut fds = Vec::new();
    let mut filled = 0;
    while filled < header.len() {
        let rest = &mut header[filled..];
        let mut control = ControlSpace([0; 64]);
        let mut part = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
        let mut message = message(&mut part, &mut control, 64);
        // SAFETY: the message names live, writable buffers of the stated lengths.
        let received = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(received) {
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            },
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(received) => filled += received,
        }
        take_fds(&message, &mut fds);
    }
    Ok(Some(fds))
}

/// Takes ownership of the descriptors that a received message carries.
fn take_fds(message: &libc::msghdr, fds: &mut Vec<OwnedFd>) {
    // SAFETY: the header describes the control area that recvmsg filled.
    let first = unsafe { libc::CMSG_FIRSTHDR(message) };
    if first.is_null() {
        return;
    }
    // SAFETY: a non-null first header lies in the control area.
    let head = unsafe { first.read() };
    if (head.cmsg_level, head.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
        return;
    }
    // SAFETY: the macro only computes a length.
    let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
    // SAFETY: the header lies in the control area.
    let payload = unsafe { libc::CMSG_DATA(first) }.cast::<RawFd>();
    for index in 0..head.cmsg_len.saturating_sub(overhead) / size_of::<RawFd>() {
        let place = payload.wrapping_add(index);
        // SAFETY: the message says that this many descriptors follow its header.
        let fd = unsafe { place.read_unaligned() };
        // SAFETY: the system just made this descriptor for us.
        fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn frames_and_descriptors_arrive_in_order_and_the_end_is_seen() {
        let (near, far) = UnixStream::pair().unwrap();
        let memory = crate::memory::SharedMemory::create(3).unwrap();
        send(&near, b"first", &[]).unwrap();
        send(&near, b"", &[memory.fd(), memory.fd()]).unwrap();
        send(&near, &[9; 5000], &[]).unwrap();
        assert_eq!(receive(&far).unwrap().unwrap().bytes, b"first");
        let frame = receive(&far).unwrap().unwrap();
        assert_eq!((frame.bytes.len(), frame.fds.len()), (0, 2));
        let file = File::from(frame.fds.into_iter().next().unwrap());
        assert_eq!(file.metadata().unwrap().len(), 3 * 4096);
        assert_eq!(receive(&far).unwrap().unwrap().bytes, [9; 5000]);
        drop(near);
        assert!(receive(&far).unwrap().is_none());
    }

    #[test]
    fn frames_beyond_the_limits_are_refused_on_both_sides() {
        let (near, far) = UnixStream::pair().unwrap();
        let memory = crate::memory::SharedMemory::create(1).unwrap();
        assert!(send(&near, b"x", &[memory.fd(), memory.fd(), near.as_fd()]).is_err());
        (&near).write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(receive(&far).is_err());
    }
}
