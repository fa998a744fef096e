//! The node's HTTP API: everything on a unix socket, what only reads on TCP too.

pub mod client;
pub mod error;
mod listen;
pub mod metrics;
mod rejections;
pub mod server;
pub mod simulations;
pub mod spreads;
pub mod traces;
pub mod views;
pub mod vms;
pub mod work;
