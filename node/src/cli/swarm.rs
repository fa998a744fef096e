//! `pageswarm swarm`: tickets and revocations, on the node that holds the swarm's key.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Subcommand;
use pageswarm_checkpoint::NodeId;
use pageswarm_checkpoint::membership::Role;

use super::{NodeArgs, print, values};
use crate::api::client::Client;
use crate::api::views::{RevocationRequest, TicketRequest, TicketView};
use crate::exit::Failure;

/// `pageswarm swarm`.
#[derive(Debug, Subcommand)]
pub enum SwarmCommand {
    /// Make a ticket with which one node can join, once.
    Ticket(TicketArgs),
    /// Throw a member out; open connections with it are closed.
    Revoke(RevokeArgs),
}

/// Makes a ticket.
#[derive(Debug, clap::Args)]
pub struct TicketArgs {
    /// Which node makes it.
    #[command(flatten)]
    pub node: NodeArgs,
    /// What the joiner may do: reader, worker, publisher or admin.
    #[arg(long, default_value = "reader")]
    pub role: Role,
    /// How long the ticket can be used.
    #[arg(long, value_parser = values::duration, default_value = "1h")]
    pub open_for: Duration,
    /// How long the joiner's certificate is valid; it is renewed at half of that.
    #[arg(long, value_parser = values::duration, default_value = "30d")]
    pub member_for: Duration,
}

/// Throws a member out.
#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// Which node does it.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The member, as `status` names it with --json.
    pub member: NodeId,
}

/// Carries out the command.
///
/// # Errors
///
/// [`Failure`].
pub async fn run(command: SwarmCommand) -> Result<(), Failure> {
    match command {
        SwarmCommand::Ticket(args) => {
            let request = TicketRequest {
                role: args.role.name().to_owned(),
                open_for_s: args.open_for.as_secs(),
                member_for_s: args.member_for.as_secs(),
            };
            let view: TicketView = Client::new(&args.node.dir).post("/api/v1/tickets", &request).await?;
            if args.node.json { print::json(&view) } else { print::line(&view.ticket) }
        }
        SwarmCommand::Revoke(args) => {
            let request = RevocationRequest { node: args.member.to_string() };
            let client = Client::new(&args.node.dir);
            let view: BTreeMap<String, u64> = client.post("/api/v1/revocations", &request).await?;
            if args.node.json {
                return print::json(&view);
            }
            print::line(&format!("{} is no member any more", args.member.short()))
        }
    }
}
