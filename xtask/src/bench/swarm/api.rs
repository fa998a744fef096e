//! A node's API on its unix socket: one request, one answer. The command line would do as well, but starting it costs the
//! machine that is being measured.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How long a node may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a node answers.
#[derive(Clone, Debug)]
pub(super) struct Api {
    socket: PathBuf,
}

impl Api {
    /// Of the node in `directory`.
    pub(super) fn of(directory: &Path) -> Self {
        Self { socket: directory.join("api.sock") }
    }

    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call("GET", path, "", PATIENCE)
    }

    /// Asks for something that takes the node up to `patience`.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        patience: Duration,
    ) -> Result<T> {
        self.call("POST", path, &body.to_string(), patience + PATIENCE)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &str,
        patience: Duration,
    ) -> Result<T> {
        let at = || format!("{method} {path} at {}", self.socket.display());
        let answer = self.exchange(method, path, body, patience).with_context(at)?;
        let (status, body) = parse(&answer).with_context(at)?;
        ensure!((200..300).contains(&status), "{}: {status} {}", at(), String::from_utf8_lossy(body));
        serde_json::from_slice(body).with_context(at)
    }

    fn exchange(&self, method: &str, path: &str, body: &str, patience: Duration) -> Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(patience))?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: pageswarm\r\nconnection: close\r\n\
            content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// Status and body of an answer whose end is the end of the connection.
fn parse(answer: &[u8]) -> Result<(u16, &[u8])> {
    let end =
        answer.windows(4).position(|window| window == b"\r\n\r\n").context("an answer without a body")?;
    let head = std::str::from_utf8(&answer[..end]).context("head of the answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding");
    ensure!(!chunked, "the answer comes in chunks, which this client does not read");
    Ok((status.context("an answer without a status")?, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(parse(answer).unwrap(), (404, &b"{}"[..]));
        assert!(parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").is_err());
        assert!(parse(b"").is_err());
    }
}
