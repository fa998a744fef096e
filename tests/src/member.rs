//! A member made by hand: it holds a key and a certificate and says on the data plane whatever a test wants.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ed25519_dalek::SigningKey;
use pageswarm_checkpoint::wire::{
    Control, Hello, LeaseAnswer, LeaseRequest, ObjectRequest, Opening, RunAnswer, RunRequest,
};
use pageswarm_checkpoint::{NodeId, node_id};
use pageswarm_node::transport::{endpoint, frames, tls};
use pageswarm_node::{identity, join, objects};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::time::timeout;

/// How long anything with a node on the same machine may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Enough for any object of a small guest.
const OBJECT_BYTES_MAX: u64 = 16 << 20;

/// A key with an endpoint.
#[derive(Debug)]
pub struct Member {
    /// The key.
    pub key: SigningKey,
    endpoint: quinn::Endpoint,
    session: [u8; 8],
}

/// A connection that has said hello. Dropping it closes it.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    control: SendStream,
    _heard: RecvStream,
}

/// Why a node closed a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The code, one of `pageswarm_node::peers::close`.
    pub code: u64,
    /// In the node's words.
    pub why: String,
}

impl Member {
    /// A fresh key on a port of the system's choice.
    ///
    /// # Errors
    ///
    /// If there is no port.
    pub fn new() -> anyhow::Result<Self> {
        let key = SigningKey::from_bytes(&identity::random()?);
        let endpoint = endpoint::open("127.0.0.1:0".parse()?, &key)?.endpoint;
        Ok(Self { key, endpoint, session: identity::random()? })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        node_id(&self.key)
    }

    /// Exchanges a ticket for a certificate.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub async fn join(&self, ticket: &str) -> anyhow::Result<Vec<u8>> {
        Ok(join::join(&self.endpoint, &ticket.parse()?).await?)
    }

    /// Connects and says hello with that certificate. The error says how the node closed the connection.
    ///
    /// # Errors
    ///
    /// [`Closed`] in the chain if the node refused.
    pub async fn connect(&self, address: SocketAddr, certificate: Vec<u8>) -> anyhow::Result<Session> {
        let connection = self.stranger(address).await?;
        let (mut control, mut heard) = connection.open_bi().await?;
        let port = self.endpoint.local_addr()?.port();
        let hello = Hello { certificate, data_port: port, gossip_port: port, session: self.session };
        frames::write(&mut control, &Opening::Control.encode()).await?;
        frames::write(&mut control, &Control::Hello(hello).encode()).await?;
        let answer = timeout(PATIENCE, frames::read(&mut heard)).await.context("no answer to a hello")?;
        match answer {
            Ok(Some(frame)) if matches!(Control::decode(&frame), Ok(Control::Hello(_))) => {
                Ok(Session { connection, control, _heard: heard })
            }
            Ok(_) => bail!("the node did not say hello"),
            Err(_) => {
                let closed = closed(&connection).await?;
                bail!("refused with {}: {}", closed.code, closed.why)
            }
        }
    }

    /// Connects and says nothing.
    ///
    /// # Errors
    ///
    /// If TLS fails.
    pub async fn stranger(&self, address: SocketAddr) -> anyhow::Result<Connection> {
        let connecting = self.endpoint.connect(address, tls::SERVER_NAME)?;
        Ok(timeout(PATIENCE, connecting).await.context("no connection")??)
    }
}

impl Session {
    /// Says something.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn tell(&mut self, message: &Control) -> anyhow::Result<()> {
        Ok(frames::write(&mut self.control, &message.encode()).await?)
    }

    /// Asks for an object; `None` if the node does not give it.
    ///
    /// # Errors
    ///
    /// If the connection is closed.
    pub async fn object(&self, request: ObjectRequest) -> anyhow::Result<Option<Vec<u8>>> {
        let (mut send, mut receive) = self.connection.open_bi().await?;
        frames::write(&mut send, &Opening::Object(request).encode()).await?;
        let answer = timeout(PATIENCE, objects::read_answer(&mut receive, OBJECT_BYTES_MAX)).await;
        Ok(answer.context("no answer to a request for an object")??.ok())
    }

    /// Asks the host of a lease table.
    ///
    /// # Errors
    ///
    /// If the connection is closed, or the answer is not one.
    pub async fn lease(&self, request: LeaseRequest) -> anyhow::Result<LeaseAnswer> {
        let (mut send, mut receive) = self.connection.open_bi().await?;
        frames::write(&mut send, &Opening::Lease(request).encode()).await?;
        let answer =
            timeout(PATIENCE, frames::read(&mut receive)).await.context("no answer about a lease")??;
        Ok(LeaseAnswer::decode(&answer.context("the stream ended without an answer")?)?)
    }

    /// Asks for a run; all answers until the stream ends.
    ///
    /// # Errors
    ///
    /// If the connection is closed, or the answer is not one.
    pub async fn run(&self, request: RunRequest) -> anyhow::Result<Vec<RunAnswer>> {
        ask_run(&self.connection, request).await
    }

    /// The next stream that the node opens, with what it asks; `None` once the connection is closed.
    pub async fn asked(&self) -> Option<(Opening, SendStream)> {
        let (send, mut receive) = self.connection.accept_bi().await.ok()?;
        let frame = frames::read(&mut receive).await.ok()??;
        Some((Opening::decode(&frame).ok()?, send))
    }

    /// Waits until the node closes the connection.
    ///
    /// # Errors
    ///
    /// If it does not, or not by itself.
    pub async fn closed(&self) -> anyhow::Result<Closed> {
        closed(&self.connection).await
    }

    /// The connection.
    #[must_use]
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Asks for a run on any connection.
///
/// # Errors
///
/// If the connection is closed, or the answer is not one.
pub async fn ask_run(connection: &Connection, request: RunRequest) -> anyhow::Result<Vec<RunAnswer>> {
    let (mut send, mut receive) = connection.open_bi().await?;
    frames::write(&mut send, &Opening::Run(request).encode()).await?;
    let mut answers = Vec::new();
    while let Some(frame) =
        timeout(PATIENCE, frames::read(&mut receive)).await.context("no answer to a run")??
    {
        answers.extend(RunAnswer::decode_frame(&frame)?.into_iter().map(RunAnswer::into_owned));
    }
    Ok(answers)
}

/// Waits until the node closes `connection`.
///
/// # Errors
///
/// If it does not, or not by itself.
pub async fn closed(connection: &Connection) -> anyhow::Result<Closed> {
    let ended = timeout(PATIENCE, connection.closed()).await.context("the connection stays open")?;
    match ended {
        ConnectionError::ApplicationClosed(close) => Ok(Closed {
            code: close.error_code.into_inner(),
            why: String::from_utf8_lossy(&close.reason).into_owned(),
        }),
        other => Err(anyhow::Error::from(other).context("connection ended otherwise")),
    }
}
