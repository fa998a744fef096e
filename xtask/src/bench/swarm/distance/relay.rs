//! The process that every packet between distant hosts passes: it takes them from a TUN device, keeps each for a time,
//! and gives it back to the same device, or loses it.
//!
//! It looks at its device every [`LOOK_EVERY`] while something is on its way, and not at all while nothing is. A packet is
//! therefore up to two such times late, and one on average. Most of what the relay costs are its wake-ups.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use tappers::{Interface, Tun};

use super::Distance;
use crate::bench::swarm::content::Noise;

/// What it says once it is ready.
pub(super) const READY: &str = "ready";
/// The largest packet; the device has this MTU.
pub(super) const PACKET_BYTES_MAX: usize = 1500;
/// On their way at once: 10 ms of 20 Gbit/s in full packets, 24 MiB.
const PACKETS_MAX: usize = 16 << 10;
const LOOK_EVERY: Duration = Duration::from_micros(400);

/// What it is told.
#[derive(Debug, clap::Args)]
pub(crate) struct CarryArgs {
    /// A TUN device that is there already.
    #[arg(long)]
    pub(super) device: String,
    /// For how long each packet is kept, in microseconds.
    #[arg(long)]
    pub(super) delay_us: u64,
    /// How many of a million packets are lost.
    #[arg(long)]
    pub(super) lost_per_million: u32,
    /// Which ones.
    #[arg(long)]
    pub(super) seed: u64,
}

/// Packets on their way, in the order in which they came.
#[derive(Debug)]
struct Line {
    distance: Distance,
    chance: Noise,
    packets: VecDeque<Packet>,
}

#[derive(Debug)]
struct Packet {
    due: Instant,
    bytes: Box<[u8]>,
}

/// Carries packets until it is killed.
pub(super) fn run(args: &CarryArgs) -> Result<()> {
    let device = Interface::new(&args.device).and_then(Tun::new_named);
    let mut device = device.with_context(|| args.device.clone())?;
    device.set_nonblocking(true).context("TUN device")?;
    let delay = Duration::from_micros(args.delay_us);
    let mut line = Line::new(Distance { delay, lost_per_million: args.lost_per_million }, args.seed);
    println!("{READY}");
    loop {
        take(&device, &mut line)?;
        give(&device, &mut line)?;
        if line.packets.is_empty() {
            poll(&mut [PollFd::new(&device, PollFlags::IN)], None).context("poll")?;
        } else {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// All that the device has, as far as there is room; the rest waits in the device's own queue.
fn take(device: &Tun, line: &mut Line) -> Result<()> {
    let mut bytes = [0; PACKET_BYTES_MAX];
    while line.has_room() {
        match device.recv(&mut bytes) {
            Ok(length) => line.take(Instant::now(), &bytes[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("a packet from the device"),
        }
    }
    Ok(())
}

fn give(device: &Tun, line: &mut Line) -> Result<()> {
    let now = Instant::now();
    while let Some(packet) = line.due(now) {
        device.send(&packet).context("a packet to the device")?;
    }
    Ok(())
}

impl Line {
    fn new(distance: Distance, seed: u64) -> Self {
        Self { distance, chance: Noise::new(seed), packets: VecDeque::new() }
    }

    fn has_room(&self) -> bool {
        self.packets.len() < PACKETS_MAX
    }

    fn take(&mut self, now: Instant, bytes: &[u8]) {
        let lost = self.chance.number() % 1_000_000 < u64::from(self.distance.lost_per_million);
        if !lost {
            self.packets.push_back(Packet { due: now + self.distance.delay, bytes: bytes.into() });
        }
    }

    /// The next packet that has been kept for long enough.
    fn due(&mut self, now: Instant) -> Option<Box<[u8]>> {
        self.packets.pop_front_if(|packet| packet.due <= now).map(|packet| packet.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(10);

    fn line(lost_per_million: u32, seed: u64) -> Line {
        Line::new(Distance { delay: DELAY, lost_per_million }, seed)
    }

    #[test]
    fn packets_come_out_in_order_and_not_before_their_time() {
        let mut line = line(0, 1);
        let start = Instant::now();
        line.take(start, &[1]);
        line.take(start + DELAY / 2, &[2]);
        let just_before = start + DELAY - Duration::from_nanos(1);
        assert_eq!(line.due(just_before), None);
        assert_eq!(line.due(start + DELAY).as_deref(), Some(&[1][..]));
        assert_eq!(line.due(start + DELAY), None);
        assert_eq!(line.due(start + 2 * DELAY).as_deref(), Some(&[2][..]));
        assert_eq!(line.due(start + 2 * DELAY), None);
    }

    #[test]
    fn a_seed_loses_its_share_and_the_same_packets_again() {
        let kept = |seed: u64| {
            let (mut line, now) = (line(1000, seed), Instant::now());
            let mut kept = Vec::new();
            for number in 0..1_000_000_u32 {
                line.take(now, &number.to_le_bytes());
                kept.extend(line.due(now + DELAY));
            }
            kept
        };
        let lost = 1_000_000 - kept(7).len();
        // A thousand, and five times their standard deviation.
        assert!((842..=1158).contains(&lost), "{lost}");
        assert_eq!(kept(7), kept(7));
        assert_ne!(kept(7), kept(8));
    }

    #[test]
    fn what_is_on_its_way_is_bounded() {
        let mut line = line(0, 1);
        let now = Instant::now();
        let mut taken = 0;
        while line.has_room() {
            line.take(now, &[0]);
            taken += 1;
        }
        assert_eq!(taken, PACKETS_MAX);
        line.due(now + DELAY).unwrap();
        assert!(line.has_room());
    }
}
