//! nginx on the publisher: serves the content, and stands in for a tracker.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::places::{CONTENT, Place, Places};
use crate::bench::swarm::process::{Process, until_true};

const PORT: u16 = 80;
const ANNOUNCE: &str = "announce";
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts it and waits until it listens.
pub(super) fn start(place: &Place) -> Result<Process> {
    let configuration = place.directory.join("nginx.conf");
    fs::write(&configuration, configure(place.address)).context("nginx.conf")?;
    let mut command = place.command("nginx");
    // Without -e it first writes to the log of the system's own nginx.
    command.arg("-p").arg(&place.directory).arg("-c").arg(&configuration);
    command.arg("-e").arg(place.directory.join("nginx-start.log"));
    let mut server = place.spawn("nginx", &mut command)?;
    until_true("nginx listens", PATIENCE, || {
        server.ensure_runs()?;
        Ok(server.listens(SocketAddrV4::new(place.address, PORT)))
    })?;
    Ok(server)
}

/// Where the content is.
pub(super) fn content_url(publisher: Ipv4Addr) -> String {
    format!("http://{publisher}:{PORT}/{CONTENT}")
}

/// Where peers ask for others.
pub(super) fn announce_url(publisher: Ipv4Addr) -> String {
    format!("http://{publisher}:{PORT}/{ANNOUNCE}")
}

/// Lets it answer as a tracker that knows every host from the first moment on, which no real one does.
pub(super) fn track(places: &Places, port: u16) -> Result<()> {
    let addresses: Vec<Ipv4Addr> = places.all().map(|place| place.address).collect();
    let path = places.publisher.directory.join(ANNOUNCE);
    fs::write(&path, tracker_answer(&addresses, port)).with_context(|| path.display().to_string())
}

/// A bencoded answer with compact peers (BEP 3, BEP 23).
fn tracker_answer(addresses: &[Ipv4Addr], port: u16) -> Vec<u8> {
    let mut answer = format!("d8:intervali600e5:peers{}:", addresses.len() * 6).into_bytes();
    for address in addresses {
        answer.extend(address.octets());
        answer.extend(port.to_be_bytes());
    }
    answer.push(b'e');
    answer
}

/// One process, everything below its own directory.
fn configure(address: Ipv4Addr) -> String {
    let mut text = "daemon off; master_process off; pid nginx.pid; error_log nginx-error.log;\n\
        events { worker_connections 1024; }\n\
        http {\naccess_log off; sendfile on;\n"
        .to_owned();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        text.push_str(&format!("{kind}_temp_path temporary-{kind};\n"));
    }
    text + &format!("server {{ listen {address}:{PORT}; root .; }}\n}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracker_answers_with_all_peers() {
        let answer = tracker_answer(&[Ipv4Addr::new(10, 98, 0, 1), Ipv4Addr::new(10, 98, 0, 2)], 6881);
        assert_eq!(answer, b"d8:intervali600e5:peers12:\x0a\x62\x00\x01\x1a\xe1\x0a\x62\x00\x02\x1a\xe1e");
    }
}
