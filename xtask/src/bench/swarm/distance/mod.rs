//! Distance between hosts: time that each packet takes from one link to another, and a chance that it gets lost there.
//!
//! The switch of such a network is a router. Whatever comes from a host's link goes into a TUN device, out of which a process
//! of its own, the relay, takes it, and gives it back later; only then it goes on to the link of the host that it is for.
//! Links are shaped as in any other network, before and behind that. There is no multicast between the hosts.

mod check;
mod probe;
mod relay;

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::network::{NETWORK, Network, port};
use super::process::{self, Process, until_true};
pub(in crate::bench) use check::{DistanceArgs, measure};

const DEVICE: &str = "wan0";
/// What hosts have as their next hop: every port of the router has this address.
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 98, 1, 1);
/// The table of routes for what comes from hosts.
const TABLE: u32 = 98;
/// Packets that wait for the relay to look at its device: it looks more than 2000 times a second.
const WAITING_MAX: u32 = 4096;
const SEED: u64 = 17;
const PATIENCE: Duration = Duration::from_secs(20);
/// Delays must not depend on what else the processors do.
const NICENESS: &str = "-10";

/// What lies between the links of any two hosts, in one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distance {
    pub(super) delay: Duration,
    pub(super) lost_per_million: u32,
}

/// A relay that runs. Dropping it ends it; its device stays.
#[derive(Debug)]
pub(super) struct Relay {
    process: Process,
    switch: String,
}

/// What a relay has carried, in packets as they are on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Carried {
    pub(super) taken: u64,
    /// Taken and not given back: lost on purpose, or on their way at that moment.
    pub(super) lost: u64,
    /// Not taken, because the relay did not look in time.
    pub(super) overflowed: u64,
}

/// The relay's processes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum RelayPart {
    /// Carries packets.
    Carry(relay::CarryArgs),
    /// Sends each datagram back.
    Echo(probe::EchoArgs),
    /// Measures round trips to an echo.
    Probe(probe::ProbeArgs),
}

/// Runs one of them.
pub(crate) fn run(part: &RelayPart) -> Result<()> {
    match part {
        RelayPart::Carry(args) => relay::run(args),
        RelayPart::Echo(args) => probe::echo(args),
        RelayPart::Probe(args) => probe::probe(args),
    }
}

impl Distance {
    /// For people.
    pub(super) fn text(self) -> String {
        format!(
            "each packet takes {} ms from link to link, {} ms for a round trip, and {} of a million are lost \
            each way; by a relay on TUN",
            self.delay.as_millis(),
            2 * self.delay.as_millis(),
            self.lost_per_million
        )
    }
}

impl Relay {
    /// Starts it on the device of a router that was made with [`router`].
    pub(super) fn start(switch: &str, distance: Distance, log: &Path) -> Result<Self> {
        let mut command = process::within(switch, "nice");
        command.args(["-n", NICENESS]).arg(this_program()?).args(["relay", "carry", "--device", DEVICE]);
        command.arg(format!("--delay-us={}", distance.delay.as_micros()));
        command.arg(format!("--lost-per-million={}", distance.lost_per_million));
        command.arg(format!("--seed={SEED}"));
        let mut process = Process::spawn("relay", &mut command, log)?;
        until_true("the relay is ready", PATIENCE, || {
            process.ensure_runs()?;
            Ok(process.has_said(relay::READY))
        })?;
        Ok(Self { process, switch: switch.to_owned() })
    }

    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Since it was started.
    pub(super) fn carried(&self) -> Result<Carried> {
        let output =
            Command::new("ip").args(["-n", &self.switch, "-s", "-j", "link", "show", "dev", DEVICE]).output();
        let output = output.context("ip link show")?;
        ensure!(output.status.success(), "ip link show: {}", String::from_utf8_lossy(&output.stderr).trim());
        parse(&output.stdout)
    }
}

impl Carried {
    /// Between both.
    pub(super) const fn since(self, before: Self) -> Self {
        Self {
            taken: self.taken.saturating_sub(before.taken),
            lost: self.lost.saturating_sub(before.lost),
            overflowed: self.overflowed.saturating_sub(before.overflowed),
        }
    }

    pub(super) fn lost_percent(self) -> f64 {
        self.lost as f64 * 100.0 / self.taken.max(1) as f64
    }
}

/// This program, in which the relay's processes are.
fn this_program() -> Result<std::path::PathBuf> {
    std::env::current_exe().context("own path")
}

/// For a shell in the router's namespace, before it has any device: packets come out of the relay's device with addresses
/// that are elsewhere, and it carries no packets of the router's own.
pub(super) const ROUTES_PACKETS: &str = "\
    cd /proc/sys/net && echo 1 >ipv4/ip_forward && \
    for of in all default; do echo 0 >ipv4/conf/$of/rp_filter || exit 1; done && \
    if test -e ipv6/conf/default/disable_ipv6; then echo 1 >ipv6/conf/default/disable_ipv6; fi";

/// Lines for `ip` in the router's namespace, once its ports are there. What comes from the relay's device, or from the router
/// itself, goes to hosts; what comes from anywhere else, to that device.
pub(super) fn router(hosts: u32) -> Result<String> {
    let mut lines = format!(
        "tuntap add dev {DEVICE} mode tun\n\
        link set dev {DEVICE} mtu {} txqueuelen {WAITING_MAX} up\n\
        rule add pref 100 iif {DEVICE} lookup main\n\
        rule add pref 101 iif lo lookup main\n\
        rule add pref 102 lookup {TABLE}\n\
        route add default dev {DEVICE} table {TABLE}\n",
        relay::PACKET_BYTES_MAX
    );
    for host in 0..hosts {
        let port = port(host);
        writeln!(lines, "address add {ROUTER}/32 dev {port}")?;
        writeln!(lines, "route add {}/32 dev {port} src {ROUTER}", Network::address(host))?;
    }
    Ok(lines)
}

/// Lines for `ip` on a host: how it reaches the others.
pub(super) fn ways(address: Ipv4Addr) -> String {
    format!(
        "route add {ROUTER}/32 dev eth0 src {address}\n\
        route add {NETWORK} via {ROUTER} dev eth0 src {address} congctl cubic\n"
    )
}

/// A device as `ip -s -j link show` shows it.
#[derive(Deserialize)]
struct Device {
    stats64: Both,
}

#[derive(Deserialize)]
struct Both {
    /// From the relay, as far as the kernel is concerned.
    rx: Packets,
    /// To the relay.
    tx: Packets,
}

#[derive(Deserialize)]
struct Packets {
    packets: u64,
    dropped: u64,
}

fn parse(text: &[u8]) -> Result<Carried> {
    let devices: Vec<Device> = serde_json::from_slice(text).context("what ip says")?;
    let Both { rx, tx } = &devices.first().context("no device of the relay")?.stats64;
    let lost = tx.packets.saturating_sub(rx.packets);
    Ok(Carried { taken: tx.packets, lost, overflowed: tx.dropped + rx.dropped })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_carried_is_read_from_the_device() {
        let text = r#"[{"ifindex":2,"ifname":"wan0","mtu":1500,"link_type":"none","stats64":{"rx":{"bytes":900,
            "packets":9,"errors":0,"dropped":1,"over_errors":0,"multicast":0},"tx":{"bytes":1000,"packets":10,
            "errors":0,"dropped":2,"carrier_errors":0,"collisions":0}}}]"#;
        let carried = parse(text.as_bytes()).unwrap();
        assert_eq!(carried, Carried { taken: 10, lost: 1, overflowed: 3 });
        assert!((carried.lost_percent() - 10.0).abs() < 1e-9);
        let before = Carried { taken: 4, lost: 1, overflowed: 3 };
        assert_eq!(carried.since(before), Carried { taken: 6, lost: 0, overflowed: 0 });
        assert!(parse(b"[]").is_err());
    }

    #[test]
    fn every_host_is_behind_the_router() {
        let lines = router(2).unwrap();
        assert!(lines.contains("route add 10.98.0.2/32 dev port1 src 10.98.1.1\n"));
        assert!(
            ways(Network::address(1)).contains("route add 10.98.0.0/24 via 10.98.1.1 dev eth0 src 10.98.0.2")
        );
    }
}
