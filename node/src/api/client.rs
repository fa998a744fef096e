//! Calling a node's API over its unix socket.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::views::ErrorView;
use crate::exit::{ExitCode, Failure};

/// The longest answer taken.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A node's API socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The node whose directory this is.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { socket: directory.join("api.sock") }
    }

    /// Reads.
    ///
    /// # Errors
    ///
    /// [`Failure`] with the exit code that the node names, or [`ExitCode::NoNode`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let bytes = self.call(Method::GET, path, Bytes::new()).await?;
        parse(&bytes)
    }

    /// Reads text.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn text(&self, path: &str) -> Result<String, Failure> {
        let bytes = self.call(Method::GET, path, Bytes::new()).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body =
            serde_json::to_vec(body).map_err(|error| Failure::new(ExitCode::Failed, error.to_string()))?;
        let bytes = self.call(Method::POST, path, body.into()).await?;
        parse(&bytes)
    }

    /// Asks for something that has no answer.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub async fn post_only(&self, path: &str) -> Result<(), Failure> {
        self.call(Method::POST, path, Bytes::new()).await.map(|_| ())
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let no_node = |error: &dyn std::fmt::Display| {
            let socket = self.socket.display();
            Failure::new(
                ExitCode::NoNode,
                format!(
                    "no node answers at {socket} ({error}): start one with `pageswarm node run`, or name its directory with --dir"
                ),
            )
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| no_node(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| no_node(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "api connection");
            }
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "pageswarm")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::new(ExitCode::Usage, error.to_string()))?;
        let response = sender.send_request(request).await.map_err(|error| no_node(&error))?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = body.map_err(|error| no_node(&error))?.to_bytes();
        if status.is_success() {
            return Ok(bytes);
        }
        match serde_json::from_slice::<ErrorView>(&bytes) {
            Ok(view) => Err(Failure::new(exit_code(view.exit_code), view.message)),
            Err(_) => {
                let text = String::from_utf8_lossy(&bytes);
                Err(Failure::new(ExitCode::Failed, format!("node answered {status}: {}", text.trim())))
            }
        }
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::new(ExitCode::Failed, format!("the node's answer is of another version: {error}"))
    })
}

fn exit_code(number: u8) -> ExitCode {
    ExitCode::ALL.into_iter().find(|code| *code as u8 == number).unwrap_or(ExitCode::Failed)
}
