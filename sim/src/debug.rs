//! Recorded intervals under a debugger: forwards, backwards, and over checkpoints.
//!
//! - [`session`]: the position in time and the ways to move it; [`source`] is where its intervals come from.
//! - [`server`]: the session as gdb's remote protocol has it.
//! - [`stops`]: breakpoints and watchpoints.
//!
//! What is debugged is a recording: nothing in it can be changed, so that every moment is what it was. Breakpoints do
//! not write guest memory.

mod connection;
mod machine;
mod monitor;
mod program;
mod registers;
pub mod server;
pub mod session;
mod snapshots;
pub mod source;
pub mod stops;
mod target;
mod track;
mod translate;
mod undo;

pub use connection::Stream;
pub use server::{Ended, ServeError, loopback, serve};
pub use session::{AtCheckpoints, DebugFailure, Moment, Session, Stop, Travel};
pub use source::{RecordedInterval, Source};
pub use stops::{Hit, StopError, Watched, Watchpoint};
