//! The node: what the `pageswarm` program is made of.

#![forbid(unsafe_code)]

pub mod addresses;
pub mod api;
pub mod authority;
pub mod backlog;
pub mod births;
pub mod cli;
pub mod clock;
pub mod config;
pub mod effort;
pub mod events;
pub mod exit;
pub mod fetch;
pub mod follow;
pub mod gossip;
pub mod hub;
pub mod identity;
pub mod images;
pub mod import;
pub mod join;
pub mod lazy_ram;
pub mod leases;
pub mod limits;
pub mod lineages;
pub mod machines;
pub mod members;
pub mod multicast;
pub mod node;
pub mod objects;
pub mod page_source;
pub mod peers;
pub mod place;
pub mod publish;
pub mod rebuild;
pub mod recent;
pub mod recording;
pub mod report;
pub mod results;
pub mod runs;
pub mod session;
pub mod simulate;
pub mod spread;
pub mod transport;
pub mod uploads;
pub mod work;
