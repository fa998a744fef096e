//! One receiver, no link: what it costs the processors to move a GiB from one store to another, received, verified and
//! stored, beside moving as many bytes over the same QUIC and nothing else.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::content::{self, Noise};
use super::ground::{self, Ground};
use super::measure::Usage;
use super::process::{self, Process, until_true};
use super::systems::nodes::{self, Exchange, Hosts, Nodes};
use crate::host;

const SEED: u64 = 13;
const CONTENT_BYTES: u64 = 1 << 30;
/// Each of both in turn, so that what else the machine does falls on both.
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(300);
const GIB: f64 = (1_u64 << 30) as f64;

/// What moving the content took.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Move {
    pub(super) seconds: f64,
    /// Of sender and receiver.
    pub(super) cpu_s: f64,
}

/// All rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct LoopbackRun {
    pub(super) product: Vec<Move>,
    pub(super) bare: Vec<Move>,
}

/// Runs it.
pub(super) fn run(ground: &Ground) -> Result<LoopbackRun> {
    let image = ground.fresh("content")?.join("content");
    content::write(&image, CONTENT_BYTES, &mut Noise::new(SEED))?;
    let mut run = LoopbackRun::default();
    for round in 1..=ROUNDS {
        let bare = move_bare(&ground.fresh("bare")?)?;
        let directory = ground.fresh("run")?;
        let product = move_chunks(&image, &directory)?;
        ground::remove(&directory)?;
        println!("round {round}: bare QUIC {}, pageswarm {}", bare.text(), product.text());
        run.bare.push(bare);
        run.product.push(product);
    }
    Ok(run)
}

fn move_chunks(image: &Path, directory: &Path) -> Result<Move> {
    let mut nodes = Nodes::start(Hosts::Loopback, 1, directory, Exchange::Swarm)?;
    let checkpoint = nodes.import(image, None)?;
    nodes.wait_announced(&checkpoint)?;
    let (usage, clock) = (Usage::now(&nodes.processes())?, Instant::now());
    nodes::fetch(&nodes.api(1), &checkpoint.lineage, checkpoint.index, PATIENCE)?;
    let seconds = clock.elapsed().as_secs_f64();
    let cpu_s = Usage::now(&nodes.processes())?.cpu_s_since(&usage);
    nodes.prove(1, &checkpoint)?;
    Ok(Move { seconds, cpu_s })
}

/// Both programs end by themselves, so their time is that of children that have ended.
fn move_bare(directory: &Path) -> Result<Move> {
    let program = host::program("examples/bare_quic")?;
    let address = free_address()?;
    let start = |role: &str, arguments: &[&str]| {
        let mut command = process::beside(&program);
        command.arg(role).args(arguments);
        Process::spawn(format!("bare_quic {role}"), &mut command, &directory.join(role))
    };
    let usage = Usage::now(&[])?;
    let mut server = start("serve", &[&address.to_string()])?;
    until_true("the server listens", PATIENCE, || {
        server.ensure_runs()?;
        is_bound(address)
    })?;
    let clock = Instant::now();
    let mut client = start("fetch", &[&address.to_string(), &CONTENT_BYTES.to_string()])?;
    until_true("the bytes arrive", PATIENCE, || client.succeeded())?;
    let seconds = clock.elapsed().as_secs_f64();
    until_true("the server ends", PATIENCE, || server.succeeded())?;
    Ok(Move { seconds, cpu_s: Usage::now(&[])?.cpu_s_since(&usage) })
}

/// A UDP address that nobody has at the moment.
fn free_address() -> Result<SocketAddrV4> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a UDP port")?;
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, socket.local_addr()?.port()))
}

fn is_bound(address: SocketAddrV4) -> Result<bool> {
    let sockets = std::fs::read_to_string("/proc/net/udp").context("/proc/net/udp")?;
    let ip = u32::from_le_bytes(address.ip().octets());
    let wanted = format!("{ip:08X}:{:04X}", address.port());
    Ok(sockets.lines().any(|line| line.split_whitespace().nth(1) == Some(&wanted)))
}

impl Move {
    fn text(self) -> String {
        format!("{:.2} s and {:.2} CPU s", self.seconds, self.cpu_s)
    }
}

impl LoopbackRun {
    /// CPU seconds for a GiB, of the product and of the bare transfer, all rounds together.
    pub(super) fn cpu_s_per_gib(&self) -> [f64; 2] {
        [&self.product, &self.bare].map(|moves| {
            let cpu_s: f64 = moves.iter().map(|one| one.cpu_s).sum();
            cpu_s / (moves.len() as f64 * CONTENT_BYTES as f64 / GIB)
        })
    }

    /// MiB a second, likewise.
    pub(super) fn mib_per_s(&self) -> [f64; 2] {
        [&self.product, &self.bare].map(|moves| {
            let seconds: f64 = moves.iter().map(|one| one.seconds).sum();
            moves.len() as f64 * (CONTENT_BYTES >> 20) as f64 / seconds
        })
    }

    /// Fails if there is nothing to compare.
    pub(super) fn ensure_whole(&self) -> Result<()> {
        let least = self.bare.iter().map(|one| one.cpu_s).fold(f64::INFINITY, f64::min);
        ensure!(least.is_finite() && least > 0.0, "the bare transfer used no processor time");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_added_up() {
        let one = |seconds, cpu_s| Move { seconds, cpu_s };
        let run = LoopbackRun {
            product: vec![one(4.0, 5.0), one(6.0, 7.0)],
            bare: vec![one(1.0, 2.0), one(1.0, 2.0)],
        };
        assert_eq!(run.cpu_s_per_gib(), [6.0, 2.0]);
        assert_eq!(run.mib_per_s(), [204.8, 1024.0]);
        assert!(run.ensure_whole().is_ok());
        assert!(LoopbackRun::default().ensure_whole().is_err());
    }

    #[test]
    fn a_bound_socket_is_seen() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, socket.local_addr().unwrap().port());
        assert!(is_bound(address).unwrap());
        drop(socket);
        assert!(!is_bound(address).unwrap());
    }
}
