//! Hosts with links of a set rate: a namespace each, around a bridge in a namespace of its own, which no other network of
//! this machine sees.
//!
//! Each link is a veth pair whose two ends are shaped by HTB with one class: the host's end is its way up, the bridge's
//! end its way down. Bytes are read from these queues, because they count the headers of every segment, where the
//! counters of an interface count those of a whole burst once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::distance::{self, Distance, Relay};
use super::profile::Link;

/// What a class may send at once: enough that a timer which is 2.6 ms late costs nothing at 100 Mbit/s.
pub(super) const BURST_BYTES: u64 = 32 << 10;
/// Hosts have addresses 10.98.0.1 and on.
const HOSTS_MAX: u32 = 200;
pub(super) const NETWORK: &str = "10.98.0.0/24";
/// Where a container engine runs, bridges show every packet to iptables unless their namespace says otherwise.
const PASSES_BY_THE_FIREWALL: &str =
    "s=/proc/sys/net/bridge/bridge-nf-call-iptables; if test -e $s; then echo 0 >$s; fi";

/// The network of one run of one system. Dropping it removes it; processes in it must be dropped before.
#[derive(Debug)]
pub(super) struct Network {
    prefix: String,
    hosts: u32,
    /// What packets pass between distant hosts.
    relay: Option<Relay>,
}

/// What a host's link carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// From the host.
    pub(super) up_bytes: u64,
    /// To the host.
    pub(super) down_bytes: u64,
    /// Packets that found a queue full, in either direction.
    pub(super) drops: u64,
}

impl Network {
    /// Hosts 0 and on, all with the same link.
    pub(super) fn new(prefix: &str, hosts: u32, link: Link) -> Result<Self> {
        let network = Self::unconnected(prefix, hosts)?;
        set(&network.switch(), PASSES_BY_THE_FIREWALL)?;
        network.connect(link, &bridge(hosts)?, way)?;
        network.introduce()?;
        Ok(network)
    }

    /// The same with distance between them; what the relay says goes to the file `log`.
    pub(super) fn distant(
        prefix: &str,
        hosts: u32,
        link: Link,
        distance: Distance,
        log: &Path,
    ) -> Result<Self> {
        let mut network = Self::unconnected(prefix, hosts)?;
        set(&network.switch(), distance::ROUTES_PACKETS)?;
        network.connect(link, &distance::router(hosts)?, distance::ways)?;
        network.relay = Some(Relay::start(&network.switch(), distance, log)?);
        Ok(network)
    }

    /// Namespaces without devices. From here on whatever was made is removed, should the rest fail.
    fn unconnected(prefix: &str, hosts: u32) -> Result<Self> {
        ensure!(hosts <= HOSTS_MAX, "{hosts} hosts: at most {HOSTS_MAX} have an address");
        let network = Self { prefix: prefix.to_owned(), hosts, relay: None };
        let mut names = String::new();
        for namespace in network.namespaces() {
            writeln!(names, "netns add {namespace}")?;
        }
        batch("ip", None, &names)?;
        Ok(network)
    }

    /// Cables and their shapers. `switch` are lines for `ip` that make the switch of its ports, `ways` those by which a host
    /// with an address reaches the others.
    fn connect(&self, link: Link, switch: &str, ways: fn(Ipv4Addr) -> String) -> Result<()> {
        let own = self.switch();
        batch("ip", Some(&own), &self.cables()?)?;
        batch("ip", Some(&own), switch)?;
        let mut ports = String::new();
        for host in 0..self.hosts {
            shape(&mut ports, &port(host), link)?;
        }
        batch("tc", Some(&own), &ports)?;
        let mut way_up = String::new();
        shape(&mut way_up, "eth0", link)?;
        for host in 0..self.hosts {
            let (namespace, address) = (self.namespace(host), Self::address(host));
            batch("ip", Some(&namespace), &device(address, &ways(address)))?;
            batch("tc", Some(&namespace), &way_up)?;
        }
        Ok(())
    }

    /// Tells every host of a bridge the hardware addresses of the others, for good: what hosts ask each other for goes into a
    /// table that all namespaces of a machine share, which 64 of them would fill (`gc_thresh3`, 1024 entries).
    fn introduce(&self) -> Result<()> {
        for host in 0..self.hosts {
            let mut others = String::new();
            for other in (0..self.hosts).filter(|other| *other != host) {
                let (address, hardware) = (Self::address(other), hardware_address(other));
                writeln!(others, "neighbor replace {address} lladdr {hardware} dev eth0 nud permanent")?;
            }
            batch("ip", Some(&self.namespace(host)), &others)?;
        }
        Ok(())
    }

    /// What packets pass between distant hosts.
    pub(super) const fn relay(&self) -> Option<&Relay> {
        self.relay.as_ref()
    }

    /// The host's namespace.
    pub(super) fn namespace(&self, host: u32) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// The host's address.
    pub(super) fn address(host: u32) -> Ipv4Addr {
        let last = u8::try_from(host + 1).unwrap_or(u8::MAX);
        Ipv4Addr::new(10, 98, 0, last)
    }

    /// What each host's link carried since the network was made.
    pub(super) fn counters(&self) -> Result<Vec<Counters>> {
        let ports = shaped(&self.switch())?;
        let mut all = Vec::new();
        for host in 0..self.hosts {
            let own = shaped(&self.namespace(host))?;
            let up = own.get("eth0").with_context(|| format!("host {host} has no shaped link"))?;
            let down = ports.get(&port(host)).with_context(|| format!("no shaped link to host {host}"))?;
            all.push(Counters { up_bytes: up.bytes, down_bytes: down.bytes, drops: up.drops + down.drops });
        }
        Ok(all)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    fn namespaces(&self) -> Vec<String> {
        std::iter::once(self.switch()).chain((0..self.hosts).map(|host| self.namespace(host))).collect()
    }

    fn cables(&self) -> Result<String> {
        let mut lines = String::new();
        for host in 0..self.hosts {
            let (port, namespace, hardware) = (port(host), self.namespace(host), hardware_address(host));
            writeln!(
                lines,
                "link add name {port} mtu 1500 type veth peer name eth0 address {hardware} mtu 1500 netns {namespace}"
            )?;
            writeln!(lines, "link set dev {port} up")?;
        }
        Ok(lines)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.relay.take());
        for namespace in self.namespaces() {
            let deleted =
                Command::new("ip").args(["netns", "delete", &namespace]).stderr(Stdio::null()).status();
            if let Err(error) = deleted {
                eprintln!("ip netns delete {namespace}: {error}");
            }
        }
    }
}

/// Makes settings in a namespace: a script for a shell.
fn set(namespace: &str, script: &str) -> Result<()> {
    let done = Command::new("ip").args(["netns", "exec", namespace, "sh", "-c", script]).status();
    ensure!(done.context("ip netns exec")?.success(), "no settings can be made in namespace {namespace}");
    Ok(())
}

/// The switch's end of a host's link.
pub(super) fn port(host: u32) -> String {
    format!("port{host}")
}

/// Of a host's device: administered locally, and its address in it.
fn hardware_address(host: u32) -> String {
    let [a, b, c, d] = Network::address(host).octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// All ports in one bridge.
fn bridge(hosts: u32) -> Result<String> {
    let mut lines =
        "link add name bridge0 type bridge mcast_snooping 0\nlink set dev bridge0 up\n".to_owned();
    for host in 0..hosts {
        writeln!(lines, "link set dev {} master bridge0", port(host))?;
    }
    Ok(lines)
}

/// A host's device, and routes over it.
fn device(address: Ipv4Addr, ways: &str) -> String {
    format!(
        "link set dev lo up\n\
        address add {address}/24 dev eth0 noprefixroute\n\
        link set dev eth0 up\n\
        {ways}\
        route add 224.0.0.0/4 dev eth0\n"
    )
}

/// Congestion control by route, because a namespace may not choose another default than the machine's, and BBR, which is
/// the default of many, is not what nodes of a swarm meet.
fn way(address: Ipv4Addr) -> String {
    format!("route add {NETWORK} dev eth0 src {address} congctl cubic\n")
}

fn shape(lines: &mut String, device: &str, link: Link) -> Result<()> {
    let (rate, limit) = (link.mbit_per_s, link.queue_bytes());
    writeln!(lines, "qdisc add dev {device} root handle 1: htb default 1")?;
    writeln!(
        lines,
        "class add dev {device} parent 1: classid 1:1 htb rate {rate}mbit burst {BURST_BYTES} \
        cburst {BURST_BYTES} quantum {BURST_BYTES}"
    )?;
    writeln!(lines, "qdisc add dev {device} parent 1:1 bfifo limit {limit}")?;
    Ok(())
}

/// Runs many commands of `ip` or `tc` in one process.
fn batch(program: &str, namespace: Option<&str>, lines: &str) -> Result<()> {
    let mut command = Command::new(program);
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context(program.to_owned())?;
    let mut input = child.stdin.take().context("standard input")?;
    // It may end at the first line that fails; what it says then tells more than this pipe's error.
    let written = input.write_all(lines.as_bytes());
    drop(input);
    let output = child.wait_with_output().context(program.to_owned())?;
    ensure!(
        output.status.success(),
        "{program} in namespace {}: {} (this takes root that may make networks)",
        namespace.unwrap_or("-"),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    written.context(program.to_owned())
}

/// A queue as `tc -s -j qdisc show` shows it.
#[derive(Clone, Debug, Deserialize)]
struct Queue {
    kind: String,
    #[serde(default)]
    dev: String,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    drops: u64,
}

/// The shapers of a namespace by device.
fn shaped(namespace: &str) -> Result<BTreeMap<String, Queue>> {
    let output = Command::new("tc").args(["-n", namespace, "-s", "-j", "qdisc", "show"]).output();
    let output = output.context("tc")?;
    ensure!(output.status.success(), "tc in {namespace}: {}", String::from_utf8_lossy(&output.stderr).trim());
    parse(&output.stdout)
}

/// The root of each shaper: it counts what was sent, and drops of the queue below it.
fn parse(text: &[u8]) -> Result<BTreeMap<String, Queue>> {
    let all: Vec<Queue> = serde_json::from_slice(text).context("what tc says")?;
    let shapers = all.into_iter().filter(|queue| queue.kind == "htb");
    Ok(shapers.map(|queue| (queue.dev.clone(), queue)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_those_of_the_shaper() {
        let text = r#"[{"kind":"noqueue","handle":"0:","dev":"lo","root":true,"refcnt":2,"options":{},"bytes":1,
            "packets":0,"drops":0,"overlimits":0,"requeues":0,"backlog":0,"qlen":0},
            {"kind":"htb","handle":"1:","dev":"eth0","root":true,"refcnt":3,"options":{"r2q":10,"default":"0x1",
            "direct_packets_stat":0,"direct_qlen":1000},"bytes":90,"packets":1,"drops":3,"overlimits":0,
            "requeues":0,"backlog":0,"qlen":0},
            {"kind":"bfifo","handle":"8001:","dev":"eth0","parent":"1:1","options":{"limit":128036},"bytes":90,
            "packets":1,"drops":3,"overlimits":0,"requeues":0,"backlog":0,"qlen":0}]"#;
        let found = parse(text.as_bytes()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["eth0"]);
        assert_eq!((found["eth0"].bytes, found["eth0"].drops), (90, 3));
        assert!(parse(b"no json").is_err());
    }

    #[test]
    fn a_link_is_shaped_with_its_rate_and_queue() {
        let mut lines = String::new();
        shape(&mut lines, "eth0", Link { mbit_per_s: 50 }).unwrap();
        assert_eq!(lines.lines().count(), 3);
        assert!(lines.contains("rate 50mbit ") && lines.ends_with("bfifo limit 128036\n"));
        assert_eq!(Network::address(16), Ipv4Addr::new(10, 98, 0, 17));
        assert_eq!(hardware_address(16), "02:00:0a:62:00:11");
    }
}
