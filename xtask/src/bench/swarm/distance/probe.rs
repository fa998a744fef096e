//! Round trips of datagrams between two hosts: one sends at an even pace, the other sends each back.

use std::io::ErrorKind;
use std::net::{SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::relay::READY;

const DATAGRAM_BYTES: usize = 100;
/// After which a datagram that has not come back is lost.
const PATIENCE: Duration = Duration::from_secs(1);
const PACKETS_MAX: u32 = 1_000_000;

/// What the echo is told.
#[derive(Debug, clap::Args)]
pub(crate) struct EchoArgs {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddrV4,
}

/// What the probe is told.
#[derive(Debug, clap::Args)]
pub(crate) struct ProbeArgs {
    /// Where the echo is.
    #[arg(long)]
    target: SocketAddrV4,
    /// How many datagrams it sends.
    #[arg(long)]
    packets: u32,
    /// Between two of them, in microseconds.
    #[arg(long)]
    gap_us: u64,
}

/// What a probe found, as JSON alone on its last line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct RoundTrips {
    pub(super) sent: u32,
    pub(super) answered: u32,
    pub(super) least_us: u64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

/// Until it is killed.
pub(super) fn echo(args: &EchoArgs) -> Result<()> {
    let socket = UdpSocket::bind(args.listen).with_context(|| args.listen.to_string())?;
    println!("{READY}");
    let mut bytes = [0; DATAGRAM_BYTES];
    loop {
        let (length, sender) = socket.recv_from(&mut bytes).context("a datagram")?;
        socket.send_to(&bytes[..length], sender).context("an answer")?;
    }
}

/// Prints what it found.
pub(super) fn probe(args: &ProbeArgs) -> Result<()> {
    ensure!((1..=PACKETS_MAX).contains(&args.packets), "1 to {PACKETS_MAX} packets");
    let socket = UdpSocket::bind("0.0.0.0:0").context("a UDP port")?;
    socket.connect(args.target).with_context(|| args.target.to_string())?;
    socket.set_read_timeout(Some(PATIENCE)).context("timeout")?;
    let clock = Instant::now();
    let receiving = socket.try_clone().context("socket")?;
    let receiver = std::thread::spawn(move || receive(&receiving, clock));
    let gap = Duration::from_micros(args.gap_us);
    let mut datagram = [0; DATAGRAM_BYTES];
    for number in 0..args.packets {
        std::thread::sleep((gap * number).saturating_sub(clock.elapsed()));
        datagram[..8].copy_from_slice(&micros(clock.elapsed()).to_le_bytes());
        socket.send(&datagram).context("a datagram")?;
    }
    let mut times_us = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    println!("{}", serde_json::to_string(&RoundTrips::of(args.packets, &mut times_us))?);
    Ok(())
}

/// Round trips of all that come back, in microseconds, until nothing has come for [`PATIENCE`]. A datagram carries when
/// it was sent.
fn receive(socket: &UdpSocket, clock: Instant) -> Result<Vec<u64>> {
    let mut times_us = Vec::new();
    let mut bytes = [0; DATAGRAM_BYTES];
    while times_us.len() < PACKETS_MAX as usize {
        match socket.recv(&mut bytes) {
            Ok(_) => {
                let mut sent = [0; 8];
                sent.copy_from_slice(&bytes[..8]);
                times_us.push(micros(clock.elapsed()).saturating_sub(u64::from_le_bytes(sent)));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => return Err(error).context("an answer"),
        }
    }
    Ok(times_us)
}

impl RoundTrips {
    fn of(sent: u32, times_us: &mut [u64]) -> Self {
        times_us.sort_unstable();
        let at = |percent: usize| times_us.get(times_us.len() * percent / 100).copied().unwrap_or(0);
        let answered = u32::try_from(times_us.len()).unwrap_or(u32::MAX);
        Self { sent, answered, least_us: at(0), p50_us: at(50), p99_us: at(99) }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_ranked() {
        let mut times_us: Vec<u64> = (1..=200).rev().collect();
        let found = RoundTrips::of(201, &mut times_us);
        let wanted = RoundTrips { sent: 201, answered: 200, least_us: 1, p50_us: 101, p99_us: 199 };
        assert_eq!(found, wanted);
        assert_eq!(RoundTrips::of(5, &mut []), RoundTrips { sent: 5, ..RoundTrips::default() });
    }
}
