//! The guest's program as the one file that gdb can read from here, so that it knows the symbols.

use super::source::Source;
use super::target::Debugged;
use gdbstub::common::Pid;
use gdbstub::target::TargetResult;
use gdbstub::target::ext::exec_file::ExecFile;
use gdbstub::target::ext::host_io::{
    HostIo, HostIoClose, HostIoCloseOps, HostIoErrno, HostIoError, HostIoFstat, HostIoFstatOps, HostIoOpen,
    HostIoOpenFlags, HostIoOpenMode, HostIoOpenOps, HostIoPread, HostIoPreadOps, HostIoResult, HostIoStat,
};

/// Its name; no file of the host has anything to do with it.
const NAME: &[u8] = b"/recorded-guest";
/// Every open file is the program.
const DESCRIPTOR: u32 = 3;
const BLOCK_BYTES: u64 = 4096;

/// Copies `from[offset..]` as far as it goes and fits.
fn piece(from: &[u8], offset: u64, length: usize, out: &mut [u8]) -> usize {
    let rest = usize::try_from(offset).ok().and_then(|offset| from.get(offset..)).unwrap_or(&[]);
    let bytes = rest.len().min(length).min(out.len());
    out[..bytes].copy_from_slice(&rest[..bytes]);
    bytes
}

impl<S: Source> Debugged<'_, S> {
    fn opened<E>(&self, descriptor: u32) -> Result<&[u8], HostIoError<E>> {
        let program = self.program.filter(|_| descriptor == DESCRIPTOR);
        program.ok_or(HostIoError::Errno(HostIoErrno::EBADF))
    }
}

impl<S: Source> ExecFile for Debugged<'_, S> {
    fn get_exec_file(
        &self,
        _: Option<Pid>,
        offset: u64,
        length: usize,
        out: &mut [u8],
    ) -> TargetResult<usize, Self> {
        Ok(piece(NAME, offset, length, out))
    }
}

impl<S: Source> HostIo for Debugged<'_, S> {
    fn support_open(&mut self) -> Option<HostIoOpenOps<'_, Self>> {
        Some(self)
    }

    fn support_close(&mut self) -> Option<HostIoCloseOps<'_, Self>> {
        Some(self)
    }

    fn support_pread(&mut self) -> Option<HostIoPreadOps<'_, Self>> {
        Some(self)
    }

    fn support_fstat(&mut self) -> Option<HostIoFstatOps<'_, Self>> {
        Some(self)
    }
}

impl<S: Source> HostIoOpen for Debugged<'_, S> {
    fn open(&mut self, name: &[u8], flags: HostIoOpenFlags, _: HostIoOpenMode) -> HostIoResult<u32, Self> {
        if name != NAME {
            return Err(HostIoError::Errno(HostIoErrno::ENOENT));
        }
        if flags.intersects(HostIoOpenFlags::O_WRONLY | HostIoOpenFlags::O_RDWR | HostIoOpenFlags::O_TRUNC) {
            return Err(HostIoError::Errno(HostIoErrno::EROFS));
        }
        Ok(DESCRIPTOR)
    }
}

impl<S: Source> HostIoClose for Debugged<'_, S> {
    fn close(&mut self, descriptor: u32) -> HostIoResult<(), Self> {
        self.opened(descriptor).map(|_| ())
    }
}

impl<S: Source> HostIoPread for Debugged<'_, S> {
    fn pread(
        &mut self,
        descriptor: u32,
        count: usize,
        offset: u64,
        out: &mut [u8],
    ) -> HostIoResult<usize, Self> {
        Ok(piece(self.opened(descriptor)?, offset, count, out))
    }
}

impl<S: Source> HostIoFstat for Debugged<'_, S> {
    fn fstat(&mut self, descriptor: u32) -> HostIoResult<HostIoStat, Self> {
        let bytes = self.opened(descriptor)?.len() as u64;
        Ok(HostIoStat {
            st_dev: 0,
            st_ino: 0,
            st_mode: HostIoOpenMode::S_IFREG | HostIoOpenMode::S_IRUSR,
            st_nlink: 1,
            st_uid: 0,
            st_gid: 0,
            st_rdev: 0,
            st_size: bytes,
            st_blksize: BLOCK_BYTES,
            st_blocks: bytes.div_ceil(512),
            st_atime: 0,
            st_mtime: 0,
            st_ctime: 0,
        })
    }
}
