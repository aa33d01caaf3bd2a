//! The admin endpoint: what people, probes and scrapers ask over HTTP, on the data port + 1.
//!
//! Reading is open to whoever reaches the port; it shows no keys, no values and no secrets. What changes something is a
//! POST with `Authorization: Bearer` and the configured token, from a request that names this host: a web page that a
//! browser was lured to has neither. From other hosts it must come over HTTPS, which keeps the token secret. Over the
//! unix socket (`network.admin_socket`), which only the server's own user can open, nothing of this is asked.

mod bounded;
mod guard;
mod health;
mod metrics;
mod page;
mod ready;
pub(crate) mod serve;
mod slow;
pub(crate) mod socket;
mod status;
mod verbs;

use std::sync::Arc;

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Router};

pub(crate) use self::guard::Via;
use crate::shared::Shared;

/// All routes, for requests that come `via` one of the ways in.
pub(crate) fn router(shared: Arc<Shared>, via: Via) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/v1/health", get(health::health))
        .route("/v1/ready", get(ready::ready))
        .route("/v1/status", get(status::status))
        .route("/v1/metrics", get(metrics::metrics))
        .route("/v1/slow", get(slow::slow))
        .route("/v1/admin/drain", post(verbs::drain))
        .route("/v1/admin/log-level", post(verbs::log_level))
        .fallback(not_found)
        .layer(Extension(via))
        .with_state(shared)
}

async fn not_found() -> (StatusCode, &'static str) {
    (
        StatusCode::NOT_FOUND,
        "no such page; GET / lists what there is\n",
    )
}
