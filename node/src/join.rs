//! Joining with a ticket: reaching its admin at one of its addresses, and exchanging the invitation.
//!
//! Addresses are tried as in RFC 8305: the next one when the one before has failed or takes long, and the first
//! connection that stands is used. An invitation is good once, so only one connection at a time presents it.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use pageswarm_checkpoint::NodeId;
use pageswarm_checkpoint::membership::Ticket;
use pageswarm_checkpoint::wire::Opening;
use tokio::time::{sleep, timeout};

use crate::limits::{
    ATTEMPT_DELAY, HELLO_TIMEOUT, INVITATION_TIMEOUT, OBJECT_BYTES_MAX, TICKET_ADDRESSES_MAX,
};
use crate::objects;
use crate::peers::close;
use crate::report::chain;
use crate::transport::frames::{self, FrameError};
use crate::transport::tls;

/// Why a ticket does not make this node a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It names no address that is one.
    #[error("ticket has no usable address: ask for one with a numeric address and a port")]
    NoAddress,
    /// The admin node refused it.
    #[error("ticket refused: {why}")]
    Refused {
        /// In the admin node's words.
        why: String,
    },
    /// None of its addresses led to the admin node.
    #[error(
        "the admin that issued the ticket answers at none of its addresses ({}): check that its node runs and can be reached over UDP from here, or ask for a ticket with other addresses",
        Listed(.failed)
    )]
    NotReached {
        /// Each that was tried, in the order in which they failed.
        failed: Vec<FailedAddress>,
    },
}

/// An address of a ticket that was of no use.
#[derive(Debug, thiserror::Error)]
#[error("{address}")]
pub struct FailedAddress {
    /// The address.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub why: AttemptError,
}

/// Why an address was of no use.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// This node cannot connect with an address of that kind.
    #[error("cannot connect")]
    Connect(#[from] quinn::ConnectError),
    /// Nobody answers.
    #[error("no answer within {} s", HELLO_TIMEOUT.as_secs())]
    Silent,
    /// The connection ended. What the other side said is in the source.
    #[error("connection ended")]
    Connection(#[from] quinn::ConnectionError),
    /// Another node than the admin is there.
    #[error("another node is there")]
    OtherNode,
    /// The invitation was not answered.
    #[error("no answer to the invitation within {} s", INVITATION_TIMEOUT.as_secs())]
    Undecided,
    /// The invitation's stream.
    #[error("invitation's stream")]
    Frame(#[from] FrameError),
}

struct Listed<'failed>(&'failed [FailedAddress]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, failed) in self.0.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}{}", chain(failed))?;
        }
        Ok(())
    }
}

/// Exchanges the ticket's invitation for a certificate.
///
/// # Errors
///
/// [`JoinError`].
pub async fn join(endpoint: &quinn::Endpoint, ticket: &Ticket) -> Result<Vec<u8>, JoinError> {
    let addresses = ticket.addresses.iter().filter_map(|text| text.parse().ok());
    let mut untried: VecDeque<SocketAddr> = addresses.take(TICKET_ADDRESSES_MAX).collect();
    if untried.is_empty() {
        return Err(JoinError::NoAddress);
    }
    let (mut attempts, mut failed) = (FuturesUnordered::new(), Vec::new());
    loop {
        if let Some(address) = untried.pop_front() {
            attempts.push(async move { (address, reach(endpoint, ticket.admin, address).await) });
        }
        let ended = tokio::select! {
            ended = attempts.next() => ended,
            () = sleep(ATTEMPT_DELAY), if !untried.is_empty() => continue,
        };
        let (address, why) = match ended {
            None => return Err(JoinError::NotReached { failed }),
            Some((address, Err(why))) => (address, why),
            // The other attempts wait meanwhile; all are dropped, and so closed, once there is a decision.
            Some((address, Ok(connection))) => match present(&connection, ticket.invitation).await {
                Ok(Ok(certificate)) => return Ok(certificate),
                Ok(Err(why)) => return Err(JoinError::Refused { why }),
                Err(why) => (address, why),
            },
        };
        failed.push(FailedAddress { address, why });
    }
}

/// A connection with the admin at that address.
async fn reach(
    endpoint: &quinn::Endpoint,
    admin: NodeId,
    address: SocketAddr,
) -> Result<quinn::Connection, AttemptError> {
    let connection = timeout(HELLO_TIMEOUT, endpoint.connect(address, tls::SERVER_NAME)?).await;
    let connection = connection.map_err(|_| AttemptError::Silent)??;
    if tls::peer_id(&connection) != Some(admin) {
        connection.close(close::NOT_MEMBER, b"not the admin named in the ticket");
        return Err(AttemptError::OtherNode);
    }
    Ok(connection)
}

/// The admin's answer to the invitation: a certificate, or why there is none.
async fn present(
    connection: &quinn::Connection,
    invitation: [u8; 16],
) -> Result<Result<Vec<u8>, String>, AttemptError> {
    let answered = timeout(INVITATION_TIMEOUT, async {
        let (mut send, mut receive) = connection.open_bi().await?;
        frames::write(&mut send, &Opening::Join { invitation }.encode()).await?;
        let answer = objects::read_answer(&mut receive, OBJECT_BYTES_MAX).await?;
        Ok::<_, AttemptError>(answer)
    });
    let answer = answered.await.map_err(|_| AttemptError::Undecided)?;
    connection.close(close::DONE, b"joined");
    answer
}
