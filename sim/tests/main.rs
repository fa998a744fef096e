//! The simulator on what is made for the purpose. Recordings made on KVM are programs of their own, because each VM is a
//! process that such a program starts itself as.

#[path = "support/accesses.rs"]
mod accesses;
mod analyses;
mod double_fetches;
mod guest;
mod intervals;
mod lockstep;
mod plain_traces;
mod programs;
mod traces;
mod translation;
