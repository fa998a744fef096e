//! Runs one VM for the process at the other end of its standard input, a Unix stream socket.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

fn main() -> ExitCode {
    let served = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(pageswarm_vmm::child::ServeError::Control)
        .and_then(|control| pageswarm_vmm::child::serve(UnixStream::from(control), None));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        // The parent was told why.
        Err(_) => ExitCode::FAILURE,
    }
}
