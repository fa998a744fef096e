//! `pageswarm node run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pageswarm_checkpoint::membership::Ticket;
use pageswarm_checkpoint::wire::Place;

use super::{print, values};
use crate::api::error::code_of;
use crate::api::server;
use crate::config::{Mdns, MembershipStart, NodeConfig, ProcessorChoice, Sources};
use crate::exit::{ExitCode, Failure};
use crate::leases::Share;
use crate::limits::{PEERS_MAX, TICKET_ADDRESSES_MAX};
use crate::node::Node;
use crate::report::chain;

/// Below this an answer of the usual size takes longer than others wait for it.
const UPLOAD_LIMIT_MIN: u64 = 64 << 10;

/// A worker renews three times a term.
const LEASE_TERM_MIN: Duration = Duration::from_millis(100);

/// Runs a node until SIGTERM, SIGINT or an order through its API.
#[derive(Debug, clap::Args)]
pub struct NodeRunArgs {
    /// Directory of its keys, store and API socket; made if it does not exist.
    #[arg(long, env = "PAGESWARM_DIR", default_value = "pageswarm-node")]
    pub dir: PathBuf,
    /// UDP address of the data plane; other nodes must reach it.
    #[arg(long, default_value = "0.0.0.0:7420")]
    pub listen: SocketAddr,
    /// Address of the data plane that tickets carry; may be given several times. Without it they carry the
    /// listen address or, if that stands for all addresses of the machine, those of its network interfaces.
    #[arg(long, value_name = "ADDRESS", value_parser = values::reachable_address)]
    pub advertise: Vec<SocketAddr>,
    /// TCP address of gossip; other nodes must reach it.
    #[arg(long, default_value = "0.0.0.0:7421")]
    pub gossip_listen: SocketAddr,
    /// TCP address of dashboard, metrics and what of the API only reads. Off if not given.
    #[arg(long)]
    pub http: Option<SocketAddr>,
    /// Make a new swarm with this node as its admin, unless the directory has one.
    #[arg(long, conflicts_with = "join")]
    pub create_swarm: bool,
    /// Join a swarm with this ticket, unless the directory has one.
    #[arg(long)]
    pub join: Option<Ticket>,
    /// Data plane of another member to connect with; may be given several times.
    #[arg(long = "peer")]
    pub peers: Vec<SocketAddr>,
    /// Members that this node is connected with at most. In a larger swarm it exchanges connections for those that
    /// it needs.
    #[arg(long, value_name = "COUNT", default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u64).range(4..=256))]
    pub peers_max: u64,
    /// Zone that this node is in, by a name that all nodes there are given: between zones, links are long.
    #[arg(long, value_name = "NAME", value_parser = values::place_name)]
    pub zone: Option<String>,
    /// Rack that this node is in: its nodes share the link out of it, so each chunk comes in about once.
    #[arg(long, value_name = "NAME", value_parser = values::place_name)]
    pub rack: Option<String>,
    /// Host that this node is on, where several are: between them there is no link.
    #[arg(long, value_name = "NAME", value_parser = values::place_name)]
    pub host: Option<String>,
    /// Bytes that the store may take, such as 20GiB. No limit if not given.
    #[arg(long, value_parser = values::size)]
    pub quota: Option<u64>,
    /// Differences between clocks that certificates tolerate.
    #[arg(long, value_parser = values::duration, default_value = "5m")]
    pub clock_skew: Duration,
    /// Announce this node in the local network by multicast, and find members there that do so too.
    #[arg(long)]
    pub mdns: bool,
    /// Bytes of chunks sent a second at most, all peers together, such as 20MiB. No limit if not given.
    #[arg(long, value_name = "BYTES", value_parser = values::size)]
    pub upload_limit: Option<u64>,
    /// What runs the guests of this node's VMs.
    #[arg(long, value_enum, default_value_t)]
    pub processor: ProcessorChoice,
    /// RAM for images of checkpoints that were read back whole, from which VMs start at once, such as 2GiB; 0 for none. What a VM
    /// started from stays as long as the VM, besides the pages that it wrote.
    #[arg(long, value_name = "BYTES", value_parser = values::size, default_value = "512MiB")]
    pub image_memory: u64,
    /// Ask nobody but a lineage's writer for its chunks: distribution from one server, to be compared with.
    #[arg(long)]
    pub central: bool,
    /// Of the simulations that workers ask this node for, the share that is done twice, by different workers.
    #[arg(long, value_name = "SHARE", default_value = "5%")]
    pub simulate_twice: Share,
    /// How long a worker that this node leased an interval to may be silent before another one gets it.
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "10s")]
    pub lease_term: Duration,
}

/// Runs the node.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(args: NodeRunArgs) -> Result<(), Failure> {
    if args.advertise.len() > TICKET_ADDRESSES_MAX {
        let message =
            format!("a ticket carries {TICKET_ADDRESSES_MAX} addresses: give --advertise less often");
        return Err(Failure::new(ExitCode::Usage, message));
    }
    if args.upload_limit.is_some_and(|limit| limit < UPLOAD_LIMIT_MIN) {
        let message = "--upload-limit is in bytes a second: give at least 64KiB";
        return Err(Failure::new(ExitCode::Usage, message));
    }
    if args.lease_term < LEASE_TERM_MIN {
        let message = "--lease-term: give at least 100ms, or workers renew their leases without end";
        return Err(Failure::new(ExitCode::Usage, message));
    }
    let membership = match args.join {
        Some(ticket) => MembershipStart::Join(ticket),
        None if args.create_swarm => MembershipStart::Create,
        None => MembershipStart::Kept,
    };
    let config = NodeConfig {
        directory: args.dir,
        listen: args.listen,
        advertise: args.advertise,
        gossip_listen: args.gossip_listen,
        http_listen: args.http,
        membership,
        peers: args.peers,
        clock_skew: args.clock_skew,
        place: Place { zone: args.zone, rack: args.rack, host: args.host },
        quota_bytes: args.quota,
        processor: args.processor,
        image_bytes: args.image_memory,
        upload_bytes_per_s: args.upload_limit,
        peers_max: usize::try_from(args.peers_max).unwrap_or(PEERS_MAX),
        sources: if args.central { Sources::Writer } else { Sources::Swarm },
        lease_term: args.lease_term,
        simulate_twice: args.simulate_twice,
        mdns: if args.mdns { Mdns::On } else { Mdns::Off },
    };
    let node = Node::start(config).await.map_err(|error| Failure::new(code_of(&error), chain(&error)))?;
    let http = server::start(&node).await.map_err(|error| Failure::new(code_of(&error), chain(&error)))?;
    let certificate = node.members.certificate();
    print::line(&format!(
        "node {} of swarm {} ({}) listens on udp {}, gossip tcp {}{}",
        node.id.short(),
        node.members.swarm().short(),
        certificate.role,
        node.data_address,
        node.gossip_port,
        http.map_or_else(String::new, |address| format!(", dashboard http://{address}/")),
    ))?;
    tokio::select! {
        () = node.ended() => {}
        () = super::signalled() => {}
    }
    node.close().await;
    Ok(())
}
