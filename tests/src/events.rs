//! A node's event stream, read until something happens.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// Reads the events of the node in `directory`, those it has kept and those to come, until `wanted` says yes.
///
/// # Errors
///
/// If none did within `patience`, with the events that were seen; or if the stream ended.
pub async fn wait_for(
    directory: &Path,
    patience: Duration,
    wanted: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    let mut seen = Vec::new();
    let found = tokio::time::timeout(patience, read(directory, &wanted, &mut seen)).await;
    found.map_err(|_| anyhow::anyhow!("no such event within {} s; seen: {seen:#?}", patience.as_secs()))?
}

/// The same, by the event's name and a piece of its reason or peer.
///
/// # Errors
///
/// See [`wait_for`].
pub async fn wait_for_text(
    directory: &Path,
    patience: Duration,
    name: &str,
    piece: &str,
) -> anyhow::Result<Value> {
    let found =
        wait_for(directory, patience, |event| event["event"] == name && event.to_string().contains(piece));
    found.await.with_context(|| format!("waiting for {name} with {piece:?}"))
}

async fn read(
    directory: &Path,
    wanted: &impl Fn(&Value) -> bool,
    seen: &mut Vec<Value>,
) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(directory.join("api.sock")).await.context("event stream")?;
    stream.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: pageswarm\r\n\r\n").await?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        // Headers and chunk lengths lie between the events.
        let Some(text) = line.strip_prefix("data:") else {
            continue;
        };
        let event: Value = serde_json::from_str(text.trim()).context("event")?;
        if wanted(&event) {
            return Ok(event);
        }
        seen.push(event);
    }
    anyhow::bail!("the event stream ended; seen: {seen:#?}")
}
