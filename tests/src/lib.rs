//! What the end-to-end tests share: real nodes as processes, a hand-made member, and visible skips.

pub mod calls;
pub mod cluster;
pub mod command;
pub mod events;
pub mod halted;
pub mod hostile;
pub mod lan;
pub mod member;
pub mod noise;
pub mod skip;
