//! The admin endpoint: what people, probes and scrapers ask over HTTP, on the data port + 1.
//!
//! Reading is open to whoever reaches the port; it shows no keys, no values and no secrets. What changes something is a
//! POST with `Authorization: Bearer` and the configured token, from a request that names this host: a web page that a
//! browser was lured to has neither.

mod guard;
mod health;
mod metrics;
mod page;
mod ready;
pub(crate) mod serve;
mod slow;
mod status;
mod verbs;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};

use crate::shared::Shared;

/// All routes.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
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
        .with_state(shared)
}

async fn not_found() -> (StatusCode, &'static str) {
    (
        StatusCode::NOT_FOUND,
        "no such page; GET / lists what there is\n",
    )
}
