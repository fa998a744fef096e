//! What moving bytes over QUIC costs by itself: one stream of zeros over the node's own endpoint, with its keys, windows
//! and packet sizes, and nothing before or behind it. The yardstick of `cargo xtask bench swarm --profile loopback`.
//!
//! `bare_quic serve ADDRESS` serves one connection and ends; `bare_quic fetch ADDRESS BYTES` reads that many bytes.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use pageswarm_node::transport::{endpoint, tls};
use quinn::Endpoint;

/// Bytes handed to a stream at once: those of a frame of chunks.
const PART_BYTES: usize = 128 << 10;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", address] => serve(&open(address, 1)?).await,
        ["fetch", address, bytes] => fetch(&open("127.0.0.1:0", 2)?, address.parse()?, bytes.parse()?).await,
        _ => bail!("usage: bare_quic serve ADDRESS | bare_quic fetch ADDRESS BYTES"),
    }
}

fn open(address: &str, key: u8) -> Result<Endpoint> {
    let address: SocketAddr = address.parse().context("address")?;
    Ok(endpoint::open(address, &SigningKey::from_bytes(&[key; 32]))?.endpoint)
}

async fn serve(endpoint: &Endpoint) -> Result<()> {
    let connection = endpoint.accept().await.context("endpoint closed")?.await?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    let mut length = [0; 8];
    receive.read_exact(&mut length).await?;
    let part = Bytes::from(vec![0; PART_BYTES]);
    let mut left = u64::from_le_bytes(length);
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(PART_BYTES).min(PART_BYTES);
        send.write_chunk(part.slice(..now)).await?;
        left -= now as u64;
    }
    send.finish()?;
    connection.closed().await;
    Ok(())
}

async fn fetch(endpoint: &Endpoint, address: SocketAddr, bytes: u64) -> Result<()> {
    let connection = endpoint.connect(address, tls::SERVER_NAME)?.await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&bytes.to_le_bytes()).await?;
    let mut read = 0;
    while let Some(chunk) = receive.read_chunk(PART_BYTES, true).await? {
        read += chunk.bytes.len() as u64;
    }
    ensure!(read == bytes, "{read} bytes came, {bytes} were asked for");
    connection.close(0_u32.into(), b"");
    endpoint.wait_idle().await;
    Ok(())
}
