//! Where other nodes reach this one's data plane: what tickets carry, and what the local network is told.

use std::io;
use std::net::{IpAddr, SocketAddr};

use if_addrs::Interface;

use crate::limits::TICKET_ADDRESSES_MAX;

/// Why no address can be named.
#[derive(Debug, thiserror::Error)]
pub enum AddressesError {
    /// The system does not list its interfaces.
    #[error("cannot list this machine's network interfaces: name its addresses with --advertise")]
    List(#[from] io::Error),
    /// None of them is up.
    #[error("no network interface is up: name this node's addresses with --advertise")]
    NoneUp,
}

/// What a ticket carries: the addresses that the user advertises, else those of a data plane bound to `bound`.
///
/// # Errors
///
/// [`AddressesError`].
pub fn for_ticket(advertised: &[SocketAddr], bound: SocketAddr) -> Result<Vec<String>, AddressesError> {
    let named = if advertised.is_empty() { reached_at(bound)? } else { advertised.to_vec() };
    if named.is_empty() {
        return Err(AddressesError::NoneUp);
    }
    Ok(named.iter().take(TICKET_ADDRESSES_MAX).map(SocketAddr::to_string).collect())
}

/// The addresses of a data plane bound to `bound`: that one or, if it listens on all addresses of the machine,
/// those of the interfaces that are up at the moment. Loopback addresses are last, because from other machines
/// they lead elsewhere.
///
/// # Errors
///
/// If the system does not list its interfaces.
pub fn reached_at(bound: SocketAddr) -> io::Result<Vec<SocketAddr>> {
    if !bound.ip().is_unspecified() {
        return Ok(vec![bound]);
    }
    let up = if_addrs::get_if_addrs()?.into_iter().filter(Interface::is_oper_up);
    Ok(of_interfaces(bound, up.map(|interface| interface.ip())))
}

fn of_interfaces(bound: SocketAddr, up: impl Iterator<Item = IpAddr>) -> Vec<SocketAddr> {
    // On Linux a socket for IPv6 takes IPv4 too. A link-local IPv6 address means nothing without its interface.
    let fits = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => bound.is_ipv6() && !ip.is_unicast_link_local(),
    };
    let mut found: Vec<SocketAddr> = up.filter(fits).map(|ip| SocketAddr::new(ip, bound.port())).collect();
    found.sort_by_key(|address| address.ip().is_loopback());
    found
}

#[cfg(test)]
mod tests {
    use pageswarm_checkpoint::NodeId;
    use pageswarm_checkpoint::membership::Ticket;

    use super::*;

    #[test]
    fn loopback_is_last_and_an_ipv4_socket_has_no_ipv6_address() {
        let up = ["127.0.0.1", "10.0.0.5", "::1", "2001:db8::5", "fe80::5"];
        let up = up.map(|ip| ip.parse::<IpAddr>().unwrap());
        let named = |bound: &str| -> Vec<String> {
            of_interfaces(bound.parse().unwrap(), up.into_iter()).iter().map(SocketAddr::to_string).collect()
        };
        assert_eq!(named("0.0.0.0:7420"), ["10.0.0.5:7420", "127.0.0.1:7420"]);
        let both = ["10.0.0.5:7420", "[2001:db8::5]:7420", "127.0.0.1:7420", "[::1]:7420"];
        assert_eq!(named("[::]:7420"), both);
    }

    #[test]
    fn an_address_that_was_bound_alone_is_named_as_it_is() {
        let bound: SocketAddr = "127.0.0.1:7420".parse().unwrap();
        assert_eq!(for_ticket(&[], bound).unwrap(), ["127.0.0.1:7420"]);
        let advertised = "192.0.2.7:9000".parse().unwrap();
        assert_eq!(for_ticket(&[advertised], bound).unwrap(), ["192.0.2.7:9000"]);
    }

    #[test]
    fn a_ticket_has_room_for_all_addresses_that_are_named() {
        let many: Vec<SocketAddr> = (1..=40).map(|port| SocketAddr::from(([192, 0, 2, 7], port))).collect();
        let addresses = for_ticket(&many, many[0]).unwrap();
        assert_eq!(addresses.len(), TICKET_ADDRESSES_MAX);
        let ticket =
            Ticket { swarm: NodeId([1; 32]), admin: NodeId([2; 32]), invitation: [3; 16], addresses };
        assert_eq!(ticket.to_string().parse(), Ok(ticket));
    }
}
