//! The server of gdb's remote protocol: one debugger, one session.

#[cfg(test)]
mod packets;

use super::connection::{Buffered, Stream};
use super::session::{Session, Stop};
use super::source::Source;
use super::stops::Watched;
use super::target::Debugged;
use crate::limits::PACKET_BYTES;
use gdbstub::common::Signal;
use gdbstub::conn::ConnectionExt;
use gdbstub::stub::run_blocking::{BlockingEventLoop, Event, WaitForStopReasonError};
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError, SingleThreadStopReason};
use gdbstub::target::ext::base::reverse_exec::ReplayLogPosition;
use gdbstub::target::ext::breakpoints::WatchKind;
use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;
use std::net::{Ipv4Addr, TcpListener};

/// How a debugger left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It detached, and may come again.
    Detached,
    /// It wants the session gone.
    Killed,
}

/// Why a debugger was not served any longer. The session can serve another one.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The connection broke, or what came over it is not gdb's remote protocol.
    #[error("debugger's connection or what came over it")]
    Protocol(#[source] GdbStubError<Infallible, io::Error>),
}

/// A listener that only this machine reaches. Port 0 takes a free one.
///
/// # Errors
/// As [`TcpListener::bind`].
pub fn loopback(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// Serves one debugger until it leaves. With `program`, the ELF file that the guest runs, gdb finds its symbols itself.
///
/// Whoever is at the other end reads all of the guest's memory: the stream is to come from this machine.
///
/// # Errors
/// When the connection breaks, or what comes is not the protocol.
pub fn serve<S: Source, C: Stream>(
    session: &mut Session<S>,
    stream: C,
    program: Option<&[u8]>,
) -> Result<Ended, ServeError> {
    // What a debugger before left behind.
    session.clear_stops();
    let mut packet = vec![0; PACKET_BYTES];
    let builder = GdbStub::builder(Buffered::new(stream)).with_packet_buffer(&mut packet);
    let stub = builder.build().expect("there is a packet buffer");
    let mut target = Debugged { session, travel: None, program };
    match stub.run_blocking::<Loop<'_, S, C>>(&mut target) {
        Ok(DisconnectReason::Disconnect) => Ok(Ended::Detached),
        Ok(_) => Ok(Ended::Killed),
        Err(error) => Err(ServeError::Protocol(error)),
    }
}

struct Loop<'a, S, C>(PhantomData<(&'a S, C)>);

type Reason = SingleThreadStopReason<u64>;
type Waited = Result<Event<Reason>, WaitForStopReasonError<Infallible, io::Error>>;

impl<'a, S: Source, C: Stream> BlockingEventLoop for Loop<'a, S, C> {
    type Target = Debugged<'a, S>;
    type Connection = Buffered<C>;
    type StopReason = Reason;

    fn wait_for_stop_reason(target: &mut Debugged<'a, S>, connection: &mut Buffered<C>) -> Waited {
        let failed = WaitForStopReasonError::Connection;
        if connection.peek().map_err(failed)?.is_some() {
            return connection.read().map(Event::IncomingData).map_err(failed);
        }
        let Some(travel) = target.travel.clone() else {
            return Ok(Event::TargetStopped(Reason::Signal(Signal::SIGTRAP)));
        };
        // What broke the connection is met again when it is read from.
        let mut interrupted = || connection.peek().map_or(true, |byte| byte.is_some());
        let stop = target.session.travel(&travel, &mut interrupted);
        if stop == Stop::Interrupted {
            return connection.read().map(Event::IncomingData).map_err(failed);
        }
        target.travel = None;
        Ok(Event::TargetStopped(reason(stop)))
    }

    fn on_interrupt(target: &mut Debugged<'a, S>) -> Result<Option<Reason>, Infallible> {
        target.travel = None;
        Ok(Some(Reason::Signal(Signal::SIGINT)))
    }
}

fn reason(stop: Stop) -> Reason {
    match stop {
        Stop::Stepped => Reason::DoneStep,
        Stop::Breakpoint => Reason::SwBreak(()),
        Stop::Watchpoint(hit) => {
            let kind = match hit.watched {
                Watched::Writes => WatchKind::Write,
                Watched::Reads => WatchKind::Read,
                Watched::Accesses => WatchKind::ReadWrite,
            };
            Reason::Watch { tid: (), kind, addr: hit.address }
        }
        // gdb has no word for it; `monitor where` has.
        Stop::Checkpoint(_) => Reason::SignalWithThread { tid: (), signal: Signal::SIGTRAP },
        Stop::Begin => Reason::ReplayLog { tid: Some(()), pos: ReplayLogPosition::Begin },
        Stop::End => Reason::ReplayLog { tid: Some(()), pos: ReplayLogPosition::End },
        Stop::Interrupted => Reason::Signal(Signal::SIGINT),
        Stop::Failed => Reason::Signal(Signal::SIGABRT),
    }
}
