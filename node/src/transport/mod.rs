//! The data plane: QUIC between members, authenticated both ways by their Ed25519 keys.

pub mod endpoint;
pub mod frames;
pub mod tls;
