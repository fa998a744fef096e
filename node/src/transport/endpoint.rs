//! The QUIC endpoint and its tuning for bulk data in a local network.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use quinn::{EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig, VarInt};

use super::tls::{self, TlsError};
use crate::limits;

/// Asked of the kernel for each direction; the default of 208 KiB loses thousands of datagrams at full speed.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
const STREAM_WINDOW_BYTES: u32 = 16 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// 1500 less IPv4 and UDP headers: what an Ethernet carries without fragments; discovery finds more where it is.
const MTU_BYTES: u16 = 1472;
/// As far as discovery goes, where jumbo frames or the loopback carry it: quinn sends up to ten packets in one call, and
/// one call takes 64 KiB. Fewer packets cost less time.
const MTU_BYTES_MAX: u16 = 6500;

/// Why there is no data plane.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address cannot be bound.
    #[error("cannot listen on udp {address}: choose another --listen address or port")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// TLS.
    #[error("tls for the data plane")]
    Tls(#[from] TlsError),
}

/// The endpoint, and what the kernel granted of the socket buffers asked for.
#[derive(Debug)]
pub struct DataEndpoint {
    /// Accepts and opens connections.
    pub endpoint: quinn::Endpoint,
    /// Receive buffer in bytes, as read back.
    pub receive_buffer_bytes: usize,
}

/// Opens the data plane on `address`.
///
/// # Errors
///
/// [`EndpointError`].
pub fn open(address: SocketAddr, key: &SigningKey) -> Result<DataEndpoint, EndpointError> {
    let bind = |source| EndpointError::Bind { address, source };
    let socket = UdpSocket::bind(address).map_err(bind)?;
    let granted = grow_buffers(&socket);
    let (mut server, mut client) = tls::configs(key)?;
    let transport = Arc::new(transport());
    server.transport_config(Arc::clone(&transport));
    client.transport_config(transport);
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MTU_BYTES_MAX).expect("it is above the least that QUIC allows");
    let mut endpoint =
        quinn::Endpoint::new(config, Some(server), socket, Arc::new(TokioRuntime)).map_err(bind)?;
    endpoint.set_default_client_config(client);
    Ok(DataEndpoint { endpoint, receive_buffer_bytes: granted })
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut acknowledgements = quinn::AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(10));
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_BYTES_MAX);
    transport
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .initial_mtu(MTU_BYTES)
        .mtu_discovery_config(Some(discovery))
        .initial_rtt(Duration::from_millis(5))
        .max_concurrent_bidi_streams(VarInt::from_u32(limits::STREAMS_PER_PEER_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .keep_alive_interval(Some(Duration::from_secs(3)))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(10_000))))
        .ack_frequency_config(Some(acknowledgements))
        .send_fairness(false);
    transport
}

/// Asks for large socket buffers and returns the receive buffer that the kernel granted.
fn grow_buffers(socket: &UdpSocket) -> usize {
    let socket = socket2::SockRef::from(socket);
    let grown =
        [socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES), socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)];
    for error in grown.into_iter().filter_map(Result::err) {
        tracing::warn!(%error, "cannot grow a socket buffer");
    }
    socket.recv_buffer_size().unwrap_or(0)
}
