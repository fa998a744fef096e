//! Connections of the API's servers: only so many at a time, and each must say soon what it wants.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::limits::{HTTP_CONNECTIONS_MAX, HTTP_HEADER_TIMEOUT};

/// Answers what comes to `listener` with `routes`, for ever. Whoever connects beyond the limit waits for a place; one
/// that a client leaves unused is free again after [`HTTP_HEADER_TIMEOUT`], and any after `age_max`.
pub(super) async fn serve(mut listener: impl Listener, routes: Router, age_max: Option<Duration>) {
    let places = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
    // Nobody closes the semaphore.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let (stream, _) = listener.accept().await;
        let routes = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HTTP_HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), routes);
            let mut connection = pin!(connection);
            let served = match age_max {
                None => connection.await,
                Some(age_max) => match timeout(age_max, connection.as_mut()).await {
                    Ok(served) => served,
                    // Browsers and scrapers connect again.
                    Err(_) => {
                        connection.as_mut().graceful_shutdown();
                        timeout(HTTP_HEADER_TIMEOUT, connection).await.unwrap_or(Ok(()))
                    }
                },
            };
            if let Err(error) = served {
                tracing::debug!(%error, "http connection ended early");
            }
            drop(place);
        });
    }
}
