//! Two machines in one local network, made of network namespaces on this one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::ensure;
use tokio::process::Command;

use crate::command::run;

/// Counts networks within a process; the process's id tells processes apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Two namespaces and a cable between them. Dropping it removes all three; declare it before the nodes in it.
#[derive(Debug)]
pub struct Lan {
    /// Names of the namespaces.
    pub namespaces: [String; 2],
}

impl Lan {
    /// The address of each end.
    pub const ADDRESSES: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2))];

    /// A network of its own.
    ///
    /// # Errors
    ///
    /// If the system does not make it.
    pub async fn new() -> anyhow::Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |end: &str| format!("pageswarm-{}-{number}-{end}", std::process::id());
        // From here on whatever was made is removed, should the rest fail.
        let lan = Self { namespaces: ["a", "b"].map(name) };
        for namespace in &lan.namespaces {
            ip(&["netns", "add", namespace]).await?;
        }
        let [here, there] = &lan.namespaces;
        let link: [&str; 12] =
            ["link", "add", "eth0", "netns", here, "type", "veth", "peer", "name", "eth0", "netns", there];
        ip(&link).await?;
        for (namespace, address) in lan.namespaces.iter().zip(Self::ADDRESSES) {
            ip(&["-n", namespace, "address", "add", &format!("{address}/24"), "dev", "eth0"]).await?;
            ip(&["-n", namespace, "link", "set", "lo", "up"]).await?;
            ip(&["-n", namespace, "link", "set", "eth0", "up"]).await?;
        }
        Ok(lan)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let removed = std::process::Command::new("ip").args(["netns", "delete"]).arg(namespace).status();
            if let Err(error) = removed {
                eprintln!("ip netns delete {namespace}: {error}");
            }
        }
    }
}

async fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let done = run(Command::new("ip").args(arguments)).await?;
    ensure!(done.code == Some(0), "ip {}: {}", arguments.join(" "), done.text);
    Ok(())
}
