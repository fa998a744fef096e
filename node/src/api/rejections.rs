//! What the router refuses by itself (a path, a method, a query or a body that it cannot read), told as all failures are.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::views::ErrorView;
use crate::exit::ExitCode;

/// Its words are a line; more is not read.
const WORDS_BYTES_MAX: usize = 4096;

/// Answers of handlers are JSON already and stay as they are.
pub(super) async fn as_failures(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !status.is_client_error() || kind.is_some_and(|kind| kind.starts_with("application/json")) {
        return response;
    }
    let words = axum::body::to_bytes(response.into_body(), WORDS_BYTES_MAX).await.unwrap_or_default();
    let words = String::from_utf8_lossy(&words).trim().to_owned();
    let (code, otherwise) = match status {
        StatusCode::NOT_FOUND => (ExitCode::NotFound, "there is no such route: docs/api.md lists them"),
        StatusCode::METHOD_NOT_ALLOWED => (ExitCode::Usage, "this route takes another method"),
        _ => (ExitCode::Usage, "the request cannot be read"),
    };
    let message = if words.is_empty() { otherwise.to_owned() } else { words };
    (status, Json(ErrorView { exit_code: code as u8, message })).into_response()
}
