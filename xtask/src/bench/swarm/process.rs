//! Processes on the hosts of a network: each is ended by the handle that started it, and dies with this program.

use std::fs::{self, File};
use std::net::SocketAddrV4;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Between two looks at something that is waited for.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Bytes of a log that a message quotes.
const QUOTED_BYTES: usize = 2000;

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    /// What it does, for messages.
    name: String,
    child: Child,
    log: PathBuf,
}

/// A command that runs `program` in a namespace. Each of the programs it starts becomes the next, so that the handle is
/// the last one's; the kernel kills it once the thread that started it is gone, which therefore must be the main one.
pub(super) fn within(namespace: &str, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "setpriv", "--pdeathsig", "KILL"]).arg(program.as_ref());
    command.stdin(Stdio::null());
    command
}

/// The same without a namespace.
pub(super) fn beside(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program.as_ref());
    command.stdin(Stdio::null());
    command
}

impl Process {
    /// Starts it; what it says goes to the file `log`.
    pub(super) fn spawn(name: impl Into<String>, command: &mut Command, log: &Path) -> Result<Self> {
        let name = name.into();
        let file = File::create(log).with_context(|| log.display().to_string())?;
        let errors = file.try_clone().context("log")?;
        let child = command.stdout(file).stderr(errors).spawn();
        Ok(Self { child: child.with_context(|| name.clone())?, name, log: log.to_owned() })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, if it was started with a pipe.
    pub(super) fn input(&mut self) -> Option<&mut ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// How it ended, once it has.
    pub(super) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| self.name.clone())
    }

    /// Whether it has ended by itself and well. The error quotes one that has failed.
    pub(super) fn succeeded(&mut self) -> Result<bool> {
        match self.ended()? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => bail!("{} ended with {status}: {}", self.name, self.said()),
        }
    }

    /// Fails once it has ended.
    pub(super) fn ensure_runs(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}: {}", self.name, self.said()),
        }
    }

    /// Whether it is in its namespace and someone there listens on a TCP port, at one address or at all.
    pub(super) fn listens(&self, address: SocketAddrV4) -> bool {
        let id = self.id();
        let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).ok();
        let own = namespace(&id.to_string());
        if own.is_none() || own == namespace("self") {
            return false;
        }
        let sockets = fs::read_to_string(format!("/proc/{id}/net/tcp")).unwrap_or_default();
        is_listening(&sockets, address)
    }

    /// Whether these words are anywhere in what it said.
    pub(super) fn has_said(&self, words: &str) -> bool {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(words)
    }

    /// The end of what it said.
    pub(super) fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let start = text.len().saturating_sub(QUOTED_BYTES);
        String::from_utf8_lossy(&text[start..]).trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and has nothing to be said about.
        if self.child.kill().is_ok()
            && let Err(error) = self.child.wait()
        {
            eprintln!("{}: {error}", self.name);
        }
    }
}

/// Looks again and again until `look` finds what is waited for.
pub(super) fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<ControlFlow<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let ControlFlow::Break(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > patience {
            bail!("not within {} s: {what}", patience.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The same for what is only true or not yet.
pub(super) fn until_true(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<bool>,
) -> Result<()> {
    until(what, patience, || Ok(if look()? { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }))
}

/// Whether a table as in /proc/net/tcp has a listener (state 0A) there. Addresses are numbers in the machine's order of
/// bytes, which is the little-endian one here, ports are plain hexadecimal.
fn is_listening(sockets: &str, address: SocketAddrV4) -> bool {
    let port = address.port();
    let wanted = [u32::from_le_bytes(address.ip().octets()), 0].map(|ip| format!("{ip:08X}:{port:04X}"));
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, state) = (fields.next(), fields.nth(1));
        state == Some("0A") && local.is_some_and(|local| wanted.iter().any(|wanted| wanted == local))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_in_the_table_of_sockets() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
            \x20  0: 0100620A:0050 00000000:0000 0A 00000000:00000000\n\
            \x20  1: 00000000:1AE1 00000000:0000 0A 00000000:00000000\n\
            \x20  2: 0100620A:1F90 0200620A:0000 01 00000000:00000000\n";
        let listens = |address: &str| is_listening(table, address.parse().unwrap());
        assert!(listens("10.98.0.1:80"));
        assert!(listens("10.98.0.7:6881"));
        assert!(!listens("10.98.0.2:80"));
        assert!(!listens("10.98.0.1:8080"));
    }

    #[test]
    fn waiting_ends_with_what_is_found_or_in_time() {
        let mut left = 2;
        let found = until("two looks", Duration::from_secs(5), || {
            left -= 1;
            Ok(if left == 0 { ControlFlow::Break(7) } else { ControlFlow::Continue(()) })
        });
        assert_eq!(found.unwrap(), 7);
        assert!(until_true("nothing", Duration::ZERO, || Ok(false)).is_err());
    }
}
